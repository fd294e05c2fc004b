-- uses: job
-- Renew a server's lease unless it has run out.
--
-- ARGV[3] server, [4] lease in microseconds.
-- Returns false when it has run out, else id and epoch of each Processing job whose cancel was asked for.

local lease = call('ZSCORE', prefix .. 'leases', ARGV[3])
if not lease or tonumber(lease) <= now then
  return false
end
local asked = call('HGETALL', prefix .. 'x:' .. ARGV[3])
call('ZADD', prefix .. 'leases', after(ARGV[4]), ARGV[3])
return asked
