"""Starting, being watched, stopping, being killed: what an operator sees."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import CLIENT, KEY, LOGS, MASTER, foreign, free_port, start, wait
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.errors import LlmrecError
from llmrec.export import export
from llmrec.indexing.catalogue import Catalogue

SECRET = "my-diary-says"


def command(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "llmrec", "serve", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return done.returncode, " ".join(done.stderr.split())


def metrics(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}


class Load(threading.Thread):
    """A client that asks without pause and keeps what it got."""

    def __init__(self, address, history, key=KEY):
        super().__init__(daemon=True)
        self.address, self.history, self.got, self.stopped = address, history, [], threading.Event()
        self.headers = {"Authorization": f"Bearer {key}"}
        self.start()

    def run(self):
        while not self.stopped.is_set():
            try:
                with httpx.Client(base_url=self.address, headers=self.headers, timeout=20) as client:
                    while not self.stopped.is_set():
                        response = client.post("/v1/recommendations", json={"history": self.history, "k": 5})
                        self.got.append((response.status_code, response.json()))
            except (httpx.TransportError, json.JSONDecodeError) as error:
                self.got.append((type(error).__name__, None))
                time.sleep(0.05)

    def answered(self, status=200):
        """Wait until the newest answer is one of this kind: how long that takes is the machine's affair."""
        until = time.monotonic() + 60
        while time.monotonic() < until and not (self.got and self.got[-1][0] == status):
            time.sleep(0.02)

    def end(self):
        self.stopped.set()
        self.join(30)
        return self.got


def test_prometheus_sees_requests_phases_the_catalogue_and_no_invalid_item(address, served):
    with httpx.Client(base_url=address, headers=CLIENT) as client:
        before = metrics(client)
        for body in ({"history": ["i1"], "k": 7}, {"history": ["i1"], "k": 0}, {"history": [], "k": 3}):
            client.post("/v1/recommendations", json=body)
        after = metrics(client)
        grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["llmrec_requests_total", "/v1/recommendations", "200"] == 2
    assert grown["llmrec_requests_total", "/v1/recommendations", "422"] == 1
    assert (grown["llmrec_items_total", "model"], grown["llmrec_items_total", "popularity"]) == (7, 3)
    for phase in ("prepared", "waited", "ranked", "total"):
        assert grown["llmrec_request_seconds_count", phase] == 2
    assert after["llmrec_invalid_items_total",] == 0
    assert after["llmrec_catalogue_items", served.first] == 40


def test_nothing_that_a_client_says_is_logged(address):
    with httpx.Client(base_url=address, headers=CLIENT) as client:
        for body in ({"history": [SECRET]}, {"history": ["i1"], "query": SECRET}, {SECRET: 1}, {"user": SECRET}):
            assert client.post("/v1/recommendations", json=body).status_code == 422
        client.get(f"/{SECRET}?q={SECRET}")
        client.post("/v1/catalogue", json={"hash": SECRET}, headers=MASTER)
    assert SECRET not in LOGS[address].read_text()


@pytest.fixture(scope="module")
def first(served, tmp_path_factory):
    """A server that was started without a key: its process, port, log and the key that it made."""
    log, port = tmp_path_factory.mktemp("life") / "log", free_port()
    process = start(served.run, port, log, "--engine", "transformers", key="")
    try:
        wait(process, port, log)
        shown = next(line for line in log.read_text().splitlines() if line.startswith("LLMREC_API_KEY="))
        yield process, port, log, shown.split("=", 1)[1]
    finally:
        end(process)


@pytest.fixture(scope="module")
def second(served, first):
    """The first killed under load, another started in its place: its process, address, log, and what clients saw."""
    process, port, log, key = first
    address = f"http://127.0.0.1:{port}"
    loads = [Load(address, [f"i{number}"], key) for number in range(3)]
    for load in loads:
        load.answered()
    end(process)
    process = start(served.run, port, log, "--engine", "transformers", key=f"{key},{KEY}")
    try:
        wait(process, port, log)
        for load in loads:
            load.answered()
        yield process, address, log, [load.end() for load in loads]
    finally:
        end(process)


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_without_a_key_one_is_made_and_shown(first):
    _, port, _, key = first
    url = f"http://127.0.0.1:{port}/version"
    assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}).json()["engine"] == "transformers"
    assert httpx.get(url).status_code == 401


def test_a_server_killed_under_load_comes_back_and_answers_as_before(second):
    for got in second[-1]:
        statuses = [status for status, _ in got]
        lost = [place for place, status in enumerate(statuses) if status != 200]
        assert lost and statuses[0] == statuses[-1] == 200
        assert {statuses[place] for place in lost} <= {"ConnectError", "ReadError", "RemoteProtocolError"}
        items = [[item["item_id"] for item in answer["items"]] for status, answer in got if status == 200]
        assert all(given == items[0] for given in items)


def test_a_server_told_to_stop_finishes_what_it_has_taken(second):
    process, address, log, _ = second
    loads = [Load(address, [f"i{number}"]) for number in range(4)]
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM)
    time.sleep(0.1)
    got = [one for load in loads for one in load.end()]
    answered = [answer for status, answer in got if status == 200]
    assert len(answered) > 4 and all(len(answer["items"]) == 5 for answer in answered)
    assert {status for status, _ in got} <= {200, 503, "ConnectError", "ReadError", "RemoteProtocolError"}
    assert "Traceback" not in log.read_text()


def test_a_port_in_use_ends_in_a_message_and_exit_code_2(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = command(served.run, "--engine", "transformers", "--port", taken.getsockname()[1])
    assert code == 2 and "cannot listen on 127.0.0.1" in said and "--port" in said and "Traceback" not in said


def test_what_cannot_be_served_is_said_at_start(served, tmp_path):
    half, swapped = tmp_path / "half", tmp_path / "swapped"
    shutil.copytree(served.run, half, ignore=shutil.ignore_patterns("catalogue*"))
    shutil.copytree(served.run, swapped)
    shutil.copytree(served.run / "catalogues" / "foreign", swapped / "catalogue", dirs_exist_ok=True)
    bare, other = export(served.run, tmp_path / "bare"), export(served.run, tmp_path / "other")
    shutil.rmtree(bare / "catalogue")
    foreign(Catalogue.load(served.run / "catalogue"), other / "catalogue")
    for words, says in [
        ((tmp_path / "nowhere",), "there is no folder"),
        ((half,), "catalogue is not made"),
        ((swapped,), "was changed after it was made"),
        ((bare,), "is not a catalogue folder"),
        ((other,), "was trained on the catalogue"),
        ((served.run, "--without-key", "--host", "0.0.0.0"), "open the server to the whole network"),
        ((served.run, "--", "--dtype", "auto"), "is an option of vLLM"),
        ((served.run, "--tensor-parallel", "2"), "'--tensor-parallel-size' is an option of vLLM"),
        ((served.run, "--engine", "none"), "use vllm or transformers"),
    ]:
        options = ("--engine", "transformers", "--port", str(free_port()))
        found = CliRunner().invoke(app, ["serve", *options, *map(str, words)])
        assert isinstance(found.exception, LlmrecError) and says in str(found.exception), found.output


def test_missing_packages_are_named_with_their_extra(served, tmp_path):
    for package, engine, extra in (("vllm", "vllm", "serve"), ("fastapi", "transformers", "http")):
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\nclass Gone:\n    def find_spec(self, name, path=None, target=None):\n"
            f"        if name.split('.')[0] == '{package}': raise ModuleNotFoundError(name)\n"
            "sys.meta_path.insert(0, Gone())\n"
        )
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        code, said = command(served.run, "--engine", engine, "--port", free_port(), PYTHONPATH=path)
        assert code == 2 and f"pip install 'llmrec[{extra}]'" in said, said
