-- uses: base job
-- Renew a server's lease unless it has run out.
--
-- ARGV[3] server, [4] lease in microseconds, [5] the server's note.
-- Returns false when it has run out, else id and epoch of each Processing job whose cancel was asked for.

local lease = call('ZSCORE', prefix .. 'leases', ARGV[3])
if not lease or tonumber(lease) <= now then
  return false
end
local asked = call('HGETALL', prefix .. 'x:' .. ARGV[3])
local note = call('HGET', prefix .. 'notes', ARGV[3]) or ''
call('ZADD', prefix .. 'leases', after(ARGV[4]), ARGV[3])
if ARGV[5] == '' and note ~= '' then
  call('HDEL', prefix .. 'notes', ARGV[3])
elseif ARGV[5] ~= note then
  call('HSET', prefix .. 'notes', ARGV[3], ARGV[5])
end
return asked
