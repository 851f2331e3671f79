"""One page about one run, to read, to print and to send: `report.html`, made from nothing but the run's files."""

from __future__ import annotations

from pathlib import Path

from llmrec.files import write_text
from llmrec.report import sections
from llmrec.report.read import read_run
from llmrec.run.layout import RunFolder


def write_report(run: RunFolder) -> Path:
    """Write `report.html` into a run folder, one file that loads nothing; an old one is replaced.

    A part that the run does not hold is named as missing. The same files give the same page, byte for byte.

    Raises:
        RunError: the folder is no run, holds stages of two recipes, or one of its files is damaged; matplotlib is
            missing, or the disk is full.
    """
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    content = read_run(run)
    body = "\n\n".join(part(content) for part in sections.PARTS)
    write_text(
        run.report,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{sections.esc(content.name)} · llmrec</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n",
    )
    return run.report
