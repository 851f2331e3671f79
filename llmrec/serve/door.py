"""The door: how many requests of ours are inside, and whether more may come in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from llmrec.serve.refused import Refused


class Door:
    """Whether new requests come in, and how many of ours are inside."""

    def __init__(self, room: int) -> None:
        """Open, with room for so many requests."""
        self.room, self.inside, self.closed = room, 0, False

    @contextlib.contextmanager
    def let_in(self, requests: int) -> Iterator[None]:
        """Let some in together, for as long as the block lasts.

        Raises:
            Refused: there is no room for them.
        """
        if self.inside and self.inside + requests > self.room:
            raise Refused(429, f"{self.inside} requests are being worked on already: ask again.", Retry_After="1")
        self.inside += requests
        try:
            yield
        finally:
            self.inside -= requests
