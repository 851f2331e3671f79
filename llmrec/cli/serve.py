"""`llmrec serve`: a trained run behind an HTTP port."""

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
EXTRA = {"vllm": "serve", "transformers": "http"}  # engine → what brings its packages


def serve(
    run: Path = typer.Argument(help="a run folder, or an export of one"),
    more: list[str] = typer.Argument(None, help="after --: further options of vLLM's server"),
    engine: str = typer.Option("vllm", help="what runs the model: vllm or transformers"),
    host: str = typer.Option("127.0.0.1", help="0.0.0.0 for every network"),
    port: int = typer.Option(8000, min=1, max=65535, help="of TCP"),
    catalogue: list[Path] = typer.Option([], help="a further catalogue folder to switch to; may be given often"),
    tensor_parallel: int = typer.Option(1, min=1, help="GPUs that share each layer (vLLM)"),
    pipeline_parallel: int = typer.Option(1, min=1, help="GPUs that share the layers out (vLLM)"),
    data_parallel: int = typer.Option(1, min=1, help="copies of the model (vLLM)"),
    max_k: int = typer.Option(100, min=1, help="items that a request may ask for"),
    beams: int = typer.Option(None, min=1, help="prefixes that a search keeps; as the run was judged otherwise"),
    max_history: int = typer.Option(10_000, min=1, help="items that a history may have"),
    max_body: int = typer.Option(2**20, min=1, help="bytes that a request may have"),
    max_waiting: int = typer.Option(256, min=1, help="requests in the server at a time; beyond it, 429"),
    max_connections: int = typer.Option(1000, min=1, help="connections open at a time; then idle ones are closed"),
    read_timeout: float = typer.Option(30.0, help="seconds that headers, a body or the reading of an answer may take"),
    grace: float = typer.Option(30.0, help="seconds for requests in flight after a stop"),
    without_key: bool = typer.Option(False, "--without-key", help="ask nobody for a key; only on this machine"),
) -> None:
    """Put a trained run behind an HTTP port: vLLM's server with `POST /v1/recommendations`, or the same without vLLM.

    Clients show the key of LLMREC_API_KEY; where there is none, one is made and printed. Who shows LLMREC_ADMIN_KEY may
    change the catalogue. All of it is in docs/serving.md, and the server's own OpenAPI at /docs.
    """
    seen = sys.stderr is not None  # transformers puts another in its place where it is closed
    _fill_closed_streams()
    parallel = _parallel(tensor_parallel, pipeline_parallel, data_parallel)
    _check(engine, host, without_key, [*parallel, *(more or [])])
    _check_seconds("--read-timeout", read_timeout, 0.1)
    _check_seconds("--grace", grace, 0)
    from llmrec.serve.access import API_KEY, Keys, bind, url
    from llmrec.serve.settings import Limits, Settings

    listening = bind(host, port)  # what is wrong here is said at once, not after half a minute of loading
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
            raise RunError(f"a key was made and cannot be printed: set {API_KEY}, or leave standard error open.")
    if engine == "vllm":
        _start_vllm(settings, listening, [*parallel, *(more or [])])
    from llmrec.serve.app import serve as serve_app

    os.environ.update(settings.environment())
    serve_app(settings, keys, listening, lambda: _print(url(listening)))


def _check(engine: str, host: str, without_key: bool, options: list[str]) -> None:
    """Refuse options that do not fit together, and an engine whose packages are missing."""
    if engine not in EXTRA:
        raise RequestError(f"there is no engine '{engine}': say vllm or transformers.")
    if options and engine == "transformers":
        raise RequestError(f"'{options[0]}' is an option of vLLM, and --engine transformers has none: leave it out.")
    if engine == "vllm" and resources.missing_modules("serve"):
        raise RequestError(
            "vLLM is not installed. Serve without it: --engine transformers. Or type: pip install 'llmrec[serve]' "
            "(where there is no GPU: 'llmrec[serve-cpu]')"
        )
    resources.require_extras(EXTRA[engine])
    from llmrec.serve.access import is_loopback

    if without_key and not is_loopback(host):
        raise RequestError(f"--without-key would let everybody on the network in at {host}: leave one of the two out.")


def _check_seconds(option: str, value: float, least: float) -> None:
    """Refuse what is no time: also NaN, and times without end, which uvicorn and vLLM cannot count."""
    if not least <= value <= DAY:
        raise RequestError(f"{option} is {value:g}: give seconds from {least:g} to {DAY}.")


def _fill_closed_streams() -> None:
    """Open /dev/null as each standard stream that is closed: else a socket gets its number, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one


def _print(line: str) -> bool:
    """Print a line on standard error, and return whether that was possible: a server goes on where it is not."""
    try:
        typer.echo(line, err=True)
        return True
    except OSError:
        return False


def _parallel(tensor: int, pipeline: int, data: int) -> list[str]:
    sizes = {"tensor": tensor, "pipeline": pipeline, "data": data}
    return [part for name, size in sizes.items() if size > 1 for part in (f"--{name}-parallel-size", str(size))]


def _start_vllm(settings: Settings, listening: socket.socket, more: list[str]) -> NoReturn:
    """Replace this process by vLLM's server."""
    from llmrec.serve.access import url
    from llmrec.serve.settings import vllm_command

    address, (host, port) = url(listening), listening.getsockname()[:2]
    listening.close()  # vLLM takes it itself
    words, environment = vllm_command(settings, host, port, more)
    _print(f"starting vLLM on {address}; it is ready when /health answers")
    os.execve(words[0], words, environment)
