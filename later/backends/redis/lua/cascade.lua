-- uses: base wake job index move
-- Go on with telling children that their parents have ended (see lib/move.lua).
--
-- ARGV[3...] ids of parents, in order; none: the oldest that are left from calls whose callers died.
-- Returns {refs, left}: four values (id, epoch, queue, priority) per job that became Enqueued, and the parents that
-- still have children to tell: call again with them.

local ids = {}
for i = 3, #ARGV do
  ids[#ids + 1] = ARGV[i]
end
if #ids == 0 then
  ids = call('ZRANGE', prefix .. 'todo', 0, 99)
end
local told, refs = {}, {}
for _, id in ipairs(ids) do
  local parent = find(id)
  if parent and parent[PENDING] ~= '' then
    told[#told + 1] = parent
  elseif parent then
    put('todo', id, false)
  else
    pass_over('todo', id)
  end
end
local left = tell(told, refs)
flush()
return { refs, left }
