"""Recommendations for every user of a run, offline: in shards that outlive a kill, over any number of processes.

Beside recs.parquet lies recs.parquet.parts/ while the work lasts: one file a shard, each whole or absent. A shard
depends on its users alone, so the result is the same however often the work was stopped and however many processes
shared it.
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

Thing = TypeVar("Thing")
BATCH = 64  # users at a time in the engine
PLAN = "plan.json"
_OURS = re.compile(r"plan\.json|[0-9]{6}\.parquet|\.(plan\.json|[0-9]{6}\.parquet)\..{8}")  # the last: cut by a kill
SCHEMA = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())])


@dataclass(frozen=True)
class BatchJob:
    """A file of recommendations for all users.

    Attributes:
        out: the parquet file: user_id, rank from 1, item_id, score (log-probability in nats).
        k: items a user.
        seen: whether items of a user's history may be given again; None: as the run is judged.
        shard: users a shard; a kill loses one shard of each process.
        dtype: of vLLM's weights; transformers takes them as they are.
        force: write over a file that is there, and begin anew where half of another job is.
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
        """Where finished shards wait for the last one."""
        return self.out.with_name(f"{self.out.name}.parts")


def recommend_all(job: BatchJob, processes: int = 1, tell: Callable[[float], None] = lambda done: None) -> int:
    """Write recommendations for every user of the run, and return how many users there are; finished shards are kept.

    Args:
        processes: how many share the work, each with a model of its own.
        tell: called with the share done.

    Raises:
        RequestError: the run holds no users, or k is not between 1 and the catalogue's size.
        RunError: the file is there already, or half of another job, or a folder of other files; or a process died.
    """
    _refuse_occupied(job)
    description = describe(job.run)
    if is_export(job.run):
        raise RequestError(f"{job.run} holds no users, as an export does not: name the run that it was exported from.")
    users = len(Users(RunFolder(job.run).data))
    shards = -(-users // job.shard)
    _plan(job, description, users)
    if processes == 1:
        _work(job, 0, 1, tell)
    else:
        _share(job, min(processes, shards), shards, tell)
    _join(job, shards)
    return users


def _plan(job: BatchJob, description: RecommenderSpec, users: int) -> None:
    """Write what is being made; shards made for anything else are refused."""
    read = [node["folder"] for node in iter_nodes(description["recommender"]) if "folder" in node]
    folders = [RunFolder(job.run).data, *(job.run / name for name in (description["catalogue"], *read))]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    facts = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    named = {name: value for name, value in asdict(job).items() if name not in ("run", "out", "force")}
    lists = {"recommender": description["recommender"], "exclude_seen": description["exclude_seen"]}
    plan = {**named, **lists, "users": users, "files": hash_json(facts)}
    if (job.parts / PLAN).is_file() and read_json(job.parts / PLAN) != plan:
        if not job.force:
            raise RunError(
                f"{job.parts} holds half of another job (other model, data or options). Finish that one, choose "
                "another --out, or begin anew with --force"
            )
        _clear(job)
    if not (job.parts / PLAN).is_file():
        write_json(job.parts / PLAN, plan)


def _refuse_occupied(job: BatchJob) -> None:
    """Refuse to write over what is there, and a folder for shards that holds anything else."""
    with explain_disk(job.out):
        if job.out.is_file() and not job.force:
            raise RunError(f"{job.out} is there already. Choose another --out, or write over it with --force")
        if os.path.lexists(job.out) and not job.out.is_file():
            raise RunError(f"{job.out} is no regular file. Choose another --out")
        if os.path.lexists(job.parts) and not _are_ours(job.parts):
            raise RunError(f"{job.parts} is for shards and holds other files. Move it away, or choose another --out")


def _are_ours(parts: Path) -> bool:
    """Whether a folder holds shards and their plan alone."""
    if parts.is_symlink() or not parts.is_dir():
        return False
    names = {path.name for path in parts.iterdir()}
    planned = PLAN in names and isinstance(plan := read_json(parts / PLAN), dict) and plan.keys() >= {"k", "shard"}
    return all(map(_OURS.fullmatch, names)) and (planned or all(name.startswith(".") for name in names))


def _clear(job: BatchJob) -> None:
    """Delete the shards and their plan, and the folder where nothing else is in it."""
    for path in job.parts.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    with contextlib.suppress(OSError):
        job.parts.rmdir()


def _work(job: BatchJob, rank: int, processes: int, tell: Callable[[float], None] = lambda done: None) -> None:
    """Make every shard of one process that is not made yet."""
    import llmrec

    if processes > 1:
        _take_place(rank, processes)
    users = Users(RunFolder(job.run).data)
    ids = users.ids
    todo = [number for number in range(rank, -(-len(ids) // job.shard), processes) if not _part(job, number).is_file()]
    options: dict[str, Any] = {"dtype": job.dtype} if job.engine == "vllm" else {}
    recommender = llmrec.load(job.run, engine=job.engine, **options) if todo else None
    for number in todo:
        assert recommender is not None
        mine = ids[number * job.shard : (number + 1) * job.shard]
        tables = [_table(recommender, users, mine[at : at + BATCH], job) for at in range(0, len(mine), BATCH)]
        with atomic_file(_part(job, number)) as temporary:
            pq.write_table(pa.concat_tables(tables), temporary)
        tell(min(1.0, (number + 1) * job.shard / len(ids)))


def _take_place(rank: int, processes: int) -> None:
    """Cores, and a GPU where there are some, for one of several processes: vLLM would put every one at the first."""
    import torch

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    mine = part_of(cores, rank, processes)
    torch.set_num_threads(len(mine))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, mine)))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else list(map(str, range(torch.cuda.device_count())))
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(part_of(gpus, rank, processes))


def part_of(things: list[Thing], rank: int, processes: int) -> list[Thing]:
    """One process's part of some things: of its own where there are enough, else shared, and never nothing."""
    first, last = (at * len(things) // processes for at in (rank, rank + 1))
    return things[first:last] or [things[rank % len(things)]]


def _table(opened: LoadedRecommender, users: Users, some: list[str], job: BatchJob) -> pa.Table:
    known = opened.catalogue.item_number
    exclude = opened.exclude_seen if job.seen is None else not job.seen
    requests = []
    for user in some:
        history = [known[item] for item in users.history(user) if item in known]
        denied = np.array(sorted(set(history)) if exclude else [], np.int64)
        requests.append(Request(history, user=user, denied=denied))
    found = opened.recommender.rank(requests, job.k)
    row, place = np.nonzero(found.items >= 0)
    names = pa.array(opened.catalogue.item_ids, pa.string())
    columns: list[Any] = [
        pa.array(some, pa.string()).take(pa.array(row)),
        pa.array((place + 1).astype(np.int32)),
        names.take(pa.array(found.items[row, place])),
        pa.array(found.scores[row, place].astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _share(job: BatchJob, processes: int, shards: int, tell: Callable[[float], None]) -> None:
    spawn = multiprocessing.get_context("spawn")  # a fork would share threads that the model holds
    workers = [spawn.Process(target=_work, args=(job, rank, processes)) for rank in range(processes)]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.2)
            tell(len(_made(job)) / shards)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise RunError("a process ended before its work was done (see above). The same command goes on where it was.")


def _join(job: BatchJob, shards: int) -> None:
    """One file of all shards, in order."""
    parts = _made(job)
    if len(parts) != shards:
        raise RunError(f"{shards - len(parts)} of {shards} shards are missing in {job.parts}: type the same again.")
    with atomic_file(job.out) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
    _clear(job)


def _part(job: BatchJob, number: int) -> Path:
    return job.parts / f"{number:06d}.parquet"


def _made(job: BatchJob) -> list[Path]:
    return sorted(job.parts.glob("[0-9][0-9][0-9][0-9][0-9][0-9].parquet"))
