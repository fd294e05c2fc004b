-- uses: base wake job index move
-- Move Scheduled jobs whose time has come to Enqueued. Also looks again at unreadable jobs, some of them per call.
--
-- ARGV[3] limit.
-- Returns {refs, next, todo, unreadable}: four values (id, epoch, queue, priority) per job; microseconds until the next one is due
-- as text, or "" when none is Scheduled; how many parents wait for cascade.lua; ids of jobs that are still unreadable.

local AGAIN = 60000000
local HOMES = { ready = 'e', publish = 'e', due = 's', c = 'p', expire = 'SFD', todo = 'SFD' }

-- Whether a job that was taken out of an index still belongs there, now that it is readable.
local function belongs(job, key)
  local kind, name = string.match(key, '^(%l+):?(.*)$')
  return string.find(HOMES[kind], job[STATE], 1, true) and (kind ~= 'c' or name == job[SERVER])
end

local broken, seen = {}, {}
for _, place in ipairs(call('ZRANGEBYSCORE', prefix .. 'unreadable', '-inf', NOW, 'LIMIT', 0, 100)) do
  local key, score, id = string.match(place, '^(%S+) (%S+) (%S+)$')
  local job = find(id)
  if unreadable[id] then
    put('unreadable', place, after(AGAIN))
    if not seen[id] then
      seen[id] = true
      broken[#broken + 1] = id
    end
  else
    put('unreadable', place, false)
    if job and belongs(job, key) then
      put(key, id, score)
    end
  end
end
flush()

local refs = {}
for _, id in ipairs(call('ZRANGEBYSCORE', prefix .. 'due', '-inf', NOW, 'LIMIT', 0, ARGV[3])) do
  local job = find(id)
  if job then
    move(job, { cause = 'due', reason = '' }, refs)
  else
    pass_over('due', id)
  end
end
flush()
local first = call('ZRANGE', prefix .. 'due', 0, 0, 'WITHSCORES')
return { refs, first[2] and string.format('%.0f', first[2] - now) or '', call('ZCARD', prefix .. 'todo'), broken }
