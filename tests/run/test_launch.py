"""A recipe's `launch`: the command it becomes, what comes out of it, and how it ends when something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from llmrec.errors import DataError, RecipeError, RunError
from llmrec.recipe import Launch
from llmrec.recipe_file import dump, load
from llmrec.run import execute, launch
from llmrec.run.layout import RunFolder

STRATEGIES = ["ddp", "fsdp", "deepspeed-zero2", "deepspeed-zero3"]
SMALL = ["train.0.epochs=2", "train.0.validation.every=15", "train.0.validation.users=20"]


def run(recipe: Path, out: Path, *given: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "llmrec", "run", str(recipe), "--until", "train", "--out", str(out), *given]
    return subprocess.run(line, capture_output=True, text=True, timeout=400)


def logged(out: Path) -> list[dict[str, float]]:
    lines = (out / "train-1-sft" / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.slow("three trainings, half a minute")
def test_a_run_in_two_processes_is_the_run_in_one_and_stays_made(world: Path, tmp_path: Path) -> None:
    done = run(world, tmp_path / "two", "launch.processes=2", *SMALL)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "two" / "train-1-sft" / "made.json"
    assert json.loads(made.read_text())["facts"]["processes"] == 2
    execute.run(load(world, SMALL), tmp_path / "one", "train")
    assert len(logged(tmp_path / "one")) > 5
    for one, two in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    before = made.stat().st_mtime_ns
    execute.run(load(world, SMALL), tmp_path / "two", "train")
    assert made.stat().st_mtime_ns == before
    assert not list((tmp_path / "two" / ".work").iterdir())


def test_a_known_error_of_a_child_is_the_same_error_here(world: Path, tmp_path: Path) -> None:
    gone = load(world, ["data.items=nowhere.csv"])
    (tmp_path / "recipe.yaml").write_text(dump(gone))
    with pytest.raises(DataError) as here:
        execute.run(gone, tmp_path / "here")
    with pytest.raises(DataError) as there:
        launch.train(Launch(), RunFolder(tmp_path), lambda done: None)
    assert str(there.value) == str(here.value)
    assert "nowhere.csv" in str(there.value)


def test_several_processes_are_sent_to_the_verb_that_shares(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"`llmrec train`.*launch: \{processes: N\}"):
        execute.run(load(world), tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RunError, match=r"train\.0\.batch: 8 packed rows do not divide over 3 processes .* 6 or 9"):
        execute.train(load(world), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_shipped_configurations_are_what_accelerate_reads(strategy: str, tmp_path: Path) -> None:
    kind = {"ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(strategy, "DEEPSPEED")
    assert load_config_from_file(str(launch.config(strategy))).distributed_type == kind
    given = Launch(processes=8, strategy=strategy, nodes=2, node_rank=1, master_addr="10.0.0.1", master_port=4000)
    line = launch.command(given, RunFolder(tmp_path / "run"))
    assert line[1:3] == ["-m", "accelerate.commands.launch"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(line[3:]))
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed) == tuple(
        kind == name for name in ("MULTI_GPU", "FSDP", "DEEPSPEED")
    )
    assert (arguments.num_processes, arguments.num_machines, arguments.machine_rank) == (8, 2, 1)
    assert (arguments.main_process_ip, arguments.main_process_port) == ("10.0.0.1", 4000)
    assert (arguments.module, arguments.training_script, arguments.training_script_args[0]) == (True, "llmrec", "train")


def test_fsdps_plugin_takes_the_shipped_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = launch.command(Launch(processes=2, strategy="fsdp"), RunFolder(tmp_path))
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(line[3:]))
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert "FULL" in str(plugin.state_dict_type)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeeds_stage_reaches_its_processes(stage: int, tmp_path: Path) -> None:
    line = launch.command(Launch(processes=2, strategy=f"deepspeed-zero{stage}"), RunFolder(tmp_path))
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(line[3:]))
    arguments.deepspeed_fields_from_accelerate_config = "zero_stage,gradient_clipping"
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["launch.processes=3"], r"train\.0\.batch: 8 packed rows do not divide over 3 processes"),
        (["launch.processes=3", "launch.nodes=2"], "processes: 3 do not divide over nodes: 2"),
        (["launch.processes=2", "launch.nodes=2"], "nodes: 2 need master_addr"),
        (["launch.processes=2", "launch.node_rank=1"], "node_rank: 1 must be below nodes: 1"),
        (["launch.strategy=fdsp"], r"launch\.strategy.*Did you mean 'fsdp'"),
        (["launch.strategy=fsdp", "train.0.validation.every=5"], r"train\.0\.validation ranks with the whole model"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_with_its_recipe(given: list[str], told: str, world: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        load(world, given)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has GPUs")
def test_sharding_without_gpus_is_refused_before_anything_is_made(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"launch\.strategy: fsdp needs GPUs, and this machine has none\. Use ddp\."):
        execute.run(load(world, ["launch.strategy=fsdp", "launch.processes=2"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_machines_wait_for_the_first(world: Path, tmp_path: Path) -> None:
    given = ["launch.processes=2", "launch.nodes=2", "launch.master_addr=localhost", "launch.node_rank=1"]
    with pytest.raises(RunError, match=r"has no recipe\.yaml\. Start node 0 first"):
        execute.run(load(world, given), tmp_path / "run")


def test_an_interrupt_ends_what_was_started(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
    with (
        (tmp_path / "log").open("w") as kept,
        pytest.raises(KeyboardInterrupt),
        launch._started(line, tmp_path, kept, None) as process,
    ):
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        raise KeyboardInterrupt
    assert process.returncode == 128 + signal.SIGTERM


def test_an_end_without_a_known_error_names_its_cause_and_log(tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    log.write_text("[rank1]: Traceback\n[rank1]: ValueError: nobody knows this\nexitcode  : 1 (pid: 7)\n")
    assert launch._unknown(1, log) == (
        f"training ended with exit code 1: [rank1]: ValueError: nobody knows this. Its whole log: {log}"
    )
    log.write_text("  exitcode  : -9 (pid: 7)\n")
    assert "the system killed a training process, most likely because memory ran out" in launch._unknown(1, log)
