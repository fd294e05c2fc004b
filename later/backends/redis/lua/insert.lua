-- uses: job index create
-- Store new jobs. Each is decided by itself, in order; a parent may stand earlier in the call.
--
-- ARGV[3...], four per job: id, payload, parent ("" for none), and "priority max_crashes delay run_at type queue on"
--     with delay in microseconds and run_at a time or "".
-- Returns per job one of "created STATE", "exists STATE", "conflict", "no parent".

local verdicts = insert_all(3, #ARGV)
flush()
return verdicts
