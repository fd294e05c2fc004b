-- uses: job index move
-- Move Scheduled jobs whose time has come to Enqueued.
--
-- ARGV[3] limit.
-- Returns {refs, next, todo}: four values (id, epoch, queue, priority) per job; microseconds until the next one is due
-- as text, or "" when none is Scheduled; how many parents wait for cascade.lua.

local refs = {}
for _, id in ipairs(call('ZRANGEBYSCORE', prefix .. 'due', '-inf', NOW, 'LIMIT', 0, ARGV[3])) do
  local job = load(id)
  if job then
    move(job, { cause = 'due', reason = '' }, refs)
  else
    put('due', id, false)
  end
end
flush()
local first = call('ZRANGE', prefix .. 'due', 0, 0, 'WITHSCORES')
return { refs, first[2] and string.format('%.0f', first[2] - now) or '', call('ZCARD', prefix .. 'todo') }
