"""A server to measure: `llmrec serve` in a process of its own, as its users start it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmrec.errors import RunError
from serve_load import Client

HOST = "127.0.0.1"


@dataclass
class Server:
    """A running server.

    Attributes:
        key: opens every route, the admin's too.
    """

    command: list[str]
    port: int
    key: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, patience: float = 600.0) -> None:
        """Start it, and wait until it answers.

        Raises:
            RunError: it ended, or did not answer in time; its log says why.
        """
        environment = os.environ | {"LLMREC_API_KEY": self.key, "LLMREC_ADMIN_KEY": self.key}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        end = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise RunError(f"the server did not come up: {self.log.read_text()[-2000:]}")

    def clients(self, count: int) -> list[Client]:
        """So many connections to it."""
        return [Client(HOST, self.port, self.key) for _ in range(count)]

    def get(self, path: str) -> str:
        """The body of a route."""
        asked = urllib.request.Request(
            f"http://{HOST}:{self.port}{path}", headers={"Authorization": f"Bearer {self.key}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return str(answer.read().decode())

    def kill(self) -> None:
        """End it and its children at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def memory(self) -> float:
        """MiB that it and its children hold, shared pages counted in parts."""
        assert self.process is not None
        return sum(_memory(one) for one in _tree(self.process.pid))


@contextlib.contextmanager
def serving(run: Path, log: Path, engine: str, *options: str, start: bool = True) -> Iterator[Server]:
    """A server on a run, stopped at the end; started by the caller where `start` is false."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "llmrec", "serve", str(run), "--engine", engine, "--port", str(port), *options]
    server = Server(words, port, secrets.token_urlsafe(16), log)
    try:
        if start:
            server.start()
        yield server
        if server.process is not None:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(120)
    finally:
        server.kill()


def _tree(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            parents.setdefault(parent, []).append(int(status.parent.name))
    found = [root]
    for one in found:
        found += parents.get(one, [])
    return found


def _memory(process: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
