"""The engine: two state machines without I/O, run by the real runtime and by the simulator alike.

`Worker` claims jobs, has them run and reports how they ended; one per process that runs handlers.
`Keeper` holds a server's lease and does the upkeep; one per server.

Both map an event and the present monotonic time to commands. An interpreter executes the commands and answers each
that has an answer with one event. Neither machine reads a clock, a socket or a random source of its own.
"""
