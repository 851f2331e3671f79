"""A load generator: clients that ask again as soon as they are answered, over connections that they keep.

It speaks HTTP/1.1 by itself, since on a machine that it shares with the server a client library's millisecond a request
would be measured as the server's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: of every request that was answered with 200.
        statuses: how many of each; names of errors where the connection failed.
        span: seconds from the first request to the last answer.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    span: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Requests a second, and percentiles of latency in milliseconds."""
        waits = {f"p{at}_ms": round(1e3 * float(np.percentile(self.seconds, at)), 2) for at in (50, 95, 99)}
        return {
            "requests_a_second": round(len(self.seconds) / self.span, 2),
            **waits,
            "requests": len(self.seconds),
            "statuses": dict(self.statuses),
        }


class Client:
    """One connection."""

    def __init__(self, host: str, port: int, key: str) -> None:
        """Say where to; it is opened when it is needed."""
        self.host, self.port = host, port
        self._head = f"Host: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection failed; the next call opens another.
        """
        data = json.dumps(body).encode()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self.host, self.port)
            reader, writer = self._streams
            writer.write(f"POST {path} HTTP/1.1\r\n{self._head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            return await self._answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split(" ")[1]), content


async def press(
    clients: list[Client],
    path: str,
    bodies: Iterator[Any],
    seconds: float,
    look: Callable[[dict[str, Any]], None] | None = None,
    stop: asyncio.Event | None = None,
) -> Load:
    """Ask with every client without pause.

    Args:
        bodies: what to ask; must not end.
        seconds: after these nothing new is asked.
        look: called with every answer.
        stop: set, it ends the load before its time.
    """
    load, begin = Load(), time.perf_counter()

    async def ask(client: Client) -> None:
        while time.perf_counter() - begin < seconds and not (stop and stop.is_set()):
            body, start = next(bodies), time.perf_counter()
            try:
                status, content = await client.post(path, body)
            except (OSError, asyncio.IncompleteReadError) as error:
                load.statuses[type(error).__name__] += 1
                await asyncio.sleep(0.1)
                continue
            load.statuses[str(status)] += 1
            if status == 200:
                load.seconds.append(time.perf_counter() - start)
                if look is not None:
                    look(json.loads(content))

    await asyncio.gather(*(ask(client) for client in clients))
    load.span = time.perf_counter() - begin
    return load
