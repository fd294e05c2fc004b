"""How the queues of one app are called.

The queue of an app is `NAMESPACE:QUEUE`: names hold no colon, so no two pairs meet. What is no message of ours goes to
`NAMESPACE.dead`.
"""

from later.core.errors import InvalidName


class Names:
    """The queue names of one namespace."""

    def __init__(self, namespace: str) -> None:
        if namespace.lower().startswith("amq."):
            raise InvalidName(f'app name "{namespace}": RabbitMQ keeps names that begin with "amq." for itself')
        self._prefix = f"{namespace}:"
        self.dead = f"{namespace}.dead"

    def of(self, queue: str) -> str:
        return self._prefix + queue

    def queue(self, name: str) -> str:
        """The inverse of `of`."""
        return name.removeprefix(self._prefix)
