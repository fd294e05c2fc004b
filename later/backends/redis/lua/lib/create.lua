-- New jobs. Each is decided by itself, in order; a parent may stand earlier in the call.

-- The sequence number of a parent's next child. An earlier parent of the same id may have left children behind.
local function next_seq(parent)
  local last = parent[KIDS]
  if last == '' then
    last = 0
    for band = 0, 2 do
      local found = call(
        'ZREVRANGEBYSCORE', prefix .. 'k:' .. parent.id, (band + 1) * BAND - 1, band * BAND, 'WITHSCORES', 'LIMIT', 0, 1
      )
      if found[2] then
        last = math.max(last, found[2] - band * BAND)
      end
    end
  end
  touch(parent)
  parent[KIDS] = tostring(last + 1)
  return parent[KIDS]
end

-- What a new job with this head starts as.
local function start(parent, head)
  local priority, max_crashes, delay, run_at, kind, queue, on =
    string.match(head, '^(%S+) (%S+) (%S+) (%S*) (%S+) (%S+) (%S+)$')
  local state, reason, seq = 'e', '', ''
  if parent then
    local cause = CONTINUES[parent[STATE] .. on]
    if cause then
      state = string.match(RULES[cause], '^%a* (%a)')
      reason = fill(PARENT_REASON[parent[STATE]], parent.id)
    else
      state = 'a'
      reason = fill(AWAITING_REASON, parent.id, on)
    end
    seq = next_seq(parent)
  else
    if run_at == '' and tonumber(delay) > 0 then
      run_at = after(delay)
    end
    if run_at ~= '' and tonumber(run_at) > now then
      state = 's'
    end
  end
  local job = {}
  for field = 1, LAST do
    job[field] = ''
  end
  job[STATE], job[EPOCH], job[ATTEMPT], job[CRASHES] = state, state == 'e' and '1' or '0', '0', '0'
  job[MAX_CRASHES], job[PRIORITY] = max_crashes, priority
  job[CREATED_AT], job[STATE_AT] = NOW, NOW
  job[UNTIL] = state == 's' and run_at or KEEP[state] and after(KEEP[state]) or ''
  job[TYPE], job[QUEUE], job[ON], job[REASON] = kind, queue, on, reason
  job[PARENT], job[SEQ] = parent and parent.id or '', seq
  return job
end

local models = {} -- head to what such a job without a parent starts as: most jobs of a call differ in id and payload only
local payloads = {} -- of the jobs that this call has made, by id

local function create(id, payload, job)
  job.id = id
  enter(job, nil)
  jobs[id], texts[id], payloads[id] = nil, text_of(job), payload
  store(JOB .. id, job.text)
  store(PAYLOAD .. id, payload)
  return 'created ' .. job[STATE]
end

-- What is told of a new job, and its parent.
local function split(head)
  local first, parent_id = string.match(head, '^([^\n]*)\n(.*)$')
  return first or head, parent_id
end

local function insert(id, payload, head)
  local model = models[head]
  if model and jobs[id] == false and not unreadable[id] then
    return create(id, payload, model)
  end
  local old = load(id)
  if old then
    local kind = string.match(head, '^%S+ %S+ %S+ %S* (%S+)')
    if old[TYPE] == kind and (payloads[id] or get_all(PAYLOAD, { id })[1]) == payload then
      return 'exists ' .. old[STATE]
    end
    return 'conflict'
  end
  local parent, parent_id
  head, parent_id = split(head)
  if parent_id then
    parent = load(parent_id)
    if not parent then
      return 'no parent'
    end
  end
  local job = start(parent, head)
  if not parent then
    models[head] = job
  end
  return create(id, payload, job)
end

-- Insert the jobs of ARGV[first...last], three values per job as insert.lua tells. Returns a verdict per job.
local function insert_all(first, last)
  local keys, verdicts = {}, {}
  for i = first, last, 3 do
    keys[#keys + 1] = JOB .. ARGV[i]
  end
  if in_parts('EXISTS', nil, keys) == 0 then
    for i = first, last, 3 do
      jobs[ARGV[i]] = false
    end
  end
  for i = first, last, 3 do
    verdicts[#verdicts + 1] = insert(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
  return verdicts
end
