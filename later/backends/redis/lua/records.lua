-- uses: job
-- The records of jobs, without payload, result and history.
--
-- ARGV[3...] ids. Returns {id, record, publish_by or ""} for each that exists.

local found = {}
for i = 3, #ARGV do
  local job = load(ARGV[i])
  if job then
    local publish_by = job[STATE] == 'e' and call('ZSCORE', prefix .. 'publish', job.id) or ''
    found[#found + 1] = { job.id, text_of(job), publish_by }
  end
end
return found
