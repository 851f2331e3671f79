"""What the log keeps of clients: at most a line a minute of each kind, and errors without what a client sent."""

from __future__ import annotations

import asyncio
import logging
import time

LIMITED = ("uvicorn.error", "asyncio", "vllm.llmrec.serve.connections", "vllm.llmrec.catalogues")
SOURCES = ("vllm.entrypoints.", "uvicorn.error", "asyncio")  # loggers of what handles requests
HANDLED = ("vllm", "uvicorn", "uvicorn.error", "asyncio")  # loggers whose handlers write that
_KINDS = 100  # messages that are remembered


def redact_errors() -> None:
    """Take the words out of errors from now on; VLLM_LOGGING_LEVEL=DEBUG leaves them in."""
    if logging.getLogger("vllm").isEnabledFor(logging.DEBUG):
        return
    words = ErrorRedactor()
    for name in HANDLED:
        for keeper in (logging.getLogger(name), *logging.getLogger(name).handlers):
            keeper.addFilter(words)


def limit_repeats() -> None:
    """Limit the loggers of what handles connections, from now on: clients can cause messages as often as they like."""
    for name in LIMITED:
        logger = logging.getLogger(name)
        if not any(isinstance(one, RepeatLimit) for one in logger.filters):
            logger.addFilter(RepeatLimit())


class RepeatLimit(logging.Filter):
    """Drops a record whose message was logged less than a minute ago; the next one says how many were dropped."""

    def __init__(self, seconds: float = 60.0) -> None:
        """Let one record of a kind through in so many seconds."""
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


class ErrorRedactor(logging.Filter):
    """Leaves of an error its kind and place: messages, vLLM's too, quote what a client sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record of an error of a request; it is logged all the same. Drop an address of a websocket."""
        if record.name == "uvicorn.error" and '"WebSocket %s"' in str(record.msg):  # whatever the access log's setting
            return False
        error = record.exc_info[1] if record.exc_info else None
        ours = record.levelno >= logging.ERROR and record.name.startswith(SOURCES)
        if ours and (error is not None or record.name.startswith(SOURCES[0])):  # else uvicorn's own words
            what = f"{type(error).__name__} at {place(error)}" if error else "an error"
            record.msg = f"{what}, said at {record.pathname}:{record.lineno}"
            record.args, record.exc_info, record.exc_text = None, None, None
        return True


def place(error: BaseException) -> str:
    """File and line that an error was raised at."""
    found, trace = "?", error.__traceback__
    while trace is not None:
        found, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    return found
