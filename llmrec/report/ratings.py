"""Systems that predict ratings, as an SVG to stand beside a JSON in results/: RMSE and AUC with their intervals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from llmrec.files import write_text
from llmrec.report.curves import COLOURS

_PANELS = (("rmse", "RMSE (rating points, left is better)"), ("auc", "AUC (right is better)"))


def draw(systems: dict[str, Any], marked: set[str], beside: str, path: Path) -> None:
    """Draw a dot and its interval for each system, a panel a metric; the same figures give the same file.

    Args:
        systems: name → metric → mean, low, high; drawn from top to bottom.
        marked: systems to draw in colour.
        beside: the system at whose mean a line runs through all of them.
        path: of the SVG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    order = list(systems)[::-1]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmrec", "font.size": 10}):
        figure = Figure(figsize=(8.4, 1.3 + 0.28 * len(order)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr,call-arg]  # room for wider letters
        for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), _PANELS, strict=True):
            for row, name in enumerate(order):
                value, colour = systems[name][metric], COLOURS[0] if name in marked else COLOURS[1]
                if value["mean"] is None:
                    continue
                axes.plot([value["low"], value["high"]], [row, row], color=colour, linewidth=2)
                axes.plot([value["mean"]], [row], "o", color=colour, markersize=5)
            axes.axvline(systems[beside][metric]["mean"], color=COLOURS[1], linewidth=0.8, linestyle="--", zorder=0.5)
            axes.set_title(title, fontsize=10, loc="left")
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.set_yticks(range(len(order)), order)
        figure.supxlabel(f"Dots: all cases; bars: 95 % intervals over users; dashed: {beside}", fontsize=9)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    write_text(path, file.getvalue())
