-- uses: job index move
-- A worker's whole turn: report changes, claim by reference, claim what is next.
--
-- ARGV[3] server, [4] worker, [5] limit, [6] number of changes, [7] number of refs; then
--     six per change: id, server, "cause epoch delay keep" (keep may be ""), reason, result ("" or "+" and the bytes),
--         error ("" or bytes that are not read here)
--     two per ref: id, epoch
--     queues
-- Returns {now, verdicts, refs, owner, left, by_ref, next}
--     verdicts: "VERDICT STATE" per change, as far as the call came
--     refs: five values per job that became Enqueued: number of the change (from 1), id, epoch, queue, priority
--     left: jobs that have children to tell still, because of change number `owner`: go on with cascade.lua, then
--         repeat this call with the changes that were not reached. Empty: all was done
--     by_ref: per ref a claim or false; next: claims
--     A claim is {id, record, payload, parent's state or "", parent's result or false}.

local BY_SERVER, BY_WORKER, LIMIT = ARGV[3], ARGV[4], tonumber(ARGV[5])
local LOOKS = 1000 -- places of a queue that one call looks at
local FIRST_REF = 8 + 6 * ARGV[6]
local FIRST_QUEUE = FIRST_REF + 2 * ARGV[7]

local function claim_of(job)
  local state, result = '', false
  if job[PARENT] ~= '' then
    local parent = find(job[PARENT])
    if parent then
      state = parent[STATE]
      if state == 'S' then
        result = call('HGET', JOB .. parent.id, 'r')
      end
    end
  end
  return { job.id, text_of(job), job.payload, state, result }
end

local function claim(job)
  leave(job)
  touch(job)
  job[STATE], job[STATE_AT], job[ATTEMPT] = 'p', NOW, tostring(job[ATTEMPT] + 1)
  job[SERVER], job[WORKER], job[REASON] = BY_SERVER, BY_WORKER, ''
  enter(job, 'e')
  record(job, job[ATTEMPT], BY_SERVER, BY_WORKER, '')
  return claim_of(job)
end

local function claim_by_ref(id, epoch)
  local job = find_with_payload(id)
  if not job or job[EPOCH] ~= epoch then
    return false
  end
  if job[STATE] == 'e' then
    return claim(job)
  end
  if job[STATE] == 'p' and job[SERVER] == BY_SERVER and job[WORKER] == BY_WORKER then
    return claim_of(job)
  end
  return false
end

-- A job that has crashed before goes alone: it ends the batch in front of it, and is the next batch.
local function claim_next(claims)
  for i = FIRST_QUEUE, #ARGV do
    local ready = 'ready:' .. ARGV[i]
    local first = 0
    while #claims < LIMIT and first < LOOKS do
      local wanted = LIMIT - #claims
      local ids = call('ZRANGE', prefix .. ready, first, first + wanted - 1)
      for _, id in ipairs(ids) do
        local job = find_with_payload(id)
        if not job then
          pass_over(ready, id)
        elseif job[STATE] == 'e' then -- else this call has claimed it by reference
          local suspect = job[CRASHES] ~= '0'
          if suspect and #claims > 0 then
            return
          end
          claims[#claims + 1] = claim(job)
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

local verdicts, refs, owner, left = {}, {}, 0, {}
local change, enqueued, told = {}, {}, 0
for number = 1, tonumber(ARGV[6]) do
  local i = 2 + 6 * number
  local job = load(ARGV[i])
  if not job then
    verdicts[number] = 'unknown '
  elseif job[PENDING] ~= '' then
    owner, left = number, { job.id }
    break
  else
    change.cause, change.epoch, change.delay, change.keep = string.match(ARGV[i + 2], '^(.-) (%S+) (%S+) (%S*)$')
    change.server, change.reason, change.result, change.error = ARGV[i + 1], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
    local verdict
    verdict, left = move(job, change, enqueued)
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
flush()

local by_ref, claims = {}, {}
local lease = #left == 0 and (ARGV[7] ~= '0' or LIMIT > 0) and call('ZSCORE', prefix .. 'leases', BY_SERVER)
if lease and tonumber(lease) > now then
  for i = FIRST_REF, FIRST_QUEUE - 1, 2 do
    by_ref[#by_ref + 1] = claim_by_ref(ARGV[i], ARGV[i + 1])
  end
  flush()
  claim_next(claims)
  flush()
end
return { NOW, verdicts, refs, owner, left, by_ref, claims }
