"""The page: Gradio in this process, a client of the server like any other.

Gradio draws it and carries texts to and fro. What was said is kept in `visits`, so no component is ever read but the
two text boxes and the id of a title; `page_guard` lets nothing else in.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # no reports to its makers
import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.utils import LRUCache
from starlette.types import ASGIApp

from llmrec.chat import view
from llmrec.chat.counter import Counter
from llmrec.chat.page_guard import TEXT, PageGuard, Streams, check_host, checker
from llmrec.chat.replies import say
from llmrec.chat.visits import CARDS, VISITS, Page, cards
from llmrec.serve import logs
from llmrec.serve.access import TrustedHosts, bind, listen
from llmrec.serve.connections import BoundedServer, room

CONNECTIONS = 1000  # at a time; a visitor has two, and six while the page loads
SECONDS = 30.0  # in which a request must have come, or an answer be read
UNREAD_SECONDS = 10.0  # after which a page that is not read any more is not shown any more
_POLL = 0.04  # seconds between looks for more words

Slot = tuple[gr.Column, gr.HTML, gr.Button, gr.Button]


def build(page: Page, title: str, reads: Callable[[str], bool]) -> gr.Blocks:
    """The page's parts and what they do.

    Args:
        title: shown on top.
        reads: whether a session has a connection that reads its answers.
    """
    with gr.Blocks(title=f"llmrec · {title}", analytics_enabled=False) as blocks:
        gr.HTML(f"<h3>{view.escape(title)}: a chat that recommends real items</h3>")
        with gr.Row(elem_classes="llmrec-main"):
            with gr.Column(scale=3, min_width=280):
                talk = gr.Chatbot(
                    [{"role": "assistant", "content": say("hello")}],
                    height=300,
                    show_label=False,
                    render_markdown=False,  # titles are plain text: no links, no pictures, no HTML
                    elem_id="talk",
                    feedback_options=None,
                    buttons=[],
                )
                said = gr.Textbox(
                    placeholder="I liked …, something like … but funny, no horror, from the 90s",
                    show_label=False,
                    submit_btn="Say",
                    elem_id="said",
                    max_length=TEXT,
                )
                with gr.Column(elem_classes="llmrec-cards"):
                    slots = [_slot() for _ in range(CARDS)]
            with gr.Column(scale=1, min_width=240):
                sought = gr.Textbox(label="Search titles", elem_id="sought", max_length=TEXT)
                hits = gr.Radio([], label="I like", elem_id="hits", visible=False)
                panel = gr.HTML(elem_id="panel")
                with gr.Row(elem_classes="llmrec-row"):
                    off = gr.Button("Filters off", size="sm")
                    new = gr.Button("Start over", size="sm")
                    save = gr.Button("Save", size="sm")
                transcript = gr.Textbox(visible="hidden")
                send = gr.Button(visible="hidden", elem_id="send")
        _show(page, blocks, [talk, panel, *(part for slot in slots for part in slot[:2])], reads)
        for event in (new.click, talk.clear):  # Gradio draws a dustbin on a talk
            _on(event, page.open)
        heard = _on(send.click, page.hear, said, trigger_mode="multiple", js=view.NEXT_SAID)
        heard.success(None, js=view.SENT)
        heard.failure(None, said, said, js=view.UNSENT)
        for place, (_, _, like, dislike) in enumerate(slots):
            _on(like.click, lambda session, place=place: page.judge(session, place, True))
            _on(dislike.click, lambda session, place=place: page.judge(session, place, False))
        _on(hits.input, page.pick, hits, trigger_mode="multiple")
        _on(off.click, page.clear)
        _search(page, sought, hits)
        _save(page, save, transcript)
    return blocks


def _slot() -> Slot:
    with gr.Column(visible=False, elem_classes="llmrec-slot") as column:
        html = gr.HTML()
        with gr.Row(elem_classes="llmrec-row"):
            like = gr.Button("♥ like", size="sm", elem_classes="llmrec-like")
            dislike = gr.Button("✕ not for me", size="sm", elem_classes="llmrec-dislike")
    return column, html, like, dislike


def _show(page: Page, blocks: gr.Blocks, parts: list[Any], reads: Callable[[str], bool]) -> None:
    """Show the talk, the panel and the cards as long as the page is open.

    Gradio closes a stream of answers when the last call has its answer, and may drop a call that comes meanwhile. A
    call that is never done keeps the stream open.
    """

    async def watch(request: gr.Request) -> AsyncIterator[list[Any]]:
        session = str(request.session_hash)
        visit, before, read = page.visit(session), None, time.monotonic()
        while time.monotonic() - read < UNREAD_SECONDS:
            visit = page.find_visit(session) or visit
            now = (id(visit), visit.changes)
            if now != before:
                before = now
                shown = [update for there, html in cards(visit) for update in (gr.update(visible=there), html)]
                yield [visit.talk(), visit.panel, *shown]
            await asyncio.sleep(_POLL)
            read = time.monotonic() if reads(session) else read

    blocks.load(watch, None, parts, concurrency_limit=None, **_QUIET)


def _on(event: Any, put: Callable[..., Any], value: Any = None, **more: Any) -> Any:
    """Queue a turn where an event happens.

    Args:
        put: queues it; takes the session, and the value of a component where one is given.

    Returns:
        The event, to hang further ones on.
    """

    async def spoken(text: Any, request: gr.Request) -> None:
        put(str(request.session_hash), text)

    async def clicked(request: gr.Request) -> None:
        put(str(request.session_hash))

    # one at a time: Gradio works on calls side by side, and the first to come would not always be queued first
    in_order = {"concurrency_limit": 1, "concurrency_id": "in order"}
    return event(spoken if value is not None else clicked, value, None, **in_order, **_QUIET, **more)


# values reach our functions as they were sent, to be checked there: Gradio's own refusals are tracebacks in the log
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}


def _search(page: Page, sought: gr.Textbox, hits: gr.Radio) -> None:
    def search(text: Any, request: gr.Request) -> Any:
        found = page.find(str(request.session_hash), text)
        return gr.update(choices=found, value=None, visible=bool(found))

    sought.change(search, sought, hits, trigger_mode="always_last", **_QUIET)


def _save(page: Page, save: gr.Button, transcript: gr.Textbox) -> None:
    """The browser makes the file itself, so that the page needs no way to give files."""

    def text(request: gr.Request) -> str:
        return page.transcript(str(request.session_hash))

    save.click(text, None, transcript, **_QUIET).then(None, transcript, None, js=view.SAVE)


def application(counter: Counter, title: str, login: tuple[str, str] | None = None) -> ASGIApp:
    """The page as an app of its own, with nothing fetched from elsewhere.

    Args:
        login: name and password; without one only requests by names of this machine are answered.
    """
    for name in [one for one in os.environ if one.startswith("GRADIO_") and one not in _KEPT]:
        del os.environ[name]
    streams: Streams = collections.Counter()
    blocks = build(Page(counter), title, lambda session: streams[session] > 0)
    blocks.state_session_capacity, blocks.max_threads = VISITS, 2 * CONNECTIONS
    blocks.queue(default_concurrency_limit=8, api_open=False)
    queue = blocks._queue
    queue.pending_event_ids_session = LRUCache(2000)  # as Gradio bounds the queues of answers, where it forgot this
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="",
        auth=checker(login) if login else None,
        css=view.STYLE,
        head=view.SCRIPT,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        show_error=False,
        **_CLOSED,
    )

    def unread(session: str) -> int | None:
        answers = queue.pending_messages_per_session.get(session)
        waiting = answers.qsize() if answers is not None else 0
        return waiting if waiting or queue.pending_event_ids_session.get(session) else None

    inputs = {number: len(function.inputs) for number, function in blocks.fns.items() if function.fn is not None}
    return TrustedHosts(PageGuard(app, inputs, unread, streams, login is not None), () if login is None else None)


_KEPT = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_ROOT_PATH")  # other variables open paths, editors and histories
_CLOSED: dict[str, Any] = {  # named, so that no variable of the environment opens them
    "allowed_paths": [],
    "blocked_paths": ["/"],
    "max_file_size": 1,
    "run_history": False,
    "ssr_mode": False,
    "mcp_server": False,
    "pwa": False,
    "enable_monitoring": False,
}


def serve(counter: Counter, title: str, listening: socket.socket, login: tuple[str, str] | None = None) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ChatError: see `server`.
    """
    server(counter, title, listening, login).run([listening])


def server(
    counter: Counter, title: str, listening: socket.socket, login: tuple[str, str] | None = None
) -> uvicorn.Server:
    """A server of the page, not started.

    Args:
        listening: the socket that it will be run with.

    Raises:
        ChatError: see `check_host`.
    """
    check_host(str(listening.getsockname()[0]), login)
    logs.limit_repeats()
    config = uvicorn.Config(
        application(counter, title, login),
        http="h11",  # httptools, which uvicorn takes where it is installed, puts no bound on headers
        log_level="warning",
        timeout_graceful_shutdown=3,  # streams of answers stay open as long as browsers do
        ws="none",
    )
    listen(listening)
    return BoundedServer(config, room(CONNECTIONS), SECONDS)


@contextlib.contextmanager
def background(counter: Counter, title: str, login: tuple[str, str] | None = None) -> Iterator[str]:
    """The address of a page that is served from a thread, on a free port."""
    listening = bind("127.0.0.1", 0)
    runs = server(counter, title, listening, login)
    thread = threading.Thread(target=runs.run, args=([listening],), daemon=True)
    thread.start()
    while not runs.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    runs.should_exit = True
    thread.join(10)
