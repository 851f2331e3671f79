"""What is answered: the same items as a recommender gives, whoever else asks, in plain HTTP with real clients."""

import asyncio
import json
import shutil
import subprocess

import httpx
import numpy as np
import pytest
from serving import CLIENT, KEY

import llmrec
from llmrec.data.dataset import Dataset

pytestmark = pytest.mark.filterwarnings("ignore:the filters leave:UserWarning")  # of the recommender
HISTORIES = [["i1", "i5"], ["i3"], ["i39", "i0", "i1"], [f"i{number}" for number in range(30)]]


@pytest.fixture(scope="module")
def recommender(served):
    return llmrec.load(served.run)


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=address, headers=CLIENT) as client:
        yield client


def ask(client, **body):
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def pairs(answer):
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def assert_same(ours, truth):
    assert [item for item, _ in ours] == [item for item, _ in truth]
    np.testing.assert_allclose([score for _, score in ours], [score for _, score in truth], rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 40}, {"exclude_seen": False}, {"deny": ["i2", "i6"], "k": 3}, {"allow": ["i2", "i4", "i6", "i8"]}],
    ids=["plain", "every item", "seen", "deny", "allow"],
)
def test_a_server_gives_what_the_recommender_gives(client, recommender, options):
    for history in HISTORIES:
        answer = ask(client, history=history, **options)
        assert_same(pairs(answer), recommender.recommend(history, **options))
        shares = [item["share"] for item in answer["items"]]
        assert sum(shares) == pytest.approx(float(bool(shares))) and answer["ranked_by"] == "model"
        titles = recommender.catalogue.titles
        assert all(one["title"] == titles[recommender.catalogue.item_number[one["item_id"]]] for one in answer["items"])


def test_a_category_is_the_items_that_have_it(client, recommender):
    kinds = dict(zip(recommender.catalogue.item_ids, recommender.catalogue.items["kind"].to_pylist(), strict=True))
    westerns = [item for item, kind in kinds.items() if kind == "western"]
    truth = recommender.recommend(["i1"], k=20, allow=westerns)
    for category in ("western", "Western ", {"kind": "western"}):
        answer = ask(client, history=["i1"], k=20, category=category)
        assert_same(pairs(answer), truth)
        assert answer["notes"] == [f"the filters leave {len(westerns)} of the 20 items asked for"]
    both = ask(client, history=["i1"], category="western", allow=[*westerns[:2], "i1"])
    assert {item["item_id"] for item in both["items"]} == set(westerns[:2])


def test_a_user_of_the_run_is_their_history(client, served):
    data = Dataset.load(served.run / "data")
    user = data.user_ids[3]
    history = [data.item_ids[item] for item in data.histories[3]]
    mine, theirs = ask(client, user=user), ask(client, history=history)
    assert [item["item_id"] for item in mine["items"]] == [item["item_id"] for item in theirs["items"]]
    assert not {item["item_id"] for item in mine["items"]} & set(history)


def test_who_has_no_history_gets_what_most_users_have_and_is_told_so(client, served):
    data = Dataset.load(served.run / "data")
    train = data.before("valid")
    users = np.array([sum(item in set(row.tolist()) for row in train) for item in range(data.n_items)])
    answer = ask(client, history=[], k=5, deny=["i0"])
    counts = [users[data.item_ids.index(item["item_id"])] for item in answer["items"]]
    rest = np.delete(users, data.item_ids.index("i0"))
    assert counts == sorted(rest.tolist(), reverse=True)[:5]
    assert answer["ranked_by"] == "popularity" and "most users have" in answer["notes"][0]
    np.testing.assert_allclose([one["score"] for one in answer["items"]], np.log(np.array(counts) / users.sum()))


def test_unknown_items_are_listed_and_left_out(client, recommender):
    answer = ask(client, history=["i1", "nobody", "i5"], deny=["no one", "i2"], allow=None)
    assert answer["unknown"] == ["nobody", "no one"]
    assert_same(pairs(answer), recommender.recommend(["i1", "i5"], deny=["i2"]))


def test_filters_that_leave_nothing_give_nothing_and_say_so(client):
    answer = ask(client, history=["i1"], allow=["i1"])
    assert answer["items"] == [] and answer["notes"] == ["the filters leave 0 of the 10 items asked for"]


def test_many_at_once_get_what_each_gets_alone(address, client):
    draw = np.random.default_rng(0)
    bodies = [
        {"history": [f"i{item}" for item in draw.integers(0, 40, draw.integers(1, 12))], "k": int(draw.integers(1, 40))}
        for _ in range(48)
    ]
    alone = [ask(client, **body) for body in bodies]

    async def together():
        async with httpx.AsyncClient(base_url=address, headers=CLIENT, timeout=30) as many:
            return await asyncio.gather(*(many.post("/v1/recommendations", json=body) for body in bodies))

    several = client.post("/v1/recommendations", json={"requests": bodies}).json()["answers"]
    for one, response, other in zip(alone, asyncio.run(together()), several, strict=True):
        assert_same(pairs(response.json()), pairs(one))
        assert_same(pairs(other), pairs(one))


def test_an_answer_names_its_request_model_catalogue_and_time(client, served):
    response = client.post("/v1/recommendations", json={"history": ["i1"]}, headers={"X-Request-Id": "mine-1"})
    answer = response.json()
    assert response.headers["x-request-id"] == answer["request_id"] == "mine-1"
    assert (answer["model"], answer["catalogue"]) == ("films", served.first)
    timing = answer["timing_ms"]
    assert timing["total"] >= timing["prepared"] + timing["waited"] + timing["ranked"] - 0.01
    for hostile in ("a" * 65, "a b", "<x>"):
        response = client.post("/v1/recommendations", json={"history": ["i1"]}, headers={"X-Request-Id": hostile})
        assert response.headers["x-request-id"] not in (hostile, "mine-1")


def test_curl_is_a_client(address, recommender):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    body = '{"history": ["i1", "i5"], "k": 3}'
    words = ["curl", "-sS", "-H", f"Authorization: Bearer {KEY}", "-d", body, f"{address}/v1/recommendations"]
    command = [*words, "-H", "Content-Type: application/json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert_same(pairs(json.loads(done.stdout)), recommender.recommend(["i1", "i5"], k=3))
    chunked = subprocess.run([*command, "-H", "Transfer-Encoding: chunked"], capture_output=True, text=True, check=True)
    assert pairs(json.loads(chunked.stdout)) == pairs(json.loads(done.stdout))


def test_the_openai_package_is_a_client_and_raises_its_own_errors(address, recommender):
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
    answer = client.post("/recommendations", body={"history": ["i1"], "k": 3}, cast_to=dict)
    assert_same(pairs(answer), recommender.recommend(["i1"], k=3))
    with pytest.raises(openai.UnprocessableEntityError, match="k is 99") as refused:
        client.post("/recommendations", body={"history": ["i1"], "k": 99}, cast_to=dict)
    assert refused.value.param == "k" and refused.value.type == "bad_request"
    with pytest.raises(openai.AuthenticationError, match="send the server's key"):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong").post("/recommendations", body={}, cast_to=dict)
    with pytest.raises(openai.NotFoundError, match="--engine vllm"):
        client.completions.create(model="films", prompt="x")


def test_openapi_documents_every_route_and_field(client):
    spec = client.get("/openapi.json").json()
    assert {"/v1/recommendations", "/v1/catalogue", "/version", "/health", "/metrics"} <= set(spec["paths"])
    route = spec["paths"]["/v1/recommendations"]["post"]
    assert {"200", "400", "401", "413", "422", "429", "503"} <= set(route["responses"])
    scheme = spec["components"]["securitySchemes"][next(iter(route["security"][0]))]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    fields = spec["components"]["schemas"]["RecommendRequest"]["properties"]
    assert set(fields) == {"history", "user", "k", "query", "allow", "deny", "category", "exclude_seen", "where"}
    for example in route["requestBody"]["content"]["application/json"]["examples"].values():
        sent = client.post("/v1/recommendations", json=example["value"])
        assert sent.status_code in (200, 422)  # of ML-100K's items, which this run has not
        assert sent.status_code == 200 or sent.json()["error"]["param"].split(".")[-1] in ("history", "user")
