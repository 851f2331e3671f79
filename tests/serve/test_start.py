"""What is wrong with the start of a server ends in one message, before anything slow is loaded, and names no key."""

import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from serving import free_port, start, wait
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.errors import LlmrecError, RunError
from llmrec.serve import access
from llmrec.serve.access import ADMIN_KEY, API_KEY, Keys
from llmrec.serve.settings import _temporary_folder


@pytest.fixture
def refusal(served, monkeypatch):
    """The message with which a start is refused."""

    def refused(*words, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        options = ("serve", str(served.run), "--engine", "transformers", "--port", str(free_port()))
        found = CliRunner().invoke(app, [*options, *words])
        assert isinstance(found.exception, LlmrecError), found.exception
        return str(found.exception)

    return refused


@pytest.mark.parametrize("option", ["--grace", "--read-timeout"])
@pytest.mark.parametrize("seconds", ["inf", "-inf", "nan", "-1", "1e300"])
def test_times_that_are_none_are_refused(refusal, option, seconds):
    assert f"{option} is " in refusal(f"{option}={seconds}")


@pytest.mark.parametrize("name", [API_KEY, ADMIN_KEY])
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (",", "key 1 of 2"),
        ("s3cret,", "key 2 of 2"),
        ("s3cret,,other", "key 2 of 3 in"),
        ("  ", "it is empty"),
        ("s3cret word", "a blank"),
        ("other,s3cret\ts3cret", "key 2 of 2"),
        ("s3cret\ns3cret", "a line break"),
        ("s3cret\x7f", "control character"),
        ("s3crét", "outside ASCII"),
        ("ключ-s3cret", "outside ASCII"),
        ("s3cret\udcff", "outside ASCII"),
    ],
)
def test_keys_that_no_client_can_send_are_refused_without_naming_them(refusal, name, keys, says):
    message = refusal(**{name: keys})
    assert says in message and name in message and "s3cr" not in message


def test_blanks_around_a_key_are_no_part_of_it(monkeypatch):
    monkeypatch.setenv(API_KEY, " one , two\n")
    keys = Keys.from_environment()
    assert keys.accept("Bearer one") and keys.accept("Bearer two") and not keys.accept("Bearer ")


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1", "", "a" * 70, "a..b", "x\0y", "2001:db8::1", "\udcff"])
def test_a_host_that_is_none_of_this_machine_is_named_and_no_other_port_advised(refusal, host):
    message = refusal("--host", host) if "\0" not in host else _bound(host)
    assert "cannot listen on" in message and "--host 127.0.0.1" in message and "--port" not in message


def _bound(host):
    with pytest.raises(RunError) as found:
        access.bind(host, 8000)
    return str(found.value)


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EACCES, "below 1024"), (errno.EADDRINUSE, "another port"), (errno.EMFILE, "Too many")]
)
def test_each_reason_why_a_port_cannot_be_had_has_its_remedy(number, says):
    with pytest.raises(RunError, match=says), access._explain_error("127.0.0.1", 80):
        raise OSError(number, os.strerror(number))


def test_of_two_servers_that_took_one_port_the_second_to_listen_is_refused():
    first = access.bind("127.0.0.1", 0)
    with first, access.bind("127.0.0.1", first.getsockname()[1]) as second:
        access.listen(first)
        with pytest.raises(RunError, match=f"cannot listen on 127.0.0.1:{first.getsockname()[1]}: .*--port"):
            access.listen(second)


def test_an_address_of_ipv6_is_taken_with_or_without_brackets():
    for host in ("::1", "[::1]"):
        try:
            with access.bind(host, 0) as bound:
                assert access.url(bound) == f"http://[::1]:{bound.getsockname()[1]}"
        except RunError:
            assert not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6")  # noqa: PTH110


def test_only_addresses_of_this_machine_alone_go_without_a_key(refusal):
    for host in ("127.0.0.2", "127.255.255.254", "::1", "[::1]", "localhost"):
        assert "--grace" in refusal("--without-key", "--host", host, "--grace=nan")  # refused for that alone
    for host in ("0.0.0.0", "", "::", "128.0.0.1", "localhost.example"):
        assert "--without-key" in refusal("--without-key", "--host", host, "--grace=nan")


def test_a_server_whose_standard_streams_are_closed_serves(served, tmp_path):
    log, port = tmp_path / "log", free_port()
    process = start(served.run, port, log, "--engine", "transformers", shell="exec <&- >&- 2>&-")
    try:
        wait(process, port, log)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)


@pytest.mark.parametrize("stderr", [None, Path("/dev/full")], ids=["closed", "full"])
def test_a_key_that_is_made_where_nobody_can_read_it_is_refused(served, monkeypatch, stderr):
    monkeypatch.delenv(API_KEY, raising=False)
    monkeypatch.setattr(sys, "stderr", stderr and stderr.open("w"))
    with pytest.raises(RunError, match=f"set {API_KEY}"):
        app(
            ["serve", str(served.run), "--engine", "transformers", "--port", str(free_port())],
            standalone_mode=False,
        )
    os.environ.pop(API_KEY)
    with contextlib.suppress(OSError):
        if stderr:
            sys.stderr.close()


def test_a_machine_without_room_for_temporary_files_is_said(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    with pytest.raises(RunError, match="export TMPDIR="):
        _temporary_folder()
