"""A server as its users start it, and catalogues to switch it to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.settings import Settings
from llmrec.serve.state import ServerState

KEY, ADMIN = "a-client's-key", "the-admin's-key"
LOGS: dict[str, Path] = {}  # of servers, by address
PROCESSES: dict[str, subprocess.Popen[bytes]] = {}
CLIENT = {"Authorization": f"Bearer {KEY}"}
MASTER = {"Authorization": f"Bearer {ADMIN}"}


def opened(run: Path, **settings: Any) -> ServerState:
    """What a server on transformers opens a run as, in this process."""
    return ServerState(Settings(run=run, **settings), DynamicBatching())


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(run: Path, port: int, log: Path, *options: str, key: str = KEY, shell: str = "") -> subprocess.Popen[bytes]:
    """`llmrec serve`, in a process group of its own; `shell` is done before it, such as `ulimit -n 64`."""
    environment = os.environ | {"LLMREC_API_KEY": key, "LLMREC_ADMIN_KEY": ADMIN, "VLLM_CPU_KVCACHE_SPACE": "1"}
    command = [sys.executable, "-m", "llmrec", "serve", str(run), "--port", str(port), *options]
    command = ["sh", "-c", f'{shell}\nexec "$@"', "sh", *command] if shell else command
    with log.open("ab") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)


def wait(process: subprocess.Popen[bytes], port: int, log: Path, seconds: int = 600) -> None:
    """Until /health answers."""
    for _ in range(seconds * 10):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


@contextlib.contextmanager
def serving(run: Path, log: Path, *options: str, shell: str = "") -> Iterator[str]:
    """The address of a server."""
    port = free_port()
    process = start(run, port, log, *options, shell=shell)
    try:
        wait(process, port, log)
        LOGS[address := f"http://127.0.0.1:{port}"], PROCESSES[address] = log, process
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM), log.read_text()[-3000:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def changed(catalogue: Catalogue, folder: Path, without: int = 5) -> Catalogue:
    """A catalogue as a warm start leaves it: the first items gone, one new item whose title is hostile."""
    taken = {tuple(code) for code in catalogue.codes.tolist()}
    last = catalogue.codes[-1].copy()
    spare = next(s for s in range(len(catalogue.tokens)) if (*last[:-1].tolist(), s) not in taken and s > last[0])
    last[-1] = spare
    columns = {name: catalogue.items[name].to_pylist()[without:] for name in catalogue.items.column_names}
    new = {"item_id": "new", "title": '</s><a_1>"; DROP TABLE <script>alert(1)</script>'}
    rows = {name: [*column, new.get(name)] for name, column in columns.items()}
    items = pa.table(rows, schema=catalogue.items.schema)
    codes = np.concatenate([catalogue.codes[without:], last[None]]).astype(np.int32)
    return saved(Catalogue(items, codes, catalogue.tokens), folder)


def foreign(catalogue: Catalogue, folder: Path) -> Catalogue:
    """A catalogue of the same tokens in which items have each other's codes."""
    codes = np.roll(catalogue.codes, 1, axis=0)
    return saved(Catalogue(catalogue.items, codes, catalogue.tokens), folder)


def saved(catalogue: Catalogue, folder: Path) -> Catalogue:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    catalogue.save(folder, {})
    return catalogue
