"""HTML report of a run, `report.html`, written from the run's files alone."""

from __future__ import annotations

from pathlib import Path

from llmrec.files import write_text
from llmrec.report import sections
from llmrec.report.read import read_run
from llmrec.run.layout import RunFolder


def write_report(run: RunFolder) -> Path:
    """Write `report.html` into a run folder: one self-contained file, replaced if it exists.

    Missing parts are named as missing. The same files give exactly the same page.

    Raises:
        RunError: the folder is not a run, has stages of two recipes, or one of its files is damaged; matplotlib is
            missing, or the disk is full.
    """
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    content = read_run(run)
    body = "\n\n".join(part(content) for part in sections.SECTIONS)
    write_text(
        run.report,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{sections.esc(content.name)} · llmrec</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n",
    )
    return run.report
