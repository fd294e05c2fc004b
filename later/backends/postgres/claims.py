"""What a worker is given in its turn."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from later.backends.postgres import arrays, sets
from later.backends.postgres.connection import Session
from later.backends.postgres.rows import STATES
from later.backends.postgres.statements import Statements
from later.backends.postgres.wire import Answer, Row, Value
from later.core.records import Claim, Claimant, Ref, State


class Claimed(NamedTuple):
    by_ref: tuple[Claim | None, ...]
    next: tuple[Claim, ...]


class Sent(NamedTuple):
    """Answers to come."""

    new: Answer | None
    """The ids that are claimed by reference for the first time."""
    held: Answer | None
    next: Answer | None


class Claims:
    """The wish of one call. The statements claim nothing when a `finish` before them, in the same transaction, has left
    something undone."""

    def __init__(
        self,
        sql: Statements,
        values: Mapping[str, Value],
        by: Claimant,
        refs: Sequence[Ref],
        queues: Sequence[str],
        limit: int,
    ) -> None:
        self._sql = sql
        self._refs = refs
        self._queues = list(dict.fromkeys(queues)) if limit > 0 else []
        self._values: dict[str, Value] = {**values, **sets.claim_values(by), "limit": limit}

    def __bool__(self) -> bool:
        return bool(self._refs or self._queues)

    def send(self, session: Session) -> Sent:
        """The statements, for a batch; then `read`."""
        new = held = following = None
        if self._refs:
            values = {**self._values, **arrays.pairs(self._refs)}
            new = session.send(self._sql["claim_refs"], values)
            held = session.send(self._sql["held_refs"], values)
        if self._queues:
            names = {f"queue_{number}": queue for number, queue in enumerate(self._queues, start=1)}
            following = session.send(self._sql.claim_next(len(self._queues)), {**self._values, **names})
        return Sent(new, held, following)

    def read(self, sent: Sent) -> Claimed:
        by_ref: list[Claim | None] = [None] * len(self._refs)
        if sent.new is not None and sent.held is not None:
            held = {(claim.id, claim.epoch): claim for claim in map(_claim, sent.held.rows)}
            by_ref = _in_turn([held.get((ref.id, ref.epoch)) for ref in self._refs], _ids(sent.new))
        following = [] if sent.next is None else [_claim(columns) for columns in sent.next.rows]
        taken = _in_turn(following, {claim.id for claim in following})
        return Claimed(tuple(by_ref), tuple(claim for claim in taken if claim is not None))


def _claim(columns: Row) -> Claim:
    claim = Claim(*columns)
    if claim.parent_state is None:
        return claim
    return claim._replace(parent_state=STATES[claim.parent_state])


def _ids(answer: Answer) -> set[str]:
    return {job_id for (job_id,) in answer.rows}


def _in_turn(claims: Sequence[Claim | None], new: set[str]) -> list[Claim | None]:
    """Jobs are claimed one after the other, in the order of the call, though one statement claims them: a claim whose
    parent is claimed by the same call tells the parent's state at its turn."""
    told: list[Claim | None] = []
    before: set[str] = set()
    for claim in claims:
        if claim is None:
            told.append(None)
            continue
        state = State.PROCESSING if claim.parent in before else State.ENQUEUED
        told.append(claim._replace(parent_state=state) if claim.parent in new else claim)
        before.add(claim.id)
    return told
