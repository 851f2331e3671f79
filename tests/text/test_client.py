"""The HTTP client against a real server on this machine: whatever it sends, there are words or one known error."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmrec import trusted_urls
from llmrec.errors import TextError
from llmrec.text.client import HttpClient, OpenAIClient, ReplyError


class Talker(ThreadingHTTPServer):
    """Sends `parts` one after another with a rest between them; `chunked` as servers stream, without the last chunk."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.parts, self.chunked, self.rest = 200, [b"{}"], False, 0.0
        self.requests: list[tuple[str, str, dict]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Talker
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, json.loads(body or b"{}")))
        self.close_connection = True
        self.send_response(self.server.status)
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in self.server.parts:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if self.server.chunked else part)
            self.wfile.flush()
            time.sleep(self.server.rest)

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture
def talker() -> Iterator[Talker]:
    with Talker() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def event(words: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": words}}]}, ensure_ascii=False).encode() + b"\n\n"


def client(talker: Talker, **more: float) -> OpenAIClient:
    return OpenAIClient(talker.url, "m", tries=2, backoff=0.01, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_stream_gives_the_words_of_its_events_wherever_it_is_cut(talker: Talker, cut: int) -> None:
    odd = [b": comment\n", b"data: [DONE]\n\n", b"data: {broken\n\n", b'data: {"choices": []}\n\n']
    odd += [b"data: " + b"[" * 9999]
    whole = b"".join([event("Café, "), *odd[:4], event("naïve"), b'data: {"choices": [{"delta": null}]}\n\n', odd[4]])
    talker.parts = [whole[at : at + cut] for at in range(0, len(whole), cut)]
    assert "".join(client(talker).stream({"temperature": 0})) == "Café, naïve"
    assert talker.requests == [("POST", "/v1/chat/completions", {"model": "m", "temperature": 0, "stream": True})]


def test_bytes_that_are_no_utf_8_do_not_end_a_stream(talker: Talker) -> None:
    talker.parts = [b'data: {"choices": [{"delta": {"content": "a\xffb"}}]}\n\n', event("c")]
    assert "".join(client(talker).stream({})) == "a\ufffdbc"


def test_words_come_before_a_stream_ends_and_one_that_breaks_off_is_an_error(talker: Talker) -> None:
    talker.parts, talker.chunked = [event("one"), event("two")], True
    words = client(talker).stream({})
    assert [next(words), next(words)] == ["one", "two"]
    with pytest.raises(ReplyError):
        list(words)
    talker.rest = 2.0
    with pytest.raises(ReplyError, match="timed out"):
        list(client(talker, timeout=0.3).stream({}))


@pytest.mark.parametrize(
    "reply",
    [b"", b"words", b"\xff", b"null", b"3", b"[]", b'["x"]', b'{"choices": 1}', b'{"choices": ["x"]}', b"[" * 100_000],
    ids=lambda reply: reply[:20],
)
def test_a_reply_of_any_other_shape_is_one_known_error_after_all_tries(talker: Talker, reply: bytes) -> None:
    talker.parts = [reply]
    with pytest.raises(ReplyError, match="gave no answer for the model 'm'") as error:
        client(talker).complete({}, lambda read: read["choices"][0].get("message"))
    assert error.value.status is None and len(talker.requests) == 2


def test_a_refusal_keeps_its_status_and_its_words_and_is_not_sent_again(talker: Talker) -> None:
    talker.status, talker.parts = 422, [b'{"error": {"message": "too long"}}']
    with pytest.raises(ReplyError, match=r"HTTP 422: .*too long") as error:
        client(talker).complete({}, lambda read: read)
    assert (error.value.status, error.value.reply, len(talker.requests)) == (422, talker.parts[0], 1)
    with pytest.raises(ReplyError, match="HTTP 422"):
        list(client(talker).stream({}))


def test_a_path_of_the_address_is_kept_and_v1_stands_where_it_has_none(talker: Talker) -> None:
    for url in ("", "/", "/v1", "/v1/", "/proxy/openai"):
        OpenAIClient(talker.url + url, "m").complete({}, lambda read: read)
    HttpClient(talker.url).request("/version", None, bytes)
    paths = ["/v1/chat/completions"] * 4 + ["/proxy/openai/chat/completions", "/version"]
    assert [path for _, path, _ in talker.requests] == paths
    assert talker.requests[-1][0] == "GET"


@pytest.mark.parametrize("key", ["geheim\n", "ge\rheim", "gehe\u2013im"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str, talker: Talker, monkeypatch) -> None:
    monkeypatch.setenv(trusted_urls.KEY, key)
    monkeypatch.setenv(trusted_urls.BASE, talker.url)
    with pytest.raises(TextError, match="API key") as error:
        client(talker).complete({}, lambda read: read)
    assert "ge" not in str(error.value).replace("again", "") and not talker.requests


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://127.0.0.1:x", "http://", "http://a b", "http://[::1"])
def test_an_address_where_nothing_answers_is_one_known_error(url: str) -> None:
    with pytest.raises(ReplyError):
        HttpClient(url, tries=1).request("/version", None, bytes)
