-- What is looked up by something else than a job's id, collected while a script decides and written by `flush`.

local index = {} -- zsets: key to member to score; false: take the member out
local counts = {} -- "STATE QUEUE" to how many more
local cancels = {} -- server to id to epoch; false: take it out
local removed = {} -- ids of jobs to forget
local strings = {} -- keys and values to store, by turns
local parents = {} -- ids of jobs one of whose children has ended
local news = {} -- queue to the number of jobs that it has got
local turns = {} -- "PRIORITY QUEUE" to the last score given

local function store(key, value)
  strings[#strings + 1] = key
  strings[#strings + 1] = value
end

local function put(key, member, score)
  local members = index[key]
  if not members then
    members = {}
    index[key] = members
  end
  members[member] = score
end

local function cancel(server, id, epoch)
  cancels[server] = cancels[server] or {}
  cancels[server][id] = epoch
end

local function count(state, queue, by)
  local field = state .. ' ' .. queue
  counts[field] = (counts[field] or 0) + by
end

-- The score of the place behind all that stand in line.
local function turn(priority, queue)
  local line = priority .. ' ' .. queue
  local last = turns[line]
  if not last then
    local first = (9 - priority) * LINE
    local found =
      call('ZREVRANGEBYSCORE', prefix .. 'ready:' .. queue, first + LINE - 1, first, 'WITHSCORES', 'LIMIT', 0, 1)
    last = found[2] and tonumber(found[2]) or first
  end
  turns[line] = last + 1
  return last + 1
end

-- A storage without a broker takes out what one with a broker has put in.
local published
local function has_outbox()
  if published == nil then
    published = OUTBOX or call('EXISTS', prefix .. 'publish') == 1
  end
  return published
end

local BANDS = { a = 0, s = BAND, e = BAND, p = BAND, S = 2 * BAND, F = 2 * BAND, D = 2 * BAND }

local function is_ended(state)
  return BANDS[state] == 2 * BAND
end

-- Take the job out of what lists its state. It is about to enter another one, or to be removed.
local function leave(job)
  local id, state = job.id, job[STATE]
  count(state, job[QUEUE], -1)
  if state == 'p' then
    put('c:' .. job[SERVER], id, false)
    if job[CANCEL] ~= '' then
      cancel(job[SERVER], id, false)
    end
    return
  end
  put('at:' .. state, id, false)
  if state == 'e' then
    put('ready:' .. job[QUEUE], id, false)
    if has_outbox() then
      put('publish', id, false)
    end
  elseif state == 's' then
    put('due', id, false)
  elseif state ~= 'a' then
    put('expire', id, false)
  end
end

-- List the job under its state, which it has just entered; `before` is the one that it left, nil for a new job.
local function enter(job, before)
  local id, state = job.id, job[STATE]
  count(state, job[QUEUE], 1)
  if state == 'p' then
    put('c:' .. job[SERVER], id, job[STATE_AT])
  else
    put('at:' .. state, id, job[STATE_AT])
    if state == 'e' then
      put('ready:' .. job[QUEUE], id, turn(job[PRIORITY], job[QUEUE]))
      if OUTBOX then
        put('publish', id, after(PUBLISH_WITHIN))
      end
    elseif state == 's' then
      put('due', id, job[UNTIL])
    elseif state ~= 'a' then
      put('expire', id, job[UNTIL])
    end
  end
  if job[PARENT] ~= '' and BANDS[before] ~= BANDS[state] then
    put('k:' .. job[PARENT], id, BANDS[state] + job[SEQ])
    if is_ended(state) then
      parents[job[PARENT]] = true
    end
  end
end

-- Take a job that is not there, or is unreadable, out of an index that scripts walk along, so that it does not stand in
-- the way of others. promote.lua puts it back when it has been repaired.
local function pass_over(key, id)
  if unreadable[id] then
    local score = call('ZSCORE', prefix .. key, id)
    if score then
      put('unreadable', key .. ' ' .. whole(score) .. ' ' .. id, NOW)
    end
  else
    removed[#removed + 1] = id -- what else is left of it
  end
  put(key, id, false)
end

-- Before the first write: fails where a key holds something that is not ours. Returns the sizes.
local function check()
  local sizes = {}
  for key in pairs(index) do
    sizes[key] = call('ZCARD', prefix .. key)
    if string.sub(key, 1, 2) == 'c:' then
      call('SCARD', prefix .. 'holders')
    end
  end
  for server in pairs(cancels) do
    call('HLEN', prefix .. 'x:' .. server)
  end
  if next(counts) then
    call('HLEN', prefix .. 'n')
  end
  return sizes
end

local function write_jobs()
  for _, job in ipairs(dirty) do
    if not job.removed then
      local id = job.id
      store(JOB .. id, text_of(job))
      if job.result then
        store(RESULT .. id, job.result)
      elseif job.result == false then
        call('UNLINK', RESULT .. id)
      end
      in_parts('HSET', HISTORY .. id, job.fields)
      if job.trim then
        in_parts('HDEL', HISTORY .. id, job.trim)
      end
    end
    job.fields, job.trim, job.result = nil, nil, nil
  end
  in_parts('MSET', nil, strings)
  for _, id in ipairs(removed) do
    call('UNLINK', JOB .. id, PAYLOAD .. id, RESULT .. id, HISTORY .. id)
  end
end

local function write_index(sizes)
  for key, members in pairs(index) do
    local more, fewer = {}, {}
    for member, score in pairs(members) do
      if score then
        more[#more + 1] = score
        more[#more + 1] = member
      else
        fewer[#fewer + 1] = member
      end
    end
    local size = sizes[key]
    local taken = in_parts('ZREM', prefix .. key, fewer)
    local added = in_parts('ZADD', prefix .. key, more)
    local kind, name = string.match(key, '^(%l+):(.*)$')
    if kind == 'ready' then
      news[name] = added
    elseif kind == 'c' then
      if size == 0 and added > 0 then
        call('SADD', prefix .. 'holders', name)
      elseif size + added - taken == 0 then
        call('SREM', prefix .. 'holders', name)
      end
    end
  end
end

local function write_rest()
  for server, ids in pairs(cancels) do
    for id, epoch in pairs(ids) do
      if epoch then
        call('HSET', prefix .. 'x:' .. server, id, epoch)
      else
        call('HDEL', prefix .. 'x:' .. server, id)
      end
    end
  end
  for field, by in pairs(counts) do
    if by ~= 0 and call('HINCRBY', prefix .. 'n', field, by) == 0 then
      call('HDEL', prefix .. 'n', field)
    end
  end
  -- A parent that was kept for its children may be pruned again.
  for id in pairs(parents) do
    if call('ZCOUNT', prefix .. 'k:' .. id, '-inf', '(' .. whole(2 * BAND)) == 0 then
      local parent = find(id)
      if parent and is_ended(parent[STATE]) then
        call('ZADD', prefix .. 'expire', parent[UNTIL], id)
      end
    end
  end
end

-- Write all that was decided. What is read afterwards sees it.
local function flush()
  if #dirty == 0 and #removed == 0 and #strings == 0 and not next(index) then
    return
  end
  local sizes = check()
  write_jobs()
  write_index(sizes)
  write_rest()
  for queue, added in pairs(news) do
    wake(queue, added)
  end
  news = {}
  dirty, strings, index, counts, cancels, removed, parents = {}, {}, {}, {}, {}, {}, {}
end
