"""Three unlike sets as people have them, written by the tests: a shop's export, a nested log, a small catalogue."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("Kaffeetasse", "Teekanne", "Brotmesser", "Käsebrett", "Salzstreuer", "Pfanne", "Schüssel", "Löffel")
COLOURS = ("rot", "grün", "blau", "weiß", "schwarz", "gelb", "grau", "braun")


def shop(folder: Path) -> list[Path]:
    """One export of orders that carries the articles: semicolons, Latin letters, two ways of dates, broken lines."""
    draw = np.random.default_rng(3)
    lines = ["Order No;Customer No.;Order Date;Article;Article Name;Colour;Qty;"]
    start = datetime.date(2023, 1, 1)
    for order in range(900):
        article = int(draw.integers(60))
        day = start + datetime.timedelta(days=order // 2)  # two orders a day, of different customers
        date = day.isoformat() if order % 3 == 0 else day.strftime("%d.%m.%Y")
        name, colour = NAMES[article % 8], COLOURS[article // 8]
        title = f'"{name} ""{colour}""\nmit Deckel"' if article % 20 == 0 else f"{name} {colour}"
        customer, pieces = 2 * int(draw.integers(1, 36)) - order % 2, int(draw.integers(1, 4))
        lines.append(f"{5000 + order};{customer:05d};{date};A-{article:03d};{title};{colour};{pieces};")
        if order % 100 == 50:
            lines += ["", lines[-1]]  # a blank line, and the same row once more
    lines[200:200] = ["5000;00012;2023-01-01;A-001", "5001;;2023-02-01;A-002;Teekanne rot;rot;1;"]
    lines.append("5002;00013;bald;A-003;Brotmesser rot;rot;1;")
    path = folder / "orders.csv"
    # Most of it is UTF-8 with a byte order mark; some rows came from an old till.
    old = set(range(300, 330))
    written = (line.encode("cp1252" if place in old else "utf-8") for place, line in enumerate(lines))
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(written) + b"\r\n")
    return [path]


def log(folder: Path) -> list[Path]:
    """A nested JSONL log with times in milliseconds, and a catalogue in Parquet as pandas writes it: ids as floats."""
    draw = np.random.default_rng(4)
    with (folder / "events.jsonl").open("w") as file:
        for user in range(50):
            time, item = 1_700_000_000_000 + int(draw.integers(10**9)), int(draw.integers(80))
            for _ in range(int(draw.integers(4, 20))):
                seen = {"kind": "view", "item": 123_456_700_000 + item, "ts": time}
                file.write(json.dumps({"user": {"id": f"u-{user}", "plan": "free"}, "event": seen}) + "\n")
                time, item = time + int(draw.integers(10**8)), (item + int(draw.integers(1, 4))) % 80
        file.write('{"user": {"id": "u-1"}, "event": {"kind": "view", "item": 99, "ts": 1700000000000}}\n')
        file.write('{"user": {"id": "u-1"}, "event": {"ki\n')
    ids = [float(123_456_700_000 + item) for item in range(80)] + [None]
    table = pa.table(
        {
            "id": ids,
            "name": [f"Track {item} of {COLOURS[item % 8]}" for item in range(80)] + ["nothing"],
            "genres": [["jazz", "rock", "folk"][item % 3 : item % 3 + 1] for item in range(81)],
            "cover": [f"https://example.org/{item}.jpg" for item in range(81)],
        }
    )
    pq.write_table(table, folder / "catalogue.parquet")
    return [folder / "events.jsonl", folder / "catalogue.parquet"]


def small(folder: Path) -> list[Path]:
    """Forty items, twelve users, no times, a column of stars; users and items are small numbers alike."""
    draw = np.random.default_rng(5)
    books = "".join(f"{book},A book about {NAMES[book % 8]} {book},Author {book % 6}\n" for book in range(1, 41))
    (folder / "books.csv").write_text("id,title,author\n" + books)
    rows = ["user_id,book_id,stars\n"]
    for user in range(1, 13):
        rows += [f"{user},{book},{draw.integers(1, 6)}\n" for book in draw.permutation(np.arange(1, 41))[:8]]
    (folder / "read.tsv").write_text("".join(rows).replace(",", "\t"))
    return [folder / "books.csv", folder / "read.tsv"]


SETS = {"shop": shop, "log": log, "small": small}
