"""What an error of NATS or of the connection means for the caller."""

import asyncio
import socket
import ssl
from typing import Final

import nats.errors
import nats.js.errors

from later.core.errors import BackendError, Unavailable
from later_nats.target import Target

_NOT_ENABLED: Final = frozenset({10039, 10076})
"""JetStream is not enabled for the account, or on this server."""
_OVERLAP: Final = 10065


class AccessRefused(BackendError):
    """NATS does not let this user in, or not do what was asked."""


class NoJetStream(BackendError):
    """The server does not keep messages: JetStream is not enabled."""


class StreamMismatch(BackendError):
    """A stream or consumer exists that is set up otherwise, or another stream takes the same messages."""


def again(error: BackendError) -> BackendError:
    """An equal error to raise: one instance raised in several threads would mix up their tracebacks."""
    return type(error)(str(error))


def translate(error: BaseException | None, target: Target) -> BackendError:
    """The error to raise instead of one of the driver. Names the host, never the password."""
    place = f"NATS at {target.place}"
    if isinstance(error, BackendError):
        return again(error)
    if isinstance(error, nats.js.errors.APIError):
        return _of_jetstream(error, place)
    return _of_tls(error, place) or _of_server(error, target, place) or _of_connection(error, place)


def _of_jetstream(error: nats.js.errors.APIError, place: str) -> BackendError:
    code = error.err_code
    if code in _NOT_ENABLED or (code is None and isinstance(error, nats.js.errors.ServiceUnavailableError)):
        return NoJetStream(
            f"{place} has no JetStream for this account: start nats-server with -js, or enable it in its configuration"
        )
    if code == _OVERLAP:
        return StreamMismatch(
            f"{place} has another stream that takes this app's messages (its subjects overlap): see `nats stream ls`, "
            "and take later.> out of that stream"
        )
    return Unavailable(f"{place} did not do what was asked: {error.description or 'no reason given'} ({code})")


def _of_tls(error: BaseException | None, place: str) -> BackendError | None:
    match error:
        case nats.errors.SecureConnWantedError():
            return BackendError(
                f"{place} does not speak TLS, so no login was sent to it: set up TLS on the server, or write nats://"
            )
        case ssl.SSLCertVerificationError():
            return BackendError(
                f"{place} has a certificate that is not trusted ({error.verify_message}): connect by the name that the "
                "certificate holds, and name the authority's file: nats+tls://HOST?ca=FILE"
            )
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Unavailable(f"{place} ended the connection during the TLS handshake")
        case ssl.SSLError():
            return BackendError(
                f"TLS with {place} failed ({error.reason or 'the handshake failed'}): does the server want a "
                "certificate (?cert=FILE&key=FILE in the URL)?"
            )
        case _:
            return None


def _of_server(error: BaseException | None, target: Target, place: str) -> BackendError | None:
    """What the server said in an -ERR, which the driver passes on as text."""
    text = str(error).lower() if isinstance(error, nats.errors.Error) else ""
    if isinstance(error, nats.errors.AuthorizationError) or "authorization" in text or "authentication" in text:
        return _login(target, place)
    if "permissions violation" in text:
        return AccessRefused(
            f"{place} does not let this user do what is needed ({str(error).removeprefix('nats: ')}): see the README "
            "of later-nats for the permissions"
        )
    if "maximum connections" in text:
        return Unavailable(f"{place} has no more connections to give (max_connections)")
    return None


def _login(target: Target, place: str) -> BackendError:
    if target.user is not None:
        what = f"refused the login of the user {target.user}: check user and password in the URL"
    elif target.token is not None:
        what = "refused the token: check the URL (a login without a : is a token, one with it is a user's)"
    else:
        what = "wants a login and the URL has none: write USER:PASSWORD@ before the host"
    return AccessRefused(f"{place} {what}")


def _of_connection(error: BaseException | None, place: str) -> BackendError:
    match error:
        case socket.gaierror():
            return Unavailable(f"the host of {place} is not known ({error.strerror}): check the URL")
        case UnicodeError():
            return Unavailable(f"the host of {place} is no name of a host: check the URL")
        case ConnectionRefusedError():
            return Unavailable(f"{place} refuses connections: is it running?")
        case asyncio.TimeoutError():
            return Unavailable(f"{place} did not answer in time")
        case nats.errors.StaleConnectionError():
            return Unavailable(f"{place} ended the connection, or has fallen silent")
        case OSError():
            return Unavailable(f"{place} cannot be reached, or the connection was lost ({error.strerror or error})")
        case nats.errors.Error() if "INFO" in str(error):
            return Unavailable(f"{place} ended the connection before it said a word of NATS: is it a NATS server?")
        case None:
            return Unavailable(f"{place} ended the connection")
        case _:
            return Unavailable(f"{place} cannot be reached, or the connection was lost ({type(error).__name__})")
