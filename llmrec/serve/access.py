"""Access to a server: the address that it listens on, keys, and protection from web pages of other sites."""

from __future__ import annotations

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

from starlette.types import ASGIApp, Receive, Scope, Send

from llmrec.errors import RunError
from llmrec.serve.schemas import ApiError

API_KEY, ADMIN_KEY = "LLMREC_API_KEY", "LLMREC_ADMIN_KEY"
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d*)?")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone: `localhost`, 127.0.0.0/8 or ::1, which may be in square brackets."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def bind(host: str, port: int) -> socket.socket:
    """Take a port before anything slow is loaded, of a name's addresses an IPv4 one; `listen` lets clients come.

    Raises:
        RunError: the port is in use or closed to this user, or the host is none of this machine's.
    """
    with _explained(host, port):
        if not host:
            raise ValueError("an empty host would be every network")
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    return bound


def listen(bound: socket.socket) -> None:
    """Let clients come, up to 1,024 waiting; a RunError where another program that bound the port listens already."""
    with _explained(*bound.getsockname()[:2]):
        bound.listen(1024)


def url(bound: socket.socket) -> str:
    """The address of a bound socket for a client."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    """Say of an error in taking a port what to do about it."""
    try:
        yield
    except (OSError, UnicodeError, ValueError) as error:
        what, remedy = str(getattr(error, "strerror", None) or error), "Choose another --host or --port."
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            remedy = "Choose another port with --port, or stop what is there."
        elif number in (errno.EACCES, errno.EPERM):
            remedy = "Ports below 1024 are for the administrator: choose another, such as --port 8000."
        elif number == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror | ValueError):
            what = "this machine has no such address"
            remedy = "Say --host 127.0.0.1 for this machine alone, or --host 0.0.0.0 for every network."
        shown = host.encode("ascii", "backslashreplace").decode() or "an empty host"
        raise RunError(f"cannot listen on {shown}:{port}: {what}. {remedy}") from error


class Keys:
    """Keys that clients show as `Authorization: Bearer KEY`; only their digests are kept.

    The environment may name several, with commas between, so that they can be exchanged.
    """

    def __init__(self, api: str | None, admin: str | None) -> None:
        """Take keys; None or "" where there are none, which no client then has."""
        self.admin = _digests(admin)
        self.api = [*_digests(api), *self.admin]

    @classmethod
    def from_environment(cls) -> Keys:
        """LLMREC_API_KEY and LLMREC_ADMIN_KEY; a RunError that does not repeat the key where no client can send one."""
        for name in (API_KEY, ADMIN_KEY):
            _check(name, os.environ.get(name, ""))
        return cls(os.environ.get(API_KEY), os.environ.get(ADMIN_KEY))

    def opens(self, header: str | None, admin: bool = False) -> bool:
        """Whether an Authorization header shows a key; an admin's opens everything."""
        scheme, _, key = (header or "").partition(" ")
        shown = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        known = [hmac.compare_digest(shown, one) for one in (self.admin if admin else self.api)]
        return scheme.lower() == "bearer" and any(known)


def _digests(keys: str | None) -> list[bytes]:
    return [hashlib.sha256(key.strip().encode()).digest() for key in (keys or "").split(",") if key.strip()]


def _check(name: str, value: str) -> None:
    """Refuse keys that cannot stand in an HTTP header: they would lock every client out."""
    keys = [key.strip() for key in value.split(",")] if value else []
    for number, key in enumerate(keys, 1):
        if not key:
            fault = "is empty"
        elif not key.isascii():
            fault = "has letters outside ASCII"
        elif any(not "!" <= letter <= "~" for letter in key):
            fault = "has a blank, a line break or another control character inside"
        else:
            continue
        raise RunError(
            f"no client can send key {number} of {len(keys)} in {name}: it {fault}. Write keys of visible ASCII "
            f"characters, with one comma between several, or make one: export {name}=$(openssl rand -hex 24)"
        )


class TrustedHosts:
    """ASGI middleware that answers 421 to a foreign Host header and 403 to a foreign Origin header.

    A web page of another site can make a browser send requests to a server on the person's own machine. Where the
    page's name was made to point at this machine (DNS rebinding), Host is foreign; in all other cases Origin is.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = ()) -> None:
        """Wrap an app that also has the names or addresses `hosts`, such as `films.example`, beside those of loopback.

        None allows every Host header, for a server that asks for a key or a login.
        """
        self.app, self.hosts = app, None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        refused = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            request_id = scope.get("state", {}).get("request_id") or uuid.uuid4().hex
            await refused.response(request_id)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        hosts = _headers(scope, b"host")
        if not all(self._trusted(host) for host in hosts):
            return ApiError(421, "this server does not answer under the name in the Host header: use its own address.")
        # Sec-Fetch-Site is the browser's own judgement: right behind a proxy that rewrites Host, and no page can set it
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
    """Whether an Origin is none of the request's hosts; `null`, of a sandboxed frame or a local file, is foreign."""
    return origin.lower().partition("://")[2] not in {host.lower() for host in hosts}


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]
