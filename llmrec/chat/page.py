"""The page: Gradio in this process, a client of the server like any other."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is told to anybody
import gradio as gr
import uvicorn
from fastapi import FastAPI

from llmrec.chat import view
from llmrec.chat.counter import Counter
from llmrec.chat.dialogue import Dialogue, Reply
from llmrec.chat.replies import say
from llmrec.errors import ChatError
from llmrec.tasks.templates import neutral

CARDS = 10
PAUSE = 0.02  # seconds between words of a template, so that they are seen to come
_PRESS = "() => setTimeout(() => document.querySelector('#transcript').click(), 300)"
_FIRST = 40  # pieces of a reply that may come slowly; the rest comes at once

Talk = list[dict[str, str]]
Shown = tuple[Any, ...]


class Page:
    """The page's functions; one dialogue a visitor, kept in their session."""

    def __init__(self, counter: Counter, pause: float = PAUSE) -> None:
        """Serve a counter."""
        self.counter, self.pause = counter, pause

    def open(self) -> Dialogue:
        """A visitor comes."""
        return self.counter.dialogue(CARDS)

    def hear(self, text: str, dialogue: Dialogue, talk: Talk) -> Iterator[Shown]:
        """A message: (talk, panel, dialogue, …) again and again while the words come."""
        if text.strip():
            yield from self._turn(text, dialogue, talk, lambda: dialogue.hear(text))

    def judge(self, place: int, liked: bool, dialogue: Dialogue, talk: Talk) -> Iterator[Shown]:
        """A click on a card."""
        if place < len(dialogue.state.cards):
            card = dialogue.state.cards[place]
            said = f"{'♥' if liked else '✕'} {card.title}"
            yield from self._turn(said, dialogue, talk, lambda: dialogue.like(card.item_id, liked))

    def pick(self, item_id: str | None, dialogue: Dialogue, talk: Talk) -> Iterator[Shown]:
        """A title that was searched for."""
        if item_id in dialogue.store.number:
            said = f"♥ {dialogue.title(str(item_id))}"
            yield from self._turn(said, dialogue, talk, lambda: dialogue.like(str(item_id)))

    def clear(self, dialogue: Dialogue, talk: Talk) -> Iterator[Shown]:
        """All filters off."""
        yield from self._turn("(filters off)", dialogue, talk, dialogue.clear)

    def find(self, text: str, dialogue: Dialogue) -> list[tuple[str, str]]:
        """(title, item id) of titles for a search box."""
        found = dialogue.understanding.titles.search(text[:200])
        return [(dialogue.named(dialogue.store.things[at].item_id), dialogue.store.things[at].item_id) for at in found]

    def save(self, dialogue: Dialogue) -> str:
        """Write the transcript into a file, and tell where."""
        folder = Path(tempfile.mkdtemp(prefix="llmrec-transcript-"))
        (folder / "transcript.json").write_text(json.dumps(dialogue.state.transcript(), ensure_ascii=False, indent=1))
        return str(folder / "transcript.json")

    def _turn(self, said: str, dialogue: Dialogue, talk: Talk, act: Callable[[], Reply]) -> Iterator[Shown]:
        # brackets become typographic ones: Gradio would take tags out of the talk, and with them parts of a title
        talk = [*talk, {"role": "user", "content": neutral(said)}, {"role": "assistant", "content": "…"}]
        yield talk, view.panel(dialogue), dialogue
        try:
            reply = self.counter.turn(dialogue, act)
        except ChatError as error:
            talk[-1]["content"] = neutral(str(error))
            yield talk, view.panel(dialogue), dialogue
            return
        words, codes, levels = "", "", view.levels(dialogue)
        for number, piece in enumerate(self.counter.speaker.say(dialogue, reply)):
            words, codes = words + piece.text, codes + piece.codes
            talk[-1]["content"] = neutral(words)
            if number < _FIRST:
                time.sleep(self.pause)
                yield talk, view.panel(dialogue, min(number, levels) if reply.changed else None, codes), dialogue
        talk[-1]["content"] = neutral(words.strip())
        yield talk, view.panel(dialogue), dialogue


def build(page: Page, title: str) -> gr.Blocks:
    """The page's parts and what they do.

    Args:
        title: shown on top.
    """
    with gr.Blocks(title=f"llmrec · {title}", analytics_enabled=False) as blocks:
        dialogue = gr.State()
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
                )
                with gr.Column(elem_classes="llmrec-cards"):
                    cards = [_slot() for _ in range(CARDS)]
            with gr.Column(scale=1, min_width=240):
                sought = gr.Textbox(label="Search titles", elem_id="sought")
                hits = gr.Radio([], label="I like", elem_id="hits", visible=False)
                panel = gr.HTML(elem_id="panel")
                with gr.Row(elem_classes="llmrec-row"):
                    off = gr.Button("Filters off", size="sm")
                    new = gr.Button("Start over", size="sm")
                    save = gr.Button("Save", size="sm")
                file = gr.DownloadButton(visible="hidden", elem_id="transcript")
        _wire(blocks, page, dialogue, talk, said, cards, sought, hits, panel, off, new, save, file)
    return blocks


Slot = tuple[gr.Column, gr.HTML, gr.Button, gr.Button]


def _slot() -> Slot:
    with gr.Column(visible=False, elem_classes="llmrec-slot") as column:
        html = gr.HTML()
        with gr.Row(elem_classes="llmrec-row"):
            like = gr.Button("♥ like", size="sm", elem_classes="llmrec-like")
            dislike = gr.Button("✕ not for me", size="sm", elem_classes="llmrec-dislike")
    return column, html, like, dislike


def _cards(dialogue: Dialogue) -> list[Any]:
    """Updates of all slots: shown where there is a card."""
    shown = dialogue.state.cards
    updates: list[Any] = []
    for place in range(CARDS):
        there = place < len(shown)
        updates += [gr.update(visible=there), view.card(shown[place], place + 1) if there else ""]
    return updates


def _wire(
    blocks: gr.Blocks,
    page: Page,
    dialogue: gr.State,
    talk: gr.Chatbot,
    said: gr.Textbox,
    cards: list[Slot],
    sought: gr.Textbox,
    hits: gr.Radio,
    panel: gr.HTML,
    off: gr.Button,
    new: gr.Button,
    save: gr.Button,
    file: gr.DownloadButton,
) -> None:
    """Say what each part does."""
    parts = [part for slot in cards for part in slot[:2]]
    shown = [talk, panel, dialogue]

    def with_cards(chain: Any) -> Any:
        return chain.then(_cards, dialogue, parts, show_progress="hidden")

    def start() -> tuple[Any, ...]:
        opened = page.open()
        return (opened, view.panel(opened), [{"role": "assistant", "content": say("hello")}], *_cards(opened))

    def search(text: str, now: Dialogue) -> Any:
        found = page.find(text, now) if text.strip() else []
        return gr.update(choices=found, value=None, visible=bool(found))

    for event in (blocks.load, new.click):
        event(start, None, [dialogue, panel, talk, *parts], show_progress="hidden")
    heard = said.submit(page.hear, [said, dialogue, talk], shown, show_progress="hidden")
    said.submit(lambda: "", None, said, show_progress="hidden", queue=False)
    with_cards(heard)
    for place, (_, _, like, dislike) in enumerate(cards):
        for button, liked in ((like, True), (dislike, False)):
            judge = partial(page.judge, place, liked)
            with_cards(button.click(_stream(judge), [dialogue, talk], shown, show_progress="hidden"))
    sought.change(search, [sought, dialogue], hits, show_progress="hidden", trigger_mode="always_last")
    with_cards(hits.input(page.pick, [hits, dialogue, talk], shown, show_progress="hidden"))
    with_cards(off.click(page.clear, [dialogue, talk], shown, show_progress="hidden"))
    made = save.click(page.save, dialogue, file, show_progress="hidden")
    made.then(None, js=_PRESS)  # a download button gives the file that it had before it was pressed


def _stream(judge: Callable[[Dialogue, Talk], Iterator[Shown]]) -> Callable[[Dialogue, Talk], Iterator[Shown]]:
    """A generator function, which Gradio knows by its kind and a partial hides."""

    def stream(dialogue: Dialogue, talk: Talk) -> Iterator[Shown]:
        yield from judge(dialogue, talk)

    return stream


def application(counter: Counter, title: str, host: str, port: int) -> FastAPI:
    """The page as an app of its own, with nothing fetched from elsewhere."""
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        build(Page(counter), title).queue(default_concurrency_limit=8),
        path="",
        server_name=host,
        server_port=port,
        css=view.STYLE,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        ssr_mode=False,
    )


def serve(counter: Counter, title: str, host: str, port: int) -> None:
    """Serve the page until Ctrl-C."""
    server(counter, title, host, port).run()


def server(counter: Counter, title: str, host: str, port: int) -> uvicorn.Server:
    """A server of the page, not started."""
    app = application(counter, title, host, port)
    return uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", ws="none"))


@contextlib.contextmanager
def background(counter: Counter, title: str) -> Iterator[str]:
    """The address of a page that is served from a thread, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    runs = server(counter, title, "127.0.0.1", port)
    thread = threading.Thread(target=runs.run, daemon=True)
    thread.start()
    while not runs.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    runs.should_exit = True
    thread.join(10)
