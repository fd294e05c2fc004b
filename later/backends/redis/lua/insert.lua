-- uses: base wake plain job index create
-- Store new jobs. Each is decided by itself, in order; a parent may stand earlier in the call.
--
-- ARGV[3...], three per job: id, payload, and "priority max_crashes delay run_at type queue on" with delay in
--     microseconds and run_at a time or ""; for a continuation a newline and the parent's id follow.
-- Returns per job one of "created STATE", "exists STATE", "conflict", "no parent".

local verdicts = insert_all(3, #ARGV)
flush()
return verdicts
