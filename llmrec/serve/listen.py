"""The socket that a server listens on."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator

from llmrec.errors import RunError


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone: `localhost`, 127.0.0.0/8 or ::1. Names are not looked up.

    Args:
        host: a name or an address, without a port; IPv6 with or without square brackets.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def bind(host: str, port: int) -> socket.socket:
    """Take a port before anything slow is loaded; `listen` lets clients come.

    Args:
        host: a name or an address of this machine; of a name that has addresses of both kinds, the IPv4 one is taken.

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
    """Let clients come to a bound socket; 1,024 connections may wait until they are accepted.

    Raises:
        RunError: another program listens there; of two that bound the port, the first that listens has it.
    """
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
