-- uses: base wake job index move usual
-- A worker's whole turn: report changes, claim by reference, claim what is next.
--
-- ARGV[3] server, [4] worker, [5] limit, [6] number of changes, [7] number of refs; then
--     three per change: id, "epoch delay keep cause", a newline and the server (keep and server may be ""), "+RESULT" or
--         "" for none; with a reason or an error (bytes that are not read here), those follow their lengths in bytes:
--         "LENGTH LENGTH REASONERROR+RESULT"
--     two per ref: id, epoch
--     queues
-- Returns {now, verdicts, refs, owner, left, by_ref, next}
--     verdicts: "VERDICT STATE" per change, as far as the call came
--     refs: five values per job that became Enqueued: number of the change (from 1), id, epoch, queue, priority
--     left: jobs that have children to tell still, because of change number `owner`: go on with cascade.lua, then
--         repeat this call with the changes that were not reached. Empty: all was done
--     by_ref: claims, one per ref; next: claims
--     A claim is four values: id (false: none), record, payload, "" or the parent's state with its result behind it.

local LIMIT = tonumber(ARGV[5])
local LOOKS = 1000 -- places of a queue that one call looks at
local FIRST_REF = 8 + 3 * ARGV[6]
local FIRST_QUEUE = FIRST_REF + 2 * ARGV[7]

local function parent_of(job)
  local parent = job[PARENT] ~= '' and find(job[PARENT])
  if not parent then
    return ''
  end
  return parent[STATE] .. (parent[STATE] == 'S' and get_all(RESULT, { parent.id })[1] or '')
end

local function add_claim(claims, id, text, parent)
  local last = #claims
  claims[last + 1], claims[last + 2], claims[last + 3], claims[last + 4] = id, text, '', parent
end

local function claim(claims, job)
  leave(job)
  touch(job)
  spell_out(job)
  job[STATE], job[STATE_AT], job[ATTEMPT] = 'p', NOW, tostring(job[ATTEMPT] + 1)
  job[SERVER], job[WORKER], job[REASON] = BY_SERVER, BY_WORKER, ''
  enter(job, 'e')
  record(job, job[ATTEMPT], BY_SERVER, BY_WORKER, '')
  add_claim(claims, job.id, text_of(job), parent_of(job))
end

local function claim_by_ref(claims, id, epoch)
  local text = epoch == '1' and claim_usually(id)
  if text then
    return add_claim(claims, id, text, '')
  end
  local job = find(id)
  if job and job[EPOCH] == epoch then
    if job[STATE] == 'e' then
      return claim(claims, job)
    end
    if job[STATE] == 'p' and job[SERVER] == BY_SERVER and job[WORKER] == BY_WORKER then
      return add_claim(claims, id, text_of(job), parent_of(job))
    end
  end
  add_claim(claims, false, '', '')
end

-- A job that has crashed before goes alone: it ends the batch in front of it, and is the next batch.
local function claim_next(claims)
  for i = FIRST_QUEUE, #ARGV do
    local ready = 'ready:' .. ARGV[i]
    local first = 0
    while #claims < 4 * LIMIT and first < LOOKS do
      local wanted = LIMIT - #claims / 4
      local ids = call('ZRANGE', prefix .. ready, first, first + wanted - 1)
      read(ids)
      for _, id in ipairs(ids) do
        local text = claim_usually(id)
        local job = not text and find(id)
        if text then
          add_claim(claims, id, text, '')
        elseif not job then
          pass_over(ready, id)
        elseif job[STATE] == 'e' then -- else this call has claimed it by reference
          local suspect = job[CRASHES] ~= '0'
          if suspect and #claims > 0 then
            return
          end
          claim(claims, job)
          if suspect then
            return
          end
        end
      end
      if #ids < wanted then
        break
      end
      first = first + wanted
    end
  end
end

-- Who has claimed all that it has room for leaves the word of what is left to another.
local function pass_on(claims)
  if #claims == 4 * LIMIT then
    for i = FIRST_QUEUE, #ARGV do
      if call('EXISTS', prefix .. 'ready:' .. ARGV[i]) == 1 then
        wake(ARGV[i], 1)
      end
    end
  end
end

local function add_payloads(claims)
  local ids = {}
  for i = 1, #claims, 4 do
    ids[#ids + 1] = claims[i] or ''
  end
  for i, payload in ipairs(get_all(PAYLOAD, ids)) do
    claims[4 * i - 1] = payload or ''
  end
end

local verdicts, refs, owner, left = {}, {}, 0, {}
local enqueued, told = {}, 0
local changed = {}
for number = 1, tonumber(ARGV[6]) do
  changed[number] = ARGV[5 + 3 * number]
end
read(changed)
for number, id in ipairs(changed) do
  local i = 6 + 3 * number
  if succeed_usually(id, ARGV[i], ARGV[i + 1]) then
    verdicts[number] = 'applied S'
  else
    local job = load(id)
    if not job then
      verdicts[number] = 'unknown '
    elseif job[PENDING] ~= '' then
      owner, left = number, { id }
      break
    else
      local verdict
      verdict, left = move(job, change_of(i), enqueued)
      verdicts[number] = verdict .. ' ' .. job[STATE]
      for k = told + 1, #enqueued, 4 do
        refs[#refs + 1] = number
        for value = k, k + 3 do
          refs[#refs + 1] = enqueued[value]
        end
      end
      told = #enqueued
      if #left > 0 then
        owner = number
        break
      end
    end
  end
end
flush()

local by_ref, claims = {}, {}
local lease = #left == 0 and (ARGV[7] ~= '0' or LIMIT > 0) and call('ZSCORE', prefix .. 'leases', BY_SERVER)
if lease and tonumber(lease) > now then
  local named = {}
  for i = FIRST_REF, FIRST_QUEUE - 1, 2 do
    named[#named + 1] = ARGV[i]
  end
  read(named)
  for i = FIRST_REF, FIRST_QUEUE - 1, 2 do
    claim_by_ref(by_ref, ARGV[i], ARGV[i + 1])
  end
  flush()
  claim_next(claims)
  flush()
  pass_on(claims)
  add_payloads(by_ref)
  add_payloads(claims)
end
return { NOW, verdicts, refs, owner, left, by_ref, claims }
