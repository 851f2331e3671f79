"""Errors reach the log without the words of their messages, which may be a client's."""

import logging

import pytest

from llmrec.serve.log_redaction import ErrorRedactor, error_location

SECRET = "my-diary-says"


@pytest.fixture
def said():
    """Logs something as a logger of that name and gives the line that a handler with the filter writes."""

    def log(name, *words, level=logging.ERROR, error=None):
        record = logging.getLogger(name).makeRecord(name, level, __file__, 7, words[0], words[1:], error)
        assert ErrorRedactor().filter(record)
        return logging.Formatter().format(record)

    return log


def test_an_error_of_a_request_is_logged_by_kind_and_place(said):
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        found, where = (
            said("uvicorn.error", "Exception in ASGI application", error=(KeyError, error, None)),
            error_location(error),
        )
        mine = said("vllm.entrypoints.openai.chat", f"no {SECRET}", error=(KeyError, error, error.__traceback__))
    assert where.startswith(__file__) and found == mine == f"KeyError at {where}, logged at {__file__}:7"
    assert said("vllm.entrypoints.openai.chat", "Error with model %s", SECRET) == f"an error, logged at {__file__}:7"


def test_the_address_of_a_websocket_is_not_logged():
    record = logging.getLogger("uvicorn.error").makeRecord(
        "uvicorn.error", logging.INFO, __file__, 7, '%s - "WebSocket %s" 403', ("here", f"/{SECRET}"), None
    )
    assert not ErrorRedactor().filter(record)


def test_all_else_is_logged_as_it_is(said):
    assert said("uvicorn.error", "port %d is taken", 80) == "port 80 is taken"
    assert said("vllm.entrypoints.openai.api_server", "options: %s", "x", level=logging.INFO) == "options: x"
    assert said("vllm.v1.engine.core", "EngineCore failed: %s", "no room") == "EngineCore failed: no room"
