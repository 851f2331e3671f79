"""A server of `llmrec serve` in a process of its own, for a chat that was given a run folder instead of an address."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from llmrec.errors import ChatError

KEY = "LLMREC_API_KEY"
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
        self._log = tempfile.NamedTemporaryFile(prefix="llmrec-chat-", suffix=".log")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers; a server that runs is left alone.

        Raises:
            ChatError: it ends before it answers; with the last lines of its log.
        """
        if self.alive:
            return
        words = [
            sys.executable,
            "-m",
            "llmrec",
            "serve",
            str(self.run),
            "--engine",
            self.engine,
            "--port",
            str(self.port),
        ]
        self._process = subprocess.Popen(
            words, env=os.environ | {KEY: self.key}, stdout=self._log, stderr=self._log, start_new_session=True
        )
        for _ in range(PATIENCE * 5):
            if not self.alive:
                tail = Path(self._log.name).read_text(errors="replace")[-600:].strip()
                raise ChatError(f"the server of {self.run} did not start:\n{tail}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            time.sleep(0.2)
        raise ChatError(f"the server of {self.run} did not answer in {PATIENCE} s; its log is {self._log.name}")

    def stop(self) -> None:
        """End it, and what it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(40)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None


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
