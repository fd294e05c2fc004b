-- uses: base wake job index move
-- Take claims from dead servers: those whose lease has run out, those named, and those that unregistered.
--
-- ARGV[3] limit, [4...] servers named dead.
-- Returns {servers, refs, jobs, more, left}: ids of the dead servers; four values (id, epoch, queue, priority) per job
-- that became Enqueued; number of claims taken; 1 when more are left; jobs that have children to tell still (go on with
-- cascade.lua).

local LIMIT = tonumber(ARGV[3])
local dead = {}
for _, server in ipairs(call('ZRANGEBYSCORE', prefix .. 'leases', '-inf', NOW)) do
  dead[server] = true
end
for i = 4, #ARGV do
  local lease = call('ZSCORE', prefix .. 'leases', ARGV[i])
  if lease then
    dead[ARGV[i]] = true
    if tonumber(lease) > now then
      put('leases', ARGV[i], NOW)
    end
  end
end
for _, server in ipairs(call('SMEMBERS', prefix .. 'holders')) do
  if not call('ZSCORE', prefix .. 'leases', server) then
    dead[server] = true
  end
end

local servers, claims = {}, {}
for server in pairs(dead) do
  servers[#servers + 1] = server
  local found = call('ZRANGE', prefix .. 'c:' .. server, 0, LIMIT, 'WITHSCORES')
  for i = 1, #found, 2 do
    claims[#claims + 1] = { id = found[i], at = tonumber(found[i + 1]), server = server }
  end
end
table.sort(claims, function(a, b)
  if a.at == b.at then
    return precedes(a.id, b.id)
  end
  return a.at < b.at
end)

local refs, taken, left = {}, 0, {}
for _, claim in ipairs(claims) do
  if taken == LIMIT or #left > 0 then
    break
  end
  taken = taken + 1
  local job = find(claim.id)
  if job then
    local crash = { cause = 'crash', reason = fill(CRASH_REASON, claim.server), epoch = job[EPOCH], server = job[SERVER] }
    local _
    _, left = move(job, crash, refs)
  else
    pass_over('c:' .. claim.server, claim.id)
  end
end
flush()
for _, server in ipairs(servers) do
  if call('EXISTS', prefix .. 'c:' .. server) == 0 then
    call('HDEL', prefix .. 'servers', server)
    call('HDEL', prefix .. 'notes', server)
    call('ZREM', prefix .. 'leases', server)
  end
end
return { servers, refs, taken, #claims > taken and 1 or 0, left }
