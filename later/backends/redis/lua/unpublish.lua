-- uses: base wake job index
-- The broker has lost what it had confirmed: put Enqueued jobs back into the outbox, the oldest first.
--
-- ARGV[3] and [4] state_at and id to begin after ("" for the oldest), [5] microseconds for which a job has been Enqueued
--     at least, [6] how many to look at, [7...] queues.
-- Returns {state_at, id} of the last one, "" twice when the end was reached.

local key, SCORE, ID = prefix .. 'at:e', ARGV[3], ARGV[4]
local LIMIT, queues = tonumber(ARGV[6]), {}
for i = 7, #ARGV do
  queues[ARGV[i]] = true
end

-- The rank of the first member above (SCORE, ID): by halving, among those of the same score.
local function first_rank()
  if SCORE == '' then
    return 0
  end
  local low = call('ZCOUNT', key, '-inf', '(' .. SCORE)
  local high = low + call('ZCOUNT', key, SCORE, SCORE)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if precedes(ID, call('ZRANGE', key, middle, middle)[1]) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local first, latest = first_rank(), tonumber(after(-ARGV[5]))
local found = call('ZRANGE', key, first, first + LIMIT - 1, 'WITHSCORES')
local looked = 0
for i = 1, #found, 2 do
  local id, at = found[i], found[i + 1]
  if tonumber(at) > latest then
    break
  end
  looked = looked + 1
  local job = find(id)
  if job and queues[job[QUEUE]] and not call('ZSCORE', prefix .. 'publish', id) then
    put('publish', id, whole(at))
  end
end
flush()
if looked < LIMIT then
  return { '', '' }
end
return { found[#found], found[#found - 1] }
