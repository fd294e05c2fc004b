-- The moves of the lifecycle. What each cause does, how long things are kept and what continuations wait for are
-- tables that come from `later.core.lifecycle`; only the procedure of its `advance` is told again here.
--
-- A job that ends tells its Awaiting children in the same call, and they theirs, up to MOVES children; a call that ran
-- longer would block everybody. What is left is remembered: the parent gets PENDING, the number of the last child that
-- was told, and stands in `todo`. Whoever made the call goes on with cascade.lua until nothing is left; if it dies,
-- the next call that wants to move such a parent, or the next upkeep, does. A parent does not change while it
-- is pending, so that its children cannot tell whether they were told at once.

local MOVES = 1000

local rules = {}

local function rule_of(cause)
  local rule = rules[cause]
  if not rule then
    local from, to, attempt, flags = string.match(RULES[cause], '^(%a*) (%a) (%l+) (%l*)$')
    rule = {
      from = from,
      to = to,
      attempt = attempt,
      crash = string.find(flags, 'c', 1, true),
      of_claim = string.find(flags, 'o', 1, true),
      yields = string.find(flags, 'y', 1, true),
    }
    rules[cause] = rule
  end
  return rule
end

local function change_state(job, to, rule, change, reason)
  local before, attempt, crashes = job[STATE], job[ATTEMPT], job[CRASHES]
  local entry_attempt = attempt
  leave(job)
  touch(job)
  spell_out(job)
  if rule.crash then
    crashes = tostring(crashes + 1)
  end
  if rule.attempt == 'refund' then
    attempt = tostring(attempt - 1)
  elseif rule.attempt == 'reset' then
    attempt, crashes, entry_attempt = '0', '0', '0'
  end
  if change.cause == 'defer' then
    if job[DEFERRED_AT] == '' then
      job[DEFERRED_AT] = NOW
    end
  elseif not KEEPS_DEFERRAL[change.cause] then
    job[DEFERRED_AT] = ''
  end
  if before == 'S' then
    job.result = false
  end
  if to == 'S' and change.result and change.result ~= '' then
    job.result = change.result
  end
  local kept = KEEP[to]
  if kept and change.keep and change.keep ~= '' then
    kept = change.keep
  end
  if to == 's' then
    job[UNTIL] = after(change.delay)
  else
    job[UNTIL] = kept and after(kept) or ''
  end
  if to == 'e' then
    job[EPOCH] = tostring(job[EPOCH] + 1)
  end
  job[STATE], job[STATE_AT], job[ATTEMPT], job[CRASHES] = to, NOW, attempt, crashes
  job[CANCEL], job[REASON] = '', reason
  enter(job, before)
  if rule.of_claim then
    record(job, entry_attempt, job[SERVER], job[WORKER], change.error or '')
  else
    record(job, entry_attempt, '', '', change.error or '')
  end
end

-- `lifecycle.advance`. A change has cause, reason, epoch, server, and may have delay, keep, result and error. Returns
-- the verdict.
local function advance(job, change)
  local cause, reason = change.cause, change.reason
  if cause == 'claim' then
    return 'refused'
  end
  if cause == 'crash' and job[CRASHES] + 1 > tonumber(job[MAX_CRASHES]) then
    cause, reason = 'poison', fill(POISON_REASON, reason, job[CRASHES] + 1, job[MAX_CRASHES])
  end
  local rule = rule_of(cause)
  local to = rule.to
  if rule.yields and job[CANCEL] ~= '' then
    to = 'D'
  end
  if rule.of_claim and not (job[EPOCH] == change.epoch and job[SERVER] == change.server) then
    return 'fenced'
  end
  local state = job[STATE]
  if not string.find(rule.from, state, 1, true) then
    if state == to or (rule.yields and state == 'D') then
      return 'repeated'
    end
    if rule.of_claim then
      return 'fenced'
    end
    if cause == 'delete' and state == 'p' then
      if job[CANCEL] == '' then
        touch(job)
        job[CANCEL] = '1'
        cancel(job[SERVER], job.id, job[EPOCH])
      end
      return 'requested'
    end
    return 'refused'
  end
  if to ~= rule.to then
    reason = reason == '' and CANCEL_REASON or fill(CANCEL_REASON_WHY, reason)
  end
  change_state(job, to, rule, change, reason)
  return 'applied'
end

local budget = MOVES
local NOBODY = {}

local function add_ref(refs, job)
  for _, value in ipairs({ job.id, job[EPOCH], job[QUEUE], job[PRIORITY] }) do
    refs[#refs + 1] = value
  end
end

-- Tell the children of one ended job, as far as the budget goes. Children that end are appended to `told`. Returns
-- whether all have been told.
local function tell_children(parent, told, refs)
  parent.told = nil
  local from = parent[PENDING] == '' and '-inf' or '(' .. parent[PENDING]
  local found = call(
    'ZRANGEBYSCORE', prefix .. 'k:' .. parent.id, from, '(' .. whole(BAND), 'WITHSCORES',
    'LIMIT', 0, budget + 1
  )
  for i = 1, #found, 2 do
    if budget == 0 then
      return false
    end
    budget = budget - 1
    local child = find(found[i])
    local cause = child and child[STATE] == 'a' and CONTINUES[parent[STATE] .. child[ON]]
    if cause then
      advance(child, { cause = cause, reason = fill(PARENT_REASON[parent[STATE]], parent.id) })
      if child[STATE] == 'e' then
        add_ref(refs, child)
      elseif child[KIDS] ~= '' then
        told[#told + 1] = child
      end
    end
    parent.told = whole(found[i + 1])
  end
  return true
end

-- Tell the children of ended jobs, and theirs: nearer ones first, older siblings first. What became Enqueued goes to
-- `refs`; returns the ids of jobs that have not told all of their children.
local function tell(told, refs)
  local left = {}
  local i = 1
  while told[i] do
    local parent = told[i]
    if #left == 0 and tell_children(parent, told, refs) then
      if parent[PENDING] ~= '' then
        touch(parent)
        parent[PENDING] = ''
        put('todo', parent.id, false)
      end
    else
      touch(parent)
      parent[PENDING] = parent.told or (parent[PENDING] ~= '' and parent[PENDING]) or '0'
      put('todo', parent.id, NOW)
      left[#left + 1] = parent.id
    end
    i = i + 1
  end
  return left
end

-- A change as `exchange.lua` gets it; `i` is the number of its second argument. The table is a new one.
local function change_of(i)
  local head, more = ARGV[i], ARGV[i + 1]
  local change = { reason = '', error = '' }
  change.epoch, change.delay, change.keep, change.cause, change.server =
    string.match(head, '^(%S+) (%S+) (%S*) ([^\n]+)\n(.*)$')
  local reason, err, start = string.match(more, '^(%d+) (%d+) ()')
  if start then
    change.reason = string.sub(more, start, start + reason - 1)
    change.error = string.sub(more, start + reason, start + reason + err - 1)
    more = string.sub(more, start + reason + err)
  end
  change.result = more
  return change
end

-- Make one change with all its consequences. Returns the verdict and what `tell` returns.
local function move(job, change, refs)
  local verdict = advance(job, change)
  if verdict == 'applied' then
    if job[STATE] == 'e' then
      add_ref(refs, job)
    elseif is_ended(job[STATE]) and job[KIDS] ~= '' then
      return verdict, tell({ job }, refs)
    end
  end
  return verdict, NOBODY
end
