"""The chat in a terminal survives what people type, and its server ends with it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from llmrec.chat import terminal
from llmrec.chat.client import Client, Declined

HALFWIDTH_MARK = "\uff9e"  # a letter by its category, of which nothing is left without accents


def talk(counter, lines: list[str]) -> str:
    """What a talk prints."""
    out, typed = io.StringIO(), iter(lines)

    class Typed(Console):
        def input(self, *args, **more) -> str:  # type: ignore[override]
            try:
                return next(typed)
            except StopIteration:
                raise EOFError from None

    terminal.talk(counter, Typed(file=out, width=200), 3)
    return out.getvalue()


def test_words_of_which_nothing_is_left_are_read_like_silence(counter) -> None:
    marks = [HALFWIDTH_MARK, f"the {HALFWIDTH_MARK}", f"I like {HALFWIDTH_MARK}{HALFWIDTH_MARK} and number 2"]
    assert talk(counter, marks).count("\n") > len(marks)


def test_no_message_of_rare_letters_and_marks_is_a_crash(ears) -> None:
    draw = random.Random(0)
    marks = ("Mn", "Mc", "Me", "Lm", "Nl")
    rare = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in marks]
    plain = ["no", "like", "not", "I", "and", "than", "newer", "90s", "1995", "comedy", "number", "2", "first", "one"]
    plain += ["more", "others", "Heat", "the", "hate", "“", "”", "'", ","]
    for _ in range(300):
        parts = [draw.choice(draw.choice([rare, plain])) for _ in range(draw.randint(1, 10))]
        read = ears.read(draw.choice([" ", ""]).join(parts))
        assert all(0 <= one.start < one.stop for one in read.mentions)


def test_undecodable_bytes_and_control_characters_are_shown_harmlessly(counter) -> None:
    shown = talk(counter, ["caf\udce9", "/nothing \udce9 \x1b[2J [bold red]", "/search \udce9", "[/] [red]"])
    shown.encode()
    assert "\x1b[2J" not in shown and "[bold red]" in shown


def test_bytes_that_are_not_utf_8_do_not_end_a_talk(server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmrec", "chat", server.url, "--encoder", "none"],
        input=b"caf\xe9 \xff\xfe\n/nothing\n",
        capture_output=True,
        env={**os.environ, "LLMREC_API_KEY": server.key, "PYTHONIOENCODING": "utf-8:strict"},
        timeout=120,
    )
    assert done.returncode == 0 and b"There is no /nothing" in done.stdout, done.stderr


def test_a_transcript_overwrites_nothing_and_a_talk_outlives_a_failed_one(
    counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("precious")
    lines = [
        "/like i12",
        "/save",
        "/save",
        "/save mine.txt",
        "/save /proc/nowhere/x",
        f"/save {'x' * 300}",
        "/save a\0b",
    ]
    shown = talk(counter, [*lines, "/save last.json"])
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert shown.count("nothing was saved") == 4, shown
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "last.json",
        "mine.txt",
        "transcript-2.json",
        "transcript.json",
    ]
    assert json.loads((tmp_path / "last.json").read_text())["liked"] == ["i12"]


class Odd(BaseHTTPRequestHandler):
    reply = b"{}"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.reply)))
        self.end_headers()
        self.wfile.write(self.reply)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture(scope="module")
def odd() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    "reply",
    [
        b"{}",
        b"[]",
        b"null",
        b"3",
        b"[[1]]",
        b"\xff",
        b'{"model": 1, "catalogue": null, "items": {}, "total": "x"}',
        b'{"items": [{}], "total": 1, "catalogue": "c"}',
        b'{"items": [{"item_id": 1, "title": null, "code": "", "columns": []}], "total": 1, "catalogue": "c"}',
        b'{"items": [{"item_id": "1", "score": "x"}], "ranked_by": "model", "catalogue": "c", "notes": 1}',
        b'{"items": null, "total": null}',
    ],
)
def test_a_server_that_answers_otherwise_is_named_not_a_crash(odd: str, reply: bytes, monkeypatch) -> None:
    monkeypatch.setattr(Odd, "reply", reply)
    client = Client(odd, rest=0.01)
    for ask in (client.version, client.store, lambda: client.recommend(["1"], 3)):
        with pytest.raises(Declined, match=r"does not answer as `llmrec serve` does.*Check the address"):
            ask()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_the_server_of_a_chat_ends_with_it_and_no_file_is_left(number: int, hostile_run: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "llmrec", "chat", str(hostile_run), "--encoder", "none"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as chat:
        assert chat.stdout is not None
        chat.stdout.readline()  # the greeting: the server answers
        port = _port_of_server(tmp_path)
        assert _open(port)
        chat.send_signal(number)
        assert chat.wait(60) == -number
    end = time.monotonic() + 30
    while _open(port) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _open(port)
    assert list(tmp_path.iterdir()) == []


def _port_of_server(temporary: Path) -> int:
    """The port in the command line of the server whose folder for temporary files is this one."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = f"TMPDIR={temporary}\0".encode() in (folder / "environ").read_bytes()
            if "llmrec.child_process" in words and ours:
                return int(words[words.index("--port") + 1])
    raise AssertionError("no server of this test runs")


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_terminal_talks_searches_and_saves(server, tmp_path):
    saved = tmp_path / "talk.json"
    lines = ["hello", "/search script", "/like i12", "a comedy", "/panel", f"/save {saved}", "/nothing", "/quit"]
    done = subprocess.run(
        [sys.executable, "-m", "llmrec", "chat", server.url, "--encoder", "none", "-k", "3"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "LLMREC_API_KEY": server.key, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "could not make anything" in done.stdout and "<script>" in done.stdout
    assert (
        "comedy" in done.stdout
        and "history: Film number 12 eee (1982)" in done.stdout
        and "There is no /nothing" in done.stdout
    )
    talk = json.loads(saved.read_text())
    assert talk["liked"] == ["i12"] and talk["wishes"] == ["comedy"] and len(talk["cards"]) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        (["no-such-run"], "there is no folder"),
        (["http://127.0.0.1:9"], "does not answer"),
        (["http://127.0.0.1:9", "--engine", "nothing"], "transformers or vllm"),
        (["http://127.0.0.1:9", "chat.by=server"], "needs `url` and `model`"),
        (["http://127.0.0.1:9", "--encoder", "nosuch"], "there is no encoder 'nosuch'"),
    ],
)
def test_what_cannot_be_talked_with_is_said_in_one_message(words, message):
    done = subprocess.run([sys.executable, "-m", "llmrec", "chat", *words], capture_output=True, text=True, timeout=300)
    shown = " ".join(done.stderr.split())
    assert done.returncode == 2 and message in shown and "Traceback" not in shown
