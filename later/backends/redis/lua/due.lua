-- uses: job
-- The schedules whose time has come.
--
-- ARGV[3] limit.
-- Returns {now, due, next}: id and value of later:{ns}:schedules by turns; the time of the first of all others, or "".

local ticks = prefix .. 'ticks'
local ids = call('ZRANGEBYSCORE', ticks, '-inf', NOW, 'LIMIT', 0, ARGV[3])
local due = {}
for _, id in ipairs(ids) do
  due[#due + 1] = id
  due[#due + 1] = call('HGET', prefix .. 'schedules', id)
end
local following = call('ZRANGE', ticks, #ids, #ids, 'WITHSCORES')
return { NOW, due, following[2] and whole(following[2]) or '' }
