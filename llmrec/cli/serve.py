"""`llmrec serve`: serve a trained run over HTTP."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from llmrec import resources
from llmrec.errors import RequestError, RunError

if TYPE_CHECKING:
    from llmrec.serve.settings import Settings

DAY = 86_400  # seconds
EXTRA = {"vllm": "serve", "transformers": "http"}  # engine → extra with its packages


def serve(
    run: Path = typer.Argument(help="a run folder or an export"),
    more: list[str] = typer.Argument(None, help="after --: more options for vLLM's server"),
    engine: str = typer.Option("vllm", help="vllm or transformers"),
    host: str = typer.Option("127.0.0.1", help="address to listen on; 0.0.0.0: all networks"),
    port: int = typer.Option(8000, min=1, max=65535, help="port to listen on"),
    catalogue: list[Path] = typer.Option([], help="another catalogue folder that clients may switch to; repeatable"),
    tensor_parallel: int = typer.Option(1, min=1, help="vLLM: GPUs per layer"),
    pipeline_parallel: int = typer.Option(1, min=1, help="vLLM: pipeline stages, one GPU each"),
    data_parallel: int = typer.Option(1, min=1, help="vLLM: copies of the model"),
    max_k: int = typer.Option(100, min=1, help="largest number of items per request"),
    beams: int = typer.Option(None, min=1, help="beam width; default: as in the evaluation"),
    max_history: int = typer.Option(10_000, min=1, help="longest history"),
    max_body: int = typer.Option(2**20, min=1, help="largest request, in bytes"),
    max_waiting: int = typer.Option(256, min=1, help="most requests at a time; others get status 429"),
    max_connections: int = typer.Option(1000, min=1, help="most open connections; beyond this, idle ones are closed"),
    read_timeout: float = typer.Option(30.0, help="seconds to receive headers or body, or to send an answer"),
    grace: float = typer.Option(30.0, help="seconds to finish requests after a stop"),
    without_key: bool = typer.Option(False, "--without-key", help="require no key; only on this machine"),
) -> None:
    """Serve a trained run over HTTP: vLLM's server with `POST /v1/recommendations` added, or the same without vLLM.

    Clients send the key in LLMREC_API_KEY; if it is not set, a key is generated and printed. With LLMREC_ADMIN_KEY a
    client may change the catalogue. See docs/serving.md, and /docs on the server for its OpenAPI.
    """
    seen = sys.stderr is not None  # transformers replaces a closed one
    _fill_closed_streams()
    parallel = _parallel(tensor_parallel, pipeline_parallel, data_parallel)
    _check(engine, host, without_key, [*parallel, *(more or [])])
    _check_seconds("--read-timeout", read_timeout, 0.1)
    _check_seconds("--grace", grace, 0)
    from llmrec.serve.access import API_KEY, Keys, bind, url
    from llmrec.serve.settings import Limits, Settings

    listening = bind(host, port)  # fail now, not after half a minute of loading
    keys = Keys.from_environment()
    limits = Limits(
        k=max_k,
        beams=beams,
        history=max_history,
        body=max_body,
        concurrency=max_waiting,
        connections=max_connections,
        read_timeout=read_timeout,
    )
    settings = Settings(run=run, catalogues=catalogue, limits=limits, without_key=without_key, grace=grace)
    if not without_key and not os.environ.get(API_KEY):
        os.environ[API_KEY] = secrets.token_urlsafe(24)
        keys = Keys.from_environment()
        if not (seen and _print(f"{API_KEY}={os.environ[API_KEY]}")):
            raise RunError(f"a key was generated but cannot be printed: set {API_KEY}, or leave standard error open.")
    if engine == "vllm":
        _start_vllm(settings, listening, [*parallel, *(more or [])])
    from llmrec.serve.app import serve as serve_app

    os.environ.update(settings.environment())
    serve_app(settings, keys, listening, lambda: _print(url(listening)))


def _check(engine: str, host: str, without_key: bool, options: list[str]) -> None:
    """Refuse options that contradict one another, and an engine whose packages are missing."""
    if engine not in EXTRA:
        raise RequestError(f"there is no engine '{engine}': use vllm or transformers.")
    if options and engine == "transformers":
        raise RequestError(f"'{options[0]}' is an option of vLLM, not of --engine transformers: leave it out.")
    if engine == "vllm" and resources.missing_modules("serve"):
        raise RequestError(
            "vLLM is not installed. Serve without it: --engine transformers. Or type: pip install 'llmrec[serve]' "
            "(without a GPU: 'llmrec[serve-cpu]')"
        )
    resources.require_extras(EXTRA[engine])
    from llmrec.serve.access import is_loopback

    if without_key and not is_loopback(host):
        raise RequestError(
            f"--without-key would open the server to the whole network at {host}: leave out --without-key or --host."
        )


def _check_seconds(option: str, value: float, least: float) -> None:
    """Refuse invalid times, also NaN and infinity, which uvicorn and vLLM cannot handle."""
    if not least <= value <= DAY:
        raise RequestError(f"{option} is {value:g}: give seconds from {least:g} to {DAY}.")


def _fill_closed_streams() -> None:
    """Open /dev/null for closed standard streams: otherwise a socket gets the number and receives the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one


def _print(line: str) -> bool:
    """Print a line on standard error if possible, and return whether it was; the server runs in any case."""
    try:
        typer.echo(line, err=True)
        return True
    except OSError:
        return False


def _parallel(tensor: int, pipeline: int, data: int) -> list[str]:
    sizes = {"tensor": tensor, "pipeline": pipeline, "data": data}
    return [part for name, size in sizes.items() if size > 1 for part in (f"--{name}-parallel-size", str(size))]


def _start_vllm(settings: Settings, listening: socket.socket, more: list[str]) -> NoReturn:
    """Replace this process with vLLM's server."""
    from llmrec.serve.access import url
    from llmrec.serve.settings import vllm_command

    address, (host, port) = url(listening), listening.getsockname()[:2]
    listening.close()  # vLLM binds it itself
    arguments, environment = vllm_command(settings, host, port, more)
    _print(f"starting vLLM on {address}; it is ready when /health answers")
    os.execve(arguments[0], arguments, environment)
