-- uses: base wake job index move
-- Remove ended jobs that were kept long enough; a Failed one becomes Deleted instead.
--
-- ARGV[3] limit.
-- Returns {touched, refs, left, more}: four values (id, epoch, queue, priority) per job that became Enqueued; jobs that
-- have children to tell still (go on with cascade.lua, also when `touched` is 0); 1 when more have expired.

local LIMIT = tonumber(ARGV[3])

local function is_needed(id)
  return call('ZCOUNT', prefix .. 'k:' .. id, '-inf', '(' .. whole(2 * BAND)) > 0
end

local function remove(job)
  leave(job)
  job.removed = true
  removed[#removed + 1] = job.id
  if job[PARENT] ~= '' then
    put('k:' .. job[PARENT], job.id, false)
  end
end

local touched, refs, left = 0, {}, {}
local expired = call('ZRANGEBYSCORE', prefix .. 'expire', '-inf', NOW, 'LIMIT', 0, LIMIT + 1)
for i = 1, math.min(#expired, LIMIT) do
  local id = expired[i]
  local job = find(id)
  if not job then
    pass_over('expire', id)
  elseif job[PENDING] ~= '' then
    left = { id }
  elseif job[STATE] == 'F' then
    touched = touched + 1
    local _
    _, left = move(job, { cause = 'expire', reason = '' }, refs)
  elseif is_needed(id) then
    put('expire', id, false) -- its last child's end puts it back
  else
    touched = touched + 1
    remove(job)
  end
  if #left > 0 then
    break
  end
end
flush()
return { touched, refs, left, #expired > 0 and (#expired > LIMIT or #left > 0) and 1 or 0 }
