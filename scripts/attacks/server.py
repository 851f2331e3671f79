"""Attacks on a server of `llmrec serve`: what a hostile or clumsy client can send to it.

Each attack takes the server's address and a client's key, and raises AssertionError where it succeeds, or where the
server breaks a promise of docs/serving.md. A short `--read-timeout` of the server makes them faster.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import string
import time
from collections.abc import Callable

from attacks.inputs import ADDRESSES, BODIES
from attacks.raw_http import PATIENCE, ROUTE, alive, ask, connect, head, hold, send, statuses

PATHS = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|var|etc|srv|opt|mnt|data)\b|Traceback|\.py\b|site-packages")


def half_sent_heads(url: str, key: str) -> None:
    """Headers that never end (slowloris)."""
    hold(url, key, head("", "X-Begun: 1"), b"X: y\r\n")


def silent_connections(url: str, key: str) -> None:
    """Connections on which nothing is ever sent."""
    hold(url, key, b"", b"")


def half_sent_bodies(url: str, key: str) -> None:
    """Bodies shorter than announced."""
    hold(url, key, head(key, "Content-Type: application/json", "Content-Length: 5000") + b"\r\n{", b" ", 40)


def endless_chunks(url: str, key: str) -> None:
    """A chunked body whose last chunk never comes."""
    hold(
        url, key, head(key, "Content-Type: application/json", "Transfer-Encoding: chunked") + b"\r\n", b"1\r\n \r\n", 40
    )


def endless_body_of_a_get(url: str, key: str) -> None:
    """A body on a route that reads none."""
    hold(url, key, head("", "Transfer-Encoding: chunked", method="GET", path="/health") + b"\r\n", b"1\r\n \r\n", 40)


def unread_answers(url: str, key: str) -> None:
    """Answers that the client asks for and never reads."""
    begin = (head(key, method="GET", path="/openapi.json") + b"\r\n") * 500
    held = []
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(connect(url))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                connection.sendall(begin)
            held.append(connection)
        alive(url, key)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not all(map(_reset, held)):
            time.sleep(0.3)
        open_still = [connection for connection in held if not _reset(connection)]
        assert not open_still, f"{len(open_still)} clients that read nothing are connected after {PATIENCE:.0f} s"
    alive(url, key)


def _reset(connection: socket.socket) -> bool:
    """Whether the server closed a connection, without reading from it."""
    connection.settimeout(0.01)
    try:
        connection.sendall(b"\r\n")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def more_connections_than_there_may_be(url: str, key: str) -> None:
    """A flood of connections, most of them half-sent: others are served while it lasts."""
    with contextlib.ExitStack() as stack:
        for number in range(1500):
            with contextlib.suppress(OSError):  # the machine's own bound on connections that wait
                connection = stack.enter_context(connect(url))
                connection.sendall(head("", f"X-Begun: {number}"))
        alive(url, key)
    alive(url, key)


def smuggling(url: str, key: str) -> None:
    """Requests whose length two servers would read differently: none may be taken for two, or kept open after."""
    inner = head(key, method="GET", path="/metrics") + b"\r\n"
    chunked = b"0\r\n\r\n" + inner
    framings = [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], chunked),
        (["Transfer-Encoding: chunked", "Content-Length: 500"], chunked),
        (["Transfer-Encoding: xchunked"], chunked),
        (["Transfer-Encoding: chunked, identity"], chunked),
        (["Transfer-Encoding : chunked"], chunked),
        (["Transfer-Encoding: \x0bchunked"], chunked),
        (["Content-Length: 5", "Content-Length: 7"], b"{    " + inner),
        (["Content-Length: +5"], b"{    " + inner),
        (["Content-Length: 5 "], b"{    " + inner),
        (["Content-Length: -1"], inner),
        (["Content-Length: " + "9" * 5000], inner),
        (["Content-Length: ²"], inner),
        (["Transfer-Encoding: chunked"], b"1;\nX\r\n \r\n0\r\n\r\n" + inner),
        (["Transfer-Encoding: chunked"], b"FFFFFFFFFFFFFFFFFFFFFFFF\r\n" + inner),
        (["Host: other"], inner),
    ]
    for lines, body in framings:
        received, closed = send(url, head(key, *lines) + b"\r\n" + body)
        found, announced = statuses(received), lines[0]
        honest = announced == "Content-Length: 5 "  # blanks around a value mean nothing
        assert 500 not in found, f"{announced[:60]!r} made the server fail"
        assert honest or (closed and len(found) <= 1), f"{lines!r:.90} was answered {found}, closed: {closed}"
    alive(url, key)


def garbage_behind_a_request(url: str, key: str) -> None:
    """Bytes after a whole request are refused, and its connection closed."""
    received, closed = send(url, head("", method="GET", path="/health") + b"\r\n" + bytes(range(256)) * 4)
    assert statuses(received) in ([200, 400], [200], [400]) and closed, f"{statuses(received)}, closed: {closed}"
    for start in (b"\x16\x03\x01\x02\x00" + bytes(600), b"SSH-2.0-x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        received, closed = send(url, start)
        refused = set(statuses(received)) <= {400, 401, 404, 405, 421}
        assert closed and refused, f"{start[:12]!r} was answered {received[:60]!r}"
    alive(url, key)


def floods_of_headers(url: str, key: str) -> None:
    """Headers and addresses without end are cut off."""
    for flood in (
        head("", "X: " + "y" * 1_000_000),
        head("", *(f"X-{number}: y" for number in range(100_000))),
        head("", method="GET", path="/" + "a" * 1_000_000),
        head("", method="G" * 1_000_000),
    ):
        received, closed = send(url, flood)
        assert closed and set(statuses(received)) <= {400, 414, 431}, f"{len(flood)} bytes of a head were taken in"
    alive(url, key)


def strange_paths(url: str, key: str) -> None:
    """Paths that no route has, encoded in every way, tell nothing of the machine's files."""
    for path in ADDRESSES:
        received, _ = send(url, head(key, "Connection: close", method="GET", path=path) + b"\r\n")
        assert statuses(received) and max(statuses(received)) < 500, f"{path[:60]} was answered {statuses(received)}"
        assert b"root:" not in received and not PATHS.search(_text(received)), f"{path[:60]}: {received[-300:]!r}"
    alive(url, key)


def bodies_that_are_no_requests(url: str, key: str) -> None:
    """Every body is answered or refused with a reason, which names no file of the machine."""
    for body in BODIES:
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
            reply = ask(url, "POST", ROUTE, key, body, Content_Type=kind)
            assert reply.status in (400, 413, 415, 422), f"{body[:60]!r} as {kind} was answered {reply.status}"
            assert not PATHS.search(_text(reply.body)), f"{body[:60]!r}: {reply.body[:300]!r}"
            assert len(reply.body) < 5_000, f"{body[:60]!r} was answered with {len(reply.body)} bytes"
    alive(url, key)


def bodies_too_large(url: str, key: str) -> None:
    """A body beyond the limit is refused before it is read, whatever it announces and on whatever route."""
    announced = ["Content-Type: application/json", f"Content-Length: {10**12}"]
    for path in (ROUTE, "/v1/catalogue", "/v1/completions", "/nothing"):
        received, closed = send(url, head(key, *announced, path=path) + b"\r\n{")
        assert statuses(received) == [413] and closed, f"{path} was answered {statuses(received)}, closed: {closed}"
    part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    received, closed = send(url, head(key, "Transfer-Encoding: chunked") + b"\r\n" + part * 800)
    assert closed and set(statuses(received)) <= {413}, f"a chunked flood was answered {statuses(received)}"
    alive(url, key)


def other_methods(url: str, key: str) -> None:
    """Methods that a route does not take, and upgrades to another protocol, are refused."""
    for method in ("HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "PROPFIND", "X" * 60, "<SCRIPT>"):
        received, _ = send(url, head(key, "Connection: close", "Content-Length: 0", method=method) + b"\r\n")
        assert set(statuses(received)) <= {200, 400, 404, 405}, f"{method} was answered {statuses(received)}"
        assert b"X" * 60 not in received, "a made-up method comes back in the answer"
    received, _ = send(url, head(key, "Connection: close", method="CONNECT", path="other.example:443") + b"\r\n")
    assert set(statuses(received)) <= {400, 404, 405}, f"CONNECT was answered {statuses(received)}"
    upgrades = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + "A" * 22 + "==",
    ]
    for lines in (
        upgrades,
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
    ):
        for path in ("/v1/recommendations", "/health", "/nothing"):
            received, _ = send(url, head("", *lines, method="GET", path=path) + b"\r\n", 1.0)
            assert 101 not in statuses(received), f"{lines[1]} on {path} was accepted without a key"
    alive(url, key)


def routes_without_the_key(url: str, key: str) -> None:
    """Only /health, /ping and the documentation are open, however a key is written."""
    written = (
        None,
        "",
        key,
        f"Basic {key}",
        "Bearer",
        "Bearer ",
        f"Bearer {key}x",
        f"Bearer {key[:-1]}",
        f"Bearer {key},x",
    )
    routes = [("POST", ROUTE), ("POST", "/v1/catalogue"), ("GET", "/v1/catalogue"), ("GET", "/v1/items")]
    routes += [("GET", "/metrics"), ("GET", "/version"), ("GET", f"/v1/items?key={key}"), ("GET", "/v1/models")]
    routes += [("GET", "//v1/items"), ("GET", "/health/../v1/items"), ("GET", "/docs/../metrics"), ("GET", "/HEALTH")]
    routes += [("GET", "/health%2f..%2fmetrics"), ("GET", "/health/"), ("GET", "/static/x.js"), ("GET", "/redoc")]
    for method, path in routes:
        for header in written:
            reply = ask(url, method, path, **({} if header is None else {"Authorization": header}))
            assert reply.status == 401, f"{method} {path} was answered {reply.status} without the key"
            assert key.encode() not in reply.body, "a refusal repeats the key"
    refused = ask(url, "POST", "/v1/catalogue", key, json.dumps({"hash": "0" * 64}).encode())
    assert refused.status in (403, 422), f"a client may change the catalogue: {refused.status}"  # 422: it is the admin


def documentation_with_foreign_parts(url: str, key: str) -> None:
    """/docs is there without a key and names nothing of another host."""
    page = ask(url, "GET", "/docs")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html"), f"/docs: {page.status}"
    found = re.findall(rb"""(?:src|href|action)\s*=\s*["']?([^"' >]+)""", page.body)
    assert not [link for link in found if b"//" in link], f"/docs names other hosts: {found}"
    assert "default-src 'none'" in page.headers.get("content-security-policy", ""), "/docs has no content policy"
    schema = ask(url, "GET", "/openapi.json")
    assert schema.status == 200 and ROUTE in json.loads(schema.body)["paths"], f"/openapi.json: {schema.status}"


def labels_without_end(url: str, key: str) -> None:
    """Paths, methods and keys that are made up add no time series to the metrics, and refusals are counted."""
    before = _series(url, key)
    draw = random.Random(0)
    for _ in range(100):
        name = "".join(draw.choices(string.ascii_letters, k=12))
        ask(url, "GET", f"/{name}", key)
        ask(url, "GET", f"/v1/{name}", name)
        send(url, head(key, "Connection: close", method=name) + b"\r\n")
    after = _series(url, key)
    new = sorted(set(after) - set(before))
    assert len(new) < 12, f"{len(new)} new time series, such as {new[:3]}"
    grown = sum(
        after[one] - before.get(one, 0) for one in after if 'status="401"' in one and "llmrec_requests_total" in one
    )
    assert grown >= 100, f"of 100 refused keys the metrics count {grown:.0f}"


def _series(url: str, key: str) -> dict[str, float]:
    lines = _text(ask(url, "GET", "/metrics", key).body).splitlines()
    return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if not one.startswith("#"))}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


ATTACKS: list[tuple[str, Callable[[str, str], None]]] = [
    (attack.__name__.replace("_", " "), attack)
    for attack in (
        half_sent_heads,
        silent_connections,
        half_sent_bodies,
        endless_chunks,
        endless_body_of_a_get,
        unread_answers,
        more_connections_than_there_may_be,
        smuggling,
        garbage_behind_a_request,
        floods_of_headers,
        strange_paths,
        bodies_that_are_no_requests,
        bodies_too_large,
        other_methods,
        routes_without_the_key,
        documentation_with_foreign_parts,
        labels_without_end,
    )
]
