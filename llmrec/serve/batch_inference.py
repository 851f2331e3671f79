"""Batch inference: recommendations for all users of a run, in shards that survive a kill, on several processes.

While it runs, recs.parquet.parts/ beside recs.parquet holds one file per shard, complete or absent. A shard depends
only on its users, so the result does not depend on interruptions or on the number of processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.contracts import Request
from llmrec.decode.generative import EngineName
from llmrec.decode.load import LoadedRecommender
from llmrec.decode.recommender_spec import RecommenderSpec, iter_nodes
from llmrec.errors import RequestError, RunError
from llmrec.files import atomic_file, explain_disk, hash_json, read_json, write_json
from llmrec.run.layout import RunFolder
from llmrec.run.recommender import describe, is_export
from llmrec.serve.lookup import Users

T = TypeVar("T")
BATCH = 64  # users ranked at a time
PLAN = "plan.json"
_OURS = re.compile(
    r"plan\.json|[0-9]{6}\.parquet|\.(plan\.json|[0-9]{6}\.parquet)\..{8}"
)  # the last: interrupted writes
SCHEMA = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())])


@dataclass(frozen=True)
class BatchJob:
    """Settings of batch inference.

    Attributes:
        out: parquet file with user_id, rank from 1, item_id, score (log-probability in nats).
        k: items per user.
        seen: whether items of the history may be recommended; None: as in the evaluation of the run.
        shard: users per shard; a kill loses one shard of each process.
        dtype: of vLLM's weights; transformers keeps that of the files.
        force: overwrite an existing file, and discard shards of another job.
    """

    run: Path
    out: Path
    k: int = 10
    seen: bool | None = None
    engine: EngineName = "transformers"
    shard: int = 256
    dtype: str = "auto"
    force: bool = False

    @property
    def parts(self) -> Path:
        """Folder of the finished shards."""
        return self.out.with_name(f"{self.out.name}.parts")


def recommend_all(job: BatchJob, processes: int = 1, progress: Callable[[float], None] = lambda done: None) -> int:
    """Write recommendations for all users of a run and return the number of users; finished shards are reused.

    Args:
        processes: number of processes, each with its own model.
        progress: called with the fraction that is done.

    Raises:
        RequestError: the run has no users, or k is not between 1 and the catalogue's size.
        RunError: the file exists, or shards of another job, or other files in their folder; or a process failed.
    """
    _refuse_occupied(job)
    spec = describe(job.run)
    if is_export(job.run):
        raise RequestError(f"{job.run} is an export, which has no users: use the run that it was exported from.")
    users = len(Users(RunFolder(job.run).data))
    shards = -(-users // job.shard)
    _write_plan(job, spec, users)
    if processes == 1:
        _run_shards(job, 0, 1, progress)
    else:
        _run_processes(job, min(processes, shards), shards, progress)
    _join_shards(job, shards)
    return users


def _write_plan(job: BatchJob, spec: RecommenderSpec, users: int) -> None:
    """Write what the shards depend on; refuse shards that depend on anything else."""
    models = [node["folder"] for node in iter_nodes(spec["recommender"]) if "folder" in node]
    folders = [RunFolder(job.run).data, *(job.run / name for name in (spec["catalogue"], *models))]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    facts = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    settings = {name: value for name, value in asdict(job).items() if name not in ("run", "out", "force")}
    lists = {"recommender": spec["recommender"], "exclude_seen": spec["exclude_seen"]}
    plan = {**settings, **lists, "users": users, "files": hash_json(facts)}
    if (job.parts / PLAN).is_file() and read_json(job.parts / PLAN) != plan:
        if not job.force:
            raise RunError(
                f"{job.parts} holds shards of another job (other model, data or options). Finish that one, choose "
                "another --out, or start again with --force"
            )
        _clear(job)
    if not (job.parts / PLAN).is_file():
        write_json(job.parts / PLAN, plan)


def _refuse_occupied(job: BatchJob) -> None:
    """Refuse to overwrite a file, or to use a folder of shards that contains other files."""
    with explain_disk(job.out):
        if job.out.is_file() and not job.force:
            raise RunError(f"{job.out} exists already. Choose another --out, or overwrite it with --force")
        if os.path.lexists(job.out) and not job.out.is_file():
            raise RunError(f"{job.out} is not a regular file. Choose another --out")
        if os.path.lexists(job.parts) and not _holds_only_shards(job.parts):
            raise RunError(f"{job.parts} is for shards and contains other files. Move it away, or choose another --out")


def _holds_only_shards(parts: Path) -> bool:
    """Whether a folder contains shards, their plan, and nothing else."""
    if parts.is_symlink() or not parts.is_dir():
        return False
    names = {path.name for path in parts.iterdir()}
    planned = PLAN in names and isinstance(plan := read_json(parts / PLAN), dict) and plan.keys() >= {"k", "shard"}
    return all(map(_OURS.fullmatch, names)) and (planned or all(name.startswith(".") for name in names))


def _clear(job: BatchJob) -> None:
    """Delete the shards and their plan, and the folder if it is then empty."""
    for path in job.parts.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    with contextlib.suppress(OSError):
        job.parts.rmdir()


def _run_shards(
    job: BatchJob, rank: int, processes: int, progress: Callable[[float], None] = lambda done: None
) -> None:
    """Compute the missing shards of one process."""
    import llmrec

    if processes > 1:
        _bind_devices(rank, processes)
    users = Users(RunFolder(job.run).data)
    ids = users.ids
    todo = [number for number in range(rank, -(-len(ids) // job.shard), processes) if not _shard(job, number).is_file()]
    options: dict[str, Any] = {"dtype": job.dtype} if job.engine == "vllm" else {}
    recommender = llmrec.load(job.run, engine=job.engine, **options) if todo else None
    for number in todo:
        assert recommender is not None
        shard = ids[number * job.shard : (number + 1) * job.shard]
        tables = [_rank(recommender, users, shard[i : i + BATCH], job) for i in range(0, len(shard), BATCH)]
        with atomic_file(_shard(job, number)) as temporary:
            pq.write_table(pa.concat_tables(tables), temporary)
        progress(min(1.0, (number + 1) * job.shard / len(ids)))


def _bind_devices(rank: int, processes: int) -> None:
    """Assign cores and GPUs to one of several processes: vLLM would use the first ones for all."""
    import torch

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    assigned = part_of(cores, rank, processes)
    torch.set_num_threads(len(assigned))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, assigned)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(part_of(gpus, rank, processes))


def part_of(devices: list[T], rank: int, processes: int) -> list[T]:
    """The devices of one process: its own if there are enough, else one that is shared."""
    first, last = (number * len(devices) // processes for number in (rank, rank + 1))
    return devices[first:last] or [devices[rank % len(devices)]]


def _rank(loaded: LoadedRecommender, users: Users, batch: list[str], job: BatchJob) -> pa.Table:
    known = loaded.catalogue.item_number
    exclude = loaded.exclude_seen if job.seen is None else not job.seen
    requests = []
    for user in batch:
        history = [known[item] for item in users.history(user) if item in known]
        denied = np.array(sorted(set(history)) if exclude else [], np.int64)
        requests.append(Request(history, user=user, denied=denied))
    ranked = loaded.recommender.rank(requests, job.k)
    row, rank = np.nonzero(ranked.items >= 0)
    item_ids = pa.array(loaded.catalogue.item_ids, pa.string())
    columns: list[Any] = [
        pa.array(batch, pa.string()).take(pa.array(row)),
        pa.array((rank + 1).astype(np.int32)),
        item_ids.take(pa.array(ranked.items[row, rank])),
        pa.array(ranked.scores[row, rank].astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _run_processes(job: BatchJob, processes: int, shards: int, progress: Callable[[float], None]) -> None:
    spawn = multiprocessing.get_context("spawn")  # a fork would share the model's threads
    workers = [spawn.Process(target=_run_shards, args=(job, rank, processes)) for rank in range(processes)]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.2)
            progress(len(_finished_shards(job)) / shards)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise RunError(
            "a process failed (see above). Type the same command again: it continues after the finished shards."
        )


def _join_shards(job: BatchJob, shards: int) -> None:
    """Write one file of all shards, in order."""
    parts = _finished_shards(job)
    if len(parts) != shards:
        raise RunError(
            f"{shards - len(parts)} of {shards} shards are missing in {job.parts}: type the same command again."
        )
    with atomic_file(job.out) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
    _clear(job)


def _shard(job: BatchJob, number: int) -> Path:
    return job.parts / f"{number:06d}.parquet"


def _finished_shards(job: BatchJob) -> list[Path]:
    return sorted(job.parts.glob("[0-9][0-9][0-9][0-9][0-9][0-9].parquet"))
