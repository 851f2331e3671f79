"""What all dialogues of one chat share: the server, what is known of its catalogue, and who finds the words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrec.chat.choose import Act, Chooser
from llmrec.chat.client import Client, ServerDown
from llmrec.chat.dialogue import Dialogue, Reply
from llmrec.chat.meaning import Meanings
from llmrec.chat.server import OwnServer
from llmrec.chat.speaker import Speaker, Templates
from llmrec.chat.titles import Titles
from llmrec.chat.understand import Understanding


class Counter:
    """Opens dialogues, and sends their turns through."""

    def __init__(
        self,
        client: Client,
        encoder: str | None,
        run: Path | None = None,
        own: OwnServer | None = None,
        speaker: Speaker | None = None,
        act: Act = "rerank",
    ) -> None:
        """Fetch the catalogue.

        Args:
            encoder: of words and items, a key of `ENCODERS`; None for no understanding by meaning.
            run: a run folder whose vectors may be used.
            own: a server that is started again where it died.
            speaker: finds the words; templates otherwise.
            act: see `Chooser`.

        Raises:
            ServerDown: nothing answers.
            Declined: it is no server of llmrec, or wants another key.
        """
        self.client, self.own, self.speaker = client, own, speaker or Templates()
        self._encoder, self._run, self._act = encoder, run, act
        self._lock = threading.Lock()
        self.parts = self._learn()

    def dialogue(self, k: int = 10) -> Dialogue:
        """A new dialogue."""
        return Dialogue(*self.parts, k)

    def turn(self, dialogue: Dialogue, act: Callable[[], Reply]) -> Reply:
        """One turn. A server of ours that died is started again first; a catalogue that was switched is learnt anew."""
        with self._lock:
            if self.own is not None and not self.own.alive:
                self.own.start()
            self._follow(dialogue)
        return act()

    def version(self) -> dict[str, Any]:
        """See `Client.version`."""
        return self.client.version()

    def _follow(self, dialogue: Dialogue) -> None:
        try:
            catalogue = self.client.version()["catalogue"]
        except ServerDown:
            return  # the turn itself will say so
        if catalogue != self.parts[1].store.catalogue:
            self.parts = self._learn()
        if dialogue.store is not self.parts[1].store:
            dialogue.move(*self.parts)

    def _learn(self) -> tuple[Understanding, Chooser]:
        version, store = self.client.version(), self.client.store()
        meanings = Meanings.of(store, self._encoder, self._run) if self._encoder else None
        chooser = Chooser(self.client, store, meanings, bool(version.get("queries")), act=self._act)
        return Understanding(store, Titles(store, meanings)), chooser
