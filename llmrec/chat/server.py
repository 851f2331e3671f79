"""A server of `llmrec serve` in a process of its own, for a chat that was given a run folder instead of an address."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmrec.errors import ChatError
from llmrec.supervise import Child
from llmrec.text.client import HttpClient, NoAnswer

KEY = "LLMREC_API_KEY"
GRACE = 40.0  # seconds that the server may take to finish requests after it was told to stop
PATIENCE = 300  # seconds until a server must answer; vLLM loads for half a minute


class OwnServer:
    """Started when it is wanted, and again where it died."""

    def __init__(self, run: Path, engine: str) -> None:
        """Choose a port and a key; nothing is started yet.

        Args:
            run: a run folder, or an export of one.
            engine: vllm or transformers.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.run, self.engine, self.key = run, engine, secrets.token_urlsafe(24)
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # without a name: gone with this process, however it ends
        self._child: Child | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._child is not None and self._child.alive

    def start(self) -> None:
        """Start it, and wait until it answers; a server that runs is left alone.

        Raises:
            ChatError: it ends before it answers; with the last lines of its log.
        """
        if self.alive:
            return
        command = [sys.executable, "-m", "llmrec", "serve", str(self.run)]
        command += ["--engine", self.engine, "--port", str(self.port)]
        self._child = Child(command, GRACE, env=os.environ | {KEY: self.key}, stdout=self._log, stderr=self._log)
        for _ in range(PATIENCE * 5):
            if not self.alive:
                raise ChatError(f"the server of {self.run} did not start:\n{self._last_lines()}")
            with contextlib.suppress(NoAnswer):
                HttpClient(self.url, patience=2, tries=1).request("/health", None, bytes)
                return
            time.sleep(0.2)
        raise ChatError(f"the server of {self.run} did not answer in {PATIENCE} s:\n{self._last_lines()}")

    def stop(self) -> None:
        """End it, and what it started."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _last_lines(self) -> str:
        file = self._log.fileno()  # read without moving its position, at which the server writes
        return os.pread(file, 600, max(0, os.fstat(file).st_size - 600)).decode(errors="replace").strip()


@contextlib.contextmanager
def own_server(run: Path, engine: str) -> Iterator[OwnServer]:
    """A server as long as it is wanted.

    Raises:
        ChatError: it does not start.
    """
    server = OwnServer(run, engine)
    try:
        server.start()
        yield server
    finally:
        server.stop()
