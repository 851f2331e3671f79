"""A key goes only to an address that the user named; an address that a folder names is asked about first."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmrec import trusted_urls
from llmrec.chat.replies import ServerReplyGenerator
from llmrec.errors import TextError
from llmrec.recipe import Oracle
from llmrec.recipe_file import read
from llmrec.tasks.llm_annotations import oracle_of
from llmrec.text.client import OpenAIClient, ReplyError
from llmrec.trusted_urls import BASE, KEY

FOREIGN = "http://203.0.113.9:8000/v1"


class Recorder(ThreadingHTTPServer):
    """Keeps every request; answers with a redirect where `location` is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: list[str | None] = []
        self.location = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Recorder

    def do_POST(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(302 if self.server.location else 200)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_urls, "_named", set())
    monkeypatch.setattr(trusted_urls, "_confirmed", set())
    monkeypatch.setenv(KEY, "secret")
    monkeypatch.delenv(BASE, raising=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def post(url: str) -> None:
    OpenAIClient(url, "any", tries=1).complete({}, lambda reply: reply)


def stream(url: str) -> None:
    assert list(ServerReplyGenerator(url, "any")._client.stream({})) == []


def test_an_address_of_a_folder_is_sent_no_key_and_a_named_one_is(recorder: Recorder, monkeypatch) -> None:
    for ask in (post, stream):
        ask(recorder.url)
        assert recorder.keys.pop() is None
    monkeypatch.setenv(BASE, FOREIGN)
    post(recorder.url)
    assert recorder.keys.pop() is None
    monkeypatch.setenv(BASE, recorder.url)
    post(recorder.url)
    assert recorder.keys.pop() == "Bearer secret"
    monkeypatch.delenv(BASE)
    trusted_urls.trust(recorder.url)
    for ask in (post, stream):
        ask(recorder.url)
        assert recorder.keys.pop() == "Bearer secret"


@pytest.mark.parametrize("ask", [post, stream])
def test_a_redirect_does_not_carry_the_key_elsewhere(recorder: Recorder, ask) -> None:
    with Recorder() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        trusted_urls.trust(recorder.url)
        recorder.location = other.url
        with pytest.raises(ReplyError, match="HTTP 302"):
            ask(recorder.url)
        assert recorder.keys == ["Bearer secret"] and other.keys == []
        other.shutdown()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://host/v1", "http://HOST:80", True),
        ("https://host/v1", "https://host.:443/other", True),
        ("http://host/v1", "https://host/v1", False),
        ("http://host/v1", "http://host:8000/v1", False),
        ("http://host.evil/v1", "http://host/v1", False),
        ("http://[::1]:8000/v1", "http://[::1]:8000", True),
    ],
)
def test_addresses_are_the_same_by_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    trusted_urls.trust(one)
    assert (trusted_urls.api_key_for(other) == "secret") is same


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:80",
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "http://me@host",
        "http://a\\@b",
        "http://h:x",
        "http://h x",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TextError, match="not the URL of a server"):
        trusted_urls.api_key_for(url)


def test_without_a_terminal_an_address_of_a_folder_is_refused_before_anything_is_sent(
    recorder: Recorder, tmp_path
) -> None:
    oracle = Oracle(by="server", url=recorder.url, model="any", cache=str(tmp_path / "cache.jsonl"))
    with pytest.raises(TextError, match=rf"tasks\.oracle\.url={recorder.url}.*{BASE}={recorder.url}"):
        oracle_of(oracle)
    assert recorder.keys == []
    trusted_urls.trust(recorder.url)
    assert oracle_of(oracle) is not None


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y\n", True), ("yes\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_on_a_terminal_the_user_is_asked_once_and_an_agreed_address_still_gets_no_key(
    answer: str, agreed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", shown)
    if agreed:
        trusted_urls.require_trusted(FOREIGN, "chat.url")
        trusted_urls.require_trusted(FOREIGN, "chat.url")  # standard input has no second answer
    else:
        with pytest.raises(TextError, match="nothing was sent"):
            trusted_urls.require_trusted(FOREIGN, "chat.url")
    assert shown.getvalue().count("http://203.0.113.9:8000") == 1
    assert trusted_urls.api_key_for(FOREIGN) is None


def test_what_is_typed_names_an_address_and_what_stands_in_a_recipe_does_not() -> None:
    recipe = "chat: {by: server, url: http://a.example/v1, model: m}"
    assert read(recipe, Path("recipe.yaml")).chat.url == "http://a.example/v1"
    assert trusted_urls.api_key_for("http://a.example/v1") is None
    read(recipe, Path("recipe.yaml"), ["chat.url=http://b.example/v1"])
    read("", Path("recipe.yaml"), ["tasks.oracle={by: server, url: https://c.example, model: m, cache: c.jsonl}"])
    named = ["http://a.example", "http://b.example", "https://c.example"]
    assert [trusted_urls.api_key_for(url) for url in named] == [None, "secret", "secret"]
