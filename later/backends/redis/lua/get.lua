-- uses: job
-- Jobs with all that is known of them.
--
-- ARGV[3...] ids. Returns per id false, or {fields and values of the hash, children and their scores, publish_by or ""}.

local found = {}
for i = 3, #ARGV do
  local hash = call('HGETALL', JOB .. ARGV[i])
  found[i - 2] = #hash > 0
    and {
      hash,
      call('ZRANGE', prefix .. 'k:' .. ARGV[i], 0, -1, 'WITHSCORES'),
      call('ZSCORE', prefix .. 'publish', ARGV[i]) or '',
    }
end
return found
