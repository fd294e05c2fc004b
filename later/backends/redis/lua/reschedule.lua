-- uses: base wake job index create move
-- Change one schedule; make and move jobs in the same step.
--
-- ARGV[3] id, [4] the version that it has now ("0": there is none), [5] next_at or "", [6] "" to remove it, else "+" and
--     the body, [7] number of jobs; then three per job as insert.lua has them, and three per move as exchange.lua has its
--     changes.
-- Returns {"stale"} (it has another version, or insert.lua would say "no parent" to one of the jobs) or {"pending", ids} (these jobs have children to tell still: go on with cascade.lua, then repeat the
--     call), when nothing was changed; else {"applied", verdicts of insert.lua, {verdict, refs, left} per move}: "VERDICT
--     STATE", four values (id, epoch, queue, priority) per job that became Enqueued, and jobs to go on with.

local schedules, ticks = prefix .. 'schedules', prefix .. 'ticks'
local ID, VERSION = ARGV[3], ARGV[4]

local known = call('HGET', schedules, ID)
if (known and string.match(known, '^%d+') or '0') ~= VERSION then
  return { 'stale' }
end

local FIRST_MOVE = 8 + 3 * ARGV[7]
local before = {}
for i = 8, FIRST_MOVE - 1, 3 do
  local id = ARGV[i]
  local _, parent = split(ARGV[i + 2])
  if parent and not before[id] and not before[parent] and not load(id) and not load(parent) then
    return { 'stale' }
  end
  before[id] = true
end
local pending = {}
for i = FIRST_MOVE, #ARGV, 3 do
  local job = load(ARGV[i])
  if job and job[PENDING] ~= '' then
    pending[#pending + 1] = job.id
  end
end
if #pending > 0 then
  return { 'pending', pending }
end

local verdicts = insert_all(8, FIRST_MOVE - 1)
local moved = {}
for i = FIRST_MOVE, #ARGV, 3 do
  local job = load(ARGV[i])
  if job then
    local refs = {}
    local verdict, left = move(job, change_of(i + 1), refs)
    moved[#moved + 1] = { verdict .. ' ' .. job[STATE], refs, left }
  else
    moved[#moved + 1] = { 'unknown ', {}, {} }
  end
end
call('ZCARD', ticks) -- fails before the first write where it is not ours
flush()
if ARGV[6] == '' then
  call('HDEL', schedules, ID)
  call('ZREM', ticks, ID)
else
  call('HSET', schedules, ID, whole(VERSION + 1) .. ' ' .. ARGV[5] .. ' ' .. string.sub(ARGV[6], 2))
  if ARGV[5] == '' then
    call('ZREM', ticks, ID)
  else
    call('ZADD', ticks, ARGV[5], ID)
  end
end
return { 'applied', verdicts, moved }
