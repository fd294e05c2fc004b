-- uses: base job
-- The Processing jobs in a server's name, oldest claim first.
--
-- ARGV[3] server. Returns {id, epoch, worker} each.

local held = {}
local found = call('ZRANGE', prefix .. 'c:' .. ARGV[3], 0, -1)
for i = 1, #found do
  local job = find(found[i])
  if job then
    held[#held + 1] = { found[i], job[EPOCH], job[WORKER] }
  end
end
return held
