-- The usual life: a job that was Enqueued at once, without parent and children, is claimed, and Succeeds. What move.lua
-- and exchange.lua decide field by field is here one pattern for a whole record, and a new record made of its parts. A
-- record that does not match takes the other way. Part of exchange.lua.

local BY_SERVER, BY_WORKER = ARGV[3], ARGV[4]

local CLAIMED = 'p 1 ' .. BY_SERVER .. ' ' .. BY_WORKER .. ' ' .. NOW .. '  ' .. USUAL_TRIED

-- Claim a job; its new record, or nil.
local function claim_usually(id)
  local text = texts[id]
  local queue, rest = string.match(text or '', USUAL_READY)
  if not queue then
    return nil
  end
  text = CLAIMED .. queue .. ' ' .. rest
  texts[id] = text
  store(JOB .. id, text)
  put('ready:' .. queue, id, false)
  put('at:e', id, false)
  if has_outbox() then
    put('publish', id, false)
  end
  put('c:' .. BY_SERVER, id, NOW)
  count('e', queue, -1)
  count('p', queue, 1)
  return text
end

local servers, expiries = {}, {} -- of claims that Succeed, by the second argument of the change

-- Make a claim Succeed; whether it was done. `head` and `result` are the second and third argument of a change as
-- exchange.lua has it.
local function succeed_usually(id, head, result)
  local by_server = servers[head]
  if by_server == nil then
    local keep, name = string.match(head, '^1 %S+ (%d*) succeed\n(.*)$')
    by_server = name or false
    servers[head], expiries[head] = by_server, keep and after(keep == '' and KEEP.S or keep)
  end
  if not by_server or string.find(result, '^%d') then
    return false
  end
  local server, worker, at, queue, rest = string.match(texts[id] or '', USUAL_RUNNING)
  if server ~= by_server then
    return false
  end
  local times = NOW .. ' ' .. at .. ' ' .. expiries[head]
  local text = 'S 1 ' .. server .. ' ' .. worker .. ' ' .. times .. USUAL_TRIED .. queue .. ' ' .. rest
  texts[id] = text
  store(JOB .. id, text)
  if result ~= '' then
    store(RESULT .. id, result)
  end
  put('c:' .. server, id, false)
  put('at:S', id, NOW)
  put('expire', id, expiries[head])
  count('p', queue, -1)
  count('S', queue, 1)
  return true
end
