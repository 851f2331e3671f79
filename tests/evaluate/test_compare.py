"""Comparing runs: the figures are those of the tables, and runs that were judged otherwise are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from renewed import renew

from llmrec.cli.judge import compare as command
from llmrec.errors import RunError
from llmrec.evaluate.files import EvaluatedRun, compare, read_run
from llmrec.metrics.significance import paired


def judged(run: Path) -> EvaluatedRun:
    return read_run(run / "evaluate-test", run.name)


@pytest.fixture
def twin(tiny_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run whose evaluation found something else."""

    def make(protocol: dict | None = None, table: Callable[[pa.Table], pa.Table] = lambda table: table) -> Path:
        folder = Path(shutil.copytree(tiny_run, tmp_path / "twin")) / "evaluate-test"
        told = json.loads((folder / "metrics.json").read_text())
        told["protocol"] |= protocol or {}
        (folder / "metrics.json").write_text(json.dumps(told))
        changed = table(pq.read_table(folder / "per_user.parquet"))
        pq.write_table(changed, folder / "per_user.parquet")
        renew(tmp_path / "twin")
        return tmp_path / "twin"

    return make


def halved(table: pa.Table) -> pa.Table:
    """The same cases in another order, every figure halved."""
    order = np.random.default_rng(0).permutation(table.num_rows)
    table = table.take(pa.array(order))
    for name in table.column_names[2:]:
        table = table.set_column(table.column_names.index(name), name, pa.array(table[name].to_numpy() / 2))
    return table


def test_differences_are_paired_over_cases_whatever_their_order(tiny_run: Path, twin: Callable[..., Path]) -> None:
    found = compare(judged(tiny_run), judged(twin(table=halved)))
    per_user = pq.read_table(tiny_run / "evaluate-test" / "per_user.parquet")
    for metric, told in found.items():
        values = per_user[f"nano {metric}"].to_numpy()
        assert told["first"]["mean"] == pytest.approx(values.mean())
        assert told["second"]["mean"] == pytest.approx(values.mean() / 2)
        truth = paired(values, values / 2, 0)
        assert told["difference"]["mean"] == pytest.approx(truth.mean)
        assert told["difference"]["p"] == pytest.approx(truth.p, abs=0.02)


def test_a_run_against_itself_differs_by_nothing(tiny_run: Path) -> None:
    for told in compare(judged(tiny_run), judged(tiny_run)).values():
        assert (told["difference"]["mean"], told["difference"]["p"]) == (0, 1)


MAY_DIFFER = {"seed", "intervals", "users", "cases"}  # the last two are counts of what was held out, which is compared


def test_runs_that_differ_in_anything_of_their_protocol_are_refused_with_both_values(
    tiny_run: Path, twin: Callable[..., Path]
) -> None:
    mine = judged(tiny_run)
    assert {"split", "target", "beams", "template", "exclude_seen"} <= mine.metrics["protocol"].keys() - MAY_DIFFER
    for key, value in mine.metrics["protocol"].items():
        other = value + 1 if isinstance(value, int) else f"another than {value}"
        theirs = replace(mine, metrics=mine.metrics | {"protocol": mine.metrics["protocol"] | {key: other}})
        if key in MAY_DIFFER:
            compare(mine, theirs)
            continue
        with pytest.raises(RunError, match="cannot be compared") as caught:
            compare(mine, theirs)
        [line] = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
        assert line.endswith(f": {value} and {other}"), key


def test_runs_with_other_held_out_items_are_refused(tiny_run: Path, twin: Callable[..., Path]) -> None:
    other = twin(table=lambda table: table.set_column(1, "target", pa.array(["i0"] * table.num_rows)))
    with pytest.raises(RunError, match=r"the held-out cases: 60 and 60 cases, of which \d+ are the same"):
        compare(judged(tiny_run), judged(other))


@pytest.mark.parametrize("gone", ["evaluate-test", "train-1-sft"])
def test_a_run_without_an_evaluation_or_its_model_says_how_to_make_one(
    gone: str, twin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = twin()
    shutil.rmtree(run / gone)
    with pytest.raises(RunError, match=f"{gone} is not made. Finish the run with: llmrec run RECIPE --out {run}"):
        command(run, run, as_json=True)


def test_the_verb_prints_the_table_and_ends_in_2_where_it_refuses(tiny_run: Path, twin: Callable[..., Path]) -> None:
    command = [sys.executable, "-m", "llmrec.cli.main", "compare", str(tiny_run)]
    told = subprocess.run([*command, str(tiny_run), "--json"], capture_output=True, text=True, check=True)
    assert set(json.loads(told.stdout)) == {"hr@1", "hr@5", "ndcg@5"}
    shown = subprocess.run(
        [*command, str(tiny_run)], capture_output=True, text=True, check=True, env={"COLUMNS": "160"}
    )
    assert "ndcg@5" in shown.stdout and "permutation" in shown.stdout
    refused = subprocess.run([*command, str(twin({"beams": 3}))], capture_output=True, text=True)
    assert refused.returncode == 2 and "beam width: 10 and 3" in refused.stderr
