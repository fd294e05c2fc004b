-- Telling workers of new jobs.

-- As many of those that wait for the queue as there are new jobs, so that not all come for one. Who is told does not
-- wait any more; it takes the job, or passes the word on. Who has gone is passed over.
local function wake(queue, jobs)
  while jobs > 0 do
    local waiter = redis.pcall('SPOP', prefix .. 'waiting:' .. queue)
    if type(waiter) ~= 'string' then
      return
    end
    jobs = jobs - call('PUBLISH', prefix .. 'wake:' .. waiter, queue)
  end
end
