-- One job: how it is stored, read and recorded. Every script begins with this file.
--
-- Keys. KEYS[1] is `later:{NAMESPACE}`; every other key begins with it and a colon, so that all keys of an app share
-- one hash tag, and with it one slot of a cluster. The scripts build those names themselves.
--
--   later:{ns}              string  version of this layout
--   later:{ns}:j:ID         hash    one job
--       m                   the record: the fields of FIELDS, separated by spaces; the reason comes last, as it is
--       p                   payload, never read here
--       r                   result with a "+" before it, never read here; absent: none
--       1, 2, ...           the history: "state at attempt server worker LENGTH reason error", where LENGTH counts the
--                           bytes of the reason, and the error is not read here. An absent 1 is the usual beginning:
--                           Enqueued at `created_at` without a reason.
--   later:{ns}:k:ID         zset    children of a job: sequence number + BAND * (0 Awaiting, 1 not ended, 2 ended)
--   later:{ns}:at:STATE     zset    jobs by state_at; of every state but Processing
--   later:{ns}:c:SERVER     zset    Processing jobs of a server by state_at, the time of the claim
--   later:{ns}:x:SERVER     hash    id to epoch of its Processing jobs whose cancel was asked for
--   later:{ns}:ready:QUEUE  zset    Enqueued jobs in the order of claims: (9 - priority) * LINE + turn
--   later:{ns}:due          zset    Scheduled jobs by run_at
--   later:{ns}:publish      zset    Enqueued jobs by publish_by; with a broker
--   later:{ns}:expire       zset    ended jobs by expires_at. One that is kept for a child may be missing; the last
--                                   child's end puts it back
--   later:{ns}:todo         zset    ended jobs that have not told all of their children yet (see lib/move.lua)
--   later:{ns}:unreadable   zset    "INDEX SCORE ID" by the time to look again: jobs that were taken out of an index,
--                                   because what their hashes hold is not what later wrote (see `pass_over`)
--   later:{ns}:holders      set     servers that have a c:SERVER
--   later:{ns}:servers      hash    registered servers: "started_at JSON"
--   later:{ns}:leases       zset    registered servers by lease_until
--   later:{ns}:notes        hash    what the last beats of registered servers said, where they said something
--   later:{ns}:schedules    hash    id of a schedule to "version next_at body", where next_at may be ""
--   later:{ns}:ticks        zset    schedules by next_at
--   later:{ns}:n            hash    "STATE QUEUE" to the number of jobs
--   later:{ns}:wake         channel a message with a queue's name when that queue has got its first job
--
-- ARGV[1] is the time in microseconds, or "" for the server's own; ARGV[2] is "1" when a broker is in use. What
-- follows is told by each script. Times stay text wherever they are not calculated with: Lua's `..` would round them.
--
-- A script reads and decides first and writes last, in `flush`: what fails half-way in Redis stays half-written.

local call = redis.call
local prefix = KEYS[1] .. ':'
local JOB = prefix .. 'j:'

local NOW = ARGV[1]
if NOW == '' then
  local time = call('TIME')
  NOW = time[1] .. string.format('%06d', time[2])
end
local now = tonumber(NOW)
local OUTBOX = ARGV[2] == '1'

local BAND = 2 ^ 50
local LINE = 2 ^ 49

local jobs = {} -- what this call has read, by id; false: there is no such job, or it is unreadable
local unreadable = {} -- ids of jobs whose hash is not what later wrote
local dirty = {} -- those of them that `flush` has to write

local function after(delay)
  return string.format('%.0f', now + delay)
end

-- Put values into a reason that comes from the core: \1, \2, ... are its blanks.
local function fill(template, ...)
  local values = { ... }
  return (string.gsub(template, '[\1-\9]', function(blank)
    return values[string.byte(blank)]
  end))
end

-- Whether id `a` sorts before `b` as in a zset, by bytes. Lua's own `<` goes by the locale of the server.
local function precedes(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

-- A score as text. Servers may answer 1.7e+15.
local function whole(score)
  return string.format('%.0f', tonumber(score))
end

-- The record of `m`; false when there is none. `job.id`, `job.payload`, ... are not part of the record.
local function keep(id, m)
  local job = false
  if m then
    job = type(m) == 'string' and { string.match(m, PATTERN) } or {}
    if job[1] then
      job.id = id
    else
      job = false
      unreadable[id] = true
    end
  end
  jobs[id] = job
  return job
end

-- A job of many that a script goes through: one that is unreadable must not stop it for the others.
local function find(id)
  local job = jobs[id]
  if job == nil then
    return keep(id, redis.pcall('HGET', JOB .. id, 'm')) -- an error when the key is no hash
  end
  return job
end

-- A job that the caller has named.
local function load(id)
  local job = find(id)
  if not job and unreadable[id] then
    error('CORRUPT ' .. JOB .. id, 0)
  end
  return job
end

local function find_with_payload(id)
  local job = jobs[id]
  if job == nil then
    local values = redis.pcall('HMGET', JOB .. id, 'm', 'p')
    job = keep(id, values.err and values or values[1])
    if job then
      job.payload = values[2] or ''
    end
  elseif job and not job.payload then
    job.payload = call('HGET', JOB .. id, 'p') or ''
  end
  return job
end

local function text_of(job)
  if not job.text then
    if job.first then -- new: what it shares with its model (lib/create.lua) becomes its own
      for field = 1, LAST do
        job[field] = job[field]
      end
    end
    job.text = table.concat(job, ' ', 1, LAST)
  end
  return job.text
end

-- The job differs from what is stored.
local function touch(job)
  job.text = false
  if not job.fields then
    job.fields = {}
    dirty[#dirty + 1] = job
  end
end

local function set(job, field, value)
  local fields = job.fields
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end

-- Add an entry to the history for the state that the job is in now. The usual beginning goes without.
local function record(job, attempt, server, worker, err)
  local number = tonumber(job[ENTRIES]) + 1
  job[ENTRIES] = tostring(number)
  local reason = job[REASON]
  if number == 1 and job[STATE] == 'e' and reason == '' then
    return
  end
  local head = job[STATE] .. ' ' .. NOW .. ' ' .. attempt .. ' ' .. server .. ' ' .. worker .. ' ' .. #reason .. ' '
  set(job, job[ENTRIES], head .. reason .. err)
  if number > HISTORY_LIMIT then
    job.trim = job.trim or {}
    job.trim[#job.trim + 1] = tostring(number - HISTORY_LIMIT)
  end
end
