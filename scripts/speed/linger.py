"""How long a batch of the transformers server waits for company: servers that differ in `MAX_DELAY` alone, in turn.

python scripts/speed/linger.py runs/quickstart            → results/serve-linger.json

Two kinds of load: clients that ask again at once, as in serve.py, and clients that pause in between for a random while,
three times a request's own time on average, so that no company is to be expected.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.results.record import write_result
from serve import ROUTE, Histories, K
from serve_load import Client, Load
from serve_server import Server, serving
from shared import RESULTS, command_line, ratio

CHANGED = "import llmrec.serve.dynamic_batching as b; b.MAX_DELAY = {}; from llmrec.cli.main import main; main()"


async def load(server: Server, histories: Histories, clients: int, seconds: float, pause: float) -> Load:
    """Clients that ask for some seconds, with a pause of `pause` seconds on average after every answer."""
    found, begin = Load(), time.perf_counter()

    async def ask(client: Client) -> None:
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            status, _ = await client.post(ROUTE, {"history": histories.draw(), "k": K})
            found.statuses[str(status)] += 1
            found.seconds.append(time.perf_counter() - start)
            await asyncio.sleep(histories.random.exponential(pause) if pause else 0)
        client.close()

    await asyncio.gather(*(ask(client) for client in server.clients(clients)))
    found.span = time.perf_counter() - begin
    return found


def main(run: Path, seconds: float = 5.0, rounds: int = 3, out: Path = RESULTS) -> None:
    """Measure, and write what was seen."""
    histories, lingers = Histories(run), ("0.0", "0.1", "0.3")
    rates: dict[Any, list[float]] = defaultdict(list)
    waits: dict[Any, list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        work, servers = Path(stack.enter_context(tempfile.TemporaryDirectory())), {}
        for linger in lingers:
            one = stack.enter_context(serving(run, work / linger, "transformers", start=False))
            one.command[1:3] = ["-c", CHANGED.format(linger)]
            one.start()
            servers[linger] = one
        alone = asyncio.run(load(servers["0.0"], histories, 1, seconds, 0.0))
        pause = 3 * float(np.median(alone.seconds))
        kinds = [(clients, gap) for clients in (4, 16, 64) for gap in (0.0, pause * clients / 2)]
        for number in range(-1, rounds):
            for clients, gap in kinds:
                for linger, server in servers.items():
                    seen = asyncio.run(load(server, histories, clients, seconds if number >= 0 else 1.0, gap))
                    if number >= 0:
                        rates[clients, gap, linger].append(len(seen.seconds) / seen.span)
                        waits[clients, gap, linger].append(1e3 * float(np.median(seen.seconds)))
    figures = {
        f"{clients} clients, {f'{gap * 1e3:.0f} ms between' if gap else 'no pause'}": {
            linger: {
                "requests_a_second": round(float(np.median(rates[clients, gap, linger])), 1),
                "p50_ms": round(float(np.median(waits[clients, gap, linger])), 1),
                "throughput_over_none": ratio(rates[clients, gap, linger], rates[clients, gap, "0.0"]),
                "latency_over_none": ratio(waits[clients, gap, linger], waits[clients, gap, "0.0"]),
            }
            for linger in lingers
        }
        for clients, gap in kinds
    }
    protocol = f"{seconds:g} s a load, {rounds} rounds, servers in turn; MAX_DELAY in llmrec/serve/dynamic_batching.py"
    command = f"python scripts/speed/linger.py runs/{run.resolve().name}"
    write_result(out / "serve-linger.json", command, figures, protocol=protocol)
    for kind, each in figures.items():
        print(kind, {linger: (one["requests_a_second"], one["p50_ms"]) for linger, one in each.items()})


if __name__ == "__main__":
    command_line(main)
