"""`llmrec recommend`: recommend items for a user or a history, or for all users into a file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llmrec.cli.arguments import AS_JSON, parsed_path
from llmrec.cli.screen import plain, say, screen, stages
from llmrec.errors import RequestError

if TYPE_CHECKING:
    from llmrec.serve.batch_inference import BatchJob

DTYPES = ("auto", "float32", "bfloat16", "float16")


def recommend(
    run: Path = typer.Argument(help="a run folder, or an export of one"),
    user: str = typer.Option(None, help="id of a user of the run's data"),
    history: str = typer.Option(None, help="item ids, oldest first, separated by commas"),
    all_users: bool = typer.Option(False, "--all-users", help="all users of the run's data, written to --out"),
    out: Path = typer.Option(
        None,
        parser=parsed_path,
        metavar="PATH",
        help="with --all-users: a .parquet file; an interrupted command is resumed",
    ),
    force: bool = typer.Option(False, "--force", help="with --all-users: overwrite an existing file"),
    processes: int = typer.Option(
        1, min=1, help="with --all-users: number of processes, each with its own copy of the model"
    ),
    k: int = typer.Option(10, "-k", help="number of items"),
    seen: bool = typer.Option(
        None, "--seen/--unseen", help="whether to recommend items of the history; default: as in the evaluation"
    ),
    engine: str = typer.Option("transformers", help="transformers or vllm"),
    dtype: str = typer.Option("auto", help="of the weights in vLLM; its auto rounds float32 to bfloat16"),
    as_json: bool = AS_JSON,
) -> None:
    """Recommend items for a user of the run, for a history of item ids, or for all users into a file."""
    import llmrec
    from llmrec.decode.generative import parse_engine

    if [user is not None, history is not None, all_users].count(True) != 1:
        raise RequestError("give one of --user ID, --history ID,ID,… and --all-users --out recs.parquet")
    if dtype not in DTYPES or (dtype != "auto" and engine != "vllm"):
        raise RequestError(
            f"--dtype is an option of vLLM, one of {', '.join(DTYPES)}; transformers keeps the dtype of the weights."
        )
    name = parse_engine(engine)
    if all_users:
        from llmrec.serve.batch_inference import BatchJob

        if out is None:
            raise RequestError("--all-users needs an output file: --out recs.parquet")
        if out.suffix != ".parquet":
            raise RequestError(f"{out}: recommendations are written as Parquet. Name a file that ends in .parquet")
        _to_all_users(BatchJob(run, out, k, seen, name, dtype=dtype, force=force), processes, as_json)
        return
    options: dict[str, Any] = {"dtype": dtype} if engine == "vllm" else {}
    recommender = llmrec.load(run, engine=name, **options)
    past = _history_of(run, user) if user is not None else [part.strip() for part in history.split(",") if part.strip()]
    ranked = recommender.recommend(past, k, user=user or "", exclude_seen=None if seen is None else not seen)
    titles, number = recommender.catalogue.titles, recommender.catalogue.item_number
    if as_json:
        say([{"item_id": item_id, "title": titles[number[item_id]], "score": score} for item_id, score in ranked])
        return
    for place, (item_id, score) in enumerate(ranked, 1):
        screen.print(f"{place:>3}  {score:8.3f}  {plain(item_id):<12} {plain(titles[number[item_id]])}")


def _to_all_users(job: BatchJob, processes: int, as_json: bool) -> None:
    from llmrec.serve.batch_inference import recommend_all

    with stages() as tell:
        users = recommend_all(job, processes, lambda done: tell("users", done))
    if as_json:
        say({"users": users, "out": str(job.out)})
    else:
        screen.print(f"{job.out}: {job.k} items for each of {users} users")


def _history_of(run: Path, user: str) -> list[str]:
    from llmrec.data.dataset import Dataset
    from llmrec.run.layout import RunFolder
    from llmrec.run.recommender import is_export

    if is_export(run):
        raise RequestError(f"{run} is an export, which has no users: use --history ID,ID,… instead.")
    dataset = Dataset.load(RunFolder(run).data, texts=False)
    if user not in dataset.user_ids:
        near = difflib.get_close_matches(user, dataset.user_ids[:100_000], 1)
        raise RequestError(f"there is no user '{user}' in {run}." + (f" Did you mean '{near[0]}'?" if near else ""))
    return [dataset.item_ids[item] for item in dataset.histories[dataset.user_ids.index(user)]]
