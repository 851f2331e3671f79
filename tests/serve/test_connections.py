"""Connections: bounded by the open files that the process may have, and closed where a client keeps them waiting."""

import asyncio
import contextlib
import http.client
import logging
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from serving import CLIENT, LOGS, serving

from llmrec.serve.log_redaction import RepeatLimit

HALF = b"POST /v1/recommendations HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture(scope="module")
def small(served, tmp_path_factory):
    """A server that may open 64 files."""
    log = tmp_path_factory.mktemp("small") / "log"
    with serving(served.run, log, "--engine", "transformers", shell="ulimit -n 64") as address:
        yield address


def test_with_few_file_descriptors_clients_are_served_and_the_log_stays_short(small):
    parts = urlsplit(small)
    with contextlib.ExitStack() as stack:
        for _ in range(70):
            stack.enter_context(socket.create_connection((parts.hostname, parts.port))).sendall(HALF)
        assert httpx.get(f"{small}/health", timeout=20).status_code == 200
    answer = httpx.post(f"{small}/v1/recommendations", json={"history": ["i1"]}, headers=CLIENT, timeout=20)
    assert answer.status_code == 200 and len(LOGS[small].read_text().splitlines()) < 6, LOGS[small].read_text()


def test_where_all_connections_are_taken_the_longest_idle_gives_way(small):
    idle = [http.client.HTTPConnection(urlsplit(small).netloc, timeout=20) for _ in range(40)]
    with contextlib.ExitStack() as stack:
        for connection in idle:
            stack.callback(connection.close)
            connection.request("GET", "/health")
            assert connection.getresponse().read()
        idle[0].sock.settimeout(20)
        assert idle[0].sock.recv(1) == b""  # closed
        newest = idle[-1]
        newest.request("GET", "/health")
        assert newest.getresponse().status == 200


def test_a_slow_client_is_served_as_long_as_it_is_not_too_slow(small):
    parts = urlsplit(small)
    with socket.create_connection((parts.hostname, parts.port)) as client:
        for part in (b"GET /health HT", b"TP/1.1\r\nHost: here\r\nConnec", b"tion: close\r\n\r\n"):
            client.sendall(part)
            time.sleep(0.1)
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200")


def test_a_kind_of_line_is_logged_once_a_minute_with_the_number_of_those_that_were_not():
    limit = RepeatLimit(seconds=0.05)

    def logged(*words):
        record = logging.getLogger("asyncio").makeRecord(
            "asyncio", logging.ERROR, __file__, 7, words[0], words[1:], None
        )
        return record.getMessage() if limit.filter(record) else None

    assert logged("out of files\nsocket: 7") == "out of files\nsocket: 7"
    assert [logged("out of files\nsocket: %d", number) for number in range(5)] == [None] * 5
    assert logged("another") == "another"
    time.sleep(0.06)
    assert logged("out of files") == "out of files (and 5 times more since the last such line)"
    assert all(logged(f"kind {number}") for number in range(300)) and len(limit._last) <= 100


def test_requests_that_a_stop_cuts_off_are_no_traceback_in_the_log():
    limit = RepeatLimit()
    cut, failed = asyncio.CancelledError("timeout graceful shutdown exceeded"), ValueError("a fault of ours")
    records = [
        logging.LogRecord("uvicorn.error", logging.ERROR, __file__, 1, f"{error}", (), (type(error), error, None))
        for error in (cut, failed)
    ]
    assert [limit.filter(record) for record in records] == [False, True]
