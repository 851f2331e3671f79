"""Plots of lines and of means with intervals, each an SVG file of its own, to stand beside a JSON in results/."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrec.files import write_text

COLOURS = ("#0b6e4f", "#8a8a8a", "#b5462f", "#2f5d8a")


def draw(
    lines: Mapping[str, Sequence[tuple[float, float]]], across: str, upwards: str, path: Path, log: bool = False
) -> None:
    """Draw lines that share their axes, both from zero; the same points give the same file.

    Args:
        lines: name → points (across, upwards), in order.
        across, upwards: names of the axes.
        path: of the SVG.
        log: whether what goes across is drawn by its logarithm.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmrec", "font.size": 11}):
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
        axes.set(xlabel=across, ylabel=upwards, ylim=(0, None))
        axes.set_xscale("log") if log else axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    write_text(path, file.getvalue())


def dots(
    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    panels: Mapping[str, str],
    marked: Collection[str],
    path: Path,
    beside: str | None = None,
    note: str = "",
) -> None:
    """Draw a mean for each row as a dot on the line of its interval, a panel a metric; the same rows, the same file.

    A mean whose interval is not known is a ring, and one that is not known is left out.

    Args:
        rows: name → metric → `mean` and, where it is known, `low` and `high`; the first stands at the top.
        panels: metric → title, from left to right.
        marked: rows in colour.
        path: of the SVG.
        beside: a row at whose mean a line runs through all of them; "" for a line at 0, where figures are differences;
            None to count figures from 0.
        note: below all panels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    order = list(rows)[::-1]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmrec", "font.size": 11}):
        size = (3.2 + 2.6 * len(panels), 0.9 + 0.3 * len(order) + 0.3 * bool(note))
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr,call-arg]  # room for wider letters
        for axes, metric in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
            for place, name in enumerate(order):
                _dot(axes, place, rows[name].get(metric) or {}, COLOURS[0] if name in marked else COLOURS[1])
            axes.set_title(panels[metric], fontsize=11, loc="left")
            axes.set_yticks(range(len(order)), order)
            axes.set_ylim(-0.6, len(order) - 0.4)
            if beside is None:
                axes.set_xlim(left=0)
            else:
                axes.axvline(rows[beside][metric]["mean"] if beside else 0, color="#999999", linewidth=0.9, zorder=0.5)
            axes.locator_params(axis="x", nbins=5 if beside is None else 3)  # differences have longer numbers
            axes.grid(axis="x", color="#dddddd", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
        figure.supxlabel(note, fontsize=9)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    write_text(path, file.getvalue())


def _dot(axes: Any, place: int, value: Mapping[str, float | None], colour: str) -> None:
    if value.get("mean") is None:
        return
    known = value.get("low") is not None
    if known:
        axes.plot([value["low"], value["high"]], [place, place], color=colour, linewidth=2)
    axes.plot([value["mean"]], [place], "o", color=colour, markerfacecolor=colour if known else "white", markersize=5.5)
