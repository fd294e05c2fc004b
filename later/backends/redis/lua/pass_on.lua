-- uses: base wake
-- The caller was told of a job and does not wait any more: tell another of it.
--
-- ARGV[3] queue. Returns nothing.

if call('EXISTS', prefix .. 'ready:' .. ARGV[3]) == 1 then
  wake(ARGV[3], 1)
end
return false
