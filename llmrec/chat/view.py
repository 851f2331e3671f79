"""HTML, CSS and scripts of the page. Every word of the catalogue and of a person is escaped here."""

from __future__ import annotations

from html import escape

from llmrec.chat.dialogue import Dialogue
from llmrec.chat.state import Card

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


def card(one: Card, place: int) -> str:
    """A card: title, attributes, why."""
    traits = " · ".join(escape(value) for _, value in one.traits)
    return (
        f'<div class="llmrec-card"><b>{place}. {escape(one.title)}</b>'
        f"<small>{traits}</small><i>{escape(one.why)}</i></div>"
    )


def panel(dialogue: Dialogue, levels: int | None = None, codes: str = "") -> str:
    """The history in use, the filters read from the words, and the codes.

    Args:
        levels: how many levels of each card's code are shown; None for all.
        codes: that a model writes just now among its words.
    """
    state = dialogue.state
    liked = _list([dialogue.named(one) for one in state.liked]) or "<p>nothing yet</p>"
    disliked = _list([dialogue.named(one) for one in state.disliked])
    chips = [str(wish) for wish in state.wishes] + ([f"“{state.about}”"] if state.about else [])
    chips += [f"like “{dialogue.title(one)}”" for one in state.seeds]
    wishes = "".join(f'<span class="llmrec-chip">{escape(chip)}</span>' for chip in chips) or "<p>none</p>"
    rows = [f"<code>{escape(_level(one.code, levels))}</code> {escape(one.title)}" for one in state.cards]
    shown = "<ol>" + "".join(f"<li>{row}</li>" for row in rows) + "</ol>" if rows else "<p>none</p>"
    return (
        f'<div class="llmrec-panel"><h4>History in use, oldest first</h4>{liked}'
        + (f"<h4>Never shown</h4>{disliked}" if disliked else "")
        + f"<h4>Filters read from the words</h4>{wishes}"
        + f"<h4>Codes</h4>{shown}"
        + (f"<p>now: <code>{escape(codes)}</code></p>" if codes else "")
        + "</div>"
    )


def levels(dialogue: Dialogue) -> int:
    """How many tokens the longest code of the cards has."""
    return max((one.code.count("<") for one in dialogue.state.cards), default=0)


def _level(code: str, levels: int | None) -> str:
    parts = [part + ">" for part in code.split(">") if part]
    return "".join(parts if levels is None else parts[:levels])


def _list(names: list[str]) -> str:
    return "<ol>" + "".join(f"<li>{escape(name)}</li>" for name in names) + "</ol>" if names else ""
