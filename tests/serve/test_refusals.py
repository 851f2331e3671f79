"""What is refused, and how: every fault has a status, a reason and a place, and none is ours."""

import asyncio
import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import ADMIN, CLIENT, KEY, MASTER

from llmrec.export import export
from llmrec.serve.access import Keys
from llmrec.serve.app import build
from llmrec.serve.settings import Limits, Settings

LIMITS = Limits(body=20_000, history=100, listed=50, k=20, query=30, batch=4, concurrency=2)


@pytest.fixture(scope="module")
def app(served):
    return build(Settings(run=served.run, limits=LIMITS), Keys(KEY, ADMIN))


def send(app, *requests):
    """The responses of the app in this process, to requests sent at once."""

    async def all_of_them():
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=CLIENT) as client:
            return await asyncio.gather(*(client.request(*one[:2], **one[2]) for one in requests))

    return asyncio.run(all_of_them())


def post(app, content, **more):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"Content-Type": "application/json"}
    return send(app, ("POST", "/v1/recommendations", {"content": body, "headers": headers} | more))[0]


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"", 422, None, "required"),
        (b"{", 400, None, "not JSON"),
        (b"\xff\xfe", 400, None, "JSON"),
        (b"[" * 9_000, 400, None, "JSON"),
        (b'{"history": ["i1"], "k": ' + b"9" * 5_000 + b"}", 400, None, "JSON"),
        (b'{"history": ["i1", "\\ud800"]}', 400, None, "no character"),
        (b'{"history": ["i1"], "\\uDFFF": 1}', 400, None, "no character"),
        (b'{"user": "\\udc00\\ud83d"}', 400, None, "no character"),
        (b'{"user": "\xed\xa0\x80"}', 400, None, "no character"),
        ('{"user": "\\ud800"}'.encode("utf-16"), 400, None, "no character"),
        (b'{"history": ["\\ud83d\\ude00"]}', 422, "history", "\U0001f600"),
        (b'{"history": ["\\ud800"', 400, None, "not JSON"),
        ({}, 422, "history", "either `history` or `user`"),
        ({"history": ["i1"], "user": "u1"}, 422, "history", "either"),
        ([], 422, None, "object"),
        ({"history": "i1"}, 422, "history", "list"),
        ({"history": [1]}, 422, "history.0", "string"),
        ({"history": ["i1"], "k": 0}, 422, "k", "greater than or equal to 1"),
        ({"history": ["i1"], "k": 41}, 422, "k", "at most 20"),
        ({"history": ["i1"], "k": "5"}, 422, "k", "integer"),
        ({"history": ["i1"], "k": True}, 422, "k", "integer"),
        ({"history": ["nobody", "no one"]}, 422, "history", "'nobody', 'no one'"),
        ({"history": ["i1"], "allow": ["nobody"]}, 422, "allow", "'nobody'"),
        ({"history": ["i1"] * 101}, 422, "history", "at most 100 are allowed"),
        ({"history": ["i1"], "deny": ["i1"] * 51}, 422, "deny", "at most 50 are allowed"),
        ({"user": "nobody"}, 422, "user", "no user"),
        ({"history": ["i1"], "query": "sad"}, 422, "query", "not trained with queries"),
        ({"history": ["i1"], "query": "x" * 31}, 422, "query", "30 characters"),
        ({"history": ["i1"], "category": "space opera"}, 422, "category", "no item has this value"),
        ({"history": ["i1"], "category": {"title": "x"}}, 422, "category", "there are 'kind'"),
        ({"history": ["i1"], "category": ""}, 422, "category", "no item has this value"),
        ({"history": ["i1"], "category": " "}, 422, "category", "no item has this value"),
        ({"history": ["i1"], "category": {"kind": ""}}, 422, "category", "no item has this value"),
        ({"history": ["i1"], "category": {}}, 422, "category", "name a column"),
        ({"history": ["i1"], "hstory": []}, 422, "hstory", "not permitted"),
        ({"requests": []}, 422, "requests", "at least 1"),
        ({"requests": [{"history": ["i1"]}] * 5}, 422, "requests", "4 at most"),
        ({"requests": [{"history": ["i1"]}, {"history": ["nobody"]}]}, 422, "requests.1.history", "'nobody'"),
        ({"history": ["i1" * 11] * 1_000}, 413, None, "20000 bytes"),
    ],
)
def test_each_fault_has_a_status_a_place_and_a_reason(app, body, status, param, says):
    response = post(app, body)
    fault = response.json()["error"]
    assert (response.status_code, fault["param"]) == (status, param), fault
    assert says in fault["message"] and fault["code"] == status
    assert fault["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_said_to_be_json_is_told_how(app, kind):
    refused = post(app, {"history": ["i1"]}, headers={"Content-Type": kind})
    assert refused.status_code == 415 and "Content-Type: application/json" in refused.json()["error"]["message"]


def test_a_body_that_hides_its_size_is_refused_when_it_is_too_large(app):
    async def endless():
        for _ in range(1_000):
            yield b" " * 1_000

    refused = send(app, ("POST", "/v1/recommendations", {"content": endless()}))[0]
    assert refused.status_code == 413


def test_a_path_or_method_that_there_is_not_is_refused_like_all_else(app):
    for path, status, says in (("/v1/recommendations", 405, "takes POST"), ("/v1/no", 404, "no such")):
        fault = send(app, ("GET", path, {}))[0].json()["error"]
        assert fault["code"] == status and says in fault["message"]


def test_a_million_items_do_not_get_past_the_gate(app):
    assert post(app, {"history": ["i1"] * 1_000_000}).status_code == 413


@pytest.mark.parametrize("header", [None, "", KEY, "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", "Bearer \xff"])
def test_nothing_but_health_and_the_documentation_is_there_without_the_key(app, header):
    headers = {"Authorization": header.encode("latin-1") if header else ""}
    routes = [("POST", "/v1/recommendations"), ("POST", "/v1/catalogue"), ("GET", "/v1/catalogue"), ("GET", "/metrics")]
    routes += [("GET", "/version"), ("GET", "/v1/items"), ("GET", "/docs/x"), ("GET", "/v1/nothing")]
    for response in send(app, *((*route, {"headers": headers}) for route in routes)):
        assert response.status_code == 401 and response.json()["error"]["type"] == "wrong_key"
    for path in ("/health", "/docs", "/docs/docs.js", "/openapi.json"):
        assert send(app, ("GET", path, {"headers": headers}))[0].status_code == 200


def test_keys_may_be_several_and_an_admin_s_opens_everything():
    keys = Keys("one, two", "chief")
    assert all(keys.accept(f"bearer {key}") for key in ("one", "two", "chief"))
    assert keys.accept("Bearer chief", admin=True) and not keys.accept("Bearer one", admin=True)
    assert not Keys(None, None).accept("Bearer ") and not Keys("", "").accept("Bearer ", admin=True)


def test_more_than_there_is_room_for_are_told_to_come_again(app):
    ask = ("POST", "/v1/recommendations", {"json": {"history": ["i1"]}})
    responses = send(app, *[ask] * 12)
    statuses = [response.status_code for response in responses]
    assert 2 <= statuses.count(200) < 12 and set(statuses) == {200, 429}
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.headers["retry-after"] == "1" and refused.json()["error"]["type"] == "busy"
    assert send(app, ask)[0].status_code == 200


@pytest.mark.parametrize(
    ("headers", "body", "status", "says"),
    [
        (CLIENT, {"hash": "0" * 64}, 403, "admin's key"),
        (MASTER, {"hash": "0" * 64}, 422, "no catalogue '000000000000'"),
        (MASTER, {"hash": "../catalogues/spring"}, 422, "pattern"),
        (MASTER, {"hash": "/etc/passwd"}, 422, "pattern"),
        (MASTER, {"path": "spring"}, 422, "required"),
    ],
)
def test_a_catalogue_is_changed_by_the_admin_and_by_hash_alone(app, headers, body, status, says):
    refused = send(app, ("POST", "/v1/catalogue", {"json": body, "headers": headers}))[0]
    assert refused.status_code == status and says in refused.json()["error"]["message"]


def test_a_failure_of_ours_is_a_500_without_its_words_and_a_stopping_server_says_503(served, caplog):
    app = build(Settings(run=served.run, limits=LIMITS), Keys(KEY, ADMIN))
    routes = next(route for route in app.routes if route.path == "/v1/recommendations").endpoint.__self__
    routes.state.engine._thread.shutdown()  # a dead model
    assert post(app, {"history": ["i1"]}).status_code == 500
    assert "RuntimeError at" in caplog.text and "shutdown" not in caplog.text
    routes.state.limiter.closed = True
    assert post(app, {"history": ["i1"]}).status_code == 503 and send(app, ("GET", "/health", {}))[0].status_code == 200


def test_an_export_is_served_and_knows_no_users(served, tmp_path):
    app = build(Settings(run=export(served.run, tmp_path / "shared")), Keys(KEY, ADMIN))
    answer = post(app, {"history": ["i1"]})
    assert answer.status_code == 200 and answer.json()["model"] == "shared"
    for body, says in (({"user": "u1"}, "without its data"), ({"history": []}, "history is empty")):
        refused = post(app, body)
        assert refused.status_code == 422 and says in refused.json()["error"]["message"]


WORDS = ["i1", "u1", "drama", "kind", "", 1, []]
FIELDS = ["history", "user", "k", "allow", "deny", "requests", "category", "query", "exclude_seen", "kind"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_is_answered_or_refused_and_never_breaks_the_server(app, body):
    response = post(app, body)
    assert response.status_code in (200, 400, 422), response.text
    assert ("items" in response.text) if response.status_code == 200 else response.json()["error"]["message"]
