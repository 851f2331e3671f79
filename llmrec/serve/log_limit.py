"""At most one line a minute of each kind in the log, for messages that clients can cause as often as they like."""

from __future__ import annotations

import asyncio
import logging
import time

LOGGERS = ("uvicorn.error", "asyncio", "vllm.llmrec.serve.connections", "vllm.llmrec.catalogues")
_KINDS = 100  # messages that are remembered


class LogLimit(logging.Filter):
    """Drops a record whose message was logged less than a minute ago; the next one says how many were dropped."""

    def __init__(self, seconds: float = 60.0) -> None:
        """Make a filter.

        Args:
            seconds: between two records of a kind.
        """
        super().__init__()
        self.seconds = seconds
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # kind -> when it was logged, how many were dropped

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record; kinds are logger and first line, before arguments are put into it."""
        if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
            return False  # a request that was still answered when the server stopped
        kind, now = (record.name, str(record.msg).partition("\n")[0]), time.monotonic()
        logged, dropped = self._seen.get(kind, (-self.seconds, 0))
        if now - logged < self.seconds:
            self._seen[kind] = logged, dropped + 1
            return False
        if len(self._seen) >= _KINDS:
            self._seen.clear()
        self._seen[kind] = now, 0
        if dropped:
            record.msg = f"{record.msg} (and {dropped} times more since the last such line)"
        return True


def install() -> None:
    """Limit the loggers of what handles connections, from now on."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, LogLimit) for one in logger.filters):
            logger.addFilter(LogLimit())
