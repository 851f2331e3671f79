"""Write docs/leaderboard.md and its figures from results/ and docs/published.yaml.

python scripts/pages/leaderboard.py         → docs/leaderboard.md and results/leaderboard-*.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from boards import all_parts, digits
from llmrec.evaluate.ranking import ALONE
from llmrec.files import read_json, write_text
from llmrec.report.result_charts import draw_dots as dots
from llmrec.report.sentences import system_name

ROOT = Path(__file__).resolve().parents[2]
SETS = {
    "amazon-beauty-2014": "Amazon Beauty (2014)",
    "amazon-games-2018": "Amazon Games (2018)",
    "ml-100k": "MovieLens 100K",
}
SHOWN = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
HEAD = """# Leaderboard

Written by `python scripts/pages/leaderboard.py` from `results/` and `docs/published.yaml`; a test compares the page
with them. Every row is of the test part: whole catalogue, all users, one held-out item per user, so recall is the hit
rate.

Our models are tuned on validation only. Every evaluation on a test part is a line of `results/ledger.jsonl`. Our rows
can be reproduced: `llmrec reproduce results/NAME.json` says whether the figures are inside their intervals (95 %, over
users); the file of a collaborative model has its command. Published rows have protocols of their own: whether items of
the history were excluded, the number of beams, and the treatment of ties change a figure by more than the difference
between many rows.
"""


@dataclass(frozen=True)
class Row:
    """A system on the board.

    Attributes:
        name: of the system.
        figures: metric → `mean`, and `low` and `high` where they are known.
        source: Markdown: the file that the figures are from.
        ours: whether it is a language model of a recipe of ours.
        ensemble: whether several models make its lists together.
        pins: what its figures hang on, in words; empty for rows that nothing pins.
    """

    name: str
    figures: dict[str, dict[str, float]]
    source: str
    ours: bool = False
    ensemble: bool = False
    pins: list[str] = field(default_factory=list)


def pinned(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Results of recipes over seeds, as scripts/experiments/seeds.py writes them."""
    for path in sorted(folder.glob("*.json")):
        told = read_json(path)
        if isinstance(told.get("recipe"), dict) and {"data", "seeds"} <= told.keys():
            yield path, told


def of_all_users(results: Path, source: str) -> list[tuple[Path, dict[str, Any]]]:
    """Those of a data set that were not cut down to some of its users."""
    found = [(path, told, yaml.safe_load(told["recipe"]["yaml"])) for path, told in pinned(results)]
    return [
        (path, told)
        for path, told, recipe in found
        if told["data"]["source"] == source and not recipe.get("data", {}).get("max_users")
    ]


def measured(results: Path, source: str) -> list[Row]:
    """Rows of a data set, best NDCG@10 first: recipes, teachers, and baselines of recipes that are no such teacher."""
    rows: dict[str, Row] = {}
    for path in sorted(results.glob(f"teachers-{source}*.json")):
        told = read_json(path)
        pins = ["", told["commit"], str(told["seed"]), told["data hash"][:12], ""]
        for name, figures in told["figures"].items():
            rows[name] = Row(system_name(name), figures, _link(path), ensemble=name == "markov-ease", pins=pins)
    for path, told in of_all_users(results, source):
        systems, model, pins = told["figures"]["systems"], told["figures"]["model"], _pins_of(told)
        rows[path.stem] = Row(path.stem, systems[model], _link(path), ours=True, pins=pins)
        if ALONE in systems:
            rows[f"{path.stem} {ALONE}"] = replace(rows[path.stem], figures=systems[ALONE])
            together = f"{path.stem} with {model.partition('+')[2] or 'a collaborative model'}"
            rows[path.stem] = replace(rows[path.stem], name=together, ensemble=True)
        if told["figures"]["protocol"]["exclude_seen"]:  # as the teachers' own files have it
            for name in systems.keys() - {model, ALONE}:
                rows.setdefault(name, Row(system_name(name), systems[name], _link(path), pins=[*pins[:-1], ""]))
    return sorted(rows.values(), key=lambda row: -row.figures["ndcg@10"]["mean"])


def _pins_of(told: dict[str, Any]) -> list[str]:
    """Recipe, commits, seeds, hashes of the data (one a seed, where it breaks ties in time), and looks at the test."""
    seeds = told["figures"]["seeds"]
    commits, hashes = (list(dict.fromkeys(seed[name] for seed in seeds)) for name in ("commit", "data hash"))
    recipe = f"[{told['recipe']['name']}](../recipes/{told['recipe']['name']}.yaml) `{told['recipe']['hash'][:12]}`"
    looks = f"{told['looks']['of this recipe']} of {told['looks']['at this data']}"
    return [recipe, ", ".join(commits), ", ".join(map(str, told["seeds"])), ", ".join(h[:12] for h in hashes), looks]


def _link(path: Path) -> str:
    return f"[{path.name}](../results/{path.name})"


def page(root: Path) -> str:
    """The whole page."""
    published = yaml.safe_load((root / "docs" / "published.yaml").read_text(encoding="utf-8"))
    parts = [HEAD]
    for source, title in SETS.items():
        rows = measured(root / "results", source)
        if rows:
            parts += [f"## {title}\n", _protocols(root / "results", source)]
            for heading, ensemble in (("Models alone", False), ("Ensembles of several models", True)):
                some = [row for row in rows if row.ensemble == ensemble]
                parts += [f"### {heading}\n", _table(some)] if some else []
            parts += [_figure(source), _pins(rows)]
            parts += [_others(published[source])] if source in published else []
        parts += all_parts(root / "results", source)
    return "\n".join(part for part in parts if part)


def _protocols(results: Path, source: str) -> str:
    told = [
        f"{path.stem}: beams {one['figures']['protocol']['beams']}, items of the history "
        f"{'left out' if one['figures']['protocol']['exclude_seen'] else 'allowed'}, "
        f"{one['figures']['protocol']['users']} users, {one['figures']['protocol']['items']} items"
        for path, one in of_all_users(results, source)
    ]
    lines = [*told, "collaborative models: every item scored, items of the history left out"]
    return "".join(f"- {line}\n" for line in lines)


def _table(rows: list[Row]) -> str:
    """Measured rows; the settings of recipes were picked on validation, collaborative models have their defaults."""
    names = ("measured here", "R@5", "N@5", "R@10", "95 %", "N@10", "95 %", "picked on", "from")
    return _markdown(
        names,
        [
            (
                f"**{row.name}**" if row.ours else row.name,
                *(_mean(row, metric) for metric in ("hr@5", "ndcg@5")),
                *(cell(row, metric) for metric in ("hr@10", "ndcg@10") for cell in (_mean, _interval)),
                "validation" if row.ours else "defaults",
                row.source,
            )
            for row in rows
        ],
    )


def _markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mean(row: Row, metric: str) -> str:
    return digits(row.figures[metric]["mean"]) if metric in row.figures else ""


def _interval(row: Row, metric: str) -> str:
    found = row.figures.get(metric, {})
    return f"{digits(found['low'])} to {digits(found['high'])}" if "low" in found else ""


def _figure(source: str) -> str:
    return (
        f"![Recall and NDCG at 10, with intervals where they are known](../results/leaderboard-{source}.svg)\n\n"
        "Rings are means whose interval is not known.\n"
    )


def _pins(rows: list[Row]) -> str:
    """The recipe, commit, seeds and data of each measured row."""
    head = "| row | recipe | commit | seeds | data | test evaluations: own, all |\n|---|---|---|---|---|---|\n"
    return head + "".join(f"| {row.name} | {' | '.join(row.pins)} |\n" for row in rows if row.pins)


def _others(rows: list[dict[str, Any]]) -> str:
    names = ("published", "R@5", "N@5", "R@10", "N@10", "paper", "split", "picked on", "history's items", "read in")
    about = ("split", "picked", "seen", "read")
    return _markdown(
        names,
        [
            (
                row["system"],
                *map(digits, row["figures"]),
                f"{row['paper']}, arXiv {row['arxiv']}",
                *(row[name] for name in about),
            )
            for row in rows
        ],
    )


def figures(root: Path) -> None:
    """One SVG a data set: measured rows with intervals, then those published ones that have both figures."""
    published = yaml.safe_load((root / "docs" / "published.yaml").read_text(encoding="utf-8"))
    for source in SETS:
        rows = measured(root / "results", source)
        told = {row.name: row.figures for row in rows}
        for one in published.get(source, []):
            means = {"hr@10": one["figures"][2], "ndcg@10": one["figures"][3]}
            if rows and None not in means.values():
                told[f"{one['system']} (published)"] = {name: {"mean": value} for name, value in means.items()}
        if rows:
            ours = [row.name for row in rows if row.ours]
            best = dict(sorted(told.items(), key=lambda row: -row[1]["ndcg@10"]["mean"]))
            dots(best, {"hr@10": "HR@10", "ndcg@10": "NDCG@10"}, ours, root / "results" / f"leaderboard-{source}.svg")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_text(ROOT / "docs" / "leaderboard.md", page(ROOT))
    figures(ROOT)
    print("written: docs/leaderboard.md and results/leaderboard-*.svg")


if __name__ == "__main__":
    main()
