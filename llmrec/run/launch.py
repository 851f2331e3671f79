"""Train in several processes by `accelerate launch`.

The child processes run `llmrec train … --lines`. The first one prints its progress, or the error that ended it, as JSON
lines on standard output. Standard error is written to a log in the run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmrec import errors, resources
from llmrec.child_process import ChildProcess
from llmrec.errors import LlmrecError, RunError
from llmrec.files import explain_disk
from llmrec.recipe import Launch
from llmrec.run.layout import RunFolder

HELD = "LLMREC_HELD"  # environment variable: the run folder whose lock the parent process holds
_GRACE = 40  # seconds for torch's launcher to end its processes


def train(launch: Launch, run: RunFolder, progress: Callable[[float], None], lock: int | None = None) -> None:
    """Run the training stages of a run in several processes.

    Args:
        run: the run folder, with its recipe and the stages before training.
        lock: file descriptor of the run's lock, inherited by the children.

    Raises:
        LlmrecError: the known error that ended a child.
        RunError: node 0 has not started, or a child ended in another way; with the path of the log.
    """
    if not run.is_run():
        raise RunError(f"{run.path} has no recipe.yaml. Start node 0 first, on a file system that all nodes share.")
    log = run.logs(f"launch-{launch.node_rank}.log") if launch.node_rank else run.log  # nodes share the folder
    with explain_disk(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # do not truncate the target of a link
        opened = log.open("x")
    with opened as kept, _started(command(launch, run), run.path, kept, lock) as process:
        known = _follow(process, kept, progress)
        code = process.wait()
    if known:
        kind = getattr(errors, known["error"], LlmrecError)
        raise (kind if issubclass(kind, LlmrecError) else LlmrecError)(known["message"])
    if code:
        raise RunError(_unknown(code, log))


def command(launch: Launch, run: RunFolder) -> list[str]:
    """Return the command that trains a run in several processes on this node."""
    node = [
        f"--machine_rank={launch.node_rank}",
        f"--main_process_port={launch.master_port if launch.nodes > 1 else 0}",
    ]
    node += [f"--main_process_ip={launch.master_addr}"] if launch.nodes > 1 else []
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        f"--config_file={config(launch.strategy)}",
        *(f"--num_processes={launch.processes}", f"--num_machines={launch.nodes}", *node),
        *("-m", "llmrec", "train", str(run.recipe), "--out", str(run.path), "--lines"),
    ]


def config(strategy: str) -> Path:
    """Return the bundled accelerate configuration of a strategy."""
    return resources.folder("recipes") / "accelerate" / f"{strategy}.yaml"


def check(launch: Launch) -> None:
    """Check that this machine can run the launch settings.

    Raises:
        RunError: a sharding strategy without GPUs, more processes than GPUs, or DeepSpeed is not installed.
    """
    if launch.single_process:
        return
    import torch

    local, gpus = launch.processes // launch.nodes, torch.cuda.device_count()
    if not gpus and launch.strategy != "ddp":
        raise RunError(f"launch.strategy: {launch.strategy} needs GPUs, and this machine has none. Use ddp.")
    if gpus and local > gpus:
        raise RunError(f"launch.processes needs {local} GPUs on this machine, which has {gpus}. Use fewer processes.")
    if launch.strategy.startswith("deepspeed") and not resources.is_installed("deepspeed"):
        raise RunError(f"launch.strategy: {launch.strategy} needs a package. Type: pip install deepspeed")


@contextlib.contextmanager
def _started(line: list[str], out: Path, kept: Any, lock: int | None) -> Iterator[subprocess.Popen[str]]:
    """Start the launcher in its own session, so that Ctrl-C reaches only this process, which then ends it."""
    import torch

    environment = os.environ | {HELD: str(out.resolve()), "OMP_WAIT_POLICY": "passive"}
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "1"  # `--cpu` would start only one process
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    held = [] if lock is None else [lock]
    child = ChildProcess(line, _GRACE, stdout=subprocess.PIPE, stderr=kept, text=True, env=environment, pass_fds=held)
    try:
        yield child.process
    finally:
        child.stop()  # the launcher ends its processes, then itself
        if child.process.stdout:
            child.process.stdout.close()


def _follow(process: subprocess.Popen[str], kept: Any, progress: Callable[[float], None]) -> dict[str, str] | None:
    """Read the output of the children until they end; return kind (`error`) and `message` of the first known error."""
    known = None
    assert process.stdout is not None
    for line in process.stdout:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict) and "done" in value:
            progress(value["done"])
        elif isinstance(value, dict) and {"error", "message"} <= set(value):
            known = known or value
        else:
            kept.write(line)
    return known


def _unknown(code: int, log: Path) -> str:
    """Return the message for an unknown error: its cause in the log, or that the system killed a process."""
    with log.open(errors="replace") as file:
        last = list(deque((line.rstrip() for line in file if line.strip()), 400))
    if any(re.search(r"exitcode\s*:\s*-9\b", line) for line in last):
        return (
            f"the system killed a training process, most likely because memory ran out. In the recipe, raise "
            f"train.N.gradient_accumulation, set train.N.gradient_checkpointing: true or lower "
            f"launch.processes. Its log: {log}"
        )
    causes = [line for line in last if re.search(r"^(\[rank\d+\]: )?\w*(Error|Exception)\b", line)]
    return f"training ended with exit code {code}: {causes[0] if causes else 'no reason given'}. Its whole log: {log}"
