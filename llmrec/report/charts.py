"""Charts of the report as inline SVG.

matplotlib draws with placeholder colours, and `_inline` replaces them by the CSS variables of the page, so that charts
follow its font and its light and dark themes.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

from llmrec.errors import RunError
from llmrec.report.sentences import metric_name, system_name, validation_keys

INK, SOFT, RULE, ACCENT = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)", ACCENT: "var(--accent)"}
PLAIN: Any = {"svg.fonttype": "none", "svg.hashsalt": "llmrec", "font.size": 11}
_STYLE: Any = {
    **PLAIN,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
}


def training_curve(log: list[dict[str, Any]], name: str) -> str:
    """Training loss over steps, and each validation metric below; steps without a finite loss are left out."""
    keys = validation_keys(log)
    with new_figure(1 + len(keys), 1, (6.2, 2.4 + 1.5 * len(keys)), _STYLE, sharex=True) as (figure, axes):
        loss = [(line["step"], line["loss"]) for line in log if math.isfinite(line.get("loss", math.nan))]
        axes[0].plot(*zip(*loss, strict=True) if loss else ([], []), color=ACCENT, linewidth=1.6)
        axes[0].set_title("Training loss")
        for axis, key in zip(axes[1:], keys, strict=True):
            points = [(line["step"], line[key]) for line in log if key in line]
            axis.plot(*zip(*points, strict=True), color=ACCENT, linewidth=1.6, marker="o", markersize=4, clip_on=False)
            axis.set_title(f"{metric_name(key.removeprefix('valid_'))} on validation")
            axis.set_ylim(bottom=0)
        axes[-1].set_xlabel("Step")
        return _inline(figure, name, f"Training curve of {name}")


def systems(metrics: dict[str, Any], shown: list[str], name: str) -> str:
    """Mean and interval of each system, one panel per metric, the model in colour."""
    order = list(metrics["systems"])[::-1]
    with new_figure(1, len(shown), (6.2, 0.7 + 0.34 * len(order)), _STYLE, sharey=True) as (figure, axes):
        for axis, metric in zip(axes, shown, strict=True):
            for row, system in enumerate(order):
                value = metrics["systems"][system].get(metric)
                if value is None:
                    continue
                colour = ACCENT if system == metrics["model"] else SOFT
                axis.plot([value["low"], value["high"]], [row, row], color=colour, linewidth=2, solid_capstyle="round")
                axis.plot([value["mean"]], [row], "o", color=colour, markersize=6)
            axis.set_title(metric_name(metric))
            axis.set_xlim(left=0)
            axis.locator_params(axis="x", nbins=4)
            axis.set_ylim(-0.6, len(order) - 0.4)
            axis.grid(axis="y", visible=False)
        figure.get_layout_engine().set(wspace=0.08)
        axes[0].set_yticks(range(len(order)), [system_name(s) for s in order])
        for axis in axes:
            axis.tick_params(axis="y", length=0, labelcolor=INK)
        return _inline(figure, name, "Mean and interval of every system")


def code_use(levels: list[dict[str, Any]], name: str) -> str:
    """Items per token, most used first, one panel per code level; balanced codes give a flat curve."""
    columns = min(len(levels), 4)
    rows = math.ceil(len(levels) / columns)
    with new_figure(rows, columns, (6.2, 1.9 * rows), _STYLE) as (figure, axes):
        for axis, level in zip(axes, levels, strict=False):
            counts = sorted(level["counts"], reverse=True)
            axis.fill_between(range(len(counts) + 1), [*counts, 0], step="post", color=ACCENT, linewidth=0)
            axis.set_title(f"Level {level['level']}")
            axis.set_ylim(bottom=0)
            axis.set_xlim(0, max(1, len(counts)))
            axis.locator_params(nbins=3)
            axis.grid(axis="x", visible=False)
        for axis in axes[len(levels) :]:
            axis.set_visible(False)
        axes[0].set_ylabel("Items")
        return _inline(figure, name, "Items to each token of each code level, most used first")


@contextlib.contextmanager
def new_figure(
    rows: int, columns: int, size: tuple[float, float], style: Any, **share: Any
) -> Iterator[tuple[Any, Any]]:
    """Context of a styled figure, size in inches: the figure and a flat list of its axes."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RunError("the report draws with matplotlib: type `pip install 'llmrec[report]'`.") from error
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False, **share).flat)


def _inline(figure: Any, name: str, label: str) -> str:
    """SVG to embed in HTML: without header and external references, with unique ids and the page's colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    width, height = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()  # type: ignore[union-attr]
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace('xlink:href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg


TokenGroup = tuple[str, int, list[str]]  # a token, its number of items, titles of some of them
FIRST, SECOND, TITLES = 20, 3, 6  # boxes, cells per box, titles per cell; the rest is one more box or cell
ACROSS = 4  # boxes per row: wide enough for a title
WIDTH, HEIGHT, GAP, FRAME = 620, 480, 1, 3


def cells(codes: list[tuple[str, ...]], titles: list[str]) -> list[tuple[str, int, list[TokenGroup]]]:
    """Group items by the first and second token of their codes, largest groups first.

    Returns:
        (first token, its items, its groups by second token); smaller groups are merged as `other`.
    """
    under: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for code, title in zip(codes, titles, strict=True):
        under[code[0]][code[1] if len(code) > 1 else ""].append(title)
    columns = sorted(under.items(), key=lambda pair: -sum(map(len, pair[1].values())))
    rest: dict[str, list[str]] = defaultdict(list)
    for first, inner in columns[FIRST:]:
        rest[first] = [title for group in inner.values() for title in group]
    shown = [*columns[:FIRST], *([("other", rest)] if rest else [])]
    return [(first, sum(map(len, inner.values())), _groups(inner)) for first, inner in shown]


def tree_map(codes: list[tuple[str, ...]], titles: list[str]) -> str:
    """Tree map of the codes: one box per first token, one cell per second token, areas by number of items.

    The tooltip of a cell shows its tokens, its number of items and some titles.
    """
    total, top, elements, boxes = len(codes), 0.0, [], cells(codes, titles)
    for row in (boxes[start : start + ACROSS] for start in range(0, len(boxes), ACROSS)):
        in_row, left = sum(size for _, size, _ in row), 0.0
        height = HEIGHT * in_row / total
        for first, size, groups in row:
            width, down = WIDTH * size / in_row, top
            for token, count, some in groups:
                high = max(0.2, height - FRAME) * count / size
                elements.append(_tree_cell(left, down, width - FRAME, high, f"{first}{token}: {count} items", some))
                down += high
            left += width
        top += height
    label = "Items by the first two tokens of their codes, each cell as large as the items in it are many"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">\n' + "\n".join(elements) + "\n</svg>"


def _groups(inner: dict[str, list[str]]) -> list[TokenGroup]:
    ordered = sorted(inner.items(), key=lambda pair: -len(pair[1]))
    groups = [(token, len(titles), titles[:TITLES]) for token, titles in ordered[:SECOND]]
    rest = [title for _, titles in ordered[SECOND:] for title in titles]
    return [*groups, *([(" other", len(rest), rest[:TITLES])] if rest else [])]


def _tree_cell(left: float, top: float, width: float, height: float, what: str, titles: list[str]) -> str:
    inside = max(width - GAP, 0.2), max(height - GAP, 0.2)
    box = f'<rect x="{left:.1f}" y="{top:.1f}" width="{inside[0]:.1f}" height="{inside[1]:.1f}" fill="var(--rule)"/>'
    fits = int(inside[0] / 6)  # letters, at this size
    lines = titles[: int((inside[1] - 3) / 11)] if fits >= 6 else []
    text = "".join(
        f'<text x="{left + 3:.1f}" y="{top + 11 * (number + 1):.1f}" font-size="9" fill="var(--ink)">'
        f"{escape(title[:fits])}</text>"
        for number, title in enumerate(lines)
    )
    return f"<g><title>{escape(what)}: {escape('; '.join(titles))}</title>{box}{text}</g>"
