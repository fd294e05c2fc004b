-- One job: how it is stored, read and recorded.
--
-- Nearly all jobs are Enqueued, claimed and Succeed, and that is all (see lib/usual.lua). While a job has this usual life,
-- or is new in any state, its record tells its history, and no other is stored: ENTRIES is then "".
--
-- Records and payloads are strings, and no fields of one hash per job, because many keys can be read and written by one
-- command, and the fields of many hashes cannot.
--
-- A script reads and decides first and writes last, in `flush`: what fails half-way in Redis stays half-written.

local texts = {} -- records that this call has read and not yet split, by id
local jobs = {} -- those that it has split; false: there is no such job, or it is unreadable
local unreadable = {} -- ids of jobs whose record is not what later wrote
local dirty = {} -- those of `jobs` that `flush` has to write

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

-- The values of many keys, false for one that is absent or no string. A call takes few thousand arguments only.
local function get_all(kind, ids)
  local found = {}
  for first = 1, #ids, 4000 do
    local keys = {}
    for i = first, math.min(first + 3999, #ids) do
      keys[#keys + 1] = kind .. ids[i]
    end
    for i, value in ipairs(call('MGET', unpack(keys))) do
      found[first + i - 1] = value
    end
  end
  return found
end

-- Read many jobs at once, so that `find` need not.
local function read(ids)
  for i, text in ipairs(get_all(JOB, ids)) do
    local id = ids[i]
    if text and jobs[id] == nil and not texts[id] then
      texts[id] = text
    end
  end
end

-- A job of many that a script goes through: one that is unreadable must not stop it for the others. False: there is
-- none. `job.id`, `job.fields`, ... are not part of the record.
local function find(id)
  local job = jobs[id]
  if job == nil then
    local text = texts[id] or redis.pcall('GET', JOB .. id) -- an error when the key is no string
    texts[id] = nil
    job = false
    if text then
      job = type(text) == 'string' and { string.match(text, PATTERN) } or {}
      if job[1] then
        job.id = id
      else
        job = false
        unreadable[id] = true
      end
    end
    jobs[id] = job
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

local function text_of(job)
  if not job.text then
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

local function add_entry(job, number, state, at, attempt, server, worker, reason, err)
  local head = state .. ' ' .. at .. ' ' .. attempt .. ' ' .. server .. ' ' .. worker .. ' ' .. #reason .. ' '
  set(job, tostring(number), head .. reason .. err)
end

-- The job is about to leave the usual life: write down what of its history only the record tells so far.
local function spell_out(job)
  if job[ENTRIES] ~= '' then
    return
  end
  local state, at, attempt, server, worker = job[STATE], job[STATE_AT], job[ATTEMPT], job[SERVER], job[WORKER]
  if state == 'p' then
    add_entry(job, 2, 'p', at, attempt, server, worker, '', '')
    job[ENTRIES] = '2'
  elseif state == 'S' then
    add_entry(job, 2, 'p', job[CLAIMED_AT], attempt, server, worker, '', '')
    add_entry(job, 3, 'S', at, attempt, server, worker, '', '')
    job[ENTRIES], job[CLAIMED_AT] = '3', ''
  else
    if state ~= 'e' or job[REASON] ~= '' then
      add_entry(job, 1, state, at, '0', '', '', job[REASON], '')
    end
    job[ENTRIES] = '1'
  end
end

-- Add an entry to the history for the state that the job is in now.
local function record(job, attempt, server, worker, err)
  local number = job[ENTRIES] + 1
  job[ENTRIES] = tostring(number)
  add_entry(job, number, job[STATE], NOW, attempt, server, worker, job[REASON], err)
  if number > HISTORY_LIMIT then
    job.trim = job.trim or {}
    job.trim[#job.trim + 1] = tostring(number - HISTORY_LIMIT)
  end
end
