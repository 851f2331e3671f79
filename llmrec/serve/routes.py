"""The routes, for vLLM's server and for our own, with their documentation and their metrics for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException

from llmrec.errors import RequestError
from llmrec.serve import log_redaction
from llmrec.serve.access import Keys
from llmrec.serve.lookup import page
from llmrec.serve.schemas import (
    ApiError,
    BatchRecommendRequest,
    BatchRecommendResponse,
    CataloguesResponse,
    ErrorResponse,
    ItemsResponse,
    RecommendBody,
    RecommendResponse,
    SwitchCatalogueRequest,
    VersionResponse,
)
from llmrec.serve.service import RecommendationService
from llmrec.serve.state import ServerState

PAGE = 1000  # items of a page at most
log = logging.getLogger("vllm.llmrec.serve")  # below vLLM's own logger, which its server has set up

_KEY = HTTPBearer(auto_error=False, description="a key of the server's")
_EXAMPLES = {
    "history": {"value": {"history": ["50", "181"], "k": 5}},
    "user": {"value": {"user": "196", "k": 5, "category": {"genres": "Comedy"}}},
    "several": {"value": {"requests": [{"history": ["50"]}, {"user": "196", "deny": ["1"]}]}},
}
_STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": what}
    for status, what in {
        400: "not JSON",
        401: "no key, or a wrong one",
        403: "not the admin's key, for what only the admin may do",
        413: "a body too large",
        415: "a body that is not said to be JSON",
        422: "a request that cannot be answered as it is",
        429: "too many at once; see Retry-After",
        503: "the server is starting or stopping",
    }.items()
}
PARTS = {"/docs": ("docs.html", "text/html"), "/docs/docs.js": ("docs.js", "text/javascript")}
SCHEMA = "/openapi.json"
DOCUMENTATION = (*PARTS, SCHEMA)
_REPLACED = {*DOCUMENTATION, "/redoc", "/docs/oauth2-redirect"}  # FastAPI's own pages load scripts from other hosts
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Make them; in vLLM's server they join its own."""
        self.registry = registry
        by_status = ["route", "status"]
        self.requests = Counter("llmrec_requests", "Responses by route and status.", by_status, registry=registry)
        self.seconds = Histogram(
            "llmrec_request_seconds", "Time of a request by phase.", ["phase"], registry=registry, buckets=_SECONDS
        )
        self.items = Counter("llmrec_items", "Items given.", ["ranked_by"], registry=registry)
        invalid = "Items that a recommender gave and that were no allowed ones."
        self.invalid = Counter("llmrec_invalid_items", invalid, registry=registry)
        in_flight = "Requests that wait or are worked on."
        self.in_flight = Gauge("llmrec_requests_inside", in_flight, registry=registry, multiprocess_mode="livesum")
        in_use = "Items of the catalogue in use, by its hash."
        self.catalogue = Gauge(
            "llmrec_catalogue_items", in_use, ["hash"], registry=registry, multiprocess_mode="livemostrecent"
        )

    def answered(self, answers: list[RecommendResponse], service: RecommendationService) -> None:
        """Count the answers that a service gave."""
        for answer in answers:
            for phase, milliseconds in answer.timing_ms:
                self.seconds.labels(phase).observe(milliseconds / 1e3)
            self.items.labels(answer.ranked_by).inc(len(answer.items))
        self.invalid.inc(service.take_invalid())

    def serving(self, catalogue: str, items: int) -> None:
        """Set the catalogue in use in place of the last one."""
        self.catalogue.clear()
        self.catalogue.labels(catalogue).set(items)


class Routes:
    """Handlers; the server's state comes when the engine is there."""

    def __init__(self, metrics: Metrics, keys: Keys) -> None:
        """Serve nothing yet."""
        self.metrics, self.keys = metrics, keys
        self.state: ServerState | None = None

    def open(self, state: ServerState) -> None:
        """Serve a run that is opened."""
        self.state = state
        self.metrics.in_flight.set_function(lambda: state.limiter.in_flight)
        catalogue = state.service.catalogue
        self.metrics.serving(catalogue.hash, len(catalogue.item_ids))

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self.state is not None and self.state.limiter.closed

    def attach(self, app: FastAPI) -> None:
        """Add the routes and their documentation to an app, each on its own: vLLM looks at them one by one."""
        _attach_docs(app)
        for path, method, handler, answer in (
            ("/v1/recommendations", "POST", self.recommend, RecommendResponse | BatchRecommendResponse),
            ("/v1/items", "GET", self.items, ItemsResponse),
            ("/v1/catalogue", "GET", self.catalogues, CataloguesResponse),
            ("/v1/catalogue", "POST", self.switch, CataloguesResponse),
            ("/version", "GET", self.version, VersionResponse),
        ):
            app.router.add_api_route(
                path,
                handler,
                methods=[method],
                response_model=answer,
                responses=_STATUSES,
                dependencies=[Depends(_KEY)],
                tags=["recommendations"],
                route_class_override=_route_class(self),
            )

    async def recommend(
        self,
        request: Request,
        body: Annotated[RecommendBody, Body(openapi_examples=_EXAMPLES)],  # type: ignore[arg-type]
    ) -> Response:
        """The likeliest next items after a history, or for a user of the run's data; one request, or several."""
        state = self._open()
        request_id: str = request.state.request_id
        asks = body.requests if isinstance(body, BatchRecommendRequest) else [body]
        if len(asks) > state.settings.limits.batch:
            raise ApiError(
                422, f"{len(asks)} requests in one body: send {state.settings.limits.batch} at most.", "requests"
            )
        with state.limiter.acquire(len(asks)):
            service = await state.now()
            answers = await _every(
                [service.answer(ask, request_id) for ask in asks], isinstance(body, BatchRecommendRequest)
            )
        self.metrics.answered(answers, service)
        given = BatchRecommendResponse(answers=answers) if isinstance(body, BatchRecommendRequest) else answers[0]
        return Response(given.model_dump_json(), media_type="application/json")

    async def items(
        self,
        start: Annotated[int, Query(ge=0, description="items to pass over")] = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE, description="items wanted")] = 100,
        q: Annotated[str, Query(max_length=200, description="only titles that have all these words in them")] = "",
    ) -> Response:
        """The items of the catalogue, page by page, with all their columns."""
        service = await self._open().now()
        found = await asyncio.to_thread(page, service.catalogue, start, limit, q)
        return Response(found.model_dump_json(), media_type="application/json")

    async def catalogues(self, request: Request) -> CataloguesResponse:
        """The catalogue in use, and those that are known."""
        return await self._open().catalogues(self._admin(request))

    async def switch(self, request: Request, body: SwitchCatalogueRequest) -> CataloguesResponse:
        """Give items of another catalogue; requests in flight finish on theirs. Needs the admin's key."""
        if not self._admin(request):
            raise ApiError(
                403, "only the admin's key changes the catalogue: start the server with LLMREC_ADMIN_KEY, and show it."
            )
        now = await self._open().switch(body.hash)
        self.metrics.serving(now.catalogue, now.items)
        log.info("serving the catalogue %s, %d items", now.catalogue, now.items)
        return now

    async def version(self) -> VersionResponse:
        """What is running."""
        return await self._open().version()

    def _admin(self, request: Request) -> bool:
        return self.keys.opens(request.headers.get("authorization"), admin=True)

    def _open(self) -> ServerState:
        if self.state is None:
            raise ApiError(503, "the server is starting: ask again in a moment.", Retry_After="5")
        return self.state


async def _every(answers: list[Coroutine[Any, Any, RecommendResponse]], several: bool) -> list[RecommendResponse]:
    """All answers; the first refusal, with its place among several, refuses all."""
    found = await asyncio.gather(*answers, return_exceptions=True)
    for place, one in enumerate(found):
        if isinstance(one, ApiError) and several:
            raise ApiError(one.status, str(one), f"requests.{place}" + (f".{one.param}" if one.param else ""))
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, RecommendResponse)]


def _route_class(routes: Routes) -> type[APIRoute]:
    """Routes whose every error is a `ErrorResponse`, whatever handlers the app around them has."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                request_id = getattr(request.state, "request_id", "")
                try:
                    await _check_characters(request)
                    response = await handler(request)
                except Exception as error:
                    refused = _refusal(error, request.headers.get("content-type", ""))
                    if refused.status == 500 and routes.stopping:  # the engine went first
                        refused = ApiError(503, "the server is stopping: ask again in a moment.", Retry_After="5")
                    elif refused.status == 500:
                        _log(request_id, error)
                    response = refused.response(request_id)
                return response

            return guarded

    return Route


async def _check_characters(request: Request) -> None:
    """Refuse half a UTF-16 pair: JSON may write one, but it is no character, and no answer could repeat it."""
    text = ""
    with contextlib.suppress(ValueError, RecursionError):  # what is not JSON is refused further in
        text = json.dumps(await request.json(), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, "the body has half of a UTF-16 pair, which is no character: send text in UTF-8.") from error


def _refusal(error: Exception, content_type: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    about = {str(one["loc"][0]) for one in error.errors()} if isinstance(error, RequestValidationError) else set()
    if about == {"body"} and "json" not in content_type.lower():
        return ApiError(415, "say that the body is JSON: send the header `Content-Type: application/json`.")
    if isinstance(error, RequestValidationError):
        return _from_errors(list(error.errors()))
    if isinstance(error, RequestError):
        return ApiError(422, str(error))
    if isinstance(error, HTTPException):  # FastAPI could not even read the body
        return ApiError(400, "the body cannot be read: send a JSON object in UTF-8.")
    return ApiError(500, "the server failed at this request; its log has the place under this request id.")


def _from_errors(errors: list[dict[str, Any]]) -> ApiError:
    """A refusal from what pydantic found, without the input that it found it in."""
    first = errors[0]
    place = ".".join(str(part)[:64] for part in first["loc"] if part not in ("body", "one", "several")) or None
    if first["type"] == "json_invalid":
        return ApiError(400, 'the body is not JSON: send a JSON object, such as {"history": ["50"]}.')
    more = f" ({len(errors) - 1} more such faults)" if len(errors) > 1 else ""
    where = f"`{place}`: " if place else "the body: "
    return ApiError(422, f"{where}{first['msg']}.{more} The fields are documented at /docs.", place)


def _log(request_id: str, error: Exception) -> None:
    """Kind and place of an error, without its message, which may quote a client."""
    log.error("request %s failed: %s at %s", request_id, type(error).__name__, log_redaction.place(error))


def _attach_docs(app: FastAPI) -> None:
    """Add the documentation of an app's routes to it, in place of what FastAPI or vLLM has there.

    The schema is made when it is first asked for, so that routes that are added later are in it, and kept.
    """
    if app.openapi_url is None:  # vLLM's --disable-fastapi-docs
        return
    app.router.routes[:] = [route for route in app.routes if getattr(route, "path", "") not in _REPLACED]

    @cache
    def schema() -> bytes:
        if app.root_path and not app.servers:
            app.servers = [{"url": app.root_path}]
        return json.dumps(app.openapi()).encode()

    _add(app, SCHEMA, schema, "application/json")
    for path, (name, kind) in PARTS.items():
        _add(app, path, cache((Path(__file__).parent / "page" / name).read_bytes), kind)


def _add(app: FastAPI, path: str, content: Callable[[], bytes], kind: str) -> None:
    def route() -> Response:
        return Response(content(), media_type=kind, headers=_HEADERS)

    app.router.add_api_route(path, route, methods=["GET"], include_in_schema=False)
