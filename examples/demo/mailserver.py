"""A real SMTP server for the demo, in a process of its own, on a free port of the loopback interface.

It behaves like a careful mail host: the first try for an address of example.org is greylisted ("450 come back
later"), an address that begins with "closed." does not exist (550), and taking a message costs a fifth of a
second. Every answer is appended to a journal, one JSON object a line; the demo compares it with what should have
arrived.

    python mailserver.py JOURNAL

prints the port, and ends when its standard input does, so that it never outlives the demo.
"""

import asyncio
import json
import sys
import time
from email import message_from_bytes
from pathlib import Path
from typing import Any, TextIO

from aiosmtpd.smtp import SMTP, Envelope, Session

GREYLISTED_DOMAIN = "example.org"
GREYLIST_SECONDS = 0.5
TAKING_SECONDS = 0.2
CLOSED = "closed."


class Mailboxes:
    """The hooks that aiosmtpd calls for each SMTP command."""

    def __init__(self, journal: TextIO) -> None:
        self._journal = journal
        self._first_seen: dict[str, float] = {}

    def _record(self, **entry: object) -> None:
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()

    async def handle_RCPT(  # noqa: N802 - the name is aiosmtpd's
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[Any]
    ) -> str:
        if address.startswith(CLOSED):
            self._record(answer=550, to=address)
            return "550 5.1.1 no such mailbox"
        now = time.monotonic()
        first_seen = self._first_seen.setdefault(address, now)
        if address.endswith("@" + GREYLISTED_DOMAIN) and now - first_seen < GREYLIST_SECONDS:
            self._record(answer=450, to=address)
            return "450 4.2.0 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        await asyncio.sleep(TAKING_SECONDS)
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content)
        for address in envelope.rcpt_tos:
            self._record(answer=250, to=address, message_id=message["Message-ID"])
        return "250 2.0.0 taken"


async def serve(journal: TextIO) -> None:
    loop = asyncio.get_running_loop()
    mailboxes = Mailboxes(journal)
    server = await loop.create_server(
        lambda: SMTP(mailboxes, hostname="mail.example.org", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with Path(sys.argv[1]).open("a", encoding="utf-8") as journal_file:
        asyncio.run(serve(journal_file))
