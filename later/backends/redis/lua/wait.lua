-- uses: base
-- Look for jobs; where there are none, be told of the next.
--
-- ARGV[3] a name of the caller; then queues.
-- Returns 1 when one of the queues has a job, else 0.

for i = 4, #ARGV do
  if call('EXISTS', prefix .. 'ready:' .. ARGV[i]) == 1 then
    return 1
  end
end
for i = 4, #ARGV do
  call('SADD', prefix .. 'waiting:' .. ARGV[i], ARGV[3])
end
return 0
