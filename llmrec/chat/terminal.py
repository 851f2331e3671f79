"""The chat in a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmrec.chat.dialogue import ChatService, Dialogue, Reply, listed, say
from llmrec.errors import ChatError, LlmrecError
from llmrec.files import write_text

HELP = """Say what you like, or what you want:  I liked Toy Story and Heat · something like the second one but funny
  no horror, from the 90s · I like 2, not 5 · show me others · start over
/search WORDS   titles; then /like ITEM-ID      /panel   history, filters, codes
/filters off    drop all filters                /save FILE   the transcript as JSON
/quit           end (so does Ctrl-D)"""


def talk(service: ChatService, console: Console, k: int = 10) -> None:
    """Talk until /quit or the end of the input."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # else a byte that is not UTF-8 ends the talk
    dialogue = service.dialogue(k)
    console.print(Text(f"{say('hello')} (/help)"))
    while True:
        try:
            line = console.input("[bold]› [/]").encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        try:
            reply = _command(line, dialogue, service, console) if line else None
            if reply:
                _show(reply, dialogue, service, console)
        except LlmrecError as error:
            console.print(Text(_printable(str(error)), style="red"))


def _command(line: str, dialogue: Dialogue, service: ChatService, console: Console) -> Reply | None:
    """Do what a line says; the reply where it was said to the dialogue."""
    verb, _, rest = line.partition(" ")
    store = dialogue.store
    if verb == "/like" and rest in store.number:
        return service.turn(dialogue, lambda: dialogue.like(rest))
    if line == "/filters off":
        return service.turn(dialogue, dialogue.clear)
    if not line.startswith("/"):
        return service.turn(dialogue, lambda: dialogue.hear(line))
    if verb == "/search":
        found = [store.items[at].item_id for at in dialogue.understanding.titles.search(rest)]
        lines = [f"  {item_id:<12} {store.title(item_id, with_year=True)}" for item_id in found]
        lines = lines or ["  nothing is called so"]
    elif verb == "/panel":
        state = dialogue.state
        liked = listed([store.title(one, with_year=True) for one in state.liked]) or "nothing yet"
        lines = [f"history: {liked}", f"filters: {', '.join(state.wishes()) or 'none'}", "codes:"]
        lines += [f"  {card.code}  {card.title}" for card in state.cards]
    elif verb == "/save":
        lines = [str(_save(dialogue, rest))]
    else:
        lines = ([] if verb == "/help" else [f"There is no {line}."]) + HELP.splitlines()
    console.print(Text("\n".join(map(_printable, lines))))
    return None


def _save(dialogue: Dialogue, name: str) -> Path:
    """Write the transcript into a new file; the path.

    Args:
        name: of the file; "" for transcript.json, or the first free one of transcript-2.json, transcript-3.json, ….

    Raises:
        ChatError: there is such a file, or it cannot be written.
    """
    free = (f"transcript{number}.json" for number in ("", *(f"-{place}" for place in range(2, 10**6))))
    path = Path(name or next(one for one in free if not Path(one).exists()))
    try:
        if path.exists():
            raise FileExistsError("there is a file of this name")
        write_text(path, json.dumps(dialogue.state.transcript(), ensure_ascii=False, indent=1))
    except (OSError, ValueError, LlmrecError) as error:  # ValueError: a NUL in the name
        raise ChatError(f"nothing was saved ({error}). Say /save and another name; the talk goes on.") from error
    return path


def _show(reply: Reply, dialogue: Dialogue, service: ChatService, console: Console) -> None:
    """Print words as they come, then the cards."""
    for piece in service.speaker(dialogue, reply):
        console.print(Text(_printable(piece.text)), end="")
    console.print()
    for place, card in enumerate(dialogue.state.cards if reply.changed else [], 1):
        traits = _printable(" · ".join(value for _, value in card.traits))
        console.print(Text(_printable(f"{place:>3}  {card.title}"), style="bold"), Text(traits, style="dim"))
        console.print(Text(_printable(f"     {card.why}"), style="italic"))


def _printable(text: str) -> str:
    """A text without characters that would steer the terminal."""
    return "".join(filter(str.isprintable, text))
