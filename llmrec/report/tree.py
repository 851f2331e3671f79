"""A map of the first two tokens of all codes: a box a first token, a cell of it a second, an area its items."""

from __future__ import annotations

from collections import defaultdict
from html import escape

Group = tuple[str, int, list[str]]  # a token, its items, titles of a few of them
FIRST, SECOND, TITLES = 20, 3, 6  # boxes, cells of a box, titles of a cell; what is left over is one more each
ACROSS = 4  # boxes side by side: wide enough for a title
WIDTH, HEIGHT, GAP, FRAME = 620, 480, 1, 3


def cells(codes: list[tuple[str, ...]], titles: list[str]) -> list[tuple[str, int, list[Group]]]:
    """Items by first and second token, the largest groups first.

    Args:
        codes: tokens of each item; one of a single token stands under no second one.
        titles: a title of each.

    Returns:
        (first token, items, its groups by second token); groups beyond the largest are put together as `other`.
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
    """SVG for the page; pointing at a cell shows its tokens, how many items it has, and a few of their titles."""
    total, top, drawn, boxes = len(codes), 0.0, [], cells(codes, titles)
    for row in (boxes[at : at + ACROSS] for at in range(0, len(boxes), ACROSS)):
        here, left = sum(size for _, size, _ in row), 0.0
        height = HEIGHT * here / total
        for first, size, groups in row:
            width, down = WIDTH * size / here, top
            for token, count, some in groups:
                high = max(0.2, height - FRAME) * count / size
                drawn.append(_cell(left, down, width - FRAME, high, f"{first}{token}: {count} items", some))
                down += high
            left += width
        top += height
    label = "Items by the first two tokens of their codes, each cell as large as the items in it are many"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">\n' + "\n".join(drawn) + "\n</svg>"


def _groups(inner: dict[str, list[str]]) -> list[Group]:
    ordered = sorted(inner.items(), key=lambda pair: -len(pair[1]))
    found = [(token, len(titles), titles[:TITLES]) for token, titles in ordered[:SECOND]]
    rest = [title for _, titles in ordered[SECOND:] for title in titles]
    return [*found, *([(" other", len(rest), rest[:TITLES])] if rest else [])]


def _cell(left: float, top: float, width: float, height: float, what: str, titles: list[str]) -> str:
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
