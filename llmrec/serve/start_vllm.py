"""The command that starts vLLM's server with our logits processor and our routes, and the environment it needs."""

from __future__ import annotations

import importlib.metadata
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmrec import extras
from llmrec.decode.vllm_engine import engine_arguments
from llmrec.errors import ModelError, RunError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.folder import load_words
from llmrec.run.recommender import language_model
from llmrec.serve.settings import Settings

HEAD = 65_536  # bytes of the line and the headers of a request; vLLM's own 4 MiB fill its memory before any key
GROUP, NAME = "vllm.endpoint_plugins", "llmrec"
_GROUPS = ("general", "platform", "io_processor", "stat_logger")  # plugins that VLLM_PLUGINS would shut out


def command(settings: Settings, host: str, port: int, more: list[str]) -> tuple[list[str], dict[str, str]]:
    """What to run, and its environment.

    Args:
        more: further options of vLLM's server.

    Raises:
        LlmrecError: vLLM is missing, or the run holds no model.
        CodeError: its catalogue is not intact.
        ModelError: its catalogue is not the model's.
        RunError: our plugin is not registered, or there is no place for temporary files.
    """
    extras.need("serve")
    _registered()
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
    given = os.environ.get("VLLM_PLUGINS")
    if given is not None:
        return ",".join(dict.fromkeys([*given.split(","), NAME]))
    found = [one.name for group in _GROUPS for one in importlib.metadata.entry_points(group=f"vllm.{group}_plugins")]
    return ",".join(dict.fromkeys([*found, NAME]))


def _registered() -> None:
    if not importlib.metadata.entry_points(group=GROUP, name=NAME):
        raise RunError(
            "vLLM cannot find our routes: this installation of llmrec is older than they are. "
            "Type: pip install --no-deps -e . (in its checkout), or pip install -U llmrec"
        )
