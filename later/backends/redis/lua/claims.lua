-- uses: job
-- The Processing jobs in a server's name, oldest claim first.
--
-- ARGV[3] server. Returns {id, epoch, worker, microseconds since the claim as text} each.

local held = {}
local found = call('ZRANGE', prefix .. 'c:' .. ARGV[3], 0, -1, 'WITHSCORES')
for i = 1, #found, 2 do
  local job = find(found[i])
  if job then
    held[#held + 1] = { found[i], job[EPOCH], job[WORKER], string.format('%.0f', now - found[i + 1]) }
  end
end
return held
