"""The text oracle: a real server on this machine is asked once, and its answers come back without it."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrec import trusted_urls
from llmrec.errors import LlmrecError, TextError
from llmrec.text.oracle import AnswerCache, ReplayOracle, ServerOracle, TemplateOracle, TextRequest, prompt_key
from llmrec.trusted_urls import KEY

ASKS = [TextRequest(f"question {number}", f"draft {number}") for number in range(20)]


class Talker(ThreadingHTTPServer):
    """Answers chat completions: the question backwards, or whatever `script` says first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.script: list[tuple[int, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Talker

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.server.asked[prompt] += 1
        self.server.requests.append(body | {"path": self.path})
        self.server.headers.append(dict(self.headers))
        reply = {"choices": [{"message": {"role": "assistant", "content": f"<think>hm</think>\n{prompt[::-1]}\n"}}]}
        status, data = self.server.script.pop(0) if self.server.script else (200, json.dumps(reply).encode())
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture
def talker() -> Iterator[Talker]:
    with Talker() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def backwards(asks: list[TextRequest]) -> list[str]:
    return [ask.prompt[::-1] for ask in asks]


def test_a_template_says_the_drafts() -> None:
    assert TemplateOracle().complete(ASKS) == [ask.draft for ask in ASKS]


def test_a_server_is_asked_once_and_replay_needs_none(talker: Talker, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    monkeypatch.setenv(trusted_urls.BASE, talker.url)
    oracle = ServerOracle(talker.url, "parrot", tmp_path / "cache.jsonl")
    assert oracle.complete([*ASKS, *ASKS]) == backwards([*ASKS, *ASKS])
    assert talker.asked == dict.fromkeys((ask.prompt for ask in ASKS), 1)
    first = talker.requests[0]
    assert (first["path"], first["model"], first["temperature"]) == ("/v1/chat/completions", "parrot", 0.0)
    assert talker.headers[0]["Authorization"] == "Bearer secret"
    assert ServerOracle(talker.url, "parrot", tmp_path / "cache.jsonl").complete(ASKS) == backwards(ASKS)
    talker.shutdown()
    assert ReplayOracle(tmp_path / "cache.jsonl").complete(ASKS) == backwards(ASKS)
    assert sum(talker.asked.values()) == len(ASKS)


def test_a_busy_server_is_asked_again(talker: Talker, tmp_path: Path) -> None:
    talker.script = [(503, b"busy"), (200, b"not json"), (200, b'{"choices": []}'), (429, b"slow down")]
    oracle = ServerOracle(talker.url, "parrot", tmp_path / "cache.jsonl", workers=1, backoff=0.01)
    assert oracle.complete(ASKS[:1]) == backwards(ASKS[:1])
    assert talker.asked[ASKS[0].prompt] == 5


@pytest.mark.parametrize(
    ("script", "times", "words"),
    [
        ([(401, b"no key")], 1, "HTTP 401: no key"),
        ([(404, b"no such model")], 1, "HTTP 404: no such model"),
        ([(500, b"oops")] * 3, 3, "HTTP 500: oops"),
        ([(200, b'{"choices": [{"message": {"content": "<think>only</think> "}}]}')] * 3, 3, "answered with nothing"),
        ([(200, b'{"choices": [{"message": {"content": null}}]}')] * 3, 3, "answered with nothing"),
    ],
)
def test_a_server_that_does_not_answer_is_told_in_words(
    talker: Talker, tmp_path: Path, script: list, times: int, words: str
) -> None:
    talker.script = script
    oracle = ServerOracle(talker.url, "parrot", tmp_path / "cache.jsonl", workers=1, tries=3, backoff=0.01)
    with pytest.raises(TextError, match=rf"gave no answer for the model 'parrot' \((it )?{words}.*tasks\.oracle\.url"):
        oracle.complete(ASKS[:1])
    assert talker.asked[ASKS[0].prompt] == times


def test_nobody_there_is_told_in_words(tmp_path: Path) -> None:
    oracle = ServerOracle("http://127.0.0.1:9/v1", "parrot", tmp_path / "cache.jsonl", tries=2, backoff=0.01)
    with pytest.raises(TextError, match=r"URLError.*answers so far are kept"):
        oracle.complete(ASKS)


def test_answers_until_a_failure_are_kept(talker: Talker, tmp_path: Path) -> None:
    good = ServerOracle(talker.url, "parrot", tmp_path / "cache.jsonl", workers=1)
    good.complete(ASKS[:5])
    talker.script = [(401, b"quota")]
    with pytest.raises(TextError):
        ServerOracle(talker.url, "parrot", tmp_path / "cache.jsonl", workers=1).complete(ASKS)
    assert ReplayOracle(tmp_path / "cache.jsonl").complete(ASKS[:5]) == backwards(ASKS[:5])


def test_what_a_kill_tore_off_is_asked_for_again(talker: Talker, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    ServerOracle(talker.url, "parrot", path, workers=1).complete(ASKS)
    whole = path.read_bytes()
    for cut in (1, 30, 2000):
        path.write_bytes(whole[:-cut])
        assert ServerOracle(talker.url, "parrot", path, workers=1).complete(ASKS) == backwards(ASKS)
        lines = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
        assert sorted(set(lines)) == sorted(whole.splitlines())


def test_replay_tells_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"there is no cache of answers at .*oracle\.by: server"):
        ReplayOracle(tmp_path / "cache.jsonl")
    AnswerCache(tmp_path / "cache.jsonl", "parrot").add("question 0", "answer")
    with pytest.raises(TextError, match="lacks 19 of 20 answers; the first question without one is: 'question 1'"):
        ReplayOracle(tmp_path / "cache.jsonl").complete(ASKS)
    with pytest.raises(TextError, match="lacks 1 of 1 answers"):
        ReplayOracle(tmp_path / "cache.jsonl", "another model").complete(ASKS[:1])


@pytest.mark.parametrize("line", ["[]", "{}", "nonsense", '{"key": "x", "text": "y"}'])
def test_a_file_that_is_no_cache_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    AnswerCache(tmp_path / "cache.jsonl", None).add("q", "a")
    with (tmp_path / "cache.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TextError, match="line 2: not an answer with key, model, prompt and text"):
        ReplayOracle(tmp_path / "cache.jsonl")


FOREIGN = {
    "one line": "my notes",
    "lines": "my notes\nand more\n",
    "json": '{"name": "me"}',
    "a list": "[1]\n",
    "a csv file": "key,model\n1,2\n",
    "code": "{\n  a\n}\n",
    "another jsonl": '{"key": "value"}\n',
    "nested": "[" * 100_000,
    "utf-16": "notes".encode("utf-16"),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("after", ["", "an answer"])
def test_a_file_that_is_no_cache_is_refused_and_left_as_it_is(name: str, after: str, tmp_path: Path) -> None:
    path, content = tmp_path / "mine", FOREIGN[name]
    if after:
        AnswerCache(path, "m").add("q", "a")
    with path.open("ab") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    before = path.read_bytes()
    with pytest.raises(TextError, match=r"mine, line \d+: not an answer"):
        ServerOracle("http://127.0.0.1:9/v1", "parrot", path, tries=1, backoff=0.01)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling", "round", "long"])
def test_what_can_be_no_cache_is_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300 if kind == "long" else kind)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("dangling", "round"):
        path.symlink_to(tmp_path / (kind if kind == "round" else "nowhere"))
    with pytest.raises(LlmrecError):
        AnswerCache(path, "m").add("q", "a")
    assert not (tmp_path / "nowhere").exists()


def test_answers_that_another_process_adds_are_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    AnswerCache(path, "m").add("q0", "a0")
    path.write_bytes(path.read_bytes() + b'{"key": "12')  # as of a process that was killed
    one, other = AnswerCache(path, "m"), AnswerCache(path, "m")
    for number in range(3):
        one.add(f"one {number}", "a")
        other.add(f"other {number}", "b")
    again = AnswerCache(path, "m")
    asked = ["q0", *(f"{name} {number}" for number in range(3) for name in ("one", "other"))]
    assert [again.get(prompt) for prompt in asked] == ["a0", *["a", "b"] * 3]
    assert path.read_bytes().count(b"\n") == 8 and b'\n{"key": "12\n' in path.read_bytes()


def test_a_last_line_without_its_end_counts_where_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    AnswerCache(path, "m").add("q", "a")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    cache = AnswerCache(path, "m")
    cache.add("q2", "a2")
    assert (cache.get("q"), AnswerCache(path, "m").get("q"), AnswerCache(path, "m").get("q2")) == ("a", "a", "a2")


def test_an_edited_question_is_noticed(tmp_path: Path) -> None:
    entry = {"key": prompt_key("one"), "model": None, "prompt": "another", "text": "a"}
    (tmp_path / "cache.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(TextError, match="line 1: its key is not that of its prompt"):
        ReplayOracle(tmp_path / "cache.jsonl")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(said=st.dictionaries(st.text(), st.text(), max_size=6))
def test_any_text_comes_back_as_it_was(said: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache.jsonl").unlink(missing_ok=True)
    cache = AnswerCache(tmp_path / "cache.jsonl", "m")
    for prompt, text in said.items():
        cache.add(prompt, text)
    again = AnswerCache(tmp_path / "cache.jsonl", "m")
    assert {prompt: again.get(prompt) for prompt in said} == said
