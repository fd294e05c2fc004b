"""How streams, consumers and subjects of one app are called.

A name of later may hold a dot, which divides subjects and is forbidden in the names of streams. It is written `=`,
which no name of later holds, so no two names meet.

    stream      LATER-shop          subjects later.shop.*
    consumer    default             one for each queue
    subject     later.shop.default
    stream      LATER_DEAD-shop     subject  later_dead.shop
"""


def token(name: str) -> str:
    return name.replace(".", "=")


class Names:
    def __init__(self, namespace: str) -> None:
        app = token(namespace)
        self.stream = f"LATER-{app}"
        self.subjects = f"later.{app}.*"
        self._prefix = f"later.{app}."
        self.dead_stream = f"LATER_DEAD-{app}"
        self.dead_subject = f"later_dead.{app}"

    def subject(self, queue: str) -> str:
        return self._prefix + token(queue)
