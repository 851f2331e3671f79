"""Sections of the report, each a function from the run to HTML. All text from files is escaped by `esc`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from html import escape
from typing import Any

from llmrec.report import charts, sentences
from llmrec.report.read import Run

SHOWN = ("hr@10", "ndcg@10")
"""Metrics of the chart and the comparison; the table has all."""
_CAVEAT = (
    "Better and worse mean that the 95 % interval of the paired difference excludes zero. The intervals cover the"
    " choice of users, not the training seed, and are not corrected for multiple comparisons."
)
_METRICS = (
    "HR@k: share of held-out items in the top k. NDCG@k also rewards high ranks: 1 at rank 1, less further down. Small"
    " print: 95 % interval of the mean over held-out items."
)


def esc(value: Any) -> str:
    """Format and escape a value as HTML text, also safe in attributes."""
    return escape(sentences.format_value(value))


def section(title: str, *parts: str) -> str:
    """A section with a title."""
    return f"<section>\n<h2>{esc(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def missing(text: str) -> str:
    """A line in place of something that the run lacks."""
    return f'<p class="missing">{esc(text)}</p>'


def note(text: str) -> str:
    """A line in small print."""
    return f'<p class="note">{esc(text)}</p>'


def wide(html: str) -> str:
    """A block that scrolls horizontally if it is wider than the page."""
    return f'<div class="wide">{html}</div>'


def table(head: list[str], rows: Iterable[str]) -> str:
    """A table of HTML rows."""
    titles = "".join(f'<th scope="col">{esc(title)}</th>' for title in head)
    return wide(f"<table><thead><tr>{titles}</tr></thead><tbody>\n{''.join(rows)}</tbody></table>")


def row(name: str, cells: Iterable[str], marked: bool = False) -> str:
    """A table row; `cells` are HTML already."""
    kind = ' class="model"' if marked else ""
    return f'<tr{kind}><th scope="row">{esc(name)}</th>{"".join(cells)}</tr>\n'


def terms(values: dict[str, Any], named: Callable[[str], str] = sentences.format_key) -> str:
    """A definition list; `named` formats the keys."""
    lines = "".join(f"<dt>{esc(named(k))}</dt><dd>{esc(v)}</dd>\n" for k, v in values.items())
    return f'<dl class="terms">\n{lines}</dl>' if lines else ""


def summary(run: Run) -> str:
    """Name of the run, headline, and counts of the data."""
    metrics = run.evaluation.metrics if run.evaluation else None
    second = sentences.second_metric(metrics) if metrics else None
    lead = sentences.CHOICES_ONLY if run.evaluation and not metrics else sentences.headline(metrics)
    parts = [f"<h1>{esc(run.name)}, an llmrec run</h1>", f'<p class="lead">{esc(lead)}</p>']
    parts += [f"<p>{esc(second)}</p>"] if second else []
    parts += [note(_CAVEAT)] if metrics and metrics.get("paired") else []
    tiles = "".join(
        f"<div><dt>{esc(sentences.format_key(k))}</dt><dd>{esc(v)}</dd></div>" for k, v in run.facts.items()
    )
    parts.append(f'<dl class="facts">{tiles}</dl>' if tiles else missing("The run has no counts of its data."))
    return "<header>\n" + "\n".join(parts) + "\n</header>"


def ranking(run: Run) -> str:
    """Metrics of all systems with intervals, the protocol, and paired differences."""
    if run.evaluation is None:
        return section("How good it is", missing("No evaluation was found in this run, so there are no metrics."))
    metrics = run.evaluation.metrics
    if metrics is None:
        return ""
    measured = list(dict.fromkeys(name for system in metrics["systems"].values() for name in system))
    shown = [name for name in SHOWN if name in measured] or measured[:2]
    digits = sentences.decimals(metrics.get("protocol", {}).get("users", 0))
    items = run.facts.get("items") or (run.health or {}).get("items")
    systems = (
        row(sentences.system_name(name), (_cell(values.get(m), digits) for m in measured), name == metrics["model"])
        for name, values in metrics["systems"].items()
    )
    covered = f"The top ten lists of all users together contain {sentences.format_value(run.evaluation.coverage)}"
    return section(
        "How good it is",
        wide(charts.systems(metrics, shown, "systems")) if shown else "",
        table(["", *map(sentences.metric_name, measured)], systems),
        note(_METRICS),
        f"<p>{esc(sentences.held_out_template(other))}</p>" if (other := metrics.get("held_out_template")) else "",
        f"<p>{esc(f'{covered} different items' + (f' of {sentences.format_value(items)}' if items else ''))}.</p>",
        "<h3>How it was measured</h3>",
        terms(metrics.get("protocol", {})),
        _table_of_differences(metrics, shown, digits),
    )


def _cell(value: dict[str, float] | None, digits: int) -> str:
    if value is None:
        return "<td>–</td>"
    return f"<td>{value['mean']:.{digits}f}<small>{value['low']:.{digits}f} to {value['high']:.{digits}f}</small></td>"


def _table_of_differences(metrics: dict[str, Any], shown: list[str], digits: int) -> str:
    """Paired differences of the model to each baseline."""
    if not metrics.get("paired"):
        return missing("No baseline was compared with the model on the same users.")
    rows = (
        row(sentences.system_name(system), (_difference(against.get(metric), digits) for metric in shown))
        for system, against in metrics["paired"].items()
    )
    title = f"<h3>{esc(metrics['model'])} minus each baseline, paired by user</h3>"
    return title + table(["", *map(sentences.metric_name, shown)], rows)


def _difference(value: dict[str, float] | None, digits: int) -> str:
    if value is None:
        return "<td>–</td>"
    kind = sentences.compare_interval(value["low"], value["high"])
    mean, low, high = (sentences.signed(value[key], digits) for key in ("mean", "low", "high"))
    p = f"p = {value['p']:.3f}" if value["p"] >= 0.001 else "p below 0.001"
    return f'<td><span class="{kind.split()[0]}">{kind}</span> {mean}<small>{low} to {high}, {p}</small></td>'


def training(run: Run) -> str:
    """Curve and summary of each training stage."""
    parts = []
    for name, log in run.trainings.items():
        if len(run.trainings) > 1:
            parts.append(f"<h3>{esc(name)}</h3>")
        if log:
            parts.append(f"<p>{esc(sentences.training_summary(log))}</p>")
            parts.append(wide(charts.training_curve(log, name)))
        else:
            parts.append(missing(f"{name} has no log, so there is no curve."))
    return section("How it learned", *(parts or [missing("No training was found in this run.")]))


def codes(run: Run) -> str:
    """Health of the item codes: diagnosis, token usage, and items with a common prefix."""
    if run.health is None:
        return section("Item codes", missing("The run has no health report of its item codes."))
    health, levels = run.health, run.health.get("levels", [])
    facts: dict[str, Any] = {k: v for k, v in health.items() if isinstance(v, int | float)}
    facts |= {f"tokens of a code, {k}": v for k, v in health.get("tokens", {}).items()}
    for name, key in (("categories", "category_nmi"), ("co-occurrence", "cooccurrence_nmi")):
        if key in health:
            facts[f"agreement of prefixes with {name} (NMI)"] = ", ".join(f"{value:.3f}" for value in health[key])
    facts |= {
        f"Level {level['level']}": f"{level['used']} of {level['width']} tokens used, {level['entropy_bits']:.2f} of "
        f"{math.log2(level['width']):.2f} bits"
        for level in levels
    }
    parts = [f"<p>{esc(sentence)}</p>" for sentence in health.get("verdict", [])]
    if drawn := [level for level in levels if level.get("counts")]:
        parts.append(wide(charts.code_use(drawn, "codes")))
        parts.append(note("Items per token, most used first; a flat curve would be perfectly balanced."))
    parts.append(terms(facts))
    if run.codes:
        tree = charts.tree_map([code for _, code in run.codes], [title for title, _ in run.codes])
        parts += ["<h3>Items by their first two tokens</h3>", wide(tree)]
    parts += ["<h3>Items with a common code prefix</h3>"] if run.similar else []
    for group in run.similar:
        lines = "".join(f"<li><span>{esc(title)}</span><code>{esc(code)}</code></li>\n" for title, code in group)
        parts.append(f'<ul class="plain codes">\n{lines}</ul>')
    return section("Item codes", *parts)


def examples(run: Run, most: int = 6, history: int = 8) -> str:
    """Example users: the end of the history, and the recommendations, with the held-out item marked if it is there."""
    users = run.evaluation.examples if run.evaluation else []
    if run.evaluation and run.evaluation.metrics is None:
        return ""
    if not users:
        return section("What it recommends", missing("The run has no examples of recommendations."))
    about = "Examples from the evaluation; the marked line is the held-out item, which the model has not seen."
    return section("What it recommends", note(about), *(_user(user, history) for user in users[:most]))


def _user(user: dict[str, Any], history: int) -> str:
    past = user["history"]
    titles = [title or "(no title)" for title in user["recommended"]]
    held_out = user["held_out"] or "(no title)"
    # Rank by item id if the evaluation has it: another item may have the same title.
    by_title = titles.index(held_out) + 1 if held_out in titles else None
    rank = user.get("held_out_rank", by_title)
    lines = "".join(
        f'<li class="hit">{esc(title)} <mark>held out</mark></li>\n' if place == rank else f"<li>{esc(title)}</li>\n"
        for place, title in enumerate(titles, 1)
    )
    earlier = len(past) - len(past[-history:])
    dots = f'<li class="missing">{esc(earlier)} earlier</li>\n' if earlier else ""
    recent = "".join(f"<li>{esc(title or '(no title)')}</li>\n" for title in past[-history:])
    shown = rank is not None and rank <= len(titles)
    miss = "" if shown else note(f"Held out, {f'rank {rank}' if rank else 'not found'}: {held_out}")
    return (
        f'<div class="user"><h3>User {esc(user["user_id"])}</h3>\n<div class="two">\n'
        f'<div><h4>History, newest last</h4><ul class="plain">\n{dots}{recent}</ul></div>\n'
        f"<div><h4>Recommended, best first</h4><ol>\n{lines}</ol></div>\n</div>{miss}</div>"
    )


def choices(run: Run) -> str:
    """Metrics of tasks with few possible answers, one table per task; empty if there are none."""
    result = run.evaluation.choices if run.evaluation else None
    if not result:
        return ""
    parts = [
        note("These metrics are over the candidates of each case. Do not compare them with the whole catalogue's.")
    ]
    for task, metrics in result["tasks"].items():
        parts += [
            f"<h3>{esc(sentences.format_key(task))}</h3>",
            terms({k: v for k, v in metrics.items() if k != "systems"}),
        ]
        cell = partial(_cell, digits=sentences.decimals(metrics["cases"]))
        parts.append(_systems(metrics.get("systems"), cell, sentences.metric_name))
    return section("How well it judges candidates", *parts, "<h3>Protocol</h3>", terms(result["protocol"]))


def generation(run: Run) -> str:
    """Metrics of generated text about held-out reviews, one table per task; empty if there are none."""
    result = run.evaluation.generation if run.evaluation else None
    if not result:
        return ""
    parts = []
    for task, metrics in result["tasks"].items():
        parts.append(f"<h3>{esc(sentences.format_key(task))}, {esc(metrics['cases'])} held-out events</h3>")
        parts.append(_systems(metrics.get("systems"), lambda value: f"<td>{value:.3f}</td>", str))
    return section("What it writes", *parts, "<h3>Protocol</h3>", terms(result["protocol"]))


def _systems(systems: dict[str, dict[str, Any]] | None, cell: Callable[[Any], str], named: Callable[[str], str]) -> str:
    """One row per system, one column per metric of the model; a note if there were no cases."""
    if not systems:
        return missing("No held-out event has what this task needs.")
    names = list(systems["model"])
    rows = (row(s, (cell(v.get(name)) for name in names), s == "model") for s, v in systems.items())
    return table(["", *map(named, names)], rows)


def reproduction(run: Run) -> str:
    """What is needed to reproduce the run: time, device and seed of each stage, versions, and the recipe."""
    versions: dict[str, list[str]] = {}  # several if stages had different ones
    rows = []
    for name, made in run.stages.items():
        cells = (sentences.format_duration(made["seconds"]), made["device"], made["seed"])
        rows.append(row(name, (f"<td>{esc(value)}</td>" for value in cells)))
        for package, version in made["versions"].items():
            if str(version) not in versions.setdefault(package, []):
                versions[package].append(str(version))
    total = sentences.format_duration(sum(made["seconds"] for made in run.stages.values()))
    times = f"<p>{esc(total)} in all.</p>" + table(["", "time", "device", "seed"], rows)
    listed = terms({package: " and ".join(several) for package, several in versions.items()}, str)
    return section(
        "How it was made",
        times if rows else missing("No stage of this run has finished."),
        f"<h3>Versions</h3>{listed}" if versions else missing("No versions were recorded."),
        f"<h3>Recipe</h3><pre>{esc(run.recipe)}</pre>",
    )


SECTIONS = (summary, ranking, examples, choices, generation, training, codes, reproduction)
