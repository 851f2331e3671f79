"""The same routes on a real vLLM server (its CPU build will do); about a minute, most of it vLLM starting."""

import asyncio
import json
import os
import re
import shutil
import signal
import threading
import time

import httpx
import numpy as np
import pytest
from attacks.server import ATTACKS
from serving import CLIENT, KEY, LOGS, MASTER, PROCESSES, foreign, serving
from test_docs import check_documentation
from transformers import AutoTokenizer

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'llmrec[serve]', or [serve-cpu] without a GPU")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else vLLM compiles a helper for 20 s at the first request

import llmrec
from llmrec.errors import LlmrecError
from llmrec.export import export
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.vocabulary import MENTION
from llmrec.serve.settings import Settings
from llmrec.serve.settings import vllm_command as start_command

pytestmark = pytest.mark.filterwarnings("ignore:the filters leave:UserWarning")
SECRET = "my-diary-says"
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
SMALL = ("--", "--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "64")


@pytest.fixture(scope="module")
def vllm(served, tmp_path_factory):
    log = tmp_path_factory.mktemp("vllm") / "log"
    (served.run / "train-1-sft" / "model" / "chat_template.jinja").write_text(TEMPLATE)
    with serving(served.run, log, "--read-timeout", "1", *SMALL) as address:
        yield address


@pytest.fixture(scope="module")
def client(vllm):
    with httpx.Client(base_url=vllm, headers=CLIENT, timeout=60) as client:
        yield client


def ask(client, **body):
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_both_engines_give_the_same_items(client, served):
    recommender = llmrec.load(served.run)
    for options in ({}, {"k": 40}, {"exclude_seen": False}, {"deny": ["i2", "i6"], "k": 3}, {"allow": ["i2", "i4"]}):
        for history in (["i1", "i5"], ["i3"], ["i39", "i0", "i1"]):
            items, truth = ask(client, history=history, **options)["items"], recommender.recommend(history, **options)
            assert [item["item_id"] for item in items] == [item for item, _ in truth]
            np.testing.assert_allclose([item["score"] for item in items], [score for _, score in truth], atol=5e-5)
    assert ask(client, history=[], k=3)["ranked_by"] == "popularity"
    refused = client.post("/v1/recommendations", json={"history": ["i1"], "k": 0})
    assert refused.status_code == 422 and refused.json()["error"]["param"] == "k"
    wrong = {"content": b"{", "headers": {"Content-Type": "application/json"}}
    assert client.post("/v1/recommendations", **wrong).status_code == 400


def test_what_vllm_could_not_serve_is_said_before_it_starts(served, tmp_path):
    other, bare = export(served.run, tmp_path / "other"), export(served.run, tmp_path / "bare")
    foreign(Catalogue.load(served.run / "catalogue"), other / "catalogue")
    shutil.rmtree(bare / "catalogue")
    half = tmp_path / "half"
    shutil.copytree(served.run, half, ignore=shutil.ignore_patterns("catalogue*"))
    faults = {other: "was trained on", bare: "not a catalogue folder", half: "catalogue is not made"}
    for run, says in (faults | {tmp_path / "no": "there is no folder"}).items():
        with pytest.raises(LlmrecError, match=says):
            start_command(Settings(run=run), "127.0.0.1", 8000, [])


def test_vllm_s_own_routes_stay_behind_the_same_key(vllm, client, served):
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    catalogue = Catalogue.load(served.run / "catalogue")
    mine = openai.OpenAI(base_url=f"{vllm}/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in mine.models.list()] == ["films"]
    codes = dict(zip(catalogue.code_texts, catalogue.item_ids, strict=True))

    def complete(**xargs):
        options = {"model": "films", "prompt": "a film", "max_tokens": 8, "temperature": 2.0, "n": 30}
        return [choice.text for choice in mine.completions.create(**options, extra_body={"vllm_xargs": xargs}).choices]

    assert len({codes[text] for text in complete(items="item")}) > 3  # a KeyError would be no item
    assert "new" not in codes.values()
    second = Catalogue.load(served.run / "catalogues" / "spring")
    there = dict(zip(second.code_texts, second.item_ids, strict=True))
    assert {there[text] for text in complete(items="item", catalogue=served.second, allow=["new"])} == {"new"}
    for xargs, says in [
        ({"items": "item", "catalogue": "0" * 64}, "no catalogue"),
        ({"items": "anything"}, "not known"),
        ({"items": "item", "deny": ["nobody"]}, "catalogue lacks"),
        ({"items": "item", "allow": []}, "no item at all"),
        ({"deny": ["i1"]}, "needs a request for items"),
    ]:
        with pytest.raises(openai.BadRequestError, match=says):
            complete(**xargs)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{vllm}/v1", api_key="wrong").models.list()
    for path in ("/metrics", "/version", "/v1/models", "/load", "/v1/items"):
        assert httpx.get(vllm + path).status_code == 401
        assert client.get(path).status_code == 200
    assert httpx.get(f"{vllm}/health").status_code == 200
    for path in ("/scale_elastic_ep", "/inference/v1/abort_requests"):
        assert httpx.post(vllm + path, json={}).status_code == 401 and client.post(path, json={}).status_code == 403
    assert client.post("/scale_elastic_ep", json={}, headers=MASTER).status_code == 400
    assert client.get("/version").json()["engine"] == "vllm"
    metrics = client.get("/metrics").text
    assert "llmrec_invalid_items_total 0.0" in metrics and "vllm:" in metrics
    assert "/v1/recommendations" in client.get("/openapi.json").json()["paths"]


def test_the_documentation_shows_all_routes_and_asks_no_other_host(vllm):
    check_documentation(vllm)


@pytest.mark.parametrize("attack", [attack for _, attack in ATTACKS], ids=[name for name, _ in ATTACKS])
def test_an_attack_fails_and_the_log_stays_short(vllm, attack):
    before = LOGS[vllm].stat().st_size
    attack(vllm, KEY)
    fresh = LOGS[vllm].read_text()[before:].splitlines()
    assert len([line for line in fresh if "throughput" not in line]) < 6, fresh


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_the_openai_package_chats_about_real_items_only(vllm, served, route):
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    catalogue = Catalogue.load(served.run / "catalogue")
    codes = dict(zip(catalogue.code_texts, catalogue.item_ids, strict=True))
    mention = AutoTokenizer.from_pretrained(served.run / "train-1-sft" / "model").convert_tokens_to_ids(MENTION)
    mine = openai.OpenAI(base_url=f"{vllm}/v1", api_key=KEY, max_retries=0)
    options = {"model": "films", "max_tokens": 40, "temperature": 2.0, "seed": 1}

    def say(n, bias=0.0, **xargs):
        more = options | {"n": n, "extra_body": {"vllm_xargs": xargs}}
        more |= {"logit_bias": {str(mention): bias}} if bias else {}  # a tiny model seldom mentions items
        if route == "completions":
            return [choice.text for choice in mine.completions.create(prompt="a film like", **more).choices]
        words = [{"role": "user", "content": "a film like"}]
        return [choice.message.content for choice in mine.chat.completions.create(messages=words, **more).choices]

    assert {codes[text] for text in say(20, items="item")} - {"i1", "i7"}  # a KeyError would be no item
    assert set(say(20, items="item", allow=["i1", "i7"])) <= {text for text in codes if codes[text] in ("i1", "i7")}
    chats = say(20, 12.0, items="chat", deny=["i1", "i7"])
    parts = [part for text in chats for part in text.split(MENTION)[1:]]
    named = [re.match(r"(<[a-z]_\d+>)*", part)[0] for part in parts]
    assert len(named) > 20 and not {codes[one] for one in named} & {"i1", "i7"}
    assert not re.search(r"<[a-z]_\d+>", "".join(text.split(MENTION)[0] for text in chats))
    assert not any(re.search(r"<[a-z]_\d+>", part[len(one) :]) for part, one in zip(parts, named, strict=True))
    with pytest.raises(openai.BadRequestError, match="not known"):
        say(1, items="chats")


def test_nothing_that_a_client_says_is_logged(vllm, client):
    asked = {"model": "films", "prompt": SECRET, "max_tokens": 4}
    turns = [{"role": "user", "content": SECRET}]
    for path, body, statuses in [
        ("/v1/recommendations", {"history": [SECRET]}, (422,)),
        ("/v1/recommendations", {"history": ["i1"], "query": SECRET}, (422,)),
        ("/v1/completions", asked, (200,)),
        ("/v1/completions", asked | {"vllm_xargs": {"items": SECRET}}, (400,)),
        ("/v1/completions", asked | {"vllm_xargs": {"items": "item", "deny": [SECRET]}}, (400,)),
        ("/v1/completions", asked | {"max_tokens": SECRET}, (400, 422)),
        ("/v1/completions", asked | {"prompt": SECRET * 100}, (400,)),
        ("/v1/chat/completions", {"model": SECRET, "messages": turns}, (404,)),
        ("/v1/chat/completions", {"model": "films", "messages": turns, "max_tokens": 4}, (200,)),
        ("/v1/chat/completions", {"model": "films", "messages": SECRET}, (400, 422)),
        (f"/{SECRET}", {}, (404,)),
    ]:
        assert (answer := client.post(path, json=body)).status_code in statuses, (path, answer.text)
    assert SECRET not in LOGS[vllm].read_text()


def test_the_catalogue_is_switched_under_load(vllm, client, served):
    folders = {served.first: served.run / "catalogue", served.second: served.run / "catalogues" / "spring"}
    known = {one: set(Catalogue.load(folder).item_ids) for one, folder in folders.items()}

    async def load():
        seen, done = [], asyncio.Event()
        async with httpx.AsyncClient(base_url=vllm, headers=CLIENT, timeout=60) as many:

            async def go_on(history):
                while not done.is_set():
                    seen.append(await many.post("/v1/recommendations", json={"history": history, "k": 35}))

            work = [asyncio.create_task(go_on([f"i{number}"])) for number in (7, 20, 30)]
            for wanted in (served.second, served.first):
                await asyncio.sleep(0.7)
                moved = await many.post("/v1/catalogue", json={"hash": wanted}, headers=MASTER)
                assert moved.json()["catalogue"] == wanted
            refused = await many.post("/v1/catalogue", json={"hash": served.foreign}, headers=MASTER)
            assert refused.status_code == 422 and "other codes" in refused.json()["error"]["message"]
            await asyncio.sleep(0.3)
            done.set()
            await asyncio.gather(*work)
        return seen

    seen = asyncio.run(load())
    assert {response.status_code for response in seen} == {200}
    answers = [response.json() for response in seen]
    assert {answer["catalogue"] for answer in answers} == set(known)
    for answer in answers:
        given = {item["item_id"] for item in answer["items"]}
        assert len(given) >= 34 and given <= known[answer["catalogue"]]


def test_a_server_told_to_stop_finishes_what_it_has_taken(vllm):
    """The last test of this server. A request is several of vLLM's, one after another, which vLLM would cut off."""
    got = []

    def go_on(history):
        with httpx.Client(base_url=vllm, headers=CLIENT, timeout=30) as client:
            try:
                while True:
                    response = client.post("/v1/recommendations", json={"history": [history], "k": 5})
                    got.append((response.status_code, response.json()))
            except (httpx.TransportError, json.JSONDecodeError) as error:
                got.append((type(error).__name__, None))

    threads = [threading.Thread(target=go_on, args=(f"i{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    PROCESSES[vllm].send_signal(signal.SIGTERM)
    PROCESSES[vllm].wait(60)
    for thread in threads:
        thread.join(30)
    answered = [answer for status, answer in got if status == 200]
    assert len(answered) > 6 and all(len(answer["items"]) == 5 for answer in answered)
    assert {status for status, _ in got} <= {200, 503, "ConnectError", "ReadError", "RemoteProtocolError"}
