"""Runs worlds and tells what went wrong in one."""

from collections import Counter
from collections.abc import Iterable

from tests.simulation.scheduler import Violation
from tests.simulation.world import World

SHOWN = 120
"""Lines of the timeline shown for a failure; `python -m tests.simulation --show SEED` has all."""


def run(world: World) -> None:
    """Raises Violation with the seed and the timeline."""
    try:
        world.run()
    except Violation as violation:
        raise Violation(told(world, violation)) from None


def explore(seeds: Iterable[int]) -> Counter[tuple[str, str]]:
    """How often each (cause or command, fault) was seen together. Raises Violation."""
    seen: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        world = World(seed)
        run(world)
        seen.update(world.checker.reached)
    return seen


def told(world: World, violation: Violation, lines: int = SHOWN) -> str:
    timeline = "\n".join(line[:300] for line in world.scheduler.timeline()[len(world.scheduler.trace) - lines :])
    weather = ", ".join(f"{fault} ({odds:g})" for fault, odds in world.weather.odds.items()) or "calm"
    return f"seed {world.scheduler.seed}: {violation}\n{world.setup}\n{weather}\n{timeline}"
