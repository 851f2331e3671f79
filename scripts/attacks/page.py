"""Attacks on the page of `llmrec chat --page`: what a hostile client, or a web page of another site, can send to it.

Each attack takes the page's address and raises AssertionError where it succeeds. The page runs on this machine and has
no login; what a login closes is in tests/chat/test_page_attacks.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

SECRET_FILE = Path("/etc/passwd")  # a file that the page can read, and that no client may get from it
API = "/gradio_api"
READABLE = (
    *("/config", "/config/", "/manifest.json", "/robots.txt", "/pwa_icon", "/monitoring", "/monitoring/summary"),
    *("/docs", "/redoc", "/openapi.json", "/token", "/login", "/logout", "/svelte/x.js", "/metrics", "/gradio_api"),
    *("/gradio_api/deep_link?session_hash=abcd1234", "/?deep_link=../x", "/?page=nothing", "/static/", "/assets/"),
)
API_READABLE = (
    *("info", "info/", "openapi.json", "user", "token", "app_id/", "login_check", "queue/status", "startup-events"),
    *("theme.css", "dev/reload", "runs", "runs/", "run-history/buckets", "upload_progress?upload_id=x", "vibe-code/"),
    *("mcp", "mcp/", "mcp/sse", "profiling/traces", "heartbeat/abcd1234", "queue/data", "queue/data?session_hash=x"),
    *("call/hear/x", "call/v2/hear/x", "stream/a/b/1/playlist.m3u8", "stream/a/b/1/playlist-file"),
    *("custom_component/x/client/component/index.js", "queue/data?session_hash=neverseen1"),
)
API_POSTS = (
    *("run/predict", "run/hear", "api/predict", "api/hear", "call/hear", "call/v2/hear", "cancel", "reset", "stream/x"),
    *("component_server", "component_server/", "process_recording", "vibe-edit", "undo-vibe-edit", "vibe-code"),
    *("vibe-starter-queries", "stream/x/close", "run-history/connect", "profiling/clear", "upload", "queue/join/"),
)


class Visitor:
    """A client of the page with a session of its own."""

    def __init__(self, url: str, **headers: str) -> None:
        """Fetch the page, and what it says of its functions."""
        own = {"Connection": "close"}  # an idle connection may be closed to make room for others
        self.http = httpx.Client(base_url=url, headers=own | headers, timeout=60, trust_env=False)
        self.session = secrets.token_hex(6)
        self.seen: list[dict[str, Any]] = []
        self.html = self.http.get("/").text
        found = re.search(r"window\.gradio_config = (\{.*?\});\s*</script>", self.html, re.S)
        self.config: dict[str, Any] = json.loads(found[1]) if found else {"dependencies": [], "components": []}

    def functions(self, event: str = "") -> list[dict[str, Any]]:
        """The page's functions; those of one event, such as load or click, where it is named."""
        calls = [one for one in self.config["dependencies"] if one.get("backend_fn", True)]
        return [one for one in calls if not event or any(target[1] == event for target in one["targets"])]

    def component(self, elem_id: str) -> int:
        """The number of a component."""
        return next(one["id"] for one in self.config["components"] if one["props"].get("elem_id") == elem_id)

    def function_of(self, elem_id: str) -> int:
        """The number of the first function that events of a component call."""
        number = self.component(elem_id)
        return next(one["id"] for one in self.functions() if any(target[0] == number for target in one["targets"]))

    def join(self, function: Any, data: Any, **more: Any) -> httpx.Response:
        """Put a call into the queue."""
        body = {"data": data, "fn_index": function, "session_hash": self.session, "event_data": None, **more}
        return self.http.post(f"{API}/queue/join", json=body)

    def open(self) -> str:
        """Do what a browser does first: ask to be shown the dialogue, and read all answers from now on."""
        reply = self.join(self.functions("load")[0]["id"], [])
        threading.Thread(target=self._read, daemon=True).start()
        return self._wait(reply.json()["event_id"], "process_generating")

    def call(self, function: Any, data: Any, **more: Any) -> str:
        """The text of all answers so far, when a call is done; of the refusal where it is refused."""
        reply = self.join(function, data, **more)
        return self._wait(reply.json()["event_id"], "process_completed") if reply.status_code == 200 else reply.text

    def _read(self) -> None:
        stopped = contextlib.suppress(httpx.HTTPError, RuntimeError)  # the page stops, or this program does
        query = {"session_hash": self.session}
        with stopped, self.http.stream("GET", f"{API}/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    self.seen.append(json.loads(line[5:]))

    def _wait(self, call: str, message: str) -> str:
        deadline = time.monotonic() + 60
        while not any(one.get("event_id") == call and one["msg"] == message for one in [*self.seen]):
            assert time.monotonic() < deadline, f"no answer came within 60 s, but {self.seen[-3:]}"
            time.sleep(0.01)
        return json.dumps(self.seen, ensure_ascii=False)


def files_through_messages(url: str) -> None:
    """Values that Gradio takes for a file, in every input of every function, and where there is none."""
    secret = SECRET_FILE.read_text().splitlines()[0]
    visitor, files = Visitor(url), _files(str(SECRET_FILE))
    visitor.open()
    for function in visitor.functions():
        inputs = len(function["inputs"])
        if function in visitor.functions("load"):
            continue  # is never done
        for place in range(max(1, inputs)):
            for value in files if inputs else files[:1]:
                data: list[Any] = [*["a comedy"][:inputs], *[None] * (inputs - 1)]
                data[place : place + 1] = [value]
                for text in _taken(visitor, visitor.call(function["id"], data)):
                    assert secret not in text, f"function {function['id']} gave {SECRET_FILE} for {value}"


def files_by_path(url: str) -> None:
    """Routes that give files, and paths that lead out of the folders that they give files of."""
    secret, up = SECRET_FILE.read_text().splitlines()[0], "../" * 12
    for path in (
        str(SECRET_FILE),
        up + str(SECRET_FILE)[1:],
        "/proc/self/environ",
        "README.md",
        "/",
        "http://[::1]:1/",
    ):
        for route in (f"{API}/file=", f"{API}/file/", f"{API}/proxy=", "/static/", "/assets/", "/svelte/", "/file="):
            for name in (path, quote(path, safe=""), path.replace("../", "..%2f"), path.replace("/", "\\")):
                for method in ("GET", "HEAD"):
                    reply = _raw(url, f"{method} {route}{name} HTTP/1.1")
                    assert b" 200 " not in reply[:20] and secret.encode() not in reply, f"{method} {route}{name}"


def uploads(url: str) -> None:
    """A file that is sent to the page."""
    for path in (f"{API}/upload", f"{API}/upload?upload_id=x", f"{API}/component_server", f"{API}/process_recording"):
        reply = httpx.post(url + path, files={"files": ("state.json", b"[]")}, trust_env=False)
        assert reply.status_code == 404, f"{path} answered {reply.status_code}"


def routes_that_the_page_does_not_need(url: str) -> None:
    """Everything else that Gradio serves: its API, its state, monitoring, histories, editors, other methods."""
    for path in (*READABLE, *(f"{API}/{name}" for name in API_READABLE)):
        reply = httpx.get(url + path, trust_env=False)
        allowed = path.startswith("/?") and 'deep_link_state":"none' in reply.text  # the page itself, query and all
        assert reply.status_code == 404 or allowed, f"GET {path} answered {reply.status_code}"
    body = {"data": ["a comedy"], "fn_index": 2, "session_hash": "abcd1234", "event_id": "x", "fn_name": "x"}
    for name in API_POSTS:
        reply = httpx.post(f"{url}{API}/{name}", json=body | {"component_id": 1}, trust_env=False)
        assert reply.status_code == 404, f"POST {API}/{name} answered {reply.status_code}"
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "POST", "TRACE", "CONNECT"):
        reply = httpx.request(method, url + "/", trust_env=False)
        assert reply.status_code in (400, 404), f"{method} / answered {reply.status_code}"


def calls_that_the_page_does_not_make(url: str) -> None:
    """Bodies of other shapes are refused with a reason, and never end in an error of the server."""
    visitor = Visitor(url)
    hear = visitor.function_of("send")
    deep = "[" * 20_000
    values = [1, True, 1.5, [], {}, ["x"], {"x": 1}, "x" * 10_001, [[["x"]]], {"path": str(SECRET_FILE)}]
    bodies = [{"data": [value], "fn_index": hear, "session_hash": "abcd1234"} for value in values]
    bodies += [{"data": data, "fn_index": hear, "session_hash": "abcd1234"} for data in (None, "x", {}, [], ["x", "x"])]
    for number in (None, "2", -1, 10**9, 2.0, True, [2], {}, hear + 0.5):
        bodies.append({"data": ["x"], "fn_index": number, "session_hash": "abcd1234"})
    for session in (None, "", "x", 7, "../../x", "A" * 9, "x" * 40, ["abcd1234"], "abcd1234\n", "abcd 1234"):
        bodies.append({"data": ["x"], "fn_index": hear, "session_hash": session})
    texts = [json.dumps(body) for body in bodies] + [deep, '{"data":' + deep, "", "null", "[]", "{}", "\ud800", "NaN"]
    texts.append(json.dumps({"data": ["\ud800"], "fn_index": hear, "session_hash": "abcd1234"}))
    texts.append('{"data": ["x"], "fn_index": ' + "9" * 5000 + ', "session_hash": "abcd1234"}')
    headers = {"Content-Type": "application/json"}
    for text in texts:
        sent = text.encode("utf-8", "surrogatepass")
        reply = httpx.post(f"{url}{API}/queue/join", content=sent, headers=headers, trust_env=False)
        assert 400 <= reply.status_code < 500, f"{text[:200]} was answered {reply.status_code}"
        assert not re.search(r"Traceback|site-packages|/(?:work|home|root|tmp)/", reply.text), text[:200]
    form = httpx.post(f"{url}{API}/queue/join", content=json.dumps(bodies[0]), trust_env=False)
    assert form.status_code == 415, f"a body without a content type was answered {form.status_code}"


def calls_with_more_in_them(url: str) -> None:
    """Fields that Gradio acts on and the page does not need: they change nothing."""
    more = {"event_data": {"target": 1}, "trigger_id": 10**6, "simple_format": True, "batched": True, "event_id": "x"}
    more |= {"oauth_token": "x", "request": {"headers": {}}}
    visitor = Visitor(url)
    visitor.open()
    answer = visitor.call(visitor.function_of("send"), ["a comedy"], **more)
    assert '"success": true' in answer and '"success": false' not in answer, answer[:500]


def large_bodies(url: str) -> None:
    """A body of many megabytes, with and without its length announced."""
    for content in (b"x" * 2**22, (b"x" * 2**16 for _ in range(64))):
        try:
            reply = httpx.post(
                f"{url}{API}/queue/join",
                content=content,
                headers={"Content-Type": "application/json"},
                timeout=30,
                trust_env=False,
            )
        except httpx.TransportError:
            continue  # it hung up, which is as good
        assert reply.status_code == 413, f"answered {reply.status_code}"


def pages_of_other_sites(url: str) -> None:
    """DNS rebinding (a foreign Host header), and requests that a page of another site makes a browser send."""
    visitor = Visitor(url)
    body = {"data": ["a comedy"], "fn_index": visitor.function_of("send"), "session_hash": visitor.session}
    port = urlsplit(url).port
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "0.0.0.0", ""):
        for method, path in (("GET", "/"), ("POST", f"{API}/queue/join"), ("GET", "/theme.css")):
            reply = httpx.request(method, url + path, headers={"Host": host}, trust_env=False)
            assert reply.status_code in (400, 421), (
                f"{method} {path} for Host {host!r} was answered {reply.status_code}"
            )
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", f"http://localhost:{port}"):
        for kind in ("cross-site", "same-site", ""):
            headers = {"Origin": origin} | ({"Sec-Fetch-Site": kind} if kind else {})
            for method, path in (("POST", f"{API}/queue/join"), ("GET", "/"), ("OPTIONS", f"{API}/queue/join")):
                reply = httpx.request(method, url + path, json=body, headers=headers, trust_env=False)
                assert reply.status_code == 403, f"{method} {path} from {origin} was answered {reply.status_code}"
                assert "access-control-allow-origin" not in reply.headers
    framed = visitor.http.get("/").headers
    assert framed["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in framed["content-security-policy"]


def other_visitors(url: str) -> None:
    """What one visitor says and likes is shown to no other."""
    one, other = Visitor(url), Visitor(url)
    one.open(), other.open()
    one.call(one.function_of("send"), ["I liked zzzprivatezzz, a western"])
    for function in other.functions():
        if len(function["inputs"]) == 0 and function not in other.functions("load"):
            answer = other.call(function["id"], [])
            assert "zzzprivatezzz" not in answer, f"function {function['id']} shows another visitor's words"
    assert "zzzprivatezzz" not in Visitor(url).html


def what_the_page_says_of_the_machine(url: str) -> None:
    """Paths, versions of Python, functions with names, and visitors' words in the page's HTML."""
    visitor = Visitor(url)
    for path in (str(Path.home()), str(Path.cwd()), "/tmp/", "site-packages", "/usr/lib", ".venv"):
        assert f"{path}" not in visitor.html or path == "/", f"the page's HTML names {path}"
    named = [one["id"] for one in visitor.functions() if one.get("api_visibility") != "private"]
    assert not named, f"functions {named} are public"
    assert not visitor.config.get("run_history"), "runs are kept in browsers"


def answers_that_are_never_read(url: str) -> None:
    """A session that asks and never reads is refused before its answers fill the memory."""
    visitor = Visitor(url)
    clear = visitor.functions("click")[0]["id"]
    for _ in range(2000):
        if visitor.join(clear, [None] * len(visitor.functions("click")[0]["inputs"])).status_code == 429:
            return
    raise AssertionError("2000 calls of a session that reads nothing were taken")


def streams_that_never_end(url: str) -> None:
    """Connections that wait for answers where none will come, or by the dozen for one session."""
    visitor = Visitor(url)
    where: dict[str, Any] = {"url": f"{API}/queue/data", "params": {"session_hash": visitor.session}}
    reply = visitor.http.get(**where)
    assert reply.status_code == 404, f"a stream without answers was opened ({reply.status_code})"
    visitor.open()
    with contextlib.ExitStack() as streams:
        statuses = [streams.enter_context(visitor.http.stream("GET", **where)).status_code for _ in range(8)]
    assert statuses.count(200) <= 1, f"one session has {1 + statuses.count(200)} streams"


def half_sent_requests(url: str) -> None:
    """More connections than there may be, each with half a request: another visitor is answered all the same."""
    parts, files = urlsplit(url), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with contextlib.ExitStack() as held:
        for _ in range(min(1100, files // 3)):  # the page may run in this process, and have files open, too
            connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30)
            held.callback(connection.close)
            with contextlib.suppress(OSError):
                connection.sendall(f"POST {API}/queue/join HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode())
        visitor = Visitor(url)
        assert "process_generating" in visitor.open(), "nobody is answered"


def _files(path: str) -> list[Any]:
    """Values that Gradio takes for a file."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    return [
        [{"role": "user", "content": [{"type": "file", "file": file}]}],
        [{"role": "assistant", "content": {"component": "file", "value": path, "constructor_args": {}, "props": {}}}],
        file,
        [file],
        {"text": "x", "files": [file]},
        {**file, "url": f"file://{path}", "orig_name": "x", "is_stream": False},
    ]


def _taken(visitor: Visitor, answer: str) -> Iterator[str]:
    """An answer, and what is behind all paths and addresses in it."""
    yield answer
    for path in {*re.findall(r'"(?:path|url)": "([^"]+)"', answer)}:
        yield visitor.http.get(f"{API}/file={path.split('file=', 1)[-1]}").text


def _raw(url: str, line: str) -> bytes:
    """The first bytes of the answer to a request whose path is sent as it is, dots and all."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30) as connection:
        connection.sendall(f"{line}\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while len(received) < 2**16 and (more := connection.recv(2**16)):
            received += more
    return received


ATTACKS: list[tuple[str, Callable[[str], None]]] = [
    (attack.__name__.replace("_", " "), attack)
    for attack in (
        files_through_messages,
        files_by_path,
        uploads,
        routes_that_the_page_does_not_need,
        calls_that_the_page_does_not_make,
        calls_with_more_in_them,
        large_bodies,
        pages_of_other_sites,
        other_visitors,
        what_the_page_says_of_the_machine,
        answers_that_are_never_read,
        streams_that_never_end,
        half_sent_requests,
    )
]
