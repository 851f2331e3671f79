"""Commands about this installation: `llmrec doctor`, `llmrec setup`, `llmrec recipe-schema`."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from importlib import metadata

import typer
from rich.text import Text

from llmrec import resources
from llmrec.cli.arguments import AS_JSON
from llmrec.cli.screen import console, say, screen
from llmrec.resources import EXTRAS, is_installed, missing_modules

CORE = ["torch", "transformers", "faiss", "duckdb", "sentencepiece", "google.protobuf"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: subject, whether it is in order, detail, and the command that fixes it."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor(as_json: bool = AS_JSON) -> None:
    """Check this installation: what is missing for which feature, and the command that installs it."""
    findings = [*_modules(), *_torch()]
    for name, archive in resources.ASSETS.items():
        fetched = resources.is_downloaded(name)
        remedy = "" if fetched else "llmrec setup"
        findings.append(Finding(archive.what, fetched, str(resources.cache_folder() / name), remedy))
    if as_json:
        say([asdict(finding) for finding in findings])
    for finding in findings if not as_json else ():
        mark = Text("ok     ", "green") if finding.ok else Text("missing", "yellow")
        screen.print(mark, f"{finding.what}: {finding.detail}")
        if finding.remedy:
            screen.print(f"        → {finding.remedy}", style="bold")
    if any(not finding.ok and finding.what.startswith("llmrec needs") for finding in findings):
        raise typer.Exit(1)


def _modules() -> list[Finding]:
    absent = [name for name in CORE if not is_installed(name)]
    again = "pip install --force-reinstall llmrec" if absent else ""
    findings = [Finding("llmrec needs", not absent, ", ".join(absent or CORE), again)]
    for extra, modules in EXTRAS.items():
        lacking = missing_modules(extra)
        wheel = "serve-cpu" if extra == "serve" and not _has_gpu() else extra
        remedy = f"pip install 'llmrec[{wheel}]'" if lacking else ""
        findings.append(Finding(f"extra '{extra}'", not lacking, ", ".join(lacking or modules), remedy))
    return findings


def _has_gpu() -> bool:
    try:
        import torch

        return torch.cuda.is_available()
    except ImportError:
        return False


def _torch() -> list[Finding]:
    """Check torch, and companions built for another torch, which break the import of transformers."""
    if not is_installed("torch"):
        return []
    import torch

    place = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    findings = [Finding("torch", True, f"{torch.__version__} on {place}")]
    for name in filter(is_installed, ("torchvision", "torchaudio", "torchcodec")):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken binary raises
            what, detail = f"{name} {metadata.version(name)}", str(error).splitlines()[0]
            findings.append(Finding(what, False, detail, f"pip uninstall -y {name}"))
    return findings


def setup(
    names: list[str] = typer.Argument(None, help="names of what to download; default: all", metavar="[NAME]..."),
    as_json: bool = typer.Option(False, "--json", help="print the folders as JSON"),
) -> None:
    """Download the defaults, checked by hash: MovieLens 100K, a text encoder and a small language model."""
    places = {}
    for name in names or list(resources.ASSETS):
        what = resources.asset(name).what
        console.print(f"{what}: {'present' if resources.is_downloaded(name) else 'fetching …'}")
        places[name] = str(resources.download_asset(name))
    if as_json:
        say(places)


def recipe_schema() -> None:
    """Print the JSON schema of recipes, for completion and validation in an editor."""
    from llmrec.recipe import Recipe

    say(Recipe.model_json_schema())
