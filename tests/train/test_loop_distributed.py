"""Two real processes on the CPU: each takes its share of every step, and together they are one with the same batch."""

from __future__ import annotations

import json
import multiprocessing
import socket
from pathlib import Path

import pytest
import torch
from shared_training import STAGE, main, model, rows

from llmrec.train import sft
from llmrec.train.packing import Order

Curve = list[tuple[int, float]]


def train_together(work: Path, stop_at: int = 0) -> list[int | None]:
    """Train in two processes, as torch's launcher sets them up; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("forkserver")  # imports once, and forks before torch has any thread
    context.set_forkserver_preload(["shared_training"])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    places = [shared | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "1"} for rank in "01"]
    processes = [context.Process(target=main, args=(work, place, stop_at)) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        process.kill()
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """Two processes, killed in the second epoch and gone on with; and the rows each saw until it was killed."""
    work = tmp_path_factory.mktemp("shared")
    codes = train_together(work, 17)
    assert codes[0] == 9 and codes[1] != 0
    assert not (work / "facts.json").exists()
    assert [path.parent.name for path in work.glob("checkpoint-*/whole")] == ["checkpoint-15"]
    seen = [[int(row) for row in (work / f"seen-{rank}").read_text().split()] for rank in (0, 1)]
    assert train_together(work) == [0, 0]
    return work, seen


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    work, llama = tmp_path_factory.mktemp("alone"), model()
    sft.train(llama, rows(), STAGE, 0, work, 0.0, lambda done: None)
    return work, llama.state_dict()


def curve(work: Path) -> Curve:
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_two_processes_take_disjoint_halves_of_every_step(broken: tuple[Path, list[list[int]]]) -> None:
    """An epoch's four steps of 4 rows, 2 a process; nobody takes a row twice, and the last 2 are one process's."""
    work, (first, second) = broken
    assert json.loads((work / "facts.json").read_text())["processes"] == 2
    epoch = list(Order(14, 4, 0))
    assert set(first[:8]).isdisjoint(second[:6])
    assert sorted(first[:8] + second[:6]) == list(range(14))
    assert [first[step * 2 : step * 2 + 2] for step in range(4)] == [epoch[at : at + 2] for at in (0, 4, 8, 12)]
    assert [second[step * 2 : step * 2 + 2] for step in range(3)] == [epoch[at : at + 2] for at in (2, 6, 10)]


def test_two_processes_killed_on_the_way_are_one_with_the_same_batch(
    broken: tuple[Path, list[list[int]]], alone: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    weights = torch.load(broken[0] / "weights.pt")
    for name, weight in alone[1].items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    together, single = curve(broken[0]), curve(alone[0])
    assert [step for step, _ in together] == [step for step, _ in single] == [10, 20, 30, 32]
    # step 20's line is the mean since step 15 where the training was gone on with there
    for place in (0, 2, 3):
        assert together[place][1] == pytest.approx(single[place][1], abs=1e-4)
