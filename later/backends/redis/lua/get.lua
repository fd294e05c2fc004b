-- uses: base job
-- Jobs with all that is known of them.
--
-- ARGV[3...] ids. Returns per id false, or {record, payload or false, result or false, fields and values of the history,
-- children and their scores, publish_by or ""}.

local found = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local text = call('GET', JOB .. id)
  found[i - 2] = text
    and {
      text,
      call('GET', PAYLOAD .. id),
      call('GET', RESULT .. id),
      call('HGETALL', HISTORY .. id),
      call('ZRANGE', prefix .. 'k:' .. id, 0, -1, 'WITHSCORES'),
      call('ZSCORE', prefix .. 'publish', id) or '',
    }
end
return found
