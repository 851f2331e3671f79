"""Serving: requests a second and latency over HTTP, beside the engine offline and bare vLLM answering one token.

python scripts/speed/serve.py runs/quickstart                           → results/serve-quickstart-vllm.json
python scripts/speed/serve.py runs/quickstart --engine transformers     → results/serve-quickstart-transformers.json
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

import llmrec
from llmrec import resources
from llmrec.contracts import Request
from llmrec.decode.generative import EngineName, Generative
from llmrec.decode.load import LoadedRecommender
from llmrec.decode.recommenders import Ensemble
from llmrec.results.record import write_result
from llmrec.serve.lookup import Users
from llmrec.serve.settings import Settings
from serve_load import Client, Load, press
from serve_server import Server, serving
from shared import RESULTS, command_line, ratio, tell

BATCH = 16  # of the offline engine, and the concurrency that it is compared at
K = 10
ROUTE = "/v1/recommendations"
VLLM = {"enforce_eager": True, "max_num_seqs": 512}  # as in the bench of decoding
_INVALID = "llmrec_invalid_items_total"


@dataclass(frozen=True)
class Size:
    """How much to measure.

    Attributes:
        concurrency: clients at once, one measurement each; `BATCH` among them.
        seconds: of every load.
        rounds: loads of each contender, in turn.
        warm_up: seconds of load that are not measured.
    """

    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    seconds: float = 5.0
    rounds: int = 3
    warm_up: float = 2.0


def main(
    run: Path = typer.Argument(help="a run folder with its data"),
    engine: EngineName = typer.Option("vllm", help="what the server runs on"),
    dtype: str = typer.Option("auto", help="of vLLM's weights"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
) -> None:
    """Serving: requests a second and latency over HTTP, beside the engine offline and one bare token."""
    resources.require_extras("serve" if engine == "vllm" else "http")
    print(measure(run, engine, out, Size(), dtype))


class Histories:
    """Prompts that nobody has cached: users of the run, each time with another beginning of their history."""

    def __init__(self, run: Path) -> None:
        """Read the users of a run."""
        self.users = Users(Settings(run=run).users())
        self.ids = self.users.ids
        self.random = np.random.default_rng(0)

    def draw(self) -> list[str]:
        """Item ids, oldest first; at least one."""
        history = self.users.history(self.ids[int(self.random.integers(len(self.ids)))])
        start = int(self.random.integers(len(history)))
        return history[start : start + int(self.random.integers(1, len(history) - start + 1))]


def measure(run: Path, engine: EngineName, out: Path, size: Size, dtype: str) -> Path:
    """Measure one run on one engine and write serve-RUN-ENGINE.json.

    Args:
        run: a run folder with its data.
        out: folder for the file.
        dtype: of vLLM's weights; transformers takes them as they are.

    Returns:
        The file.

    Raises:
        LlmrecError: the run cannot be served.
    """
    histories, name = Histories(run), run.resolve().name
    options = VLLM | {"dtype": dtype} if engine == "vllm" else {}
    with tempfile.TemporaryDirectory() as work, _offline(run, engine, options) as recommender:
        tell(f"starting the server on {engine}")
        with serving(run, Path(work) / "log", engine, *flags(options)) as server:
            subject = Subject(server, recommender, histories, engine == "vllm")
            figures: dict[str, Any] = {str(clients): subject.measure(clients, size) for clients in size.concurrency}
            metrics = server.get("/metrics").splitlines()
    figures["invalid items"] = sum(float(one.split()[-1]) for one in metrics if one.startswith(_INVALID))
    path = out / f"serve-{name}-{engine}.json"
    write_result(
        path,
        f"python scripts/speed/serve.py runs/{name} --engine {engine}",
        figures,
        protocol=f"Clients on the server's machine ask without pause, {size.seconds:g} s a load, {size.rounds} loads "
        f"of each contender in turn; k={K}, seen items left out, new prompts every time. offline: the same engine in "
        f"batches of {BATCH}, no HTTP. one token: /v1/completions of the same server with max_tokens=1.",
        items=len(recommender.catalogue.item_ids),
        options=options,
    )
    return path


class Subject:
    """A server, and what it is compared with."""

    def __init__(self, server: Server, recommender: LoadedRecommender, histories: Histories, bare: bool) -> None:
        """Take a server and the same engine without one.

        Args:
            bare: whether the server can also be asked for one token.
        """
        self.server, self.recommender, self.histories, self.bare = server, recommender, histories, bare

    def measure(self, clients: int, size: Size) -> dict[str, Any]:
        """Figures of every contender at one concurrency, and the ratio of their requests a second."""
        contenders: dict[str, Callable[[float], Load]] = {"recommendations": lambda time: self._ask(clients, time)}
        if self.bare:
            contenders["one token"] = lambda time: self._complete(clients, time)
        if clients == BATCH:
            contenders["offline"] = self._offline
        loads: dict[str, list[Load]] = {name: [] for name in contenders}
        for number in range(-1, size.rounds):
            for name, run in contenders.items():
                load = run(size.seconds if number >= 0 else size.warm_up)
                loads[name] += [load] if number >= 0 else []
            tell(f"{clients} clients: round {number + 1} of {size.rounds}")
        rates = {name: [len(load.seconds) / load.span for load in some] for name, some in loads.items()}
        mine = rates.pop("recommendations")
        return {name: _together(some).figures() for name, some in loads.items()} | {
            f"of {name}": ratio(mine, rate) for name, rate in rates.items()
        }

    def _ask(self, clients: int, seconds: float) -> Load:
        bodies = ({"history": self.histories.draw(), "k": K} for _ in itertools.count())
        return asyncio.run(_pressed(self.server.clients(clients), ROUTE, bodies, seconds))

    def _complete(self, clients: int, seconds: float) -> Load:
        more = {"model": self.name, "max_tokens": 1, "temperature": 0}
        model = generative(self.recommender)
        bodies = ({"prompt": model.prompt(self._request()), **more} for _ in itertools.count())
        return asyncio.run(_pressed(self.server.clients(clients), "/v1/completions", bodies, seconds))

    @property
    def name(self) -> str:
        """What the server calls the model."""
        return str(json.loads(self.server.get("/version"))["model"])

    def _offline(self, seconds: float) -> Load:
        """Batches of the engine in this process; a request's latency is its batch's."""
        load, begin = Load(), time.perf_counter()
        while time.perf_counter() - begin < seconds:
            requests = [self._request() for _ in range(BATCH)]
            start = time.perf_counter()
            self.recommender.recommender.rank(requests, K)
            load.seconds += [time.perf_counter() - start] * BATCH
        load.span = time.perf_counter() - begin
        load.statuses["200"] = len(load.seconds)
        return load

    def _request(self) -> Request:
        """A history, none of whose items is wanted again."""
        history = np.array(self.recommender.history_numbers(self.histories.draw()))
        return Request(history, denied=history)


def generative(recommender: LoadedRecommender) -> Generative:
    """The language model of a recommender, alone or in an ensemble."""
    whole = recommender.recommender
    several = [member.recommender for member in whole.members] if isinstance(whole, Ensemble) else [whole]
    return next(one for one in several if isinstance(one, Generative))


async def _pressed(clients: list[Client], path: str, bodies: Iterator[Any], seconds: float) -> Load:
    """`press`, and the connections closed."""
    try:
        return await press(clients, path, bodies, seconds)
    finally:
        for client in clients:
            client.close()


def _together(loads: list[Load]) -> Load:
    whole = Load()
    for load in loads:
        whole.seconds += load.seconds
        whole.statuses += load.statuses
        whole.span += load.span
    return whole


@contextlib.contextmanager
def _offline(run: Path, engine: EngineName, options: dict[str, Any]) -> Iterator[LoadedRecommender]:
    """The engine without a server."""
    recommender = llmrec.load(run, engine=engine, **options)
    try:
        yield recommender
    finally:
        llm = getattr(generative(recommender).engine, "llm", None)
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()


def flags(options: dict[str, Any]) -> list[str]:
    """Options of vLLM as `llmrec serve` takes them, behind the command's own."""
    words = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    given = [word for flag, value in words for word in ([flag] if value is True else [flag, str(value)])]
    return ["--", *given] if given else []


if __name__ == "__main__":
    command_line(main)
