-- uses: base job
-- Record a new server; a known one stays as it is.
--
-- ARGV[3] server, [4] what is known of it (not read here), [5] lease in microseconds. Returns nothing.

call('ZCARD', prefix .. 'leases')
if call('HSETNX', prefix .. 'servers', ARGV[3], NOW .. ' ' .. ARGV[4]) == 1 then
  call('ZADD', prefix .. 'leases', after(ARGV[5]), ARGV[3])
end
return false
