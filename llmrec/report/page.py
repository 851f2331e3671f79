"""The page put together and written: one file, nothing loaded from anywhere else."""

from __future__ import annotations

from pathlib import Path

from llmrec.files import write_text
from llmrec.report import sections
from llmrec.report.read import Run, read_run
from llmrec.run.layout import RunFolder

PARTS = (
    sections.top,
    sections.figures,
    sections.examples,
    sections.choices,
    sections.writing,
    sections.training,
    sections.codes,
    sections.making,
)


def write_report(run: RunFolder) -> Path:
    """Write `report.html` into a run folder, from the files in it alone; an old one is replaced.

    A part that the run does not hold is named as missing. The same files give the same page, byte for byte.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder is no run, holds stages of two recipes, or one of its files is damaged; matplotlib is
            missing, or the disk is full.
    """
    write_text(run.report, _html(read_run(run)))
    return run.report


def _html(run: Run) -> str:
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    body = "\n\n".join(part(run) for part in PARTS)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{sections.esc(run.name)} · llmrec</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
