"""HTTP with every byte chosen: requests, whole and half, for the attacks on a server."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
from typing import NamedTuple
from urllib.parse import urlsplit

HALF_SENT = 120  # connections that are held open
PATIENCE = 45.0  # seconds until the server must have closed them: its default read timeout is 30
SERVED = 10.0  # seconds within which another client is answered meanwhile
ROUTE = "/v1/recommendations"


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(url: str, method: str, path: str, key: str = "", body: bytes | None = None, **headers: str) -> Reply:
    """Send a well-formed request; underscores in the names of headers become hyphens.

    Raises:
        OSError: no answer came within `SERVED` seconds.
    """
    shown = {"Authorization": f"Bearer {key}"} if key else {}
    shown |= {"Content-Type": "application/json"} if body is not None else {}
    shown |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SERVED)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers=shown)
        response = connection.getresponse()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def connect(url: str) -> socket.socket:
    """A TCP connection to the server."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=SERVED)


def send(url: str, data: bytes, seconds: float = 2.0) -> tuple[bytes, bool]:
    """Send bytes on a connection of their own.

    Returns:
        What came back within so many seconds without news, and whether the server closed the connection.
    """
    with connect(url) as connection:
        connection.settimeout(seconds)
        received = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        except TimeoutError:
            return received, False
        except (ConnectionError, BrokenPipeError):
            pass
        return received, True


def head(key: str, *more: str, method: str = "POST", path: str = ROUTE) -> bytes:
    """The head of a request without the blank line that ends it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *more]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, ""]).encode("latin-1")


def statuses(received: bytes) -> list[int]:
    """Statuses of the responses in what a connection received."""
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3})", received, re.MULTILINE) if status != b"100"]


def alive(url: str, key: str) -> None:
    """Check that another client is served, and gets items."""
    assert ask(url, "GET", "/health").status == 200, "the server no longer answers /health"
    page = ask(url, "GET", "/v1/items?limit=1", key)
    assert page.status == 200, f"the server no longer gives its items: {page.status}"
    item = json.loads(page.body)["items"][0]["item_id"]
    reply = ask(url, "POST", ROUTE, key, json.dumps({"history": [item], "k": 1, "exclude_seen": False}).encode())
    assert reply.status == 200 and json.loads(reply.body)["items"], f"the server no longer recommends: {reply.status}"


def hold(url: str, key: str, begin: bytes, drip: bytes, connections: int = HALF_SENT) -> None:
    """Hold connections open with half a request each, adding a little every moment, and ask as another client."""
    held: set[socket.socket] = set()
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            connection = stack.enter_context(connect(url))
            connection.sendall(begin)
            held.add(connection)
        alive(url, key)
        end = time.monotonic() + PATIENCE
        while held and time.monotonic() < end:
            held -= {connection for connection in held if _closed(connection, drip)}
            time.sleep(0.3)
        assert not held, f"{len(held)} of {connections} half-sent requests are open after {PATIENCE:.0f} s"
    alive(url, key)


def _closed(connection: socket.socket, drip: bytes) -> bool:
    connection.settimeout(0.01)
    try:
        if drip:
            connection.sendall(drip)
        while connection.recv(65536):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True
