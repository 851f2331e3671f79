"""The middleware before every route: framing, bodies that do not come, and what is counted."""

import asyncio

import httpx
import pytest
from prometheus_client import CollectorRegistry
from serving import ADMIN, CLIENT, KEY
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llmrec.serve.access import Keys
from llmrec.serve.app import build
from llmrec.serve.auth import AuthMiddleware
from llmrec.serve.routes import Metrics
from llmrec.serve.settings import Limits, Settings
from llmrec.serve.state import ConcurrencyLimiter


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry())


@pytest.fixture
def read():
    """Bodies that the route was given."""
    return []


@pytest.fixture
def app(metrics, read):
    async def route(request):
        read.append(await request.body())
        return PlainTextResponse("done")

    paths = ("/v1/take/{name}", "/steer")
    app = Starlette(routes=[Route(path, route, methods=["GET", "POST"]) for path in paths])
    limits = Limits(body=100, read_timeout=0.1)
    app.add_middleware(
        AuthMiddleware, keys=Keys(KEY, ADMIN), limits=limits, limiter=ConcurrencyLimiter(1), metrics=metrics
    )
    return app


def ask(app, headers, *messages, path="/v1/take/x"):
    """The status and headers of the answer to a request whose body comes in these ASGI messages, and then nothing."""
    sent, rest = [], list(messages)

    async def receive():
        return rest.pop(0) if rest else await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    known = {"authorization": f"Bearer {KEY}"} | headers
    raw = [(name.encode(), value.encode("latin-1")) for name, value in known.items() if value is not None]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": raw, "root_path": ""}
    asyncio.run(app(scope | {"http_version": "1.1", "scheme": "http", "client": None, "server": None}, receive, send))
    return (sent[0]["status"], dict(sent[0]["headers"])) if sent else (None, {})


def part(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_that_does_not_come_is_refused_in_time(app, read):
    for headers in ({"content-length": "50"}, {"transfer-encoding": "chunked"}):
        status, answer = ask(app, headers, part(b"half"))
        assert status == 408 and answer[b"connection"] == b"close" and not read


def test_a_request_whose_client_goes_before_its_end_reaches_no_route(app, read):
    assert ask(app, {"content-length": "50"}, part(b"[]"), {"type": "http.disconnect"}) == (None, {})
    assert not read


def test_the_body_of_every_route_is_bounded(app, read):
    for headers in ({"content-length": "101"}, {"content-length": "9" * 15}, {"transfer-encoding": "chunked"}):
        assert ask(app, headers, part(b" " * 60), part(b" " * 60))[0] == 413
    assert ask(app, {"content-length": "100"}, part(b" " * 60), part(b" " * 40, False))[0] == 200
    assert read == [b" " * 100]


@pytest.mark.parametrize("length", ["9" * 5_000, "\xb2", "-1", "+5", "5, 5", "0x5", ""])
def test_a_length_that_is_no_number_is_refused(app, read, length):
    assert ask(app, {"content-length": length}, part(b"12345", False))[0] == 400 and not read


def test_a_request_of_two_lengths_is_refused_and_its_connection_closed(app, read):
    status, answer = ask(app, {"content-length": "5", "transfer-encoding": "chunked"}, part(b"12345", False))
    assert status == 400 and answer[b"connection"] == b"close" and not read


def test_routes_that_steer_the_server_want_the_key_of_the_admin(app, read):
    for key, status in (("", 401), (KEY, 403), (ADMIN, 200)):
        assert ask(app, {"authorization": f"Bearer {key}"}, part(b"", False), path="/steer")[0] == status
    assert len(read) == 1 and ask(app, {}, path="/nothing")[0] == 404


def test_every_refusal_is_counted_by_route_and_all_unknown_paths_are_one(app, metrics):
    for path in ("/v1/take/a", "/v1/take/b", "/x", "/y/z"):
        assert ask(app, {"authorization": "Bearer wrong"}, path=path)[0] == 401
    ask(app, {"content-length": "101"}, path="/v1/take/c")
    ask(app, {}, path="/nothing")
    found = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in metrics.requests.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    wanted = {("/v1/take/{name}", "401"): 2, ("other", "401"): 2, ("/v1/take/{name}", "413"): 1, ("other", "404"): 1}
    assert found == wanted


def test_a_server_without_a_key_answers_no_page_of_another_site(served):
    app = build(Settings(run=served.run, without_key=True), Keys(None, ADMIN))

    async def scene():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            own = await client.get("/v1/items")
            rebound = await client.get("/v1/items", headers={"Host": "evil.example"})
            foreign = await client.get("/v1/items", headers={"Origin": "http://evil.example"})
            counted = await client.get("/metrics")
            return own, rebound, foreign, counted

    own, rebound, foreign, counted = asyncio.run(scene())
    assert (own.status_code, rebound.status_code, foreign.status_code) == (200, 421, 403)
    assert rebound.json()["error"]["request_id"] == rebound.headers["x-request-id"]
    assert 'llmrec_requests_total{route="/v1/items",status="421"} 1.0' in counted.text


def test_a_server_with_a_key_answers_under_any_name(served):
    app = build(Settings(run=served.run), Keys(KEY, ADMIN))

    async def scene():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://films.example") as client:
            return await client.get("/v1/items", headers=CLIENT)

    assert asyncio.run(scene()).status_code == 200
