"""Look at this machine: what is missing for which job, and what to type."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata

import typer
from rich.text import Text

from llmrec.cli.screen import say, screen
from llmrec.extras import EXTRAS, is_there, missing

CORE = ["torch", "transformers", "faiss", "duckdb", "sentencepiece", "google.protobuf"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: what, whether it is well, and what to type where it is not."""

    what: str
    well: bool
    detail: str
    remedy: str = ""


def command(as_json: bool = typer.Option(False, "--json", help="print JSON")) -> None:
    findings = [*_modules(), *_torch(), *_embedded()]
    if as_json:
        say([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            mark = Text("ok     ", "green") if finding.well else Text("missing", "yellow")
            screen.print(mark, f"{finding.what}: {finding.detail}")
            if finding.remedy:
                screen.print(f"        → {finding.remedy}", style="bold", markup=False, highlight=False)
    if any(not finding.well and finding.what.startswith("llmrec needs") for finding in findings):
        raise typer.Exit(1)


def _modules() -> list[Finding]:
    absent = [name for name in CORE if not is_there(name)]
    again = "pip install --force-reinstall llmrec" if absent else ""
    found = [Finding("llmrec needs", not absent, ", ".join(absent or CORE), again)]
    for extra, modules in EXTRAS.items():
        lacking = missing(extra)
        wheel = "serve-cpu" if extra == "serve" and not _has_gpu() else extra
        remedy = f"pip install 'llmrec[{wheel}]'" if lacking else ""
        found.append(Finding(f"extra '{extra}'", not lacking, ", ".join(lacking or modules), remedy))
    return found


def _has_gpu() -> bool:
    try:
        import torch

        return torch.cuda.is_available()
    except ImportError:
        return False


def _torch() -> list[Finding]:
    """torch itself, and companions built for another torch, which break transformers when it is imported."""
    if not is_there("torch"):
        return []
    import torch

    place = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    found = [Finding("torch", True, f"{torch.__version__} on {place}")]
    for name in ("torchvision", "torchaudio", "torchcodec"):
        if not is_there(name):
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken binary raises
            found.append(
                Finding(
                    f"{name} {metadata.version(name)}", False, str(error).splitlines()[0], f"pip uninstall -y {name}"
                )
            )
    return found


def _embedded() -> list[Finding]:
    from llmrec import embedded

    return [
        Finding(
            archive.what,
            embedded.is_fetched(name),
            str(embedded.cache_folder() / name),
            "" if embedded.is_fetched(name) else "llmrec setup",
        )
        for name, archive in embedded.ARCHIVES.items()
    ]
