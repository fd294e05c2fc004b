"""The pure core: records, the lifecycle, the ports and the engine. No sockets, threads, clocks or random reads."""
