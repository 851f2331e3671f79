"""The chat in a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmrec.chat.counter import Counter
from llmrec.chat.dialogue import Dialogue, Reply
from llmrec.chat.replies import listed, say, wishes
from llmrec.errors import ChatError, LlmrecError
from llmrec.files import write_text

HELP = """Say what you like, or what you want:  I liked Toy Story and Heat · something like the second one but funny
  no horror, from the 90s · I like 2, not 5 · show me others · start over
/search WORDS   titles; then /like ITEM-ID      /panel   history, filters, codes
/filters off    drop all filters                /save FILE   the transcript as JSON
/quit           end (so does Ctrl-D)"""


def talk(counter: Counter, console: Console, k: int = 10) -> None:
    """Talk until somebody has enough."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # else a byte that is not UTF-8 ends the talk
    dialogue = counter.dialogue(k)
    console.print(Text(f"{say('hello')} (/help)"))
    while True:
        try:
            line = readable(console.input("[bold]› [/]")).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        if line:
            try:
                _line(line, dialogue, counter, console)
            except LlmrecError as error:
                console.print(Text(_plain(str(error)), style="red"))


def _line(line: str, dialogue: Dialogue, counter: Counter, console: Console) -> None:
    verb, _, rest = line.partition(" ")
    if verb == "/help":
        console.print(Text(HELP))
    elif verb == "/search":
        found = [dialogue.store.things[at].item_id for at in dialogue.understanding.titles.search(rest)]
        console.print(
            Text("\n".join(_plain(f"  {one:<12} {dialogue.named(one)}") for one in found) or "  nothing is called so")
        )
    elif verb == "/panel":
        console.print(Text(panel(dialogue)))
    elif verb == "/save":
        console.print(Text(_plain(str(_save(dialogue, rest)))))
    elif verb == "/like" and rest in dialogue.store.number:
        _show(counter.turn(dialogue, lambda: dialogue.like(rest)), dialogue, counter, console)
    elif line == "/filters off":
        _show(counter.turn(dialogue, dialogue.clear), dialogue, counter, console)
    elif line.startswith("/"):
        console.print(Text(f"There is no {_plain(line)}. {HELP}"))
    else:
        _show(counter.turn(dialogue, lambda: dialogue.hear(line)), dialogue, counter, console)


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


def readable(line: str) -> str:
    """A line that was typed, its undecodable bytes as the replacement character."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _show(reply: Reply, dialogue: Dialogue, counter: Counter, console: Console) -> None:
    """Words as they come, then the cards; everything as plain text without control characters."""
    for piece in counter.speaker.say(dialogue, reply):
        console.print(Text(_plain(piece.text)), end="")
    console.print()
    if not reply.changed:
        return
    for place, card in enumerate(dialogue.state.cards, 1):
        traits = " · ".join(value for _, value in card.traits)
        console.print(Text(_plain(f"{place:>3}  {card.title}"), style="bold"), Text(_plain(traits), style="dim"))
        console.print(Text(_plain(f"     {card.why}"), style="italic"))


def panel(dialogue: Dialogue) -> str:
    """What the side panel of the page shows."""
    state = dialogue.state
    liked = listed([dialogue.named(one) for one in state.liked]) or "nothing yet"
    codes = "\n".join(f"  {card.code}  {card.title}" for card in state.cards)
    return _plain(f"history: {liked}\nfilters: {wishes(state) or 'none'}\ncodes:\n{codes}", "\n")


def _plain(text: str, keep: str = "") -> str:
    """Without characters that would steer the terminal."""
    return "".join(char for char in text if char.isprintable() or char in keep)
