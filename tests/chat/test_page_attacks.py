"""A started page under attack, with and without a login: see scripts/attacks/page.py."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from llmrec.chat import page_guard
from llmrec.chat.page import application, background
from llmrec.chat.page_guard import LOGIN, check_host, checker, login_of
from llmrec.errors import ChatError

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # where a script finds its own parts
from attacks.page import API, ATTACKS, Visitor, files_by_path, routes_that_the_page_does_not_need

ANN = ("ann", "long enough: 1")


@pytest.mark.parametrize("attack", [attack for _, attack in ATTACKS], ids=[name for name, _ in ATTACKS])
def test_the_page_holds(attack, page_address):
    attack(page_address)


def test_six_calls_at_once_are_all_answered_in_order(page_address):
    visitor = Visitor(page_address)
    visitor.open()
    hear, save = visitor.function_of("send"), saving(visitor)
    said = ["a comedy", "a drama", "a western", "a documentary", "no western", "not before 1980"]
    for words in said:
        assert visitor.join(hear, [words]).status_code == 200
    for _ in range(600):  # until the last is answered
        visitor.call(save, [])
        answers = [one["output"]["data"] for one in visitor.seen if one["msg"] == "process_completed"]
        turns = json.loads(answers[-1][0])["said"]
        if len(turns) == 2 * len(said):
            break
    assert [turn["words"] for turn in turns if turn["who"] == "person"] == said
    assert [turn["who"] for turn in turns] == ["person", "llmrec"] * len(said)


def saving(visitor):
    """The function that gives the transcript."""
    return next(one["id"] for one in visitor.functions("click") if len(one["outputs"]) == 1)


def test_a_title_of_html_does_not_get_out_of_its_place(counter):
    with background(counter, "</script><script>document.title='stolen'</script>") as address:
        assert "<script>document.title" not in Visitor(address).html


def test_variables_of_the_environment_open_nothing(counter, monkeypatch):
    opened = {"MCP_SERVER": "True", "SSR_MODE": "True", "RUN_HISTORY": "True", "SHARE": "True", "ALLOWED_PATHS": "/"}
    opened |= {"VIBE_MODE": "1", "PROFILING": "1", "TEMP_DIR": "/", "ANALYTICS_ENABLED": "False"}
    for name, value in opened.items():
        monkeypatch.setenv(f"GRADIO_{name}", value)
    with background(counter, "films") as address:
        files_by_path(address)
        routes_that_the_page_does_not_need(address)


def test_a_dialogue_and_its_transcript_leave_no_files(page_address):
    def files():
        folder = Path(tempfile.gettempdir())
        return {*folder.glob("llmrec-transcript*"), *folder.glob("gradio/**/*")}

    before, visitor = files(), Visitor(page_address)
    visitor.open()
    visitor.call(visitor.function_of("send"), ["I liked film number 2 ccc"])
    assert "film number 2 ccc" in visitor.call(saving(visitor), []) and files() == before


def test_sessions_that_are_never_closed_are_bounded(counter, monkeypatch):
    monkeypatch.setattr("llmrec.chat.page.VISITS", 5)
    guarded = application(counter, "films").app
    gradio = guarded.app.routes[-1].app
    holder = gradio.state_holder
    for number in range(20):
        assert holder[f"session{number}"] is not None
    assert len(holder.session_data) == 5
    for number in range(3000):
        gradio.get_blocks()._queue.pending_event_ids_session[f"session{number}"] = set()
    assert len(gradio.get_blocks()._queue.pending_event_ids_session) <= 2000


def test_a_page_that_is_not_read_is_not_shown_for_long(counter, monkeypatch):
    monkeypatch.setattr("llmrec.chat.page.UNREAD_SECONDS", 0.1)
    app = application(counter, "films")
    queue = app.app.app.routes[-1].app.get_blocks()._queue
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for number in range(3):
            call = {"data": [], "fn_index": 0, "session_hash": f"session{number}"}
            assert client.post(f"{API}/queue/join", json=call).status_code == 200
        deadline = time.monotonic() + 30
        while (len(queue) or any(queue.active_jobs)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not len(queue) and not any(queue.active_jobs)


def test_with_a_login_nothing_but_its_form_is_shown_before_it(counter):
    with background(counter, "films", ANN) as address:
        with httpx.Client(base_url=address, trust_env=False) as http:
            assert "auth_required" in http.get("/").text and "I liked" not in http.get("/").text
            call = {"data": [], "fn_index": 0, "session_hash": "abcd1234"}
            assert http.post(f"{API}/queue/join", json=call).status_code == 401
            assert http.get("/logout").status_code == http.get("/config").status_code == 404
            wrong = {"username": ANN[0], "password": "long enough: 2"}
            assert http.post("/login", data=wrong).status_code == 400
            assert http.post(f"{API}/queue/join", json=call).status_code == 401
            foreign = http.post("/login", data=wrong, headers={"Origin": "https://evil.example"})
            assert foreign.status_code == 403
            time.sleep(2 * page_guard.PAUSE)
            assert http.post("/login", data=dict(zip(("username", "password"), ANN, strict=True))).status_code == 200
            assert http.post(f"{API}/queue/join", json=call).status_code == 200
            named = {"Host": "films.example", "Origin": "https://films.example"}  # behind a proxy
            assert http.post(f"{API}/queue/join", json=call, headers=named).status_code == 200
            assert "I liked" in http.get("/").text
        with httpx.Client(base_url=address, trust_env=False) as other:
            assert other.post(f"{API}/queue/join", json=call).status_code == 401
            assert other.get(f"{API}/queue/data?session_hash=abcd1234").status_code == 401


def test_a_login_is_a_name_and_a_password_that_is_not_short():
    assert login_of(None) is login_of("") is None
    assert login_of("ann:long enough: 1") == ANN and login_of(" ann:12345678\n") == ("ann", "12345678")
    for text in ("ann", ":12345678", "ann:", "ann:1234567", " :12345678", ":"):
        with pytest.raises(ChatError, match=f"{LOGIN} must be NAME:PASSWORD"):
            login_of(text)


def test_passwords_are_guessed_a_few_times_a_second_at_most(monkeypatch):
    monkeypatch.setattr(page_guard, "PAUSE", 3600.0)
    check = checker(ANN)
    assert check(*ANN) and check(*ANN)
    assert not check("ann", "long enough: 2") and not check(*ANN)
    monkeypatch.setattr(page_guard, "PAUSE", 0.0)
    check = checker(ANN)
    assert not check("ann:long enough", "1") and not check("", "") and check(*ANN)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "films.example", ""])
def test_without_a_login_the_page_is_for_this_machine_alone(host, monkeypatch):
    from llmrec.cli.main import app

    with pytest.raises(ChatError, match=LOGIN):
        check_host(host, None)
    check_host(host, ANN)
    monkeypatch.delenv(LOGIN, raising=False)
    given = CliRunner().invoke(app, ["chat", "http://127.0.0.1:1", "--page", "--host", host])
    assert given.exit_code and isinstance(given.exception, ChatError) and LOGIN in str(given.exception)


def test_this_machine_has_many_names():
    for host in ("localhost", "127.0.0.1", "127.0.0.2", "::1"):
        check_host(host, None)
