"""The troubles of a server's broker connections, in all its processes."""

from collections.abc import Sequence
from threading import Lock

from later.core import troubles
from later.core.ports import Broker, BrokerTrouble
from later.runtime.log import log


class Troubles:
    """Those of this process and of those that it watches. Used by several threads."""

    def __init__(self, broker: Broker | None) -> None:
        self._broker = broker
        self._lock = Lock()
        self._others: dict[str, Sequence[BrokerTrouble]] = {}
        self._past: tuple[BrokerTrouble, ...] = ()
        """Of processes that have ended."""

    def own(self) -> Sequence[BrokerTrouble]:
        """As the broker of this process tells them."""
        try:
            return () if self._broker is None else self._broker.troubles()
        except Exception:  # noqa: BLE001  a faulty adapter must not end the server
            log.exception("the broker raised what it must not when it was asked for its troubles")
            return ()

    def heard(self, process: str, found: Sequence[BrokerTrouble]) -> None:
        """All of another process, the earlier ones included."""
        with self._lock:
            self._others[process] = found

    def ended(self, process: str) -> None:
        """Its troubles stay; another process may have its name."""
        with self._lock:
            self._past = troubles.total([self._past, self._others.pop(process, ())])

    def note(self) -> str:
        """What a beat tells of them."""
        own = self.own()
        with self._lock:
            found = [own, self._past, *self._others.values()]
        return troubles.to_note(troubles.total(found))
