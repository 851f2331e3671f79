"""Charts of results, as SVG files beside them."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrec.files import write_text
from llmrec.report.charts import PLAIN, new_figure

COLOURS = ("#0b6e4f", "#8a8a8a", "#b5462f", "#2f5d8a")


def draw_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]], across: str, upwards: str, path: Path, log: bool = False
) -> None:
    """Draw lines that share their axes into an SVG file, both from zero; the same points give the same file.

    Args:
        lines: name → points (across, upwards), in order.
        across, upwards: names of the axes.
        log: whether what goes across is drawn by its logarithm.
    """
    with new_figure(1, 1, (6.2, 3.6), PLAIN) as (figure, (axes,)):
        for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
        axes.set(xlabel=across, ylabel=upwards, ylim=(0, None))
        axes.set_xscale("log") if log else axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        _save(figure, path)


def draw_dots(
    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    panels: Mapping[str, str],
    marked: Collection[str],
    path: Path,
    beside: str | None = None,
    note: str = "",
) -> None:
    """Draw a mean for each row as a dot on the line of its interval, a panel a metric, into an SVG file.

    A mean whose interval is not known is a ring, and one that is not known is left out.

    Args:
        rows: name → metric → `mean` and, where it is known, `low` and `high`; the first stands at the top.
        panels: metric → title, from left to right.
        marked: rows in colour.
        beside: a row at whose mean a line runs through all of them; "" for a line at 0, where figures are differences;
            None to count figures from 0.
        note: below all panels.
    """
    order = list(rows)[::-1]
    size = (3.2 + 2.6 * len(panels), 0.9 + 0.3 * len(order) + 0.3 * bool(note))
    with new_figure(1, len(panels), size, PLAIN, sharey=True) as (figure, all_axes):
        figure.get_layout_engine().set(w_pad=0.12)  # room for wider letters
        for axes, metric in zip(all_axes, panels, strict=True):
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
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
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
