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

local expiries = {} -- what a change says of its cause to when the job expires, false: another cause or epoch

-- Make a claim Succeed; whether it was done. `head` is "cause epoch delay keep", as exchange.lua has it.
local function succeed_usually(id, by_server, head, result)
  local expires_at = expiries[head]
  if expires_at == nil then
    local keep = string.match(head, '^succeed 1 %S+ (%d*)$')
    expires_at = keep and after(keep == '' and KEEP.S or keep) or false
    expiries[head] = expires_at
  end
  local server, worker, at, queue, rest = string.match(expires_at and texts[id] or '', USUAL_RUNNING)
  if not server or server ~= by_server then
    return false
  end
  local times = NOW .. ' ' .. at .. ' ' .. expires_at
  local text = 'S 1 ' .. server .. ' ' .. worker .. ' ' .. times .. USUAL_TRIED .. queue .. ' ' .. rest
  texts[id] = text
  store(JOB .. id, text)
  if result ~= '' then
    store(RESULT .. id, result)
  end
  put('c:' .. server, id, false)
  put('at:S', id, NOW)
  put('expire', id, expires_at)
  count('p', queue, -1)
  count('S', queue, 1)
  return true
end
