-- uses: base job
-- Forget a server. Its claims stay, to be rescued.
--
-- ARGV[3] server. Returns nothing.

call('ZCARD', prefix .. 'leases')
call('HLEN', prefix .. 'notes')
call('HDEL', prefix .. 'servers', ARGV[3])
call('HDEL', prefix .. 'notes', ARGV[3])
call('ZREM', prefix .. 'leases', ARGV[3])
return false
