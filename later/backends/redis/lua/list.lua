-- uses: base job
-- Walk along one index of times, newest first, and pick the jobs of some queues and types.
--
-- ARGV[3] index without the prefix (at:STATE or c:SERVER), [4] and [5] score and id to begin after ("" for the top),
--     [6] how many to pick, [7] how many to look at, [8] number of queues, then queues, then types (none: any).
-- Returns {score, id, jobs}: where to go on ("" twice when the end was reached), and {id, record, publish_by or ""} each;
--     unreadable jobs, of which nobody knows queue and type, with false for the record.

local key, SCORE, ID = prefix .. ARGV[3], ARGV[4], ARGV[5]
local WANTED, LOOKS = tonumber(ARGV[6]), tonumber(ARGV[7])
local queues, kinds
for i = 9, #ARGV do
  if i < 9 + ARGV[8] then
    queues = queues or {}
    queues[ARGV[i]] = true
  else
    kinds = kinds or {}
    kinds[ARGV[i]] = true
  end
end

-- The rank, from the top, of the first member below (SCORE, ID): by halving, among those of the same score.
local function first_rank()
  if SCORE == '' then
    return 0
  end
  local low = call('ZCOUNT', key, '(' .. SCORE, '+inf')
  local high = low + call('ZCOUNT', key, SCORE, SCORE)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if precedes(call('ZREVRANGE', key, middle, middle)[1], ID) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local first = first_rank()
local found = call('ZREVRANGE', key, first, first + LOOKS - 1, 'WITHSCORES')
local picked = {}
for i = 1, #found, 2 do
  local job = find(found[i])
  if job and (not queues or queues[job[QUEUE]]) and (not kinds or kinds[job[TYPE]]) then
    local publish_by = job[STATE] == 'e' and call('ZSCORE', prefix .. 'publish', job.id) or ''
    picked[#picked + 1] = { job.id, text_of(job), publish_by }
  elseif unreadable[found[i]] then
    picked[#picked + 1] = { found[i], false, '' }
  end
  if #picked == WANTED then
    return { found[i + 1], found[i], picked }
  end
end
if #found < 2 * LOOKS then
  return { '', '', picked }
end
return { found[#found], found[#found - 1], picked }
