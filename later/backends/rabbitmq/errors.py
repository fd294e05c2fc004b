"""What an error of RabbitMQ or of the connection means for the caller."""

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Final

from pika import exceptions

from later.backends.rabbitmq.target import Target
from later.core.errors import BackendError, Unavailable, Unsupported

_CODE: Final = re.compile(r"ConnectionClosedByBroker: \((\d+)\)")
"""The server's reason, in what pika makes of it."""


_VERSION: Final = re.compile(r"(\d{1,9})\.(\d{1,9})")


class AccessRefused(BackendError):
    """RabbitMQ does not let this user in, or not do what was asked."""


class ServerFault(Unavailable):
    """RabbitMQ failed at what it was asked for, and ended the connection."""


class QueueMismatch(BackendError):
    """A queue exists with other arguments than this program declares it with."""


def again(error: BackendError) -> BackendError:
    """An equal error to raise: one instance raised in several threads would mix up their tracebacks."""
    return type(error)(str(error))


def translate(error: BaseException | None, target: Target) -> BackendError:
    """The error to raise instead of one of the driver. Names the host, never the password."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, BackendError):
            return again(cause)
        found = _of(cause, target)
        if found is not None:
            return found
    last = causes[-1] if causes else None
    return Unavailable(f"RabbitMQ at {target.place} cannot be reached, or the connection was lost{_reason(last)}")


def _of(cause: BaseException, target: Target) -> BackendError | None:
    place = f"RabbitMQ at {target.place}"
    return (
        _refused(cause, target, f"RabbitMQ at {target.server}")
        or _connection(cause, target, place)
        or _of_broker(cause, target, place)
    )


def too_old(version: str, needed: tuple[int, int], target: Target) -> Unsupported | None:
    """The error when a server of this version has no quorum queues. One that names its version in a way of its own is
    believed to have them."""
    found = _VERSION.match(version)
    if found is None or (int(found[1]), int(found[2])) >= needed:
        return None
    return Unsupported(
        f"RabbitMQ at {target.place} is version {version}, and quorum queues need {needed[0]}.{needed[1]}: upgrade it, "
        "or leave quorum=true out of the URL"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what the driver wrapped in it, outermost first."""
    while error is not None:
        yield error
        wrapped: Sequence[object] = getattr(error, "exceptions", None) or (
            getattr(error, "exception", None),
            *error.args,
        )
        inner = [item for item in wrapped if isinstance(item, BaseException)]
        error = inner[-1] if inner else None


def _refused(error: BaseException, target: Target, place: str) -> BackendError | None:
    """The login failed. pika takes every end at that point for a refusal, also a connection that was cut."""
    if not isinstance(error, (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)):
        return None
    said = str(error)
    code = _CODE.search(said)
    match code[1] if code is not None else None:
        case "403":
            guest = " (guest may log in only from the server's own machine)" if target.user == "guest" else ""
            return AccessRefused(
                f"{place} refused the user name {target.user} or its password{guest}: check both in {target.address}, "
                "and with rabbitmqctl authenticate_user"
            )
        case "530" if "limit" in said:
            return Unavailable(f"{place} has no room for another connection: its limit is reached")
        case "530" if "not found" in said:
            return AccessRefused(
                f"{place} has no virtual host {target.vhost}: check {target.address}, or make it "
                f"(rabbitmqctl add_vhost {target.vhost})"
            )
        case "530":
            return AccessRefused(
                f"{place} did not open the virtual host {target.vhost} to the user {target.user}: check "
                f"{target.address}, or give the user the right ({_permit(target)})"
            )
        case _:
            return Unavailable(f"{place} ended the connection during the login")


def _permit(target: Target) -> str:
    return f'rabbitmqctl set_permissions -p {target.vhost} {target.user} ".*" ".*" ".*"'


def _connection(error: BaseException, target: Target, place: str) -> BackendError | None:
    match error:
        case ssl.SSLCertVerificationError():
            return BackendError(
                f"{place} has a certificate that is not trusted ({error.verify_message}): connect by the name that the "
                "certificate holds, and name the authority's file with ?ca=FILE in the URL"
            )
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Unavailable(f"{place} ended the connection during the TLS handshake: is it a port for amqp://?")
        case ssl.SSLError():
            return BackendError(
                f"{place} does not speak TLS ({error.reason or 'the handshake failed'}): is it a port for amqp://? "
                "RabbitMQ's own port for amqps:// is 5671"
            )
        case exceptions.IncompatibleProtocolError():
            advice = "?" if target.tls else ", or is it a port for amqps://?"
            return Unavailable(f"{place} ended the connection before it said a word of AMQP: is it starting{advice}")
        case socket.gaierror():
            return Unavailable(f"the host of {place} is not known ({error.strerror}): check the URL")
        case ConnectionRefusedError():
            return Unavailable(f"{place} refuses connections: is it running?")
        case exceptions.ConnectionBlockedTimeout():
            return Unavailable(f"{place} has been short of memory or disk for long: see rabbitmq-diagnostics alarms")
        case exceptions.AMQPHeartbeatTimeout():
            return Unavailable(f"{place} has fallen silent: the connection is given up")
        case _:
            return None


def _of_broker(error: BaseException, target: Target, place: str) -> BackendError | None:
    """What the server said when it closed a channel or the connection."""
    if not isinstance(error, (exceptions.ChannelClosed, exceptions.ConnectionClosed)):
        return None
    match error.reply_code:
        case 403:
            return AccessRefused(
                f"{place} does not let this user do what is needed: {error.reply_text} (the user needs to configure, "
                f"write and read the queues of this app: {_permit(target)})"
            )
        case 405:
            return AccessRefused(f"{place} has a queue that belongs to another connection: {error.reply_text}")
        case 406 if "inequivalent arg" in error.reply_text:
            return QueueMismatch(
                f"{place} has a queue that was declared otherwise: {error.reply_text}. Set quorum=... as it was "
                "before, or delete the queue (rabbitmqctl delete_queue): no job is lost by that, the storage has all"
            )
        case 541 if "feature flag" in error.reply_text:
            return Unsupported(
                f"{place} has quorum queues switched off: rabbitmqctl enable_feature_flag quorum_queue, or leave "
                "quorum=true out of the URL"
            )
        case code:
            kind = ServerFault if code == 541 else Unavailable
            return kind(f"{place} closed the connection: {code} {error.reply_text}")


def _reason(error: BaseException | None) -> str:
    if isinstance(error, OSError):
        return f" ({error.strerror or error})"
    return f" ({type(error).__name__})" if error is not None else ""
