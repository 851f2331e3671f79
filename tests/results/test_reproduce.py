"""Results over seeds are the arithmetic of their runs; one is run again, and refused for other data or recipes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from llmrec.cli.main import main
from llmrec.errors import RunError
from llmrec.files import read_json, write_json
from llmrec.recipe_file import load
from llmrec.results import ledger
from llmrec.results.record import collect, write_result
from llmrec.run import execute

SHUT = ["train.0.epochs=0.5", "evaluate.ranking=[hr@1,hr@5]", "evaluate.beams=5", "evaluate.split=valid"]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one recipe, judged on test; the ledger lies beside them."""
    folder, found = tmp_path_factory.mktemp("seeds"), []
    for seed in (7, 8):
        run = execute.run(load(world, [*SHUT, f"seed={seed}"]), folder / f"small-seed{seed}", "train")
        ledger.evaluate_test(run, folder / "ledger.jsonl", "", lambda *done: None)
        found.append(run)
    return found


@pytest.fixture
def result(runs: list[Path], tmp_path: Path) -> Path:
    """Both seeds as a result."""
    told = collect(runs, (), runs[0].parent / "ledger.jsonl")
    write_result(tmp_path / "small.json", "", told.pop("figures"), **told)
    return tmp_path / "small.json"


@pytest.fixture
def llmrec(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path, result: Path
) -> Call:
    """`llmrec reproduce` of the result, in this process, where the world's files lie."""
    monkeypatch.chdir(world.parent)

    def call(*options: object) -> tuple[int, str, str]:
        book = ["--ledger", tmp_path / "ledger.jsonl"]
        monkeypatch.setattr(sys, "argv", ["llmrec", *map(str, ("reproduce", result, *book, *options))])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr()
        return code, told.out, " ".join(told.err.split())

    return call


def changed(result: Path, change: Callable[[dict], None]) -> None:
    told = read_json(result)
    change(told)
    write_json(result, told)


def test_a_result_is_the_mean_over_seeds_and_differences_are_paired(runs: list[Path]) -> None:
    told = collect(runs, (), runs[0].parent / "ledger.jsonl")
    tables = [pq.read_table(run / "evaluate-test" / "per_user.parquet").to_pandas() for run in runs]
    of_user = [table.set_index("user_id") for table in tables]
    model = sum(table["nano hr@5"] for table in of_user) / 2  # aligned by user
    other = sum(table["markov hr@5"] for table in of_user) / 2
    assert told["figures"]["systems"]["nano"]["hr@5"]["mean"] == pytest.approx(model.mean())
    assert told["figures"]["paired"]["markov"]["hr@5"]["mean"] == pytest.approx((model - other).mean())
    assert told["seeds"] == [7, 8] == [seed["seed"] for seed in told["figures"]["seeds"]]
    assert told["looks"] == {"of this recipe": 2, "at this data": 2}
    for seed, run in zip(told["figures"]["seeds"], runs, strict=True):
        alone = read_json(run / "evaluate-test" / "metrics.json")["systems"]["nano"]
        assert seed["metrics"] == alone
        stages = {path.parent.relative_to(run).as_posix() for path in run.rglob("made.json")}
        assert set(seed["seconds"]) == set(seed["hashes"]) == stages >= {"data", "train-1-sft", "evaluate-test"}
        assert all(peak["memory"] > 0 for peak in seed["peak MiB"].values())


def test_another_system_stands_beside_in_pairs_whatever_the_order_of_its_users(
    runs: list[Path], tmp_path: Path
) -> None:
    users = pq.read_table(runs[0] / "evaluate-test" / "per_user.parquet")
    users = users.take(np.random.default_rng(0).permutation(users.num_rows))
    twin = users.select(["user_id", "target"]).append_column("twin hr@1", users["nano hr@1"])
    pq.write_table(twin, tmp_path / "twin.parquet")
    told = collect(runs[:1], [tmp_path / "twin.parquet"], tmp_path / "none")["figures"]
    assert told["paired"]["twin"]["hr@1"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    pq.write_table(twin.set_column(1, "target", pa.array(["i0"] * len(twin))), tmp_path / "other.parquet")
    with pytest.raises(RunError, match="figures of other cases"):
        collect(runs[:1], [tmp_path / "other.parquet"], tmp_path / "none")


def test_figures_are_collected_where_weights_stayed_on_another_machine(runs: list[Path], tmp_path: Path) -> None:
    """`scripts/bundle.py take` brings what a training on another machine measured, and no weights."""
    figures = collect(runs[:1], (), tmp_path / "none")["figures"]
    run = tmp_path / runs[0].name
    shutil.copytree(runs[0], run)
    shutil.rmtree(run / "train-1-sft" / "model")
    assert collect([run], (), tmp_path / "none")["figures"] == figures
    with (run / "evaluate-test" / "metrics.json").open("a") as file:
        file.write(" ")
    with pytest.raises(RunError, match=r"metrics.json was changed after it was made"):
        collect([run], (), tmp_path / "none")


def test_runs_of_two_recipes_are_no_result(runs: list[Path], world: Path, tmp_path: Path) -> None:
    other = execute.run(load(world, [*SHUT, "train.0.batch=4"]), tmp_path / "other", "train")
    with pytest.raises(RunError, match="has not been judged on its test part"):
        collect([other])
    ledger.evaluate_test(other, tmp_path / "ledger.jsonl", "", lambda *done: None)
    with pytest.raises(RunError, match="differ in more than their seed"):
        collect([runs[0], other])


def test_a_result_that_is_run_again_is_the_same_and_leaves_a_line(llmrec: Call, result: Path, tmp_path: Path) -> None:
    code, out, err = llmrec("--seed", 8, "--out", tmp_path / "again", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["holds"]
    was = read_json(result)["figures"]["seeds"][1]["metrics"]
    assert {metric: one["now"] for metric, one in told["figures"].items()} == {m: v["mean"] for m, v in was.items()}
    [line] = ledger.read(tmp_path / "ledger.jsonl")
    assert (line["run"], line["why"], line["seed"]) == ("again", "llmrec reproduce small", 8)

    def lifted(told: dict) -> None:
        told["figures"]["seeds"][1]["metrics"]["hr@5"] = {"mean": 0.99, "low": 0.98, "high": 1.0}

    changed(result, lifted)
    code, out, _ = llmrec("--seed", 8, "--out", tmp_path / "again")
    assert code == 1
    assert "OUTSIDE" in out and "the same" in out


def test_other_data_are_refused_before_anything_is_trained(llmrec: Call, result: Path, tmp_path: Path) -> None:
    changed(result, lambda told: told["figures"]["seeds"][0].update({"data hash": "0" * 64}))
    code, _, err = llmrec("--out", tmp_path / "again")
    assert code == 2
    assert "the data here differ from those of small: 60 users, 40 items, 840 interactions" in err
    assert sorted(path.name for path in (tmp_path / "again").iterdir() if path.is_dir()) == ["data"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told["recipe"].update({"yaml": told["recipe"]["yaml"] + "sparkle: 1\n"}), "loads no more"),
        (lambda told: told.update({"recipe": "seed: 1"}), "pins no recipe and data"),
        (lambda told: told["figures"]["seeds"].pop(0), "has no seed 7. It has: 8"),
    ],
)
def test_a_result_that_cannot_be_run_is_told(
    change: Callable[[dict], None], words: str, llmrec: Call, result: Path
) -> None:
    changed(result, change)
    code, _, err = llmrec("--dry-run")
    assert code == 2
    assert words in err


def test_dry_run_and_tiny_compare_nothing(llmrec: Call, tmp_path: Path) -> None:
    code, out, _ = llmrec("--seed", 8, "--dry-run")
    recipe = yaml.safe_load(out)
    assert (code, recipe["seed"], recipe["data"]["interactions"]) == (0, 8, str(Path.cwd() / "log.csv"))
    code, out, err = llmrec("--tiny", "--out", tmp_path / "tiny")
    assert code == 0, err
    assert not (tmp_path / "ledger.jsonl").exists(), "a test part that is shut is not looked at"
