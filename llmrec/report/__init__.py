"""One page about one run, to read, to print and to send: `report.html`, made from nothing but the run's files."""

from llmrec.report.page import write_report

__all__ = ["write_report"]
