-- Telling workers of new jobs.

-- As many of those that wait for the queue as there are new jobs, so that not all come for one. Who is told does not
-- wait any more; it takes the job, or passes the word on. Who has gone is passed over.
-- Nothing here fails: it comes after all has been written.
local function wake(queue, jobs)
  while jobs > 0 do
    local found = redis.pcall('ZPOPMAX', prefix .. 'waiting:' .. queue)
    if found.err or not found[1] then
      return
    end
    local told = redis.pcall('PUBLISH', prefix .. 'wake:' .. found[1], queue)
    jobs = jobs - (type(told) == 'number' and told or 0)
  end
end
