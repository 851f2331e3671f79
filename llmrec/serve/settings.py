"""Settings of a server, the environment variables that pass them to its processes, and vLLM's command line."""

from __future__ import annotations

import importlib.metadata
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llmrec import resources
from llmrec.decode.catalogue_registry import CATALOGUES_VARIABLE
from llmrec.decode.vllm_engine import engine_arguments
from llmrec.decode.vllm_request import CATALOGUE_VARIABLE
from llmrec.errors import ModelError, RunError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.folder import load_tokenizer
from llmrec.run.layout import RunFolder
from llmrec.run.recommender import describe, is_export, language_model

SETTINGS_VARIABLE = "LLMREC_SERVE"
MAX_HEADERS = 65_536  # bytes of a request's headers; vLLM's 4 MiB fill its memory before keys are checked
GROUP, NAME = "vllm.endpoint_plugins", "llmrec"
_GROUPS = ("general", "platform", "io_processor", "stat_logger")  # plugins that a VLLM_PLUGINS without them disables


class Limits(BaseModel):
    """Limits of requests; a request beyond them is refused, never truncated."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    body: int = Field(2**20, ge=1, description="bytes of a request's body (413)")
    history: int = Field(10_000, ge=1, description="items of a history (422); the model reads the newest")
    listed: int = Field(10_000, ge=1, description="items of `allow` and of `deny` (422)")
    k: int = Field(100, ge=1, description="items per answer (422)")
    query: int = Field(512, ge=1, description="characters of a query (422)")
    batch: int = Field(64, ge=1, description="requests in one body (422)")
    beams: int | None = Field(None, ge=1, description="beams of a search; by default as in the evaluation")
    concurrency: int = Field(256, ge=1, description="requests in flight (429)")
    connections: int = Field(1000, ge=1, description="open connections; idle ones are closed for new ones")
    read_timeout: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds for a request's headers, for its body (408), and for reading its answer",
    )


class Settings(BaseModel):
    """Settings of one server.

    Attributes:
        run: a run folder, or an export of one.
        catalogues: catalogue folders to switch to, beside those in the run's `catalogues/`.
        state: file with the hash of the active catalogue, shared by several processes; None for a single process.
        grace: seconds for requests in flight to finish when the server stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    run: Path
    catalogues: list[Path] = []
    state: Path | None = None
    limits: Limits = Limits()
    without_key: bool = False
    grace: float = Field(30.0, ge=0, allow_inf_nan=False)

    @property
    def name(self) -> str:
        """The model's name for clients."""
        return self.run.resolve().name

    def environment(self) -> dict[str, str]:
        """Environment variables of the server's processes, beside the keys."""
        catalogue, run = self.catalogue, RunFolder(self.run)
        roots = [catalogue, run.catalogues, *self.catalogues]
        return {
            SETTINGS_VARIABLE: self.model_dump_json(),
            CATALOGUE_VARIABLE: str(catalogue.resolve()),
            CATALOGUES_VARIABLE: os.pathsep.join(str(root.resolve()) for root in roots),
        }

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings of `llmrec serve`; a RunError if it did not start this server."""
        if SETTINGS_VARIABLE not in os.environ:
            raise RunError(f"{SETTINGS_VARIABLE} is not set: start the server with `llmrec serve RUN`.")
        return cls.model_validate_json(os.environ[SETTINGS_VARIABLE])

    def users(self) -> Path | None:
        """Folder of the run's interactions; None for an export, which has none."""
        return None if is_export(self.run) else RunFolder(self.run).data

    @property
    def catalogue(self) -> Path:
        """Folder of the catalogue that the model was trained on, the first active one."""
        return self.run / describe(self.run)["catalogue"]


def vllm_command(settings: Settings, host: str, port: int, more: list[str]) -> tuple[list[str], dict[str, str]]:
    """Command line of vLLM's server, with further options in `more`, and its environment.

    Raises:
        LlmrecError: vLLM or the plugin is missing, the run has no model, or the catalogue of another one.
    """
    resources.require_extras("serve")
    if not importlib.metadata.entry_points(group=GROUP, name=NAME):
        raise RunError(
            "vLLM cannot find the plugin of llmrec: this installation of llmrec is too old. "
            "Type: pip install --no-deps -e . (in its checkout), or pip install -U llmrec"
        )
    model, catalogue = language_model(settings.run), settings.catalogue
    _, meta = load_tokenizer(model)  # report damage now, not after half a minute of loading
    loaded = Catalogue.load(catalogue)
    if meta.catalogue != loaded.hash:
        raise ModelError(
            f"{model} was trained on the catalogue {meta.catalogue[:12]}…, but {catalogue} holds "
            f"{loaded.hash[:12]}…. Finish the run, or serve an export of it."
        )
    arguments = engine_arguments(model, catalogue, max_logprobs=len(loaded.tokens))
    arguments |= {
        "served_model_name": settings.name,
        "host": host,
        "port": port,
        "shutdown_timeout": math.ceil(settings.grace),
        "disable_uvicorn_access_log": True,
        "h11_max_incomplete_event_size": MAX_HEADERS,
    }
    settings = settings.model_copy(update={"state": _temporary_folder() / "served"})
    environment = os.environ | settings.environment() | {"VLLM_PLUGINS": _plugins(), "VLLM_NO_USAGE_STATS": "1"}
    return [sys.executable, "-m", *_server(arguments.pop("model")), *_options(arguments), *more], environment


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="llmrec-serve-"))
    except OSError as error:
        raise RunError(
            f"cannot make a temporary folder for the hash of the active catalogue, which the server's processes share "
            f"({error.strerror}): make room in /tmp, or choose another folder: export TMPDIR=DIR"
        ) from error


def _server(model: str) -> list[str]:
    """vLLM's command; its CPU build has another package name, with which `vllm serve` fails."""
    try:
        importlib.metadata.version("vllm")
        return ["vllm.entrypoints.cli.main", "serve", model]
    except importlib.metadata.PackageNotFoundError:
        return ["vllm.entrypoints.openai.api_server", "--model", model]


def _options(arguments: dict[str, Any]) -> list[str]:
    options: list[str] = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            options += [flag] if value else []
        else:
            options += [flag, *map(str, value if isinstance(value, list) else [value])]
    return options


def _plugins() -> str:
    """VLLM_PLUGINS with the plugin of llmrec; if it was not set, also all others, which vLLM loads by default."""
    points = importlib.metadata.entry_points
    variable = os.environ.get("VLLM_PLUGINS")
    default = [point.name for group in _GROUPS for point in points(group=f"vllm.{group}_plugins")]
    return ",".join(dict.fromkeys([*(default if variable is None else variable.split(",")), NAME]))
