"""What can go wrong, and how often in one simulated world."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final


class Fault(StrEnum):
    # one storage call
    REFUSED = "call failed before its effect"
    LOST_REPLY = "call failed after its effect"
    LATE = "call failed, its effect came later"
    SLOW_REPLY = "reply came late"
    STALL = "call was held up"
    # the storage
    OUTAGE = "storage away"
    CUT_OFF = "server cut off from the storage"
    CLOCK_JUMP = "storage clock jumped"
    FORGOT = "storage forgot its last second"
    # processes
    WORKER_CRASH = "worker process crashed"
    SUPERVISOR_CRASH = "server crashed before a command of its keeper"
    SERVER_CRASH = "server crashed"
    ORPHANED = "supervisor crashed, workers lived on"
    SERVER_PAUSE = "server paused"
    KEEPER_PAUSE = "supervisor paused"
    WORKER_PAUSE = "worker process paused"
    STOP = "server stopped"
    HURRY = "server stopped in a hurry"
    CLOCK_DRIFT = "clocks drift"
    LAZY_CLIENT = "client died before it published"
    LOST_WAKE = "wake-up lost"
    # messages
    MESSAGE_LOST = "message lost"
    MESSAGE_REPEATED = "message repeated"
    MESSAGE_LATE = "message late"
    MESSAGE_REORDERED = "message out of order"
    MESSAGE_FORGED = "message forged"
    UNCONFIRMED = "publish not confirmed"
    RECEIVE_FAILED = "receive failed"
    BROKER_DOWN = "broker down"
    BROKER_WIPED = "broker wiped"


CALL_FAULTS: Final = (Fault.REFUSED, Fault.LOST_REPLY, Fault.LATE, Fault.SLOW_REPLY, Fault.STALL)
MESSAGE_FAULTS: Final = (
    Fault.MESSAGE_LOST,
    Fault.MESSAGE_REPEATED,
    Fault.MESSAGE_LATE,
    Fault.MESSAGE_REORDERED,
)
INCIDENTS: Final = (
    Fault.OUTAGE,
    Fault.CUT_OFF,
    Fault.CLOCK_JUMP,
    Fault.SERVER_CRASH,
    Fault.ORPHANED,
    Fault.SERVER_PAUSE,
    Fault.KEEPER_PAUSE,
    Fault.WORKER_PAUSE,
    Fault.STOP,
    Fault.HURRY,
    Fault.MESSAGE_FORGED,
    Fault.BROKER_DOWN,
    Fault.BROKER_WIPED,
    Fault.FORGOT,
)
"""Happen at planned moments; all others are drawn anew for every call, command or message."""

_ODDS: Final[Mapping[Fault, tuple[float, ...]]] = {
    Fault.REFUSED: (0.02, 0.1, 0.3),
    Fault.LOST_REPLY: (0.02, 0.1, 0.3),
    Fault.LATE: (0.02, 0.1, 0.3),
    Fault.SLOW_REPLY: (0.02, 0.1, 0.3),
    Fault.STALL: (0.02, 0.1, 0.3),
    Fault.WORKER_CRASH: (0.003, 0.02, 0.05),
    Fault.SUPERVISOR_CRASH: (0.001, 0.01),
    Fault.LAZY_CLIENT: (0.2, 0.6),
    Fault.LOST_WAKE: (0.3, 1.0),
    Fault.MESSAGE_LOST: (0.1, 0.5),
    Fault.MESSAGE_REPEATED: (0.1, 0.5),
    Fault.MESSAGE_LATE: (0.1, 0.3),
    Fault.MESSAGE_REORDERED: (0.3, 1.0),
    Fault.UNCONFIRMED: (0.1, 0.5),
    Fault.RECEIVE_FAILED: (0.05, 0.2),
    Fault.CLOCK_DRIFT: (1.0,),
    **dict.fromkeys(INCIDENTS, (1.0, 2.0, 4.0)),
}
"""Probabilities; of incidents, their number."""


@dataclass(slots=True)
class Weather:
    """The faults of one world. Each world has some kinds of them, not all: so that each combination comes up pure."""

    random: Random
    odds: Mapping[Fault, float]
    over: bool = False
    """From then on nothing goes wrong any more."""
    aim: str = ""
    """The command before which alone a process crashes; empty: any."""
    seen: dict[Fault, int] = field(default_factory=dict[Fault, int])

    @classmethod
    def draw(cls, random: Random) -> "Weather":
        if random.random() < 0.08:
            return cls(random, {})
        share = random.choice((0.1, 0.2, 0.4))
        odds = {fault: random.choice(choices) for fault, choices in _ODDS.items() if random.random() < share}
        if random.random() < 0.8:
            # What it breaks by nature would hide what others break.
            odds.pop(Fault.FORGOT, None)
        return cls(random, odds)

    @property
    def calm(self) -> bool:
        return not self.odds

    def strikes(self, fault: Fault) -> bool:
        odds = self.odds.get(fault)
        if odds is None or self.over or self.random.random() >= odds:
            return False
        self.saw(fault)
        return True

    def strikes_before(self, fault: Fault, command: str) -> bool:
        return self.aim in ("", command) and self.strikes(fault)

    def first_of(self, faults: tuple[Fault, ...]) -> Fault | None:
        for fault in faults:
            if fault in self.odds and self.strikes(fault):
                return fault
        return None

    def saw(self, fault: Fault) -> None:
        self.seen[fault] = self.seen.get(fault, 0) + 1

    def planned(self) -> list[Fault]:
        return [fault for fault in INCIDENTS for _ in range(round(self.odds.get(fault, 0)))]
