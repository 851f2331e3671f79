"""Recommendations for every user, offline."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

import llmrec
from llmrec.data.dataset import Dataset
from llmrec.errors import RequestError, RunError
from llmrec.export import export
from llmrec.recipe_file import dump
from llmrec.run.layout import recipe_of
from llmrec.serve.batch_inference import BatchJob, part_of, recommend_all


@pytest.fixture(scope="module")
def whole(served, tmp_path_factory):
    out = tmp_path_factory.mktemp("everybody") / "recs.parquet"
    assert recommend_all(BatchJob(served.run, out, k=5, shard=16)) == 60
    return out


def test_everybody_gets_what_each_would_be_given(served, whole):
    recommender, data = llmrec.load(served.run), Dataset.load(served.run / "data")
    rows = pq.read_table(whole).to_pylist()
    assert not whole.with_name("recs.parquet.parts").exists()
    assert [row["user_id"] for row in rows[::5]] == data.user_ids
    for number in (0, 17, 59):
        mine = rows[5 * number : 5 * number + 5]
        truth = recommender.recommend([data.item_ids[item] for item in data.histories[number]], k=5)
        assert [(row["rank"], row["item_id"]) for row in mine] == [(at, item) for at, (item, _) in enumerate(truth, 1)]
        assert [row["score"] for row in mine] == pytest.approx([score for _, score in truth], abs=5e-5)


def test_killed_work_goes_on_and_two_processes_write_the_same_file(served, whole, tmp_path):
    out = tmp_path / "recs.parquet"
    script = (
        "from llmrec.serve.batch_inference import *; recommend_all(BatchJob(Path({!r}), Path({!r}), k=5, shard=16))"
    )
    command = [sys.executable, "-c", script.format(str(served.run), str(out))]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts = out.with_name("recs.parquet.parts")
    while process.poll() is None and len(list(parts.glob("0*.parquet"))) < 1:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert recommend_all(BatchJob(served.run, out, k=5, shard=16), processes=2) == 60
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("things", "processes"), [(8, 2), (7, 3), (2, 2), (2, 5), (1, 3)])
def test_processes_share_cores_out_and_none_goes_without(things, processes):
    parts = [part_of(list(range(things)), rank, processes) for rank in range(processes)]
    assert all(parts) and {core for part in parts for core in part} == set(range(things))
    if things >= processes:
        assert sum(map(len, parts)) == things
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_half_of_another_job_is_not_mixed_in(served, tmp_path):
    out = tmp_path / "recs.parquet"
    parts = out.with_name("recs.parquet.parts")
    with pytest.raises(KeyboardInterrupt):
        recommend_all(BatchJob(served.run, out, k=3, shard=16), progress=_stop)
    assert len(list(parts.glob("0*.parquet"))) == 1
    with pytest.raises(RunError, match=r"holds shards of another job .* --force"):
        recommend_all(BatchJob(served.run, out, k=4, shard=16))
    assert recommend_all(BatchJob(served.run, out, k=4, shard=16, force=True)) == 60
    assert pq.read_table(out)["rank"].to_pylist() == [1, 2, 3, 4] * 60
    assert not parts.exists()


def test_a_file_that_is_there_is_not_written_over_unasked(served, whole, tmp_path):
    out = tmp_path / "recs.parquet"
    out.write_text("mine")
    with pytest.raises(RunError, match=r"recs\.parquet exists already\. .*--force"):
        recommend_all(BatchJob(served.run, out, k=5, shard=16))
    assert out.read_text() == "mine" and list(tmp_path.iterdir()) == [out]
    recommend_all(BatchJob(served.run, out, k=5, shard=16, force=True))
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("held", [{"mine.txt": "kept"}, {"plan.json": "[]"}, {"000000.parquet": "kept"}])
def test_a_folder_of_other_files_is_not_taken_for_shards(served, tmp_path, held, force):
    parts = tmp_path / "recs.parquet.parts"
    parts.mkdir()
    for name, content in held.items():
        (parts / name).write_text(content)
    with pytest.raises(RunError, match="contains other files"):
        recommend_all(BatchJob(served.run, tmp_path / "recs.parquet", k=5, force=force))
    assert {path.name: path.read_text() for path in parts.iterdir()} == held


def test_what_is_put_beside_shards_outlives_them(served, tmp_path):
    out = tmp_path / "recs.parquet"

    def put(done):
        (tmp_path / "recs.parquet.parts" / "mine.txt").write_text("kept")

    recommend_all(BatchJob(served.run, out, k=3, shard=16), progress=put)
    assert [path.name for path in (tmp_path / "recs.parquet.parts").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["folder", "pipe", "file/recs.parquet", "x" * 300 + ".parquet", "a\0.parquet"])
def test_what_can_be_no_file_is_told_before_anything_is_made(served, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunError, match="--out"):
        recommend_all(BatchJob(served.run, tmp_path / name, k=5, force=True))
    assert sorted(tmp_path.iterdir()) == before


def test_half_of_a_job_with_other_lists_is_not_mixed_in(served, tmp_path):
    run, out = tmp_path / "run", tmp_path / "recs.parquet"
    shutil.copytree(served.run, run)
    with pytest.raises(KeyboardInterrupt):
        recommend_all(BatchJob(run, out, k=3, shard=16), progress=_stop)
    (run / "recipe.yaml").write_text(dump(recipe_of(run, ["evaluate.beams=49"])))
    with pytest.raises(RunError, match="holds shards of another job"):
        recommend_all(BatchJob(run, out, k=3, shard=16))


def _stop(done):
    raise KeyboardInterrupt


def test_what_cannot_be_done_is_refused(served, tmp_path):
    with pytest.raises(RequestError, match="k must be between 1 and the catalogue's 40 items"):
        recommend_all(BatchJob(served.run, tmp_path / "a.parquet", k=41))
    with pytest.raises(RequestError, match="has no users"):
        recommend_all(BatchJob(export(served.run, tmp_path / "export"), tmp_path / "b.parquet"))
