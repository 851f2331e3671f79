"""Filters for the log: repeated messages at most once a minute, and errors without what a client sent."""

from __future__ import annotations

import asyncio
import logging
import time

LIMITED = ("uvicorn.error", "asyncio", "vllm.llmrec.serve.connections", "vllm.llmrec.catalogues")
SOURCES = ("vllm.entrypoints.", "uvicorn.error", "asyncio")  # loggers of request handlers
HANDLED = ("vllm", "uvicorn", "uvicorn.error", "asyncio")  # loggers whose handlers write their records
_KINDS = 100  # messages that are remembered


def redact_errors() -> None:
    """Remove the messages of errors from the log; not with VLLM_LOGGING_LEVEL=DEBUG."""
    if logging.getLogger("vllm").isEnabledFor(logging.DEBUG):
        return
    redactor = ErrorRedactor()
    for name in HANDLED:
        for target in (logging.getLogger(name), *logging.getLogger(name).handlers):
            target.addFilter(redactor)


def limit_repeats() -> None:
    """Limit the loggers of connections, since clients can cause messages as often as they like."""
    for name in LIMITED:
        logger = logging.getLogger(name)
        if not any(isinstance(each, RepeatLimit) for each in logger.filters):
            logger.addFilter(RepeatLimit())


class RepeatLimit(logging.Filter):
    """Drop a record whose message was logged less than a minute ago; the next one has the number of dropped ones."""

    def __init__(self, seconds: float = 60.0) -> None:
        """Allow one record of a kind per so many seconds."""
        super().__init__()
        self.seconds = seconds
        self._last: dict[tuple[str, str], tuple[float, int]] = {}  # kind → time of the last record, dropped since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record; its kind is the logger and the first line, before arguments are formatted."""
        if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
            return False  # a request that was cancelled when the server stopped
        kind, now = (record.name, str(record.msg).partition("\n")[0]), time.monotonic()
        logged, dropped = self._last.get(kind, (-self.seconds, 0))
        if now - logged < self.seconds:
            self._last[kind] = logged, dropped + 1
            return False
        if len(self._last) >= _KINDS:
            self._last.clear()
        self._last[kind] = now, 0
        if dropped:
            record.msg = f"{record.msg} (and {dropped} times more since the last such line)"
        return True


class ErrorRedactor(logging.Filter):
    """Reduce errors of requests to their type and place: messages, also vLLM's, quote what a client sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record of an error, which is still logged. Drop addresses of websockets."""
        if record.name == "uvicorn.error" and '"WebSocket %s"' in str(record.msg):  # also without an access log
            return False
        error = record.exc_info[1] if record.exc_info else None
        of_request = record.levelno >= logging.ERROR and record.name.startswith(SOURCES)
        if of_request and (error is not None or record.name.startswith(SOURCES[0])):  # else a message of uvicorn's own
            summary = f"{type(error).__name__} at {error_location(error)}" if error else "an error"
            record.msg = f"{summary}, logged at {record.pathname}:{record.lineno}"
            record.args, record.exc_info, record.exc_text = None, None, None
        return True


def error_location(error: BaseException) -> str:
    """File and line where an error was raised."""
    location, trace = "?", error.__traceback__
    while trace is not None:
        location, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    return location
