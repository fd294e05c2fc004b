-- What every script begins with.
--
-- Keys. KEYS[1] is `later:{NAMESPACE}`; every other key begins with it and a colon, so that all keys of an app share
-- one hash tag, and with it one slot of a cluster. The scripts build those names themselves.
--
--   later:{ns}              string  version of this layout
--   later:{ns}:j:ID         string  the record of a job: the fields of FIELDS, separated by spaces; the reason comes last,
--                                   as it is
--   later:{ns}:p:ID         string  its payload, not read here
--   later:{ns}:r:ID         string  its result with a "+" before it, not read here; absent: none
--   later:{ns}:h:ID         hash    its history: 1, 2, ... to "state at attempt server worker LENGTH reason error", where
--                                   LENGTH counts the bytes of the reason, and the error is not read here. An absent 1
--                                   is the usual beginning: Enqueued at `created_at` without a reason
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
--                                   because their records are not what later wrote (see `pass_over`)
--   later:{ns}:holders      set     servers that have a c:SERVER
--   later:{ns}:servers      hash    registered servers: "started_at JSON"
--   later:{ns}:leases       zset    registered servers by lease_until
--   later:{ns}:notes        hash    what the last beats of registered servers said, where they said something
--   later:{ns}:schedules    hash    id of a schedule to "version next_at body", where next_at may be ""
--   later:{ns}:ticks        zset    schedules by next_at
--   later:{ns}:n            hash    "STATE QUEUE" to the number of jobs
--   later:{ns}:waiting:QUEUE zset   processes that wait for a job of the queue (see lib/wake.lua), by a name of each, by
--                                   the time at which they began
--   later:{ns}:wake:NAME    channel a message with a queue's name to one of them when the queue has got a job
--
-- ARGV[1] is the time in microseconds, or "" for the server's own; ARGV[2] is "1" when a broker is in use. What
-- follows is told by each script. Times stay text wherever they are not calculated with: Lua's `..` would round them.

local call = redis.call
local prefix = KEYS[1] .. ':'
local JOB, PAYLOAD, RESULT, HISTORY = prefix .. 'j:', prefix .. 'p:', prefix .. 'r:', prefix .. 'h:'

local NOW = ARGV[1]
if NOW == '' then
  local time = call('TIME')
  NOW = time[1] .. string.format('%06d', time[2])
end
local now = tonumber(NOW)
local OUTBOX = ARGV[2] == '1'

local function after(delay)
  return string.format('%.0f', now + delay)
end

-- Call with the key, if there is one, and all of the list, in as many parts as needed: a call takes few thousand
-- arguments only. Returns the sum of the answers, where they are numbers.
local function in_parts(command, key, list)
  local sum = 0
  for first = 1, #list, 4000 do
    local last = math.min(first + 3999, #list)
    local answer
    if key then
      answer = call(command, key, unpack(list, first, last))
    else
      answer = call(command, unpack(list, first, last))
    end
    sum = sum + (tonumber(answer) or 0)
  end
  return sum
end
