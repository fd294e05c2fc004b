-- uses: base job
-- The schedules whose time has come.
--
-- ARGV[3] limit.
-- Returns {now, due, next}: id and value of later:{ns}:schedules by turns; the time of the first of all others, or "".

local ticks = prefix .. 'ticks'
local ids = call('ZRANGEBYSCORE', ticks, '-inf', NOW, 'LIMIT', 0, ARGV[3])
local due = {}
for _, id in ipairs(ids) do
  local value = call('HGET', prefix .. 'schedules', id)
  if value then
    due[#due + 1] = id
    due[#due + 1] = value
  else -- somebody else has removed it from the hash alone
    call('ZREM', ticks, id)
  end
end
local following = call('ZRANGE', ticks, #due / 2, #due / 2, 'WITHSCORES')
return { NOW, due, following[2] and whole(following[2]) or '' }
