-- uses: base wake job index
-- Enqueued jobs that the broker has not confirmed in time; they are listed again after a while.
--
-- ARGV[3] limit, [4] microseconds until then.
-- Returns four values per job: id, epoch, queue, priority.

local refs = {}
for _, id in ipairs(call('ZRANGEBYSCORE', prefix .. 'publish', '-inf', NOW, 'LIMIT', 0, ARGV[3])) do
  local job = find(id)
  if job and job[STATE] == 'e' then
    put('publish', id, after(ARGV[4]))
    for _, value in ipairs({ id, job[EPOCH], job[QUEUE], job[PRIORITY] }) do
      refs[#refs + 1] = value
    end
  elseif job then
    put('publish', id, false)
  else
    pass_over('publish', id)
  end
end
flush()
return refs
