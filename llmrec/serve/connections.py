"""Limits on connections of a uvicorn server: their number, and the time to send a request or read an answer.

uvicorn itself waits without limit for the rest of a request and for a client that does not read, and accepts
connections until the process has no file descriptors left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import uvicorn

log = logging.getLogger("vllm.llmrec.serve.connections")
RESERVED = 32  # file descriptors kept for files and pipes of the server
FILES = 65_536  # requested limit of open files; without a limit some systems allocate tables for all of them
_GRACE = 0.5  # seconds in which a connection that waits for its client is not closed for a new one
_IDLE, _WAITING, _BUSY = range(3)  # between requests; for its client; for the server


def max_connections(limit: int) -> int:
    """Raise this process's limit of open files, and return min(limit, connections that fit), at least 1."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            soft = files
    free = FILES if soft == resource.RLIM_INFINITY else soft - len(list(Path("/dev/fd").iterdir())) - RESERVED
    allowed = max(1, min(limit, free))
    if allowed < limit:
        log.warning("the limit of open files allows %d connections at a time, not %d: raise ulimit -n", allowed, limit)
    return allowed


class ConnectionWatchdog:
    """Close connections of a uvicorn server that keep it waiting."""

    def __init__(self, connections: Set[Any], limit: int, seconds: float) -> None:
        """Watch the server's own set of connections.

        Args:
            limit: number of open connections.
            seconds: time for the headers, for a body, and for reading an answer.
        """
        self.connections, self.limit, self.seconds = connections, limit, seconds
        self._since: dict[tuple[Any, int, Any], float] = {}

    async def run(self) -> None:
        """Close connections that take too long, or exceed the limit, until cancelled."""
        while True:
            for connection in self._late():
                log.warning("closed connections that sent no whole request, or read no answer, for %g s", self.seconds)
                connection.transport.abort()
            for _ in range(len(self._since) - self.limit):
                self.make_room()
            await asyncio.sleep(min(1.0, self.seconds / 4))

    async def wait_for_room(self) -> None:
        """Wait until a connection fits, closing others for it."""
        while len(self.connections) >= self.limit:
            log.warning("%d connections are open, which is the limit: those that wait longest are closed", self.limit)
            await asyncio.sleep(0.01 if self.make_room() else 0.1)

    def make_room(self) -> bool:
        """Close the connection that was idle longest, else waits longest for its client; False if there is none."""
        self._update()
        before = time.monotonic() - _GRACE
        # the end of uvicorn's keep-alive timeout orders idle connections by their idle time
        candidates = [
            (stage, connection.timeout_keep_alive_task.when() if stage == _IDLE else since, connection)
            for (connection, stage, _), since in self._since.items()
            if stage == _IDLE or (stage == _WAITING and since < before)
        ]
        if candidates:
            connection = min(candidates, key=lambda entry: entry[:2])[2]
            connection.transport.abort()
            self._since = {key: since for key, since in self._since.items() if key[0] is not connection}
        return bool(candidates)

    def _late(self) -> Iterator[Any]:
        self._update()
        before = time.monotonic() - self.seconds
        return (key[0] for key, since in self._since.items() if key[1] == _WAITING and since < before)

    def _update(self) -> None:
        """Record since when each connection is in its stage."""
        now = time.monotonic()
        keys = [(connection, *_stage(connection)) for connection in self.connections]
        self._since = {key: self._since.get(key, now) for key in keys}


def _stage(connection: Any) -> tuple[int, Any]:
    """Stage of a connection of uvicorn, and its current request."""
    cycle = getattr(connection, "cycle", connection)
    if cycle is connection:  # a websocket, or another protocol than HTTP/1.1
        return _BUSY, None
    if connection.transport.is_closing():  # written data is sent first, and the client may not read it
        return _WAITING, None
    if cycle is None or cycle.response_complete:
        idle = connection.timeout_keep_alive_task is not None  # uvicorn has a timeout for these
        return (_IDLE if idle else _WAITING), cycle
    return (_WAITING if cycle.more_body or connection.flow.write_paused else _BUSY), cycle


class BoundedServer(uvicorn.Server):
    """A uvicorn server with a limit on open connections."""

    def __init__(self, config: uvicorn.Config, limit: int, seconds: float) -> None:
        """Set the limits of `ConnectionWatchdog`."""
        super().__init__(config)
        self.watchdog = ConnectionWatchdog(self.server_state.connections, limit, seconds)
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn, which accepts no connections itself if it has no sockets."""
        await super().startup(sockets=[])
        self._tasks = [asyncio.create_task(each) for each in (self.watchdog.run(), *map(self._accept, sockets or []))]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        watchdog, *accepting = self._tasks
        for task in accepting:
            task.cancel()
        await asyncio.gather(*accepting, return_exceptions=True)
        await super().shutdown(sockets)
        watchdog.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                await self.watchdog.wait_for_room()
                connection, _ = await loop.sock_accept(listening)
                await loop.connect_accepted_socket(self._protocol, connection)
            except Exception as error:  # no file descriptors, no memory, a client that left: keep accepting
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(0.1)

    def _protocol(self) -> asyncio.Protocol:
        state = self.lifespan.state
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(config=self.config, server_state=self.server_state, app_state=state)
        return protocol
