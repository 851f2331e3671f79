"""A server under steady load for a while, its catalogue switched all along and its memory watched; then it is killed.

python scripts/speed/soak_serve.py runs/quickstart                          ten minutes on transformers
python scripts/speed/soak_serve.py runs/quickstart --engine vllm

Writes results/soak-serve-ENGINE.json and ends with 1 where it saw an error, an item that the answer's catalogue lacks,
or memory that grew by more than 5 % after the warm-up. The kill comes after the watch: clients must see nothing but
connection errors until the server is back, and the same items as before from then on.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import typer

from llmrec.indexing.catalogue import Catalogue
from llmrec.results.record import write_result
from llmrec.run.layout import RunFolder
from serve import ROUTE, VLLM, Histories, flags
from serve_load import Load, press
from serve_server import Server, serving
from shared import RESULTS, command_line

LEFT_OUT = 20  # items that the other catalogue lacks
WARM_UP = 0.2  # of the time, before memory is compared
OPTIONS = {  # a prefix cache that is full after the warm-up: its pages are taken from the machine as it fills
    "vllm": VLLM | {"num_gpu_blocks_override": 1024},
    "transformers": {},
}
GROWTH = 0.05
COMMON: list[str] = []  # an item that both catalogues have


@dataclass
class Watch:
    """What is watched.

    Attributes:
        items: of each catalogue by hash.
        memory: (seconds since the start, MiB) of the server and its children.
        switches: by what the server answered.
        wrong: answers with an item that their catalogue lacks, or that was asked to be left out.
        given: answers by catalogue.
    """

    items: dict[str, set[str]]
    memory: list[tuple[float, float]] = field(default_factory=list)
    switches: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    given: dict[str, int] = field(default_factory=dict)

    def look(self, answer: dict[str, Any]) -> None:
        """Check one answer."""
        catalogue = answer["catalogue"]
        self.given[catalogue] = self.given.get(catalogue, 0) + 1
        self.wrong += not {item["item_id"] for item in answer["items"]} <= self.items[catalogue]

    def growth(self, seconds: float) -> float:
        """How much larger memory was in the last fifth than in the fifth after the warm-up, as a share."""
        parts = [[m for at, m in self.memory if low <= at / seconds < low + 0.2] for low in (WARM_UP, 0.8)]
        early, late = (float(np.mean(part)) for part in parts)
        return late / early - 1


def smaller(run: Path, folder: Path) -> Catalogue:
    """The run's catalogue without its last items, as a folder."""
    whole = Catalogue.load(RunFolder(run).catalogue)
    count = len(whole.item_ids) - LEFT_OUT
    codes = whole.codes[:count]
    rest = Catalogue(whole.items.slice(0, count), codes, whole.tokens)
    folder.mkdir()
    rest.save(folder, {})
    return rest


async def soak(server: Server, watch: Watch, histories: Histories, clients: int, minutes: float, every: float) -> Load:
    """Steady load, a switch every so often, memory every second."""
    known, seconds = sorted(watch.items), 60 * minutes
    load = asyncio.create_task(press(server.clients(clients), ROUTE, bodies(histories), seconds, watch.look))
    begin, number = time.perf_counter(), 0
    while not load.done():
        await asyncio.sleep(1)
        at = time.perf_counter() - begin
        watch.memory.append((round(at, 1), round(await asyncio.to_thread(server.memory), 1)))
        if at > (number + 1) * every:
            number += 1
            status, _ = await server.clients(1)[0].post("/v1/catalogue", {"hash": known[number % len(known)]})
            watch.switches[str(status)] = watch.switches.get(str(status), 0) + 1
    return await load


async def killed(server: Server, histories: Histories, clients: int, first: str) -> tuple[Load, bool]:
    """Kill the server under load and start it again: what clients saw, and whether it answers as before."""
    fixed, stop = next(bodies(histories)), asyncio.Event()
    await server.clients(1)[0].post("/v1/catalogue", {"hash": first})
    before = await given(server, fixed)
    load = asyncio.create_task(press(server.clients(clients), ROUTE, bodies(histories), math.inf, stop=stop))
    await asyncio.sleep(3)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    same = await given(server, fixed) == before
    await asyncio.sleep(3)
    stop.set()
    return await load, same


async def given(server: Server, body: dict[str, Any]) -> list[str]:
    """The items of one request."""
    _, content = await server.clients(1)[0].post(ROUTE, body)
    return [item["item_id"] for item in json.loads(content)["items"]]


def bodies(histories: Histories) -> Iterator[dict[str, Any]]:
    """Requests without end; each has an item that both catalogues know."""
    while True:
        yield {"history": [COMMON[0], *histories.draw()], "k": 10}


def main(
    run: Path,
    engine: str = "transformers",
    minutes: float = 10.0,
    every: float = 30.0,
    clients: int = 8,
    out: Path = RESULTS,
) -> None:
    """Soak a server, kill it, write what was seen."""
    histories = Histories(run)
    with tempfile.TemporaryDirectory() as work:
        whole, rest = Catalogue.load(RunFolder(run).catalogue), smaller(run, Path(work) / "smaller")
        COMMON.append(rest.item_ids[0])
        watch = Watch({one.hash: set(one.item_ids) for one in (whole, rest)})
        more = ["--catalogue", str(Path(work) / "smaller"), *flags(OPTIONS[engine])]
        with serving(run, Path(work) / "log", engine, *more) as server:
            load = asyncio.run(soak(server, watch, histories, clients, minutes, every))
            invalid = [
                line for line in server.get("/metrics").splitlines() if line.startswith("llmrec_invalid_items_t")
            ]
            kill, same = asyncio.run(killed(server, histories, clients, whole.hash))
    growth = watch.growth(60 * minutes)
    figures = {
        "soak": load.figures() | {"answers_by_catalogue": sorted(watch.given.values())},
        "switches": watch.switches,
        "wrong_answers": watch.wrong,
        "invalid_items": sum(float(line.split()[-1]) for line in invalid),
        "memory_mib": {"first": watch.memory[0][1], "last": watch.memory[-1][1], "growth": round(growth, 4)},
        "killed": {"statuses": dict(kill.statuses), "same_answer_after": same},
    }
    write_result(
        out / f"soak-serve-{engine}.json",
        f"python scripts/speed/soak_serve.py runs/{run.resolve().name} --engine {engine} --minutes {minutes:g}",
        figures,
        options=OPTIONS[engine],
        protocol=f"{clients} clients ask without pause, {minutes:g} minutes, a switch every {every:g} s, then a kill",
    )
    print(json.dumps(figures, indent=1))
    fine = set(load.statuses) == {"200"} and set(watch.switches) == {"200"} and not watch.wrong and same
    clean = set(kill.statuses) <= {"200", "ConnectionRefusedError", "ConnectionResetError", "IncompleteReadError"}
    raise typer.Exit(0 if fine and clean and growth <= GROWTH and not figures["invalid_items"] else 1)


if __name__ == "__main__":
    command_line(main)
