-- uses: base job
-- All registered servers.
--
-- Returns {id, "started_at JSON", lease_until, number of claims, note} each.

local servers = {}
local found = call('HGETALL', prefix .. 'servers')
for i = 1, #found, 2 do
  local lease = call('ZSCORE', prefix .. 'leases', found[i]) or '0'
  local note = call('HGET', prefix .. 'notes', found[i]) or ''
  servers[#servers + 1] = { found[i], found[i + 1], lease, call('ZCARD', prefix .. 'c:' .. found[i]), note }
end
return servers
