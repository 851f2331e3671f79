"""Signals that end a command: none is lost, and temporary files go."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SWALLOWED = """
import os, signal
from llmrec.cli import interrupt
from llmrec.cli.screen import stages

class Careless:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10**5): pass

interrupt.watch()
with stages() as tell:
    tell("train", 0.1)
    careless = Careless()
    del careless
    print("went on")
    tell("train", 0.2)
    print("too far")
"""


def test_a_swallowed_ctrl_c_is_raised_again_at_the_next_progress() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True)
    assert "went on" in done.stdout
    assert "too far" not in done.stdout
    assert done.returncode in (-signal.SIGINT, 130)


TEMPORARY = """
import tempfile, time
from llmrec.cli import interrupt
interrupt.watch()
with tempfile.TemporaryDirectory(dir={folder!r}):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_temporary_files_go_when_a_command_is_ended_and_its_status_names_the_signal(
    number: int, tmp_path: Path
) -> None:
    code = TEMPORARY.format(folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        assert process.wait(30) == -number
    assert list(tmp_path.iterdir()) == []


def test_a_closed_terminal_does_not_end_a_command_under_nohup() -> None:
    code = "import os, signal; from llmrec.cli import interrupt; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "interrupt.watch(); os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    assert "goes on" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
