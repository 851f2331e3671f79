"""The parts of the page, each a function from the run to HTML. Every word from a file passes through `esc`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from llmrec.report import charts, words
from llmrec.report.read import Run

SHOWN = ("hr@10", "ndcg@10")
"""What the chart and the comparison show; the table shows everything measured."""
_CAVEAT = (
    "Better and worse mean that the interval of the difference on the same users leaves out zero. The intervals say"
    " what other users could change, not what another training seed would; nothing is corrected for comparing more"
    " than once."
)
_METRICS = (
    "HR@k: share of held-out items that are among the first k recommendations. NDCG@k also counts how high they"
    " stand: 1 at the top, less further down. In small print, the interval of the mean over held-out items."
)


def esc(value: Any) -> str:
    """A value as HTML text, safe in an attribute too."""
    return escape(words.number(value))


def section(title: str, *parts: str) -> str:
    """A titled part of the page."""
    return f"<section>\n<h2>{esc(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def missing(what: str) -> str:
    """A line in the place of something the run does not hold."""
    return f'<p class="missing">{esc(what)}</p>'


def note(text: str) -> str:
    """A line in small print."""
    return f'<p class="note">{esc(text)}</p>'


def wide(html: str) -> str:
    """A part that scrolls in its own frame where it is wider than the page."""
    return f'<div class="wide">{html}</div>'


def table(head: list[str], rows: Iterable[str]) -> str:
    """A table of rows as HTML."""
    titles = "".join(f'<th scope="col">{esc(title)}</th>' for title in head)
    return wide(f"<table><thead><tr>{titles}</tr></thead><tbody>\n{''.join(rows)}</tbody></table>")


def row(name: str, cells: Iterable[str], marked: bool = False) -> str:
    """A row of a table, as HTML; `cells` are HTML already."""
    kind = ' class="model"' if marked else ""
    return f'<tr{kind}><th scope="row">{esc(name)}</th>{"".join(cells)}</tr>\n'


def terms(values: dict[str, Any], named: Callable[[str], str] = words.label) -> str:
    """A list of names and values; `named` makes a name of a key."""
    lines = "".join(f"<dt>{esc(named(k))}</dt><dd>{esc(v)}</dd>\n" for k, v in values.items())
    return f'<dl class="terms">\n{lines}</dl>' if lines else ""


def top(run: Run) -> str:
    """The name, the verdict in words, and the counts of the data."""
    metrics = run.evaluation.metrics if run.evaluation else None
    second = words.second_opinion(metrics) if metrics else None
    lead = words.JUDGES if run.evaluation and not metrics else words.headline(metrics)
    parts = [f"<h1>{esc(run.name)}, an llmrec run</h1>", f'<p class="lead">{esc(lead)}</p>']
    parts += [f"<p>{esc(second)}</p>"] if second else []
    parts += [note(_CAVEAT)] if metrics and metrics.get("paired") else []
    tiles = "".join(f"<div><dt>{esc(words.label(k))}</dt><dd>{esc(v)}</dd></div>" for k, v in run.facts.items())
    parts.append(f'<dl class="facts">{tiles}</dl>' if tiles else missing("The run holds no counts of its data."))
    return "<header>\n" + "\n".join(parts) + "\n</header>"


def figures(run: Run) -> str:
    """The table of every system with intervals, the protocol beside it, and the paired differences."""
    if run.evaluation is None:
        return section("How good it is", missing("No evaluation was found in this run, so there are no figures."))
    metrics = run.evaluation.metrics
    if metrics is None:
        return ""
    measured = list(dict.fromkeys(name for system in metrics["systems"].values() for name in system))
    shown = [name for name in SHOWN if name in measured] or measured[:2]
    digits = words.decimals(metrics.get("protocol", {}).get("users", 0))
    items = run.facts.get("items") or (run.health or {}).get("items")
    systems = (
        row(words.system_name(name), (_cell(values.get(m), digits) for m in measured), name == metrics["model"])
        for name, values in metrics["systems"].items()
    )
    covered = f"The first ten recommendations of all users together name {words.number(run.evaluation.coverage)}"
    return section(
        "How good it is",
        wide(charts.systems(metrics, shown, "systems")) if shown else "",
        table(["", *map(words.metric_name, measured)], systems),
        note(_METRICS),
        f"<p>{esc(words.held_out_template(other))}</p>" if (other := metrics.get("held_out_template")) else "",
        f"<p>{esc(f'{covered} different items' + (f' of {words.number(items)}' if items else ''))}.</p>",
        "<h3>How it was measured</h3>",
        terms(metrics.get("protocol", {})),
        _table_of_differences(metrics, shown, digits),
    )


def _cell(value: dict[str, float] | None, digits: int) -> str:
    if value is None:
        return "<td>–</td>"
    return f"<td>{value['mean']:.{digits}f}<small>{value['low']:.{digits}f} to {value['high']:.{digits}f}</small></td>"


def _table_of_differences(metrics: dict[str, Any], shown: list[str], digits: int) -> str:
    """Model minus each baseline, on the same users."""
    if not metrics.get("paired"):
        return missing("No baseline was compared with the model on the same users.")
    rows = (
        row(words.system_name(system), (_difference(against.get(metric), digits) for metric in shown))
        for system, against in metrics["paired"].items()
    )
    title = f"<h3>{esc(metrics['model'])} less each baseline, user by user</h3>"
    return title + table(["", *map(words.metric_name, shown)], rows)


def _difference(value: dict[str, float] | None, digits: int) -> str:
    if value is None:
        return "<td>–</td>"
    kind = words.standing(value["low"], value["high"])
    mean, low, high = (words.signed(value[key], digits) for key in ("mean", "low", "high"))
    p = f"p = {value['p']:.3f}" if value["p"] >= 0.001 else "p below 0.001"
    return f'<td><span class="{kind.split()[0]}">{kind}</span> {mean}<small>{low} to {high}, {p}</small></td>'


def training(run: Run) -> str:
    """The curve of every training stage, and its course in words."""
    parts = []
    for name, log in run.trainings.items():
        if len(run.trainings) > 1:
            parts.append(f"<h3>{esc(name)}</h3>")
        if log:
            parts.append(f"<p>{esc(words.training_words(log))}</p>")
            parts.append(wide(charts.training_curve(log, name)))
        else:
            parts.append(missing(f"{name} left no log, so there is no curve to show."))
    return section("How it learned", *(parts or [missing("No training was found in this run.")]))


def codes(run: Run) -> str:
    """Health of the item codes: the verdict, how evenly tokens are used, and items whose codes start alike."""
    if run.health is None:
        return section("Item codes", missing("The run holds no health of its item codes."))
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
        parts.append(note("Items to each token, most used first. An even use would be flat."))
    parts.append(terms(facts))
    if run.codes:
        tree = charts.tree_map([code for _, code in run.codes], [title for title, _ in run.codes])
        parts += ["<h3>Items by their first two tokens</h3>", wide(tree)]
    parts += ["<h3>Items whose codes start alike</h3>"] if run.alike else []
    for group in run.alike:
        lines = "".join(f"<li><span>{esc(title)}</span><code>{esc(code)}</code></li>\n" for title, code in group)
        parts.append(f'<ul class="plain codes">\n{lines}</ul>')
    return section("Item codes", *parts)


def examples(run: Run, most: int = 6, history: int = 8) -> str:
    """A few users: the end of the history, and the recommendations with the held-out item marked where it is hit."""
    users = run.evaluation.examples if run.evaluation else []
    if run.evaluation and run.evaluation.metrics is None:
        return ""
    if not users:
        return section("What it recommends", missing("The run holds no examples of recommendations."))
    about = (
        "Examples as the evaluation wrote them; a marked line is the held-out item, which the model was never shown."
    )
    return section("What it recommends", note(about), *(_user(user, history) for user in users[:most]))


def _user(user: dict[str, Any], history: int) -> str:
    past = user["history"]
    titles = [title or "(no title)" for title in user["recommended"]]
    held_out = user["held_out"] or "(no title)"
    # The rank is by item id where the evaluation has it; titles alone could name a twin.
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
    miss = "" if shown else note(f"Held out, {f'in place {rank}' if rank else 'and not found'}: {held_out}")
    return (
        f'<div class="user"><h3>User {esc(user["user_id"])}</h3>\n<div class="two">\n'
        f'<div><h4>History, newest last</h4><ul class="plain">\n{dots}{recent}</ul></div>\n'
        f"<div><h4>Recommended, best first</h4><ol>\n{lines}</ol></div>\n</div>{miss}</div>"
    )


def choices(run: Run) -> str:
    """Figures of tasks with few possible answers, a table a task, and their protocol; nothing where there are none."""
    judged = run.evaluation.choices if run.evaluation else None
    if not judged:
        return ""
    parts = []
    for task, figures in judged["tasks"].items():
        parts.append(f"<h3>{esc(words.label(task))}</h3>")
        parts.append(terms({key: value for key, value in figures.items() if key != "systems"}))
        if systems := figures.get("systems"):
            names, digits = list(systems["model"]), words.decimals(figures["cases"])
            rows = (
                row(system, (_cell(values.get(name), digits) for name in names), system == "model")
                for system, values in systems.items()
            )
            parts.append(table(["", *map(words.metric_name, names)], rows))
        else:
            parts.append(missing("No held-out event has what this task needs."))
    about = (
        "These are figures over the candidates of each case, not over the whole catalogue: never set them beside those."
    )
    parts += ["<h3>How that was measured</h3>", terms(judged["protocol"])]
    return section("How well it judges candidates", note(about), *parts)


def writing(run: Run) -> str:
    """What the model writes about held-out reviews, beside one answer for all; nothing where nothing was asked."""
    wrote = run.evaluation.writing if run.evaluation else None
    if not wrote:
        return ""
    parts = []
    for task, figures in wrote["tasks"].items():
        parts.append(f"<h3>{esc(words.label(task))}, {esc(figures['cases'])} held-out events</h3>")
        if systems := figures.get("systems"):
            rows = (row(name, (f"<td>{one:.3f}</td>" for one in values.values())) for name, values in systems.items())
            parts.append(table(["", *next(iter(systems.values()))], rows))
        else:
            parts.append(missing("No held-out event has the words that this task needs."))
    return section("What it writes", *parts, "<h3>How that was measured</h3>", terms(wrote["protocol"]))


def making(run: Run) -> str:
    """How to make it again: time, device and seed of every stage, versions, and the recipe itself."""
    versions: dict[str, list[str]] = {}  # several, where stages were made with different ones
    rows = []
    for name, made in run.stages.items():
        cells = (words.duration(made["seconds"]), made["device"], made["seed"])
        rows.append(row(name, (f"<td>{esc(value)}</td>" for value in cells)))
        for package, version in made["versions"].items():
            if str(version) not in versions.setdefault(package, []):
                versions[package].append(str(version))
    total = words.duration(sum(made["seconds"] for made in run.stages.values()))
    times = f"<p>{esc(total)} in all.</p>" + table(["", "time", "device", "seed"], rows)
    listed = terms({package: " and ".join(several) for package, several in versions.items()}, str)
    return section(
        "How it was made",
        times if rows else missing("No stage of this run has finished."),
        f"<h3>Versions</h3>{listed}" if versions else missing("No versions were noted."),
        f"<h3>Recipe</h3><pre>{esc(run.recipe)}</pre>",
    )


PARTS = (top, figures, examples, choices, writing, training, codes, making)
