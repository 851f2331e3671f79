"""Access to a server: its socket, keys, bodies of requests, and protection from web pages of other sites."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import hmac
import ipaddress
import os
import re
import socket
import uuid
from collections.abc import Collection, Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.errors import RunError
from llmrec.serve.schemas import ApiError

API_KEY, ADMIN_KEY = "LLMREC_API_KEY", "LLMREC_ADMIN_KEY"
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d*)?")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only: `localhost`, 127.0.0.0/8 or ::1, also in square brackets."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def bind(host: str, port: int) -> socket.socket:
    """Reserve a port before the model is loaded, with IPv4 if the host has both; `listen` then accepts clients.

    Raises:
        RunError: the port is in use or forbidden for this user, or the host is not an address of this machine.
    """
    with _explain_error(host, port):
        if not host:
            raise ValueError("an empty host would be every network")
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(addresses, key=lambda info: info[0] != socket.AF_INET)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    return bound


def listen(bound: socket.socket) -> None:
    """Accept clients, with a queue of 1,024; a RunError if another program already listens on the port."""
    with _explain_error(*bound.getsockname()[:2]):
        bound.listen(1024)


def url(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _explain_error(host: str, port: int) -> Iterator[None]:
    """Turn an error of a socket into a RunError with a remedy."""
    try:
        yield
    except (OSError, UnicodeError, ValueError) as error:
        reason, remedy = str(getattr(error, "strerror", None) or error), "Choose another --host or --port."
        code = getattr(error, "errno", None)
        if code == errno.EADDRINUSE:
            remedy = "Choose another port with --port, or stop the program that uses it."
        elif code in (errno.EACCES, errno.EPERM):
            remedy = "Ports below 1024 are for the administrator: choose another, such as --port 8000."
        elif code == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror | ValueError):
            reason = "this machine has no such address"
            remedy = "Use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for every network."
        shown = host.encode("ascii", "backslashreplace").decode() or "an empty host"
        raise RunError(f"cannot listen on {shown}:{port}: {reason}. {remedy}") from error


class Keys:
    """Keys that clients send as `Authorization: Bearer KEY`; only their digests are stored.

    An environment variable may contain several, separated by commas, so that keys can be rotated.
    """

    def __init__(self, api: str | None, admin: str | None) -> None:
        """Store the digests of keys; None or "" for none."""
        self.admin = _digests(admin)
        self.api = [*_digests(api), *self.admin]

    @classmethod
    def from_environment(cls) -> Keys:
        """Read LLMREC_API_KEY and LLMREC_ADMIN_KEY; a RunError, without the key, for a key that no client can send."""
        for name in (API_KEY, ADMIN_KEY):
            _check(name, os.environ.get(name, ""))
        return cls(os.environ.get(API_KEY), os.environ.get(ADMIN_KEY))

    def accept(self, header: str | None, admin: bool = False) -> bool:
        """Whether an Authorization header contains a valid key; admin keys are valid everywhere."""
        scheme, _, key = (header or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, each) for each in (self.admin if admin else self.api)]
        return scheme.lower() == "bearer" and any(matches)


def _digests(keys: str | None) -> list[bytes]:
    return [hashlib.sha256(key.strip().encode()).digest() for key in (keys or "").split(",") if key.strip()]


def _check(name: str, value: str) -> None:
    """Refuse keys that cannot be sent in an HTTP header: no client could use the server."""
    keys = [key.strip() for key in value.split(",")] if value else []
    for number, key in enumerate(keys, 1):
        if not key:
            fault = "is empty"
        elif not key.isascii():
            fault = "has characters outside ASCII"
        elif any(not "!" <= character <= "~" for character in key):
            fault = "contains a blank, a line break or another control character"
        else:
            continue
        raise RunError(
            f"no client can send key {number} of {len(keys)} in {name}: it {fault}. Write keys of visible ASCII "
            f"characters, with one comma between several, or make one: export {name}=$(openssl rand -hex 24)"
        )


async def read_body(receive: Receive, limit: int, seconds: float, remedy: str = "") -> bytes | None:
    """Read the body of a request; None if the client disconnects first.

    Raises:
        ApiError: the body has more than `limit` bytes (`remedy` ends the message), or takes longer than `seconds`.
    """
    parts: list[bytes] = []
    length, more = 0, True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                length, more = length + len(parts[-1]), message.get("more_body", False)
                if length > limit:
                    raise ApiError(413, f"the body has more than {limit} bytes{remedy}.", Connection="close")
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {seconds:g} s: send it again.", Connection="close") from None
    return b"".join(parts)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that was read already, then what `receive` returns."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


class TrustedHosts:
    """ASGI middleware that answers 421 to a foreign Host header and 403 to a foreign Origin header.

    A web page of another site can make a browser send requests to a server on the user's own machine. With DNS
    rebinding, which points the page's host name at this machine, Host is foreign; in all other cases Origin is.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = ()) -> None:
        """Wrap an app.

        Args:
            hosts: allowed names or addresses, such as `films.example`, beside loopback; None allows every Host header,
                for a server that requires a key or a login.
        """
        self.app, self.hosts = app, None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        error = self._error(scope) if scope["type"] in ("http", "websocket") else None
        if error is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            request_id = scope.get("state", {}).get("request_id") or uuid.uuid4().hex
            await error.response(request_id)(scope, receive, send)

    def _error(self, scope: Scope) -> ApiError | None:
        hosts = _headers(scope, b"host")
        if not all(self._trusted(host) for host in hosts):
            return ApiError(421, "this server has another name than that in the Host header: use its own address.")
        # set by the browser, never by a page; also correct behind a proxy that rewrites Host
        same = _headers(scope, b"sec-fetch-site") == ["same-origin"]
        if not same and any(_foreign(origin, hosts) for origin in _headers(scope, b"origin")):
            return ApiError(403, "requests from pages of other sites are refused: open the server's own address.")
        return None

    def _trusted(self, host: str) -> bool:
        if self.hosts is None:
            return True
        match = _HOST.fullmatch(host)
        name = match[1].lower() if match else ""
        return is_loopback(name) or name in self.hosts or name.strip("[]") in self.hosts


def _foreign(origin: str, hosts: list[str]) -> bool:
    """Whether an Origin is not a host of the request; `null`, of a sandboxed frame or a local file, is foreign."""
    return origin.lower().partition("://")[2] not in {host.lower() for host in hosts}


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]
