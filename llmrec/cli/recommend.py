"""Recommend items to a user of the run, or after a history of item ids."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.screen import say, screen


def command(
    run: Path = typer.Argument(help="a run folder, or an export of one"),
    user: str = typer.Option(None, help="a user id of the run's data"),
    history: str = typer.Option(None, help="item ids, oldest first, with commas between"),
    k: int = typer.Option(10, "-k", help="items wanted"),
    seen: bool = typer.Option(False, "--seen", help="items of the history may be recommended again"),
    engine: str = typer.Option("transformers", help="what runs the model: transformers or vllm"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    import llmrec
    from llmrec.decode.recommender import engine_named
    from llmrec.errors import RequestError

    if (user is None) == (history is None):
        raise RequestError("say for whom: either --user ID, or --history ID,ID,…")
    recommender = llmrec.load(run, engine=engine_named(engine))
    past = _history_of(run, user) if user is not None else [part.strip() for part in history.split(",") if part.strip()]
    found = recommender.recommend(past, k, exclude_seen=not seen)
    titles, number = recommender.catalogue.titles, recommender.catalogue.item_number
    if as_json:
        say([{"item_id": item_id, "title": titles[number[item_id]], "score": score} for item_id, score in found])
        return
    for place, (item_id, score) in enumerate(found, 1):
        screen.print(
            f"{place:>3}  {score:8.3f}  {item_id:<12} {titles[number[item_id]]}", markup=False, highlight=False
        )


def _history_of(run: Path, user: str) -> list[str]:
    import difflib

    from llmrec.data.dataset import Dataset
    from llmrec.errors import RequestError

    if not (run / "data").is_dir():
        raise RequestError(f"{run} holds no users, as an export does not: say --history ID,ID,… instead.")
    dataset = Dataset.load(run / "data")
    if user not in dataset.user_ids:
        near = difflib.get_close_matches(user, dataset.user_ids[:100_000], 1)
        raise RequestError(f"there is no user '{user}' in {run}." + (f" Did you mean '{near[0]}'?" if near else ""))
    return [dataset.item_ids[item] for item in dataset.histories[dataset.user_ids.index(user)]]
