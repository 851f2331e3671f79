"""A plot of lines as an SVG file of its own, to stand beside a JSON in results/."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

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
