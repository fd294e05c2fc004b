-- New jobs of the most usual kind: without parents, Enqueued at once, under ids that are free. Comes before the rest of
-- insert.lua, and ends the script when all jobs of the call are such: to make the functions of the other files for one
-- job would cost several times what is done here.

-- How jobs begin that share priority, queue, type, ... : their record, their line in the queue, and the queue.
local function plain_kind(head, lines, queues)
  local priority, max_crashes, kind, queue, on = string.match(head, '^(%S+) (%S+) 0  (%S+) (%S+) (%S+)$')
  if not priority then
    return nil
  end
  local key, line = prefix .. 'ready:' .. queue, priority .. ' ' .. queue
  if not queues[queue] then
    queues[queue] = { key = key, more = {} }
  end
  if not lines[line] then
    local first = (9 - priority) * LINE
    local found = call('ZREVRANGEBYSCORE', key, first + LINE - 1, first, 'WITHSCORES', 'LIMIT', 0, 1)
    lines[line] = { last = found[2] and tonumber(found[2]) or first }
  end
  local text = USUAL_NEW .. NOW .. USUAL_UNTRIED .. queue .. ' ' .. priority .. ' ' .. max_crashes .. ' ' .. NOW .. ' '
  return { text = text .. kind .. ' ' .. on .. ' ', line = lines[line], queue = queues[queue] }
end

-- A verdict per job; nil, and nothing is done, if one of them is not plain.
local function insert_plain()
  local kinds, lines, queues = {}, {}, {}
  local records, strings, own = {}, {}, {}
  local verdicts, at, outbox = {}, {}, {}
  local publish_by = OUTBOX and after(PUBLISH_WITHIN)
  for i = 3, #ARGV, 3 do
    local id, head = ARGV[i], ARGV[i + 2]
    local kind = kinds[head] or plain_kind(head, lines, queues)
    if not kind or own[id] then
      return nil
    end
    local number, line, more = #verdicts + 1, kind.line, kind.queue.more
    kinds[head], own[id], verdicts[number], records[number] = kind, true, 'created e', JOB .. id
    line.last = line.last + 1
    more[#more + 1], more[#more + 2] = line.last, id
    at[2 * number - 1], at[2 * number] = NOW, id
    strings[4 * number - 3], strings[4 * number - 2] = JOB .. id, kind.text
    strings[4 * number - 1], strings[4 * number] = PAYLOAD .. id, ARGV[i + 1]
    if publish_by then
      outbox[2 * number - 1], outbox[2 * number] = publish_by, id
    end
  end
  if in_parts('EXISTS', nil, records) > 0 then
    return nil
  end
  -- These fail, before the first write, where a key holds something that is not ours.
  call('ZCARD', prefix .. 'at:e')
  call('HLEN', prefix .. 'n')
  if OUTBOX then
    call('ZCARD', prefix .. 'publish')
  end
  in_parts('MSET', nil, strings)
  in_parts('ZADD', prefix .. 'at:e', at)
  in_parts('ZADD', prefix .. 'publish', outbox)
  for queue, found in pairs(queues) do
    in_parts('ZADD', found.key, found.more)
    call('HINCRBY', prefix .. 'n', 'e ' .. queue, #found.more / 2)
  end
  for queue, found in pairs(queues) do
    wake(queue, #found.more / 2)
  end
  return verdicts
end

local verdicts = insert_plain()
if verdicts then
  return verdicts
end
