"""`python -m tests.simulation`: more worlds than a test run has time for, or the whole story of one."""

import argparse
import time

from tests.simulation.guards import GUARDS, complaint
from tests.simulation.runner import explore, told
from tests.simulation.scheduler import Violation
from tests.simulation.world import World


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many worlds (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--show", type=int, metavar="SEED", help="tell what happens in this one world")
    parser.add_argument("--about", default="", metavar="TEXT", help="with --show: only lines that hold this text")
    parser.add_argument("--guards", action="store_true", help="remove each guard and tell what fails without it")
    arguments = parser.parse_args()
    if arguments.guards:
        for name, guard in GUARDS.items():
            print(f"{name}: {guard.remove.__doc__}\n    {(complaint(name) or 'NOTHING FOUND')[:160]}")
        return
    if arguments.show is not None:
        show(arguments.show, arguments.about)
        return
    began = time.monotonic()
    seen = explore(range(arguments.first, arguments.first + arguments.seeds))
    for pair, times in sorted(seen.items()):
        print(f"{times:7} {' / '.join(pair)}")
    print(f"{arguments.seeds} worlds in {time.monotonic() - began:.0f} s, nothing to complain of")


def show(seed: int, about: str) -> None:
    world = World(seed)
    try:
        world.run()
    except Violation as violation:
        print(told(world, violation, lines=0))
    for line in world.scheduler.timeline():
        if about in line:
            print(line)


if __name__ == "__main__":
    main()
