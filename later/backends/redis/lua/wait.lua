-- uses: base
-- Look for jobs; where there are none, be told of the next.
--
-- ARGV[3] a name of the caller; then queues.
-- Returns 1 when one of the queues has a job, 0 when the caller will be told, -1 when it could not be listed.

local FORGOTTEN = 60 * 1000000 -- microseconds after which who does not wait any more is taken out

for i = 4, #ARGV do
  if call('EXISTS', prefix .. 'ready:' .. ARGV[i]) == 1 then
    return 1
  end
end
for i = 4, #ARGV do
  local waiting = prefix .. 'waiting:' .. ARGV[i]
  local listed = redis.pcall('ZADD', waiting, NOW, ARGV[3])
  if type(listed) ~= 'number' then
    return -1
  end
  call('ZREMRANGEBYSCORE', waiting, '-inf', now - FORGOTTEN)
end
return 0
