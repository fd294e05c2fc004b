"""One connection, spoken to in batches.

The driver's own pipeline sends, and looks for answers, statement by statement; here a batch is written at once, which
makes a batch of five cost little more than a statement. And every call ends at a deadline, whatever the server does.
"""

import select
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result

Row: TypeAlias = tuple[Any, ...]
Value: TypeAlias = str | int | None

OWED_PATIENCE: Final = 0.1
"""Seconds that a call waits for answers that are owed to an earlier one, before it takes another connection."""

_BINARY: Final = pq.Format.BINARY
_GIVES_ROWS: Final = pq.ExecStatus.TUPLES_OK


class Query(NamedTuple):
    """A statement with places $1, $2, ... and what stands there."""

    text: bytes
    names: tuple[str, ...] = ()


class Answer:
    """What the server has answered to one statement, once its batch has been exchanged."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[Row] = []


class DeadlineError(psycopg.OperationalError):
    """The server gave no answer before the deadline."""


class Wire:
    """`prepares`: parse each statement once. Not thread-safe; `deadline` is a time of `time.monotonic`."""

    def __init__(self, connection: "psycopg.Connection[Any]", *, prepares: bool, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self._pgconn = connection.pgconn
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._poll = select.poll()
        last_words: list[pq.abc.PGresult] = []
        # Not `self`, which holds the connection.
        self._pgconn.notice_handler = lambda notice: last_words.append(notice) if _ends(notice) else None
        self._last_words = last_words
        """Why the server has ended the connection, told while nobody waited for an answer."""
        self._prepares = prepares
        self._prepared: dict[bytes, bytes] = {}
        self._new: list[bytes] = []
        self._names = 0
        self._sent: list[Answer | None] = []
        """What is to be answered; None: the end of a part that stands or falls as a whole."""
        self._awaited: int | None = None
        """So many of these are waited for; None: all."""
        self._owed = False
        """What is to be answered was not waited for."""

    @property
    def socket(self) -> int:
        return self._pgconn.socket

    @property
    def idle(self) -> bool:
        """No transaction is open, and nobody waits for an answer."""
        # A name that was not sent must not be taken for that of a prepared statement.
        return not self._new and (
            self._owed or (not self._sent and self._pgconn.transaction_status == pq.TransactionStatus.IDLE)
        )

    @property
    def in_transaction(self) -> bool:
        """One is open, or was until a statement of it failed."""
        open_or_failed = {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}
        return not self._sent and self._pgconn.transaction_status in open_or_failed

    def send(self, query: Query, values: Mapping[str, Value]) -> Answer:
        """Put a statement into the batch."""
        parameters = [_encoded(values[name]) for name in query.names]
        if not self._prepares:
            self._pgconn.send_query_params(query.text, parameters, result_format=_BINARY)
        else:
            name = self._prepared.get(query.text)
            if name is None:
                self._names += 1
                self._new.append(query.text)
                name = self._prepared[query.text] = b"later_%d" % self._names
                self._pgconn.send_prepare(name, query.text)
                self._sent.append(Answer())
            self._pgconn.send_query_prepared(name, parameters, result_format=_BINARY)
        answer = Answer()
        self._sent.append(answer)
        return answer

    def divide(self) -> None:
        """What was sent outside an explicit transaction is one; what follows is another."""
        self._pgconn.pipeline_sync()
        self._sent.append(None)

    def no_more_awaited(self) -> None:
        """After `divide`: whether what is sent from here to the end of the batch succeeds matters to nobody, so
        `exchange` need not wait for it, and may not tell. Then `alive` comes before the next batch."""
        self._awaited = len(self._sent)

    def exchange(self) -> None:
        """Send the batch and read its answers. Raises the first error of the server, after the answers to the rest."""
        if not self._sent or self._sent[-1] is not None:
            self.divide()
        self._flush()
        # Whether a statement could be prepared has to be known.
        awaited = None if self._new else self._awaited
        self._awaited = None
        failure: psycopg.Error | None = None
        for place, answer in enumerate(self._sent):
            if place == awaited and failure is None:
                del self._sent[:place]
                self._owed = True
                return
            error = self._synchronised() if answer is None else self._read(answer)
            failure = failure or error
        self._sent.clear()
        if failure is not None:
            # Those that came after the error have not been prepared; their names are not used again.
            for text in self._new:
                del self._prepared[text]
        self._new.clear()
        if failure is not None:
            raise failure

    def _read(self, answer: Answer) -> psycopg.Error | None:
        failure: psycopg.Error | None = None
        while (result := self._result()) is not None:
            status = result.status
            if status == _GIVES_ROWS:
                loader = Transformer(self.connection)
                loader.set_pgresult(result, format=_BINARY)
                answer.rows = loader.load_rows(0, result.ntuples, tuple)
            elif status == pq.ExecStatus.FATAL_ERROR:
                failure = error_from_result(result, encoding="utf-8")
        return failure

    def _synchronised(self) -> psycopg.Error | None:
        """Read to the end of a part, which is where the server commits: that it could not is told here."""
        failure: psycopg.Error | None = None
        before: pq.abc.PGresult | None = None
        while True:
            result = self._result()
            if result is None:
                if before is None:  # once stands behind an error; twice, the connection was lost
                    return failure or psycopg.OperationalError("the connection was lost")
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return failure
            elif failure is None:
                failure = error_from_result(result, encoding="utf-8")
            before = result

    def _result(self) -> "pq.abc.PGresult | None":
        while self._pgconn.is_busy():
            self._await(select.POLLIN)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _flush(self) -> None:
        while self._pgconn.flush():
            # The server may wait for us to read before it reads more.
            if self._await(select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._pgconn.consume_input()

    def _await(self, events: int) -> int:
        self._poll.register(self._pgconn.socket, events)
        found = self._poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000)
        if not found:
            # Answers that are still to come would be taken for those of the next call.
            self.close()
            raise DeadlineError
        return found[0][1]

    def script(self, statements: str) -> None:
        """Several statements without values, at once. Blocks without a deadline but the server's own."""
        self._pgconn.exit_pipeline_mode()
        self.connection.execute(statements.encode())
        self._pgconn.enter_pipeline_mode()

    def notifications(self) -> list[str]:
        """The texts of those that have come."""
        self._pgconn.consume_input()
        texts: list[str] = []
        while (notification := self._pgconn.notifies()) is not None:
            texts.append(notification.extra.decode(errors="replace"))
        return texts

    def alive(self, deadline: float) -> bool:
        """Whether an idle connection is still one. What a server says unasked is that it ends it, or nearly always.
        Reads first what was not awaited."""
        if self.connection.closed:
            return False
        if self._owed:
            self.deadline = min(deadline, time.monotonic() + OWED_PATIENCE)
            try:
                self._read_owed()
            except psycopg.Error:
                return False
            if not self.idle or self._last_words:
                return False
        self._poll.register(self._pgconn.socket, select.POLLIN)
        return not self._poll.poll(0)

    def _read_owed(self) -> None:
        for answer in self._sent:
            if answer is None:
                self._synchronised()
            else:
                self._read(answer)
        self._sent.clear()
        self._owed = False
        self._pgconn.is_busy()  # reads last words that came with the answer

    def close(self) -> None:
        with suppress(psycopg.Error):
            self.connection.close()


def _ends(notice: "pq.abc.PGresult") -> bool:
    return notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) in {b"FATAL", b"PANIC"}


def _encoded(value: Value) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else b"%d" % value
