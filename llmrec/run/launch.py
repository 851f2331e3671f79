"""Training in several processes: a recipe's `launch` as an `accelerate launch` command, started, followed and ended.

The children run `llmrec train … --lines`, and the first of them tells on its standard output how far it is and which
known error ended it, one JSON value a line. Their standard error is kept in the run's folder.
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

HELD = "LLMREC_HELD"  # the run folder whose lock a parent holds for its children
_GRACE = 40  # seconds that torch's launcher may take to end its processes


def train(launch: Launch, run: RunFolder, progress: Callable[[float], None], lock: int | None = None) -> None:
    """Start the training stages of a run in several processes and wait for their end.

    Args:
        run: the run folder; recipe.yaml and the stages before training are there.
        lock: file descriptor of the run's lock, which the children hold as well.

    Raises:
        LlmrecError: the known error that ended a child.
        RunError: machine 0 has not begun, or a child ended in another way; says where its log is.
    """
    if not run.is_run():
        raise RunError(
            f"{run.path} holds no recipe.yaml. Start machine 0 first, on a file system that both machines see."
        )
    log = run.logs(f"launch-{launch.node_rank}.log") if launch.node_rank else run.log  # machines share the folder
    with explain_disk(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # where it is a link, what it leads to is not cut
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
    """The command that trains a run in several processes on this machine; all machines but 0 differ in the rank."""
    place = [
        f"--machine_rank={launch.node_rank}",
        f"--main_process_port={launch.master_port if launch.nodes > 1 else 0}",
    ]
    place += [f"--main_process_ip={launch.master_addr}"] if launch.nodes > 1 else []
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        f"--config_file={config(launch.strategy)}",
        *(f"--num_processes={launch.processes}", f"--num_machines={launch.nodes}", *place),
        *("-m", "llmrec", "train", str(run.recipe), "--out", str(run.path), "--lines"),
    ]


def config(strategy: str) -> Path:
    """The accelerate configuration of a strategy, as shipped."""
    return resources.folder("recipes") / "accelerate" / f"{strategy}.yaml"


def check(launch: Launch) -> None:
    """Refuse what this machine cannot do.

    Raises:
        RunError: a sharding strategy without GPUs, more processes than GPUs, or DeepSpeed is not installed.
    """
    if launch.single_process:
        return
    import torch

    here, gpus = launch.processes // launch.nodes, torch.cuda.device_count()
    if not gpus and launch.strategy != "ddp":
        raise RunError(f"launch.strategy: {launch.strategy} needs GPUs, and this machine has none. Use ddp.")
    if gpus and here > gpus:
        raise RunError(
            f"launch.processes asks for {here} on this machine, which has {gpus} GPU(s): one each. Lower it."
        )
    if launch.strategy.startswith("deepspeed") and not resources.is_installed("deepspeed"):
        raise RunError(f"launch.strategy: {launch.strategy} needs a package. Type: pip install deepspeed")


@contextlib.contextmanager
def _started(line: list[str], out: Path, kept: Any, lock: int | None) -> Iterator[subprocess.Popen[str]]:
    """The launcher in a session of its own, so that Ctrl-C reaches this process alone, which then ends it."""
    import torch

    environment = os.environ | {HELD: str(out.resolve()), "OMP_WAIT_POLICY": "passive"}
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "1"  # `--cpu` would start one process alone
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    held = [] if lock is None else [lock]
    child = ChildProcess(line, _GRACE, stdout=subprocess.PIPE, stderr=kept, text=True, env=environment, pass_fds=held)
    try:
        yield child.process
    finally:
        child.stop()  # the launcher ends its processes, and then itself
        if child.process.stdout:
            child.process.stdout.close()


def _follow(process: subprocess.Popen[str], kept: Any, progress: Callable[[float], None]) -> dict[str, str] | None:
    """Read what the children print until all have ended; kind (`error`) and `message` of the first known error."""
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
    """Words for an end that no child explained: its last lines, and whether the system killed it."""
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
