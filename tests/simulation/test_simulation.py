"""The engine in thousands of simulated worlds. `python -m tests.simulation --help` runs more, or shows one."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest

from later.core.lifecycle import Cause
from tests.simulation.faults import CALL_FAULTS, INCIDENTS, MESSAGE_FAULTS, Fault, Weather
from tests.simulation.runner import explore, run
from tests.simulation.scheduler import Scheduler
from tests.simulation.world import Setup, World

SEEDS: Final = int(os.environ.get("LATER_SIM_SEEDS", "1200"))
"""How many worlds in all; set it for a longer run."""
CHUNKS: Final = 12
SECONDS_PER_WORLD: Final = 1.0
"""A generous limit: one takes about 20 ms."""


@pytest.mark.no_cover  # measured, it would take three times as long; the unit tests show what is covered
@pytest.mark.timeout(60 + SEEDS / CHUNKS * SECONDS_PER_WORLD)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_lost_and_nothing_is_done_twice(chunk: int) -> None:
    explore(range(chunk, SEEDS, CHUNKS))


# --- what the worlds see

LOST_ANSWERS: Final = tuple(fault for fault in CALL_FAULTS if fault is not Fault.REFUSED)
HOLDERS: Final = (
    Fault.SERVER_CRASH,
    Fault.ORPHANED,
    Fault.SERVER_PAUSE,
    Fault.KEEPER_PAUSE,
    Fault.WORKER_PAUSE,
    Fault.STOP,
    Fault.HURRY,
    Fault.CUT_OFF,
)
"""What strikes a worker that holds claims."""
WORKER_COMMANDS: Final = (
    "Exchange", "ListClaims", "Wait", "Receive", "Ack", "GiveBack", "Publish", "Run", "Interrupt", "Exit",
)  # fmt: skip
KEEPER_COMMANDS: Final = (
    "Register", "Beat", "Unregister", "Promote", "Rescue", "FindUnpublished", "Prune", "ListServers", "ListHeld",
    "Apply", "Publish", "Unpublish", "Compare", "TellLeased", "TellLeaseLost", "TellCancels", "KeeperExit",
    "FindDue", "GetJobs", "Fire",
)  # fmt: skip

MEETINGS: Final[Mapping[Fault, tuple[str, ...]]] = {
    **dict.fromkeys(
        LOST_ANSWERS,
        (
            Cause.CLAIM,
            Cause.SUCCEED,
            Cause.RETRY,
            Cause.RELEASE,
            Cause.CRASH,
            Cause.DUE,
            Cause.PARENT_ENDED,
            Cause.PARENT_MISSED,
            Cause.DELETE,
            Cause.REQUEUE,
        ),
    ),
    **dict.fromkeys(HOLDERS, (Cause.SUCCEED, Cause.CRASH, Cause.POISON, Cause.RELEASE)),
    **dict.fromkeys(MESSAGE_FAULTS, (Cause.CLAIM,)),
    Fault.MESSAGE_FORGED: (Cause.CLAIM,),
    Fault.BROKER_WIPED: (Cause.CLAIM,),
    Fault.WORKER_CRASH: (Cause.SUCCEED, Cause.CRASH, Cause.POISON, Cause.RELEASE),
}
"""By fault: the causes of a job's moves that must be seen with it."""

CRASHES: Final = [(Fault.WORKER_CRASH, command) for command in WORKER_COMMANDS] + [
    (Fault.SUPERVISOR_CRASH, command) for command in KEEPER_COMMANDS
]

BESIDES: Final[Mapping[Fault, float]] = {
    Fault.LATE: 0.05,
    Fault.STALL: 0.05,
    Fault.STOP: 1.0,
    Fault.HURRY: 1.0,
    Fault.CUT_OFF: 1.0,
}
"""Present in each of these worlds: some meetings need a second fault."""


def meet(fault: Fault, odds: float, wanted: set[str], *, aim: str = "") -> None:
    """Go through worlds until all of this has been seen together with the fault."""
    for number in range(300):
        source = Scheduler(f"{fault.name}-{aim}-{number}")
        setup = Setup.draw(source.random("setup"))
        if fault in MESSAGE_FAULTS:
            setup = replace(setup, broker=True)
        weather = Weather(source.random("weather"), {**BESIDES, fault: odds}, aim=aim)
        world = World(source.seed, setup, weather)
        run(world)
        wanted = {what for what in wanted if (what, fault) not in world.checker.reached}
        if not wanted:
            return
    pytest.fail(f"never seen together with {fault.name}: {sorted(wanted)}")


@pytest.mark.no_cover
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", MEETINGS)
def test_each_fault_is_met_in_each_move(fault: Fault) -> None:
    odds = 3.0 if fault in INCIDENTS else 0.05 if fault is Fault.WORKER_CRASH else 0.3
    meet(fault, odds, set(MEETINGS[fault]))


@pytest.mark.no_cover
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("fault", "command"), CRASHES)
def test_a_crash_is_met_before_each_command(fault: Fault, command: str) -> None:
    meet(fault, 0.3, {f"before {command}"}, aim=command)


# --- the simulator itself


def digest(seed: int) -> str:
    world = World(seed)
    run(world)
    return hashlib.sha256("\n".join(world.scheduler.timeline()).encode()).hexdigest()


def test_the_same_seed_is_the_same_world() -> None:
    assert [digest(seed) for seed in range(20)] == [digest(seed) for seed in range(20)]


def test_the_same_seed_is_the_same_world_in_another_process() -> None:
    """Nothing hangs on the hash seed, an address or the clock of the machine."""
    script = "from tests.simulation.test_simulation import digest; print(*map(digest, range(20)))"
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert told == {" ".join(digest(seed) for seed in range(20)) + "\n"}
