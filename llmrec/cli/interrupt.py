"""Ctrl-C that cannot get lost.

Python drops a KeyboardInterrupt that happens to be raised inside a finalizer or a callback of a C library, and a run
would then go on. The handler remembers it, so that the next sign of progress raises it again.
"""

from __future__ import annotations

import signal
from types import FrameType

_asked = False


def watch() -> None:
    """Install the handler."""
    signal.signal(signal.SIGINT, _handle)


def check() -> None:
    """Raise an interrupt that came and was dropped on its way.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if _asked:
        raise KeyboardInterrupt


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt
