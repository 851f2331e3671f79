"""Put a trained run behind an HTTP port: vLLM's server with `POST /v1/recommendations`, or the same without vLLM.

Clients show the key of LLMREC_API_KEY; where there is none, one is made and printed. Who shows LLMREC_ADMIN_KEY may
change the catalogue. All of it is in docs/serving.md, and the server's own OpenAPI at /docs.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec.cli.screen import console

if TYPE_CHECKING:
    from llmrec.serve.settings import Settings

EXTRA = {"vllm": "serve", "transformers": "http"}  # engine -> what brings its packages


def command(
    run: Path = typer.Argument(help="a run folder, or an export of one"),
    more: list[str] = typer.Argument(None, help="after --: further options of vLLM's server"),
    engine: str = typer.Option("vllm", help="what runs the model: vllm or transformers"),
    host: str = typer.Option("127.0.0.1", help="0.0.0.0 for every network"),
    port: int = typer.Option(8000, min=1, max=65535, help="of TCP"),
    catalogue: list[Path] = typer.Option([], help="a further catalogue folder to switch to; may be given often"),
    tensor_parallel: int = typer.Option(1, min=1, help="GPUs that share each layer (vLLM)"),
    pipeline_parallel: int = typer.Option(1, min=1, help="GPUs that share the layers out (vLLM)"),
    data_parallel: int = typer.Option(1, min=1, help="copies of the model (vLLM)"),
    ray: bool = typer.Option(False, help="spread vLLM's workers with Ray"),
    max_k: int = typer.Option(100, min=1, help="items that a request may ask for"),
    beams: int = typer.Option(None, min=1, help="prefixes that a search keeps; as the run was judged otherwise"),
    max_history: int = typer.Option(10_000, min=1, help="items that a history may have"),
    max_body: int = typer.Option(2**20, min=1, help="bytes that a request may have"),
    max_waiting: int = typer.Option(256, min=1, help="requests in the server at a time; beyond it, 429"),
    grace: float = typer.Option(30.0, min=0, help="seconds for requests in flight after a stop"),
    without_key: bool = typer.Option(False, "--without-key", help="ask nobody for a key; only on this machine"),
) -> None:
    from llmrec import extras
    from llmrec.errors import RequestError

    if engine not in EXTRA:
        raise RequestError(f"there is no engine '{engine}': say vllm or transformers.")
    if without_key and host not in ("127.0.0.1", "::1", "localhost"):
        raise RequestError(f"--without-key would let everybody on the network in at {host}: leave one of the two out.")
    options = [*_parallel(tensor_parallel, pipeline_parallel, data_parallel, ray), *(more or [])]
    if options and engine == "transformers":
        raise RequestError(f"'{options[0]}' is an option of vLLM, and --engine transformers has none: leave it out.")
    if engine == "vllm" and extras.missing("serve"):
        raise RequestError(
            "vLLM is not installed. Serve without it: --engine transformers. Or type: pip install 'llmrec[serve]' "
            "(where there is no GPU: 'llmrec[serve-cpu]')"
        )
    extras.need(EXTRA[engine])
    from llmrec.serve.listen import bind

    listening = bind(host, port)  # what is wrong here is said at once, not after half a minute of loading
    from llmrec.serve.settings import API_KEY, Limits, Settings

    limits = Limits(k=max_k, beams=beams, history=max_history, body=max_body, concurrency=max_waiting)
    settings = Settings(run=run, catalogues=catalogue, limits=limits, without_key=without_key, grace=grace)
    if not without_key and not os.environ.get(API_KEY):
        os.environ[API_KEY] = secrets.token_urlsafe(24)
        console.print(f"{API_KEY}={os.environ[API_KEY]}", markup=False, highlight=False)
    if engine == "vllm":
        _vllm(settings, listening, options)
    else:
        _transformers(settings, listening)


def _parallel(tensor: int, pipeline: int, data: int, ray: bool) -> list[str]:
    sizes = {"tensor": tensor, "pipeline": pipeline, "data": data}
    options = [part for name, size in sizes.items() if size > 1 for part in (f"--{name}-parallel-size", str(size))]
    return [*options, *(["--distributed-executor-backend", "ray"] if ray else [])]


def _vllm(settings: Settings, listening: socket.socket, more: list[str]) -> None:
    from llmrec.serve.start_vllm import command as start

    host, port = listening.getsockname()[:2]
    listening.close()  # vLLM takes it itself
    words, environment = start(settings, host, port, more)
    console.print(f"starting vLLM on http://{host}:{port}; it is ready when /health answers", highlight=False)
    os.execve(words[0], words, environment)


def _transformers(settings: Settings, listening: socket.socket) -> None:
    from llmrec.serve.app import serve
    from llmrec.serve.keys import Keys

    host, port = listening.getsockname()[:2]
    os.environ.update(settings.environment())
    ready = f"http://{host}:{port}"
    serve(settings, Keys.from_environment(), listening, lambda: console.print(ready, highlight=False))
