-- uses: base job
-- The records of jobs, without payload, result and history.
--
-- ARGV[3...] ids. Returns {id, record, publish_by or ""} for each that exists, with false for an unreadable record.

local found = {}
for i = 3, #ARGV do
  local job = find(ARGV[i])
  if job then
    local publish_by = job[STATE] == 'e' and call('ZSCORE', prefix .. 'publish', job.id) or ''
    found[#found + 1] = { job.id, text_of(job), publish_by }
  elseif unreadable[ARGV[i]] then
    found[#found + 1] = { ARGV[i], false, '' }
  end
end
return found
