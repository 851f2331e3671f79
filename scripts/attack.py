"""Every attack that we know, on a server, a page in a real browser, messages, recipes and folders; ends with a count.

    python scripts/attack.py                   a tiny run is made first (about six minutes in all on 2 cores)
    python scripts/attack.py runs/quickstart   on a run that there is
    python scripts/attack.py --sayings 20000   more random messages to the chat

Needs the packages of the extra `dev`, and Chromium for the browser. Ends with 1 where an attack succeeded.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import typer
from attacks import page, server

from llmrec.chat.client import Client
from llmrec.chat.titles import Titles
from llmrec.chat.understand import Understanding
from llmrec.child_process import ChildProcess
from llmrec.errors import LlmrecError

ROOT = Path(__file__).parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
TESTS = {
    "browser": ["tests/chat/test_page_in_browser.py", "tests/serve/test_docs.py"],
    "recipes": ["tests/test_bad_recipes.py", "tests/test_recipe_numbers.py", "tests/cli/test_plain.py"],
    "folders": ["tests/damaged", "tests/run/test_run_folder.py", "tests/test_files.py"],
    "keys and processes": ["tests/text/test_addresses.py", "tests/test_supervise.py", "tests/chat/test_terminal.py"],
}
Counts = dict[str, tuple[int, int]]  # kind → attacks, and how many of them succeeded


def main(
    run: Path = typer.Argument(None, help="a run folder; a tiny one is made otherwise"),
    sayings: int = typer.Option(4000, min=1, help="random messages to the chat"),
) -> None:
    with tempfile.TemporaryDirectory() as work:
        run = run or _tiny(Path(work) / "tiny")
        counts: Counts = {}
        with _started("serve", str(run), "--engine", "transformers", "--read-timeout", "1") as (url, key):
            counts["server"] = _all(server.ATTACKS, url, key)
            counts["messages"] = _sayings(Client(url, key), sayings)
        with _started("chat", str(run), "--page", "--encoder", "none") as (url, _):
            counts["page"] = _all(page.ATTACKS, url)
    counts |= {kind: _tests(files) for kind, files in TESTS.items()}
    for kind, (tried, succeeded) in counts.items():
        print(f"{kind:<20}{tried:>7} tried {succeeded:>5} succeeded")
    tried, succeeded = (sum(count[place] for count in counts.values()) for place in (0, 1))
    print(f"{'in all':<20}{tried:>7} tried {succeeded:>5} succeeded")
    raise typer.Exit(int(succeeded > 0))


def _tiny(run: Path) -> Path:
    command = [sys.executable, "-m", "llmrec", "run", "quickstart", "--tiny", "--until", "train", "--out", str(run)]
    subprocess.run(command, check=True)
    return run


@contextlib.contextmanager
def _started(verb: str, *words: str) -> Iterator[tuple[str, str]]:
    """(address, key) of a server or page that runs as long as the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, key = f"http://127.0.0.1:{port}", secrets.token_urlsafe(16)
    environment = os.environ | {"LLMREC_API_KEY": key, "LLMREC_ADMIN_KEY": secrets.token_urlsafe(16)}
    child = ChildProcess([sys.executable, "-m", "llmrec", verb, *words, "--port", str(port)], 20.0, env=environment)
    try:
        for _ in range(600):
            assert child.alive, f"llmrec {verb} did not start"
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url + ("/health" if verb == "serve" else "/"), timeout=5).status_code == 200:
                    break
            time.sleep(0.2)
        yield url, key
    finally:
        child.stop()


def _all(attacks: list[tuple[str, Callable[..., None]]], *target: str) -> tuple[int, int]:
    succeeded = 0
    for name, attack in attacks:
        try:
            attack(*target)
        except (AssertionError, httpx.HTTPError, OSError) as error:
            succeeded += 1
            print(f"SUCCEEDED  {name}: {type(error).__name__} {str(error)[:500]}", flush=True)
        else:
            print(f"held       {name}", flush=True)
    return len(attacks), succeeded


def _sayings(client: Client, count: int) -> tuple[int, int]:
    """Random messages of titles, words that the chat listens for, rare letters, marks and control characters."""
    store = client.store()
    reader, draw = Understanding(store, Titles(store)), random.Random(0)
    rare = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code))[0] in "MC" and code not in _HALVES]
    words = re.findall(r"\S+", "no like not the I and than newer 90s 1995 comedy number 2 one more “ ” ' , ( ) -")
    titles = [thing.title for thing in store.items]
    succeeded = 0
    for _ in range(count):
        parts = [draw.choice(draw.choice((rare, words, words, titles)))[:40] for _ in range(draw.randint(1, 12))]
        text = draw.choice(("", " ")).join(parts)
        try:
            reader.read(text)
        except LlmrecError:
            continue
        except Exception as error:
            succeeded += 1
            print(f"SUCCEEDED  {ascii(text)[:200]}: {type(error).__name__} {error}", flush=True)
    return count, succeeded


_HALVES = range(0xD800, 0xE000)  # halves of UTF-16 pairs, which no UTF-8 text holds


def _tests(files: list[str]) -> tuple[int, int]:
    """(tests, failed ones) of test files."""
    done = subprocess.run([*PYTEST, *files], cwd=ROOT, capture_output=True, text=True)
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    failed = found.get("failed", 0) + found.get("error", 0)
    print(done.stdout[-3000:] if failed or not found else f"held       {' '.join(files)}", flush=True)
    return found.get("passed", 0) + failed, failed + (not found)


if __name__ == "__main__":
    typer.run(main)
