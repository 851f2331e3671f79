"""Refusals: an HTTP status, a reason that a person can act on, and of the client's own text no more than names."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from llmrec.errors import LlmrecError

KINDS = {
    400: "malformed_request",
    401: "wrong_key",
    403: "not_allowed",
    404: "not_found",
    405: "not_found",
    408: "too_slow",
    413: "too_large",
    415: "not_json",
    421: "wrong_host",
    422: "bad_request",
    429: "busy",
    500: "server_error",
    503: "stopping",
}


class Refused(LlmrecError):
    """A request that is not answered."""

    def __init__(self, status: int, message: str, param: str | None = None, **headers: str) -> None:
        """Say why.

        Args:
            status: of HTTP; one of `KINDS`.
            message: what is wrong, and what to send instead.
            param: the field of the request that it is about.
            headers: of the response, underscores for hyphens.
        """
        super().__init__(message)
        self.status, self.param = status, param
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self, request_id: str) -> JSONResponse:
        """The response to send."""
        return JSONResponse(self.body(request_id), self.status, self.headers)

    def body(self, request_id: str) -> dict[str, Any]:
        """As `shapes.Refusal`."""
        fault = {"message": str(self), "type": KINDS[self.status], "param": self.param, "code": self.status}
        return {"error": {**fault, "request_id": request_id}}


def from_errors(errors: list[dict[str, Any]]) -> Refused:
    """A refusal from what pydantic found, without the input that it found it in."""
    first = errors[0]
    place = ".".join(str(part)[:64] for part in first["loc"] if part not in ("body", "one", "several")) or None
    if first["type"] == "json_invalid":
        return Refused(400, 'the body is not JSON: send a JSON object, such as {"history": ["50"]}.')
    more = f" ({len(errors) - 1} more such faults)" if len(errors) > 1 else ""
    where = f"`{place}`: " if place else "the body: "
    return Refused(422, f"{where}{first['msg']}.{more} The fields are documented at /docs.", place)
