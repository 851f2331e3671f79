"""Which hosts are this machine alone, and which Host and Origin headers a server without a key answers."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from llmrec.serve.access import TrustedHosts, is_loopback

HERE = ("localhost", "LOCALHOST", "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "[::1]", "::ffff:127.0.0.1")
ELSEWHERE = ("", "0.0.0.0", "::", "[::]", "128.0.0.1", "192.168.1.5", "localhost.example", "127.0.0.1.example", "127.1")


@pytest.mark.parametrize(("host", "here"), [*((one, True) for one in HERE), *((one, False) for one in ELSEWHERE)])
def test_this_machine_is_localhost_all_of_127_and_the_address_of_ipv6(host, here):
    assert is_loopback(host) is here


def answers(headers: dict[str, str], hosts=()) -> int:
    client = TestClient(TrustedHosts(PlainTextResponse("ok"), hosts), base_url="http://127.0.0.1:7860")
    return client.post("/", headers=headers).status_code


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "a@localhost", "[::1", ""]
)
def test_a_foreign_host_header_is_misdirected(host):
    assert answers({"Host": host}) == 421


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7860", "127.0.0.2:1", "[::1]:7860", "Films.Example:80", "fe80::1"]
)
def test_names_of_this_machine_and_given_ones_are_answered(host):
    host = "[fe80::1]:7860" if host == "fe80::1" else host
    assert answers({"Host": host}, ["films.example", "fe80::1"]) == 200


def test_any_host_is_answered_where_a_login_protects_the_server_but_no_foreign_origin():
    assert answers({"Host": "films.example"}, None) == 200
    assert answers({"Host": "films.example", "Origin": "https://films.example"}, None) == 200
    assert answers({"Host": "films.example", "Origin": "https://evil.example"}, None) == 403


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://127.0.0.1", "http://localhost:7860", "http://127.0.0.1:7860.evil"],
)
def test_a_foreign_origin_is_refused(origin):
    assert answers({"Origin": origin}) == 403
    assert answers({"Origin": origin, "Sec-Fetch-Site": "same-site"}) == 403


def test_a_page_of_the_server_itself_is_answered_also_behind_a_proxy_that_rewrites_host():
    assert answers({"Origin": "http://127.0.0.1:7860"}) == answers({}) == 200
    assert answers({"Origin": "https://films.example", "Sec-Fetch-Site": "same-origin"}) == 200


def test_a_foreign_websocket_is_closed():
    client = TestClient(TrustedHosts(PlainTextResponse("ok")), base_url="http://evil.example")
    with pytest.raises(Exception) as closed, client.websocket_connect("/"):
        pass
    assert getattr(closed.value, "code", None) == 1008
