-- uses: base wake job index
-- The broker has these: take them out of the outbox, unless they have moved on since.
--
-- ARGV[3...], two per ref: id, epoch. Returns nothing.

for i = 3, #ARGV, 2 do
  local job = find(ARGV[i])
  if job and job[STATE] == 'e' and job[EPOCH] == ARGV[i + 1] then
    put('publish', ARGV[i], false)
  end
end
flush()
return false
