"""Routes of both servers, with and without vLLM: handlers, documentation and Prometheus metrics."""

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
from llmrec.serve.lookup import items_page
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

MAX_PAGE = 1000  # items of a page
log = logging.getLogger("vllm.llmrec.serve")  # below vLLM's own logger, which its server has set up

_KEY = HTTPBearer(auto_error=False, description="a key of the server")
_EXAMPLES = {
    "history": {"value": {"history": ["50", "181"], "k": 5}},
    "user": {"value": {"user": "196", "k": 5, "category": {"genres": "Comedy"}}},
    "several": {"value": {"requests": [{"history": ["50"]}, {"user": "196", "deny": ["1"]}]}},
}
_STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "not JSON",
        401: "no key, or a wrong one",
        403: "not the admin's key, for what only the admin may do",
        413: "a body too large",
        415: "a body without the content type of JSON",
        422: "a request that cannot be answered",
        429: "too many requests at once; see Retry-After",
        503: "the server is starting or stopping",
    }.items()
}
PAGES = {"/docs": ("docs.html", "text/html"), "/docs/docs.js": ("docs.js", "text/javascript")}
SCHEMA = "/openapi.json"
DOCUMENTATION = (*PAGES, SCHEMA)
_REPLACED = {*DOCUMENTATION, "/redoc", "/docs/oauth2-redirect"}  # FastAPI's own pages load scripts from other hosts
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Prometheus metrics of one server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register the metrics; in vLLM's server beside its own."""
        self.registry = registry
        by_status = ["route", "status"]
        self.requests = Counter("llmrec_requests", "Responses by route and status.", by_status, registry=registry)
        self.seconds = Histogram(
            "llmrec_request_seconds", "Time of a request by phase.", ["phase"], registry=registry, buckets=_SECONDS
        )
        self.items = Counter("llmrec_items", "Recommended items.", ["ranked_by"], registry=registry)
        invalid = "Items from a recommender that were not allowed and were dropped."
        self.invalid = Counter("llmrec_invalid_items", invalid, registry=registry)
        in_flight = "Requests in flight."
        self.in_flight = Gauge("llmrec_requests_inside", in_flight, registry=registry, multiprocess_mode="livesum")
        in_use = "Items of the catalogue in use, by its hash."
        self.catalogue = Gauge(
            "llmrec_catalogue_items", in_use, ["hash"], registry=registry, multiprocess_mode="livemostrecent"
        )

    def observe(self, answers: list[RecommendResponse], service: RecommendationService) -> None:
        """Count the answers of a service."""
        for answer in answers:
            for phase, milliseconds in answer.timing_ms:
                self.seconds.labels(phase).observe(milliseconds / 1e3)
            self.items.labels(answer.ranked_by).inc(len(answer.items))
        self.invalid.inc(service.take_invalid())

    def set_catalogue(self, catalogue: str, items: int) -> None:
        """Set the active catalogue."""
        self.catalogue.clear()
        self.catalogue.labels(catalogue).set(items)


class Routes:
    """Handlers of the routes; they answer 503 until `open` sets the server's state."""

    def __init__(self, metrics: Metrics, keys: Keys) -> None:
        """Create routes without a state."""
        self.metrics, self.keys = metrics, keys
        self.state: ServerState | None = None

    def open(self, state: ServerState) -> None:
        """Start to serve a run."""
        self.state = state
        self.metrics.in_flight.set_function(lambda: state.limiter.in_flight)
        catalogue = state.service.catalogue
        self.metrics.set_catalogue(catalogue.hash, len(catalogue.item_ids))

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self.state is not None and self.state.limiter.closed

    def attach(self, app: FastAPI) -> None:
        """Add the routes and their documentation to an app, each directly, since vLLM inspects them one by one."""
        _attach_docs(app)
        for path, method, handler, response in (
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
                response_model=response,
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
        """Recommend the next items after a history, or for a user of the run's data; one request, or several."""
        state = self._state()
        request_id: str = request.state.request_id
        is_batch = isinstance(body, BatchRecommendRequest)
        requests = body.requests if isinstance(body, BatchRecommendRequest) else [body]
        if len(requests) > (limit := state.settings.limits.batch):
            raise ApiError(422, f"{len(requests)} requests in one body: send {limit} at most.", "requests")
        with state.limiter.acquire(len(requests)):
            service = await state.current_service()
            answers = await _gather([service.answer(each, request_id) for each in requests], is_batch)
        self.metrics.observe(answers, service)
        content = BatchRecommendResponse(answers=answers) if is_batch else answers[0]
        return Response(content.model_dump_json(), media_type="application/json")

    async def items(
        self,
        start: Annotated[int, Query(ge=0, description="items to skip")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="number of items")] = 100,
        q: Annotated[str, Query(max_length=200, description="only items whose title contains all these words")] = "",
    ) -> Response:
        """List the items of the catalogue, page by page, with all their columns."""
        service = await self._state().current_service()
        page = await asyncio.to_thread(items_page, service.catalogue, start, limit, q)
        return Response(page.model_dump_json(), media_type="application/json")

    async def catalogues(self, request: Request) -> CataloguesResponse:
        """List the active catalogue and all known ones."""
        return await self._state().catalogues(self._admin(request))

    async def switch(self, request: Request, body: SwitchCatalogueRequest) -> CataloguesResponse:
        """Switch to another catalogue; requests in flight finish with the old one. Needs the admin's key."""
        if not self._admin(request):
            raise ApiError(
                403, "a switch needs the admin's key: start the server with LLMREC_ADMIN_KEY, and send that key."
            )
        catalogues = await self._state().switch(body.hash)
        self.metrics.set_catalogue(catalogues.catalogue, catalogues.items)
        log.info("serving the catalogue %s, %d items", catalogues.catalogue, catalogues.items)
        return catalogues

    async def version(self) -> VersionResponse:
        """Return versions, engine, model and catalogue."""
        return await self._state().version()

    def _admin(self, request: Request) -> bool:
        return self.keys.accept(request.headers.get("authorization"), admin=True)

    def _state(self) -> ServerState:
        if self.state is None:
            raise ApiError(503, "the server is starting: ask again in a moment.", Retry_After="5")
        return self.state


async def _gather(answers: list[Coroutine[Any, Any, RecommendResponse]], is_batch: bool) -> list[RecommendResponse]:
    """All answers; the first error, with its index in a batch, is raised for all."""
    results = await asyncio.gather(*answers, return_exceptions=True)
    for index, result in enumerate(results):
        if isinstance(result, ApiError) and is_batch:
            field = f"requests.{index}" + (f".{result.param}" if result.param else "")
            raise ApiError(result.status, str(result), field)
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, RecommendResponse)]


def _route_class(routes: Routes) -> type[APIRoute]:
    """Routes that turn every error into an `ErrorResponse`, whatever error handlers the app has."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                request_id = getattr(request.state, "request_id", "")
                try:
                    await _check_characters(request)
                    response = await handler(request)
                except Exception as error:
                    refusal = _as_api_error(error, request.headers.get("content-type", ""))
                    if refusal.status == 500 and routes.stopping:  # the engine has stopped already
                        refusal = ApiError(503, "the server is stopping: ask again in a moment.", Retry_After="5")
                    elif refusal.status == 500:  # without the message of the error, which may quote a client
                        where = log_redaction.error_location(error)
                        log.error("request %s failed: %s at %s", request_id, type(error).__name__, where)
                    response = refusal.response(request_id)
                return response

            return guarded

    return Route


async def _check_characters(request: Request) -> None:
    """Refuse half of a UTF-16 surrogate pair, which JSON may contain but UTF-8 cannot encode."""
    text = ""
    with contextlib.suppress(ValueError, RecursionError):  # refused later, as it is not JSON
        text = json.dumps(await request.json(), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, "the body has half of a UTF-16 pair, which is no character: send text in UTF-8.") from error


def _as_api_error(error: Exception, content_type: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    locations = (
        {str(detail["loc"][0]) for detail in error.errors()} if isinstance(error, RequestValidationError) else set()
    )
    if locations == {"body"} and "json" not in content_type.lower():
        return ApiError(415, "the body must be JSON: send the header `Content-Type: application/json`.")
    if isinstance(error, RequestValidationError):
        return _from_validation(list(error.errors()))
    if isinstance(error, RequestError):
        return ApiError(422, str(error))
    if isinstance(error, HTTPException):  # FastAPI could not read the body
        return ApiError(400, "the body cannot be read: send a JSON object in UTF-8.")
    return ApiError(500, "the server failed at this request; its log has the error under this request id.")


def _from_validation(errors: list[dict[str, Any]]) -> ApiError:
    """An error of pydantic's validation, without the input, which it quotes."""
    first = errors[0]
    field = ".".join(str(part)[:64] for part in first["loc"] if part not in ("body", "one", "several")) or None
    if first["type"] == "json_invalid":
        return ApiError(400, 'the body is not JSON: send a JSON object, such as {"history": ["50"]}.')
    more = f" ({len(errors) - 1} more such errors)" if len(errors) > 1 else ""
    where = f"`{field}`: " if field else "the body: "
    return ApiError(422, f"{where}{first['msg']}.{more} The fields are documented at /docs.", field)


def _attach_docs(app: FastAPI) -> None:
    """Replace the documentation of FastAPI or vLLM by that of all routes of an app.

    The schema is computed at the first request, so that it contains routes that are added later.
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
    for path, (name, media_type) in PAGES.items():
        _add(app, path, cache((Path(__file__).parent / "page" / name).read_bytes), media_type)


def _add(app: FastAPI, path: str, content: Callable[[], bytes], media_type: str) -> None:
    def route() -> Response:
        return Response(content(), media_type=media_type, headers=_HEADERS)

    app.router.add_api_route(path, route, methods=["GET"], include_in_schema=False)
