"""Settings of a server, the environment that passes them to its processes, and the command of vLLM's server."""

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
from llmrec.model.folder import load_words
from llmrec.run.layout import RunFolder
from llmrec.run.recommender import describe, is_export, language_model

SETTINGS_VARIABLE = "LLMREC_SERVE"
HEAD = 65_536  # bytes of the line and the headers of a request; vLLM's own 4 MiB fill its memory before any key
GROUP, NAME = "vllm.endpoint_plugins", "llmrec"
_GROUPS = ("general", "platform", "io_processor", "stat_logger")  # plugins that VLLM_PLUGINS would shut out


class Limits(BaseModel):
    """What one client may ask; beyond it a request is refused, never cut silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    body: int = Field(2**20, ge=1, description="bytes of a request's body (413)")
    history: int = Field(10_000, ge=1, description="items of a history (422); the model reads the newest of them")
    listed: int = Field(10_000, ge=1, description="items of `allow` and of `deny` (422)")
    k: int = Field(100, ge=1, description="items wanted (422)")
    query: int = Field(512, ge=1, description="characters of a query (422); a model is shown no more of a text")
    batch: int = Field(64, ge=1, description="requests in one body (422)")
    beams: int | None = Field(None, ge=1, description="prefixes that a search keeps; as the model was judged otherwise")
    concurrency: int = Field(256, ge=1, description="requests that wait or are worked on at a time (429)")
    connections: int = Field(1000, ge=1, description="connections open at a time; idle ones are closed for new ones")
    read_timeout: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that a request's headers, its body (408) and the reading of its answer may each take",
    )


class Settings(BaseModel):
    """One server.

    Attributes:
        run: a run folder, or an export of one.
        catalogues: catalogue folders that it may be switched to, beside those in the run's `catalogues/`.
        state: a file with the catalogue in use, for a server of several processes; None: there is one.
        grace: seconds that requests in flight may take to finish after the server was told to stop.
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
        """What clients call the model."""
        return self.run.resolve().name

    def environment(self) -> dict[str, str]:
        """What the server's processes must find in their environment; keys are there already."""
        catalogue, run = self.catalogue, RunFolder(self.run)
        roots = [catalogue, run.catalogues, *self.catalogues]
        return {
            SETTINGS_VARIABLE: self.model_dump_json(),
            CATALOGUE_VARIABLE: str(catalogue.resolve()),
            CATALOGUES_VARIABLE: os.pathsep.join(str(root.resolve()) for root in roots),
        }

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that `llmrec serve` left; a RunError where it did not start this server."""
        if SETTINGS_VARIABLE not in os.environ:
            raise RunError(f"{SETTINGS_VARIABLE} is not set: start the server with `llmrec serve RUN`.")
        return cls.model_validate_json(os.environ[SETTINGS_VARIABLE])

    def users(self) -> Path | None:
        """The folder of the run's interactions; None for an export, which holds none."""
        return None if is_export(self.run) else RunFolder(self.run).data

    @property
    def catalogue(self) -> Path:
        """The catalogue folder that the model was trained on, which is served first."""
        return self.run / describe(self.run)["catalogue"]


def command(settings: Settings, host: str, port: int, more: list[str]) -> tuple[list[str], dict[str, str]]:
    """What to run, with further options of vLLM's server, and its environment.

    Raises:
        LlmrecError: vLLM or our plugin is missing, the run holds no model, or another catalogue than the model's.
    """
    resources.require_extras("serve")
    if not importlib.metadata.entry_points(group=GROUP, name=NAME):
        raise RunError(
            "vLLM cannot find our routes: this installation of llmrec is older than they are. "
            "Type: pip install --no-deps -e . (in its checkout), or pip install -U llmrec"
        )
    model, catalogue = language_model(settings.run), settings.catalogue
    _, note = load_words(model)  # what is damaged is refused now, not after half a minute of loading
    served = Catalogue.load(catalogue)
    if note.catalogue != served.hash:
        raise ModelError(
            f"{model} was trained on the catalogue {note.catalogue[:12]}…, but {catalogue} holds "
            f"{served.hash[:12]}…. Finish the run, or serve an export of it."
        )
    arguments = engine_arguments(model, catalogue, max_logprobs=len(served.tokens))
    arguments |= {
        "served_model_name": settings.name,
        "host": host,
        "port": port,
        "shutdown_timeout": math.ceil(settings.grace),
        "disable_uvicorn_access_log": True,
        "h11_max_incomplete_event_size": HEAD,
    }
    settings = settings.model_copy(update={"state": _temporary_folder() / "served"})
    environment = os.environ | settings.environment() | {"VLLM_PLUGINS": _plugins(), "VLLM_NO_USAGE_STATS": "1"}
    return [sys.executable, "-m", *_server(arguments.pop("model")), *_options(arguments), *more], environment


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="llmrec-serve-"))
    except OSError as error:
        raise RunError(
            f"cannot make the temporary folder in which the processes of the server write down which catalogue they "
            f"use ({error.strerror}): make room in /tmp, or name another place: export TMPDIR=DIR"
        ) from error


def _server(model: str) -> list[str]:
    """vLLM's own command; its CPU build goes by another name, at which that command fails."""
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
    """VLLM_PLUGINS with our plugin. Where it was not set vLLM loads all but endpoint plugins, so all are named."""
    points = importlib.metadata.entry_points
    given = os.environ.get("VLLM_PLUGINS")
    every = [one.name for group in _GROUPS for one in points(group=f"vllm.{group}_plugins")]
    return ",".join(dict.fromkeys([*(every if given is None else given.split(",")), NAME]))
