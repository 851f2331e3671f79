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
from html import escape
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # no reports to its makers
import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.utils import LRUCache
from starlette.types import ASGIApp

from llmrec.chat.dialogue import ChatService, say
from llmrec.chat.page_guard import TEXT, PageGuard, Streams, check_host, checker
from llmrec.chat.visits import CARDS, VISITS, ChatPage
from llmrec.serve import log_redaction
from llmrec.serve.access import TrustedHosts, bind, listen
from llmrec.serve.connections import BoundedServer, max_connections

CONNECTIONS = 1000  # at a time; a visitor has two, and six while the page loads
SECONDS = 30.0  # in which a request must have come, or an answer be read
UNREAD_SECONDS = 10.0  # after which a page that is not read any more is not shown any more
_POLL = 0.04  # seconds between looks for more words
# values reach our functions as they were sent, to be checked there: Gradio's own refusals are tracebacks in the log
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
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

STYLE = """
.llmrec-card {border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 10px 12px; height: 100%;
  background: var(--background-fill-primary); overflow-wrap: anywhere}
.llmrec-card b {font-size: 1.02em} .llmrec-card small {opacity: .75; display: block}
.llmrec-card i {display: block; margin-top: 4px; font-size: .86em; opacity: .8}
.llmrec-panel {font-size: .88em; overflow-wrap: anywhere} .llmrec-panel h4 {margin: .7em 0 .2em}
.llmrec-chip {display: inline-block; border: 1px solid var(--border-color-primary); border-radius: 99px;
  padding: 0 8px; margin: 2px} .llmrec-panel code {font-size: .86em} .llmrec-panel ol {margin: 0; padding-left: 1.4em}
.llmrec-cards {display: grid !important; gap: 12px !important;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)) !important}
.llmrec-slot {gap: 4px !important; min-width: 0 !important} .llmrec-slot > * {min-width: 0 !important}
.llmrec-row {gap: 6px !important} .llmrec-row button {min-width: 0 !important}
@media (max-width: 640px) {.gradio-container {padding: 6px !important} .llmrec-main {flex-direction: column !important}}
footer {display: none !important}
"""

# Gradio reads a box some time after Enter, and clears it later still, so words that are typed on would get into the
# message or lost. Here a message is taken out of the box at once, and waits in a list until the page has the last one.
SCRIPT = """<script>
const llmrecSaid = [];
let llmrecSent = '', llmrecBusy = false;
function llmrecSend() {
  llmrecBusy = llmrecSaid.length > 0;
  if (llmrecBusy) document.querySelector('#send').click();
}
function llmrecUnsent(text) {
  llmrecBusy = false;
  return [llmrecSent, ...llmrecSaid.splice(0), text].filter(Boolean).join(' ');
}
function llmrecSay(event) {
  const box = document.querySelector('#said textarea');
  event.preventDefault();
  event.stopImmediatePropagation();
  if (!box.value.trim()) return;
  llmrecSaid.push(box.value);
  box.value = '';
  box.dispatchEvent(new Event('input', {bubbles: true}));
  if (!llmrecBusy) llmrecSend();
}
document.addEventListener('keydown', (event) => {
  const enter = event.key === 'Enter' && !event.shiftKey && !event.isComposing;
  if (enter && event.target.closest('#said textarea')) llmrecSay(event);
}, true);
document.addEventListener('click', (event) => { if (event.target.closest('#said button')) llmrecSay(event); }, true);
</script>"""
NEXT_SAID = "() => (llmrecSent = llmrecSaid.shift() ?? '')"
SENT = "() => llmrecSend()"
UNSENT = "(text) => llmrecUnsent(text)"  # what could not be sent goes back into the box
SAVE = """(text) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'transcript.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""


def build(page: ChatPage, title: str, reads: Callable[[str], bool]) -> gr.Blocks:
    """The page's parts and what they do.

    Args:
        title: shown on top.
        reads: whether a session has a connection that reads its answers.
    """
    small: dict[str, Any] = {"size": "sm"}
    with gr.Blocks(title=f"llmrec · {title}", analytics_enabled=False) as blocks:
        gr.HTML(f"<h3>{escape(title)}: a chat that recommends real items</h3>")
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
                slots, clicks = [], []
                with gr.Column(elem_classes="llmrec-cards"):
                    for _ in range(CARDS):
                        with gr.Column(visible=False, elem_classes="llmrec-slot") as column:
                            slots += [column, gr.HTML()]
                            with gr.Row(elem_classes="llmrec-row"):
                                clicks.append(gr.Button("♥ like", elem_classes="llmrec-like", **small))
                                clicks.append(gr.Button("✕ not for me", elem_classes="llmrec-dislike", **small))
            with gr.Column(scale=1, min_width=240):
                sought = gr.Textbox(label="Search titles", elem_id="sought", max_length=TEXT)
                hits = gr.Radio([], label="I like", elem_id="hits", visible=False)
                panel = gr.HTML(elem_id="panel")
                with gr.Row(elem_classes="llmrec-row"):
                    off, new, save = (gr.Button(name, **small) for name in ("Filters off", "Start over", "Save"))
                transcript = gr.Textbox(visible="hidden")
                send = gr.Button(visible="hidden", elem_id="send")
        blocks.load(_watch(page, reads), None, [talk, panel, *slots], concurrency_limit=None, **_QUIET)
        for event in (new.click, talk.clear):  # Gradio draws a dustbin on a talk
            _on(event, page.open)
        sent = _on(send.click, page.hear, said, trigger_mode="multiple", js=NEXT_SAID)
        sent.success(None, js=SENT)
        sent.failure(None, said, said, js=UNSENT)
        for number, button in enumerate(clicks):
            place, dislike = divmod(number, 2)
            _on(button.click, lambda session, place=place, like=not dislike: page.judge(session, place, like))
        _on(hits.input, page.pick, hits, trigger_mode="multiple")
        _on(off.click, page.clear)

        def search(text: Any, request: gr.Request) -> Any:
            found = page.find(str(request.session_hash), text)
            return gr.update(choices=found, value=None, visible=bool(found))

        def saved(request: gr.Request) -> str:
            return page.transcript(str(request.session_hash))

        sought.change(search, sought, hits, trigger_mode="always_last", **_QUIET)
        # the browser makes the file itself, so that the page needs no way to give files
        save.click(saved, None, transcript, **_QUIET).then(None, transcript, None, js=SAVE)
    return blocks


def _watch(page: ChatPage, reads: Callable[[str], bool]) -> Callable[[gr.Request], AsyncIterator[list[Any]]]:
    """A function that shows the talk, the panel and the cards as long as the page is open.

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
                slots = [update for shown, html in visit.slots() for update in (gr.update(visible=shown), html)]
                yield [visit.talk(), visit.panel, *slots]
            await asyncio.sleep(_POLL)
            read = time.monotonic() if reads(session) else read

    return watch


def _on(event: Any, put: Callable[..., Any], value: Any = None, **more: Any) -> Any:
    """Queue a turn where an event happens; returns the event, to hang further ones on.

    Args:
        put: queues it; takes the session, and the value of a component where one is given.
    """

    async def spoken(text: Any, request: gr.Request) -> None:
        put(str(request.session_hash), text)

    async def clicked(request: gr.Request) -> None:
        put(str(request.session_hash))

    # one at a time: Gradio works on calls side by side, and the first to come would not always be queued first
    in_order = {"concurrency_limit": 1, "concurrency_id": "in order"}
    return event(spoken if value is not None else clicked, value, None, **in_order, **_QUIET, **more)


def application(service: ChatService, title: str, login: tuple[str, str] | None = None) -> ASGIApp:
    """The page as an app of its own, with nothing fetched from elsewhere.

    Args:
        login: name and password; without one only requests by names of this machine are answered.
    """
    for name in [one for one in os.environ if one.startswith("GRADIO_") and one not in _KEPT]:
        del os.environ[name]
    streams: Streams = collections.Counter()
    blocks = build(ChatPage(service), title, lambda session: streams[session] > 0)
    blocks.state_session_capacity, blocks.max_threads = VISITS, 2 * CONNECTIONS
    blocks.queue(default_concurrency_limit=8, api_open=False)
    queue = blocks._queue
    queue.pending_event_ids_session = LRUCache(2000)  # as Gradio bounds the queues of answers, where it forgot this
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="",
        auth=checker(login) if login else None,
        css=STYLE,
        head=SCRIPT,
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


def server(
    service: ChatService, title: str, listening: socket.socket, login: tuple[str, str] | None = None
) -> uvicorn.Server:
    """A server of the page, not started.

    Args:
        listening: the socket that it will be run with.

    Raises:
        ChatError: see `check_host`.
    """
    check_host(str(listening.getsockname()[0]), login)
    log_redaction.limit_repeats()
    config = uvicorn.Config(
        application(service, title, login),
        http="h11",  # httptools, which uvicorn takes where it is installed, puts no bound on headers
        log_level="warning",
        timeout_graceful_shutdown=3,  # streams of answers stay open as long as browsers do
        ws="none",
    )
    listen(listening)
    return BoundedServer(config, max_connections(CONNECTIONS), SECONDS)


@contextlib.contextmanager
def background(service: ChatService, title: str, login: tuple[str, str] | None = None) -> Iterator[str]:
    """The address of a page that is served from a thread, on a free port."""
    listening = bind("127.0.0.1", 0)
    runs = server(service, title, listening, login)
    thread = threading.Thread(target=runs.run, args=([listening],), daemon=True)
    thread.start()
    while not runs.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    runs.should_exit = True
    thread.join(10)
