"""What the chat's understanding is worth: a genre that is asked for, and dialogues with simulated guests.

python scripts/experiments/chat.py text RUN                         → results/chat-text.json
python scripts/experiments/chat.py dialogues RUN --users 300        → results/chat-dialogues.json and .svg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from chat_user_simulator import SimulatedUser, play
from llmrec import resources
from llmrec.chat.choose import State
from llmrec.chat.client import Client, OwnServer
from llmrec.chat.dialogue import ChatService, Dialogue
from llmrec.chat.store import Column, Store
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.metrics.significance import bootstrap, paired
from llmrec.report.result_charts import draw_lines as draw
from llmrec.results.record import write_result
from llmrec.run.layout import RunFolder

Way = Literal["filter", "rerank", "nearest"]
K, TURNS, KNOWN, LIKED = 10, 5, 3, 4.0  # items shown; turns; titles named at first; stars that are a like
AT_ONCE = 8  # requests at a time
NEAREST = 200  # items that free words leave, in the way of that name
FREQUENT = 20  # items that a value must have to be asked for; fewer in a small catalogue
ASKED = ("a {} film tonight, please", "I would like to see a {}", "something {} this time", "{} please", "any {}?")
_T = TypeVar("_T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("run", type=Path, help="a run folder with its data")
    parser.add_argument("--users", type=int, default=900, help="at most")
    parser.add_argument("--encoder", default="minilm-l6", help="of free words: minilm-l6 or hashing")
    parser.add_argument("--seed", type=int, default=42, help="of who is asked, and of guests' words")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    resources.require_extras("chat", "http")
    print(measure(given.part, given.run, given.encoder, given.users, given.seed, given.out))


def measure(part: str, run: Path, encoder: str, users: int, seed: int, out: Path) -> Path:
    """Serve a run and measure one part.

    Args:
        part: text or dialogues.
        run: a run folder with its data.
        encoder: of free words.
        users: at most so many.
        seed: of who is asked, and of guests' words.
        out: folder for the JSON file and the plot.

    Raises:
        RunError: the catalogue has no column of values.
    """
    dataset = Dataset.load(RunFolder(run).data)
    with OwnServer(run, "transformers") as server:
        counter = ChatService(Client(server.url, server.key), encoder, run, server)
        figures = PARTS[part](counter, dataset, users, seed)
    path = out / f"chat-{part}.json"
    command = f"python scripts/experiments/chat.py {part} runs/{run.name} --users {users}"
    protocol = {"run": run.name, "split": dataset.facts.get("split"), "seed": seed, "k": K, "encoder": encoder}
    write_result(path, command, figures, catalogue=counter.parts[1].store.catalogue, protocol=protocol)
    if part == "dialogues":
        _draw(figures, path.with_suffix(".svg"))
    return path


def _text(counter: ChatService, dataset: Dataset, users: int, seed: int) -> dict[str, Any]:
    """All ways of acting on validation; the one that the chat takes on test."""
    _, chooser = counter.parts
    store, column = chooser.store, _vocabulary(chooser.store)
    ways: tuple[Way, ...] = ("filter", "rerank", "nearest")
    valid = [_asking(counter, dataset, "valid", way, column, users // 3, seed) for way in ways]
    test = _asking(counter, dataset, "test", "filter", column, users, seed)
    return {"column": column.name, "items": len(store), "validation": dict(zip(ways, valid, strict=True)), "test": test}


def _asking(
    counter: ChatService,
    dataset: Dataset,
    split: Literal["valid", "test"],
    way: Way,
    column: Column,
    users: int,
    seed: int,
) -> dict[str, Any]:
    """Every user is recommended items without a wish, and with one value asked for, in three ways of choosing it.

    next: a value of the item that they take next. taste: the value that they have most more often than others.
    any: one drawn from all.
    """
    store = counter.parts[1].store
    cases = dataset.cases(split)
    draw_ = np.random.default_rng([seed, 1])
    chosen = np.sort(draw_.permutation(len(cases.users))[:users])
    holders = {
        name: set(items) for name, items in column.holders.items() if len(items) >= min(FREQUENT, len(store) // 8)
    }
    usual = np.array([len(items) for items in holders.values()]) / len(store)
    rows = []
    for case in chosen.tolist():
        history = [store.number[dataset.item_ids[item]] for item in cases.histories[case].tolist()]
        target = store.number[dataset.item_ids[int(cases.targets[case])]]
        own = [name for name in holders if target in holders[name]]
        shares = np.array([sum(item in items for item in history) / len(history) for items in holders.values()])
        left = np.array([not items.issubset(history) for items in holders.values()])  # nobody asks for what they have
        names = [name for name, some in zip(holders, left, strict=True) if some]
        taste = int(np.argmax(np.where(left, shares - usual, -np.inf)))
        asked = {"taste": list(holders)[taste], "any": names[int(draw_.integers(len(names)))]}
        asked |= {"next": own[int(draw_.integers(len(own)))]} if own else {}
        rows.append((history, target, asked, [ASKED[int(one)] for one in draw_.integers(len(ASKED), size=3)]))

    def answer(row: tuple[list[int], int, dict[str, str], list[str]]) -> dict[str, Any]:
        history, target, asked, forms = row
        plain = _list(counter, history, None, "", way)
        lists = {
            kind: _list(counter, history, value, form.format(value.lower()), way)
            for (kind, value), form in zip(asked.items(), forms, strict=False)
        }
        return {"target": target, "asked": asked, "plain": plain, "lists": lists}

    answers = _at_once(answer, rows, f"{split} {way}")
    kinds = ("next", "taste", "any")
    return {kind: _judged(kind, [one for one in answers if kind in one["asked"]], holders, seed) for kind in kinds}


def _list(counter: ChatService, history: list[int], value: str | None, words: str, way: Way) -> list[int]:
    """Item numbers of ten recommendations: through the chat's own understanding, or with a value as free words."""
    understanding, chooser = counter.parts
    ids = [chooser.store.items[one].item_id for one in history]
    if value is None:
        return chooser.select(State(liked=ids), K).items
    if way != "filter":
        order = np.argsort(-chooser.index.to_text(value), kind="stable") if way == "nearest" else np.zeros(0, int)
        far = [at for at in order.tolist() if at not in {*history}][NEAREST:]
        return chooser.select(State(liked=ids, about=value), K, [chooser.store.items[at].item_id for at in far]).items
    dialogue = Dialogue(understanding, chooser, K)
    dialogue.state.liked = ids
    dialogue.hear(words)
    return [chooser.store.number[card.item_id] for card in dialogue.state.cards]


def _judged(kind: str, answers: list[dict[str, Any]], holders: dict[str, set[int]], seed: int) -> dict[str, Any]:
    """Shares of the asked value, and hits of the next item, without and with the wish."""
    sets = [holders[one["asked"][kind]] for one in answers]
    before, after = (
        np.array(
            [
                np.mean([float(item in wanted) for item in _of(one, kind, asked)] or [0.0])
                for one, wanted in zip(answers, sets, strict=True)
            ]
        )
        for asked in (False, True)
    )
    found: dict[str, Any] = {
        "users": len(answers),
        "share_without": asdict(bootstrap(before, seed)),
        "share_with": asdict(bootstrap(after, seed)),
        "times_as_much": round(float(after.mean() / before.mean()), 3) if before.any() else None,
        "values": _by_value([one["asked"][kind] for one in answers], before, after),
    }
    for metric in ("hr", "ndcg"):
        without, with_ = (
            np.array([_gain(metric, _of(one, kind, asked), one["target"]) for one in answers])
            for asked in (False, True)
        )
        found[f"{metric}@{K}"] = {
            "without": asdict(bootstrap(without, seed)),
            "with": asdict(bootstrap(with_, seed)),
            "difference": asdict(paired(with_, without, seed)),
        }
    return found


def _of(answer: dict[str, Any], kind: str, asked: bool) -> list[int]:
    items: list[int] = answer["lists"][kind] if asked else answer["plain"]
    return items


def _gain(metric: str, items: list[int], target: int) -> float:
    if target not in items:
        return 0.0
    return 1.0 if metric == "hr" else float(1 / np.log2(items.index(target) + 2))


def _by_value(asked: list[str], before: np.ndarray, after: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each value: users, and the share before and after."""
    found = {}
    for value in sorted(set(asked)):
        at = np.array([one == value for one in asked])
        shares = (round(float(part[at].mean()), 4) for part in (before, after))
        found[value] = dict(zip(("users", "without", "with"), (int(at.sum()), *shares), strict=True))
    return found


def _dialogues(counter: ChatService, dataset: Dataset, users: int, seed: int) -> dict[str, Any]:
    """The same guests, once understood and once by their clicks alone."""
    store = counter.parts[1].store
    guests = _guests(store, dataset, users, seed)
    figures: dict[str, Any] = {"guests": len(guests), "turns": TURNS, "named_at_first": KNOWN}
    for name, reads in (("understanding", True), ("clicks", False)):

        def one(at: int, reads: bool = reads) -> list[list[str]]:
            known, wanted = guests[at]
            guest = SimulatedUser(store, known, wanted, np.random.default_rng([seed, 2, at]))
            return play(guest, counter.dialogue(K), TURNS, reads)

        lists = _at_once(one, range(len(guests)), name)
        figures[name] = _success(store, [wanted for _, wanted in guests], lists, seed)
    first = {name: np.array(figures[name].pop("found_by_turn")) for name in ("understanding", "clicks")}
    figures["difference"] = [
        asdict(paired(first["understanding"][:, turn], first["clicks"][:, turn], seed)) for turn in range(TURNS)
    ]
    return figures


def _guests(store: Store, dataset: Dataset, users: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """(known, wanted) item numbers of users who like enough: the newest likes of training, the likes held out."""
    ratings = (
        dataset.interactions.column("rating").to_numpy() if "rating" in dataset.interactions.column_names else None
    )
    likes = np.ones(len(dataset.splits), bool) if ratings is None else np.nan_to_num(ratings) >= LIKED
    numbers = np.array([store.number.get(one, -1) for one in dataset.item_ids])[dataset.histories.items]
    found: list[tuple[list[int], list[int]]] = []
    bounds = dataset.histories.offsets
    for user in np.random.default_rng([seed, 3]).permutation(len(bounds) - 1).tolist():
        part = np.arange(bounds[user], bounds[user + 1])
        part = part[likes[part] & (numbers[part] >= 0)]
        known, wanted = numbers[part[dataset.splits[part] == 0]], numbers[part[dataset.splits[part] > 0]]
        if len(known) >= KNOWN and len(wanted) and len(found) < users:
            found.append((known[-KNOWN:].tolist(), wanted.tolist()))
    return found


def _success(store: Store, wanted: list[list[int]], lists: list[list[list[str]]], seed: int) -> dict[str, Any]:
    """Success at turn t, average turns, recall@10 by turn, all over guests."""
    hits, recalls, cumulated = [], [], []
    for targets, turns in zip(wanted, lists, strict=True):
        ids = {store.items[one].item_id for one in targets}
        each = [len(ids & {*shown}) / len(ids) for shown in turns]
        seen = [len(ids & {one for shown in turns[: at + 1] for one in shown}) / len(ids) for at in range(len(turns))]
        hits.append([float(share > 0) for share in seen])
        recalls.append(each)
        cumulated.append(seen)
    found = np.array(hits)
    turns_taken = np.where(found.any(axis=1), found.argmax(axis=1) + 1, TURNS + 1)
    return {
        "success_at_turn": [asdict(bootstrap(found[:, turn], seed)) for turn in range(TURNS)],
        "average_turns": asdict(bootstrap(turns_taken.astype(float), seed)),
        "recall@10_by_turn": [round(float(part), 4) for part in np.mean(recalls, axis=0)],
        "recall_of_all_shown_by_turn": [round(float(part), 4) for part in np.mean(cumulated, axis=0)],
        "found_by_turn": found.tolist(),
    }


def _vocabulary(store: Store) -> Column:
    found = [column for column in store.columns.values() if column.kind == "values" and column.small]
    if not found:
        raise RunError("no column of the items holds a few values, such as genres, that could be asked for.")
    return found[0]


def _at_once(work: Callable[[_T], Any], rows: Sequence[_T], name: str) -> list[Any]:
    """Work on rows, several at a time; in their order."""
    done: list[Any] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for one in pool.map(work, rows):
            done.append(one)
            if len(done) % 100 == 0:
                print(f"{name}: {len(done)} of {len(rows)}", file=sys.stderr)
    return done


def _draw(figures: dict[str, Any], path: Path) -> None:
    named = {"words understood": "understanding", "clicks alone": "clicks"}
    lines = {
        name: [(turn + 1, one["mean"]) for turn, one in enumerate(figures[key]["success_at_turn"])]
        for name, key in named.items()
    }
    draw(lines, "turn", "share of guests who were shown what they wanted", path)


PARTS = {"text": _text, "dialogues": _dialogues}

if __name__ == "__main__":
    main()
