"""Errors in the log by kind and place alone: their messages, vLLM's too, quote what a client sent."""

from __future__ import annotations

import logging

SOURCES = ("vllm.entrypoints.", "uvicorn.error", "asyncio")  # loggers of what handles requests
HANDLED = ("vllm", "uvicorn", "uvicorn.error", "asyncio")  # loggers whose handlers write that


class Unquoted(logging.Filter):
    """Takes the words out of an error."""

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


def install() -> None:
    """Take the words out of errors from now on; VLLM_LOGGING_LEVEL=DEBUG leaves them in."""
    if logging.getLogger("vllm").isEnabledFor(logging.DEBUG):
        return
    words = Unquoted()
    for name in HANDLED:
        for keeper in (logging.getLogger(name), *logging.getLogger(name).handlers):
            keeper.addFilter(words)


def place(error: BaseException) -> str:
    """File and line that an error was raised at."""
    found, trace = "?", error.__traceback__
    while trace is not None:
        found, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    return found
