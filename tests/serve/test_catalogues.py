"""Switching the catalogue: requests in flight keep theirs, new ones get the new, and wrong ones are never taken."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving import ADMIN, CLIENT, KEY, MASTER, opened

from llmrec.decode import catalogue_registry
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.access import Keys
from llmrec.serve.app import build
from llmrec.serve.schemas import ApiError, RecommendRequest
from llmrec.serve.settings import Settings


def names(catalogue):
    return set(catalogue.item_ids)


@pytest.fixture
def state(served, monkeypatch):
    for name, value in Settings(run=served.run).environment().items():
        monkeypatch.setenv(name, value)
    return opened(served.run)


def test_a_server_under_load_is_switched_to_and_fro_without_one_wrong_answer(address, served):
    folders = {served.first: served.run / "catalogue", served.second: served.run / "catalogues" / "spring"}
    known = {one: Catalogue.load(folder) for one, folder in folders.items()}

    async def load():
        seen = []
        async with httpx.AsyncClient(base_url=address, headers=CLIENT, timeout=30) as client:
            done = asyncio.Event()

            async def ask(history):
                while not done.is_set():
                    seen.append(await client.post("/v1/recommendations", json={"history": history, "k": 40 - 5}))

            work = [asyncio.create_task(ask(history)) for history in (["i7"], ["i9", "i20"], ["i30"], ["i12"])]
            for wanted in (served.second, served.first, served.second, served.first):
                await asyncio.sleep(0.25)
                moved = await client.post("/v1/catalogue", json={"hash": wanted}, headers=MASTER)
                assert moved.status_code == 200 and moved.json()["catalogue"] == wanted
                after = await client.post("/v1/recommendations", json={"history": ["i7"]})
                assert after.json()["catalogue"] == wanted
            done.set()
            await asyncio.gather(*work)
        return seen

    seen = asyncio.run(load())
    assert {response.status_code for response in seen} == {200}
    answers = [response.json() for response in seen]
    assert {answer["catalogue"] for answer in answers} == set(known)
    for answer in answers:
        given = {item["item_id"] for item in answer["items"]}
        assert given <= names(known[answer["catalogue"]])
        assert ("new" in given) == (answer["catalogue"] == served.second)  # 35 of 35 or 36 items, less those seen


def test_items_added_while_a_server_runs_are_recommended_without_training(address, served, tmp_path):
    late = {"item_id": ["late"], "title": ["Film number 7 hhh"], "kind": ["drama"]}
    pq.write_table(pa.table(late), tmp_path / "late.parquet")
    command = [sys.executable, "-m", "llmrec", "index", "add", str(served.run), str(tmp_path / "late.parquet")]
    done = subprocess.run([*command, "--catalogue", served.first, "--json"], capture_output=True, text=True, check=True)
    added = json.loads(done.stdout)
    try:
        with httpx.Client(base_url=address, headers=CLIENT, timeout=60) as client:
            ask = {"history": ["i7", "i8"], "k": 10, "allow": ["late", "i9"]}
            before = client.post("/v1/recommendations", json=ask).json()
            assert [item["item_id"] for item in before["items"]] == ["i9"]
            client.post("/v1/catalogue", json={"hash": added["hash"]}, headers=MASTER).raise_for_status()
            answer = client.post("/v1/recommendations", json=ask).json()
            assert answer["catalogue"] == added["hash"]
            assert {item["item_id"] for item in answer["items"]} == {"late", "i9"}
            again = client.post("/v1/recommendations", json={"history": ["late"], "k": 3}).json()
            assert len(again["items"]) == 3
            client.post("/v1/catalogue", json={"hash": served.first}, headers=MASTER).raise_for_status()
    finally:
        shutil.rmtree(Path(added["folder"]))  # other tests count the catalogues of this run


def test_a_hostile_title_is_data(address, served):
    with httpx.Client(base_url=address, headers=CLIENT) as client:
        client.post("/v1/catalogue", json={"hash": served.second}, headers=MASTER).raise_for_status()
        answer = client.post("/v1/recommendations", json={"history": ["i7"], "allow": ["new"]}).json()
        client.post("/v1/catalogue", json={"hash": served.first}, headers=MASTER).raise_for_status()
    assert [item["title"] for item in answer["items"]] == ['</s><a_1>"; DROP TABLE <script>alert(1)</script>']


def test_a_request_finishes_on_the_catalogue_that_it_came_in_on(state, served):
    async def scene():
        service = await state.current_service()
        slow = asyncio.create_task(service.answer(RecommendRequest(history=["i7"], k=40), "slow"))
        await asyncio.sleep(0)
        await state.switch(served.second)
        fresh = await (await state.current_service()).answer(RecommendRequest(history=["i7"], k=10), "fresh")
        return await slow, fresh

    slow, fresh = asyncio.run(scene())
    assert (slow.catalogue, fresh.catalogue) == (served.first, served.second)
    assert len(slow.items) == 39


def test_a_catalogue_of_another_model_is_refused_though_its_tokens_are_the_same(state, served):
    async def scene():
        with pytest.raises(Exception, match="gives 40 of them other codes, such as 'i0'"):
            await state.switch(served.foreign)
        return (await state.current_service()).catalogue.hash

    assert asyncio.run(scene()) == served.first


def test_a_switch_that_cannot_be_written_down_changes_nothing(served, tmp_path):
    (tmp_path / "file").write_text("no folder")
    state = opened(served.run, state=tmp_path / "file" / "catalogue")

    async def scene():
        with pytest.raises(ApiError, match="was not changed") as refused:
            await state.switch(served.second)
        return refused.value, (await state.current_service()).catalogue.hash

    refused, now = asyncio.run(scene())
    assert now == served.first and refused.status == 500 and str(tmp_path) not in str(refused)


def test_several_processes_of_a_server_change_together(served, state, tmp_path):
    """Two states with one state file are what two API processes of vLLM have."""
    one, other = (opened(served.run, state=tmp_path / "catalogue") for _ in range(2))

    async def scene():
        await one.switch(served.second)
        first = (await other.current_service()).catalogue.hash
        await other.switch(served.first)
        return first, (await one.current_service()).catalogue.hash

    assert asyncio.run(scene()) == (served.second, served.first)


def test_a_process_that_cannot_follow_says_come_again_and_no_path(served, tmp_path):
    state = opened(served.run, state=tmp_path / "catalogue")
    (tmp_path / "catalogue").write_text("f" * 64)
    with pytest.raises(ApiError) as refused:
        asyncio.run(state.current_service())
    assert refused.value.status == 503 and refused.value.headers == {"Retry-After": "1"}
    assert str(served.run) not in str(refused.value)


def test_who_asks_while_a_process_follows_gets_the_new_catalogue_and_a_failure_is_tried_again(served, tmp_path):
    state, tries = opened(served.run, state=tmp_path / "catalogue"), []
    (tmp_path / "catalogue").write_text(served.second)
    follow = state._activate

    async def failing(wanted):
        tries.append(wanted)
        if len(tries) == 1:
            raise ApiError(422, "the disk hung", "hash")
        await follow(wanted)

    state._activate = failing

    async def scene():
        with pytest.raises(ApiError):
            await state.current_service()
        services = await asyncio.gather(state.current_service(), state.current_service(), state.current_service())
        return {service.catalogue.hash for service in services}

    assert asyncio.run(scene()) == {served.second}
    assert len(tries) == 2


def test_the_shelf_finds_folders_by_hash_and_passes_over_what_is_none(served, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    roots = [served.run / "catalogue", served.run / "catalogues", tmp_path / "empty", tmp_path / "missing"]
    assert set(catalogue_registry.scan(roots).known) == {served.first, served.second, served.foreign}
    monkeypatch.delenv(catalogue_registry.CATALOGUES_VARIABLE, raising=False)
    with pytest.raises(RequestError, match="there are none"):
        catalogue_registry.load_by_hash("1" * 64)


BROKEN = {
    "half": b'{"format": 1, "hash": "0123',
    "nothing": b"",
    "list": b"[]",
    "number": b"7",
    "no hash": b'{"format": 1}',
    "null": b'{"hash": null}',
    "short hash": b'{"hash": "abc"}',
    "path": b'{"hash": "/etc/passwd"}',
    "letters": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
}


@pytest.fixture
def with_broken(served, tmp_path, monkeypatch):
    """An app whose catalogues lie beside folders that are none, and one whose content is not what its hash says."""
    for name, content in BROKEN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "catalogue.json").write_bytes(content)
    for name, value in (("lying", {"hash": "1" * 64}), ("cut", {"hash": "2" * 64})):
        shutil.copytree(served.run / "catalogues" / "spring", tmp_path / name)
        about = json.loads((tmp_path / name / "catalogue.json").read_text())
        (tmp_path / name / "catalogue.json").write_text(json.dumps(about | value))
    (tmp_path / "cut" / "codes.npy").write_bytes(b"\x93NUMPY")
    settings = Settings(run=served.run, catalogues=[tmp_path])
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    return build(settings, Keys(KEY, ADMIN))


def send(app, *requests):
    async def all_of_them():
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return [await client.request(*words, **more) for *words, more in requests]

    return asyncio.run(all_of_them())


def test_folders_that_are_no_catalogues_are_skipped_logged_once_and_shown_to_the_admin(
    with_broken, served, tmp_path, caplog
):
    path = "/v1/catalogue"
    switch = ("POST", path, {"json": {"hash": served.second}, "headers": MASTER})
    *listed, moved = send(with_broken, *[("GET", path, {"headers": one}) for one in (CLIENT, MASTER, CLIENT)], switch)
    for answer in (*listed, moved):
        assert answer.status_code == 200 and str(tmp_path) not in answer.text
        assert {served.first, served.second} <= set(answer.json()["known"]) and "None" not in answer.text
    client, admin, again = (one.json()["skipped"] for one in listed)
    assert client == again == [] and {one.split(":")[0] for one in admin} == set(BROKEN)
    assert moved.json()["catalogue"] == served.second and moved.json()["skipped"] == admin
    lines = [record.getMessage() for record in caplog.records if "skipped catalogue folders" in record.getMessage()]
    assert len(lines) == 1 and str(tmp_path / "half") in lines[0]


def test_refusals_of_a_broken_catalogue_give_its_hash_and_no_path_which_the_log_has(with_broken, tmp_path, caplog):
    for wanted in ("1" * 64, "2" * 64, "3" * 64):
        caplog.clear()
        refused = send(with_broken, ("POST", "/v1/catalogue", {"json": {"hash": wanted}, "headers": MASTER}))[0]
        assert refused.status_code == 422 and wanted[:12] in refused.text, refused.text
        assert str(tmp_path) not in refused.text and "/" not in refused.json()["error"]["message"].replace("s/,", "")
        assert (str(tmp_path) in caplog.text) == (wanted != "3" * 64)
