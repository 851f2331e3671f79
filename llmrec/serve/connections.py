"""Connections of a uvicorn server: how many may be open, and how long one may take to send a request or read an answer.

uvicorn waits for the rest of a request, and for a client that does not read, for as long as the client likes, and
accepts connections until the process has no file descriptors left.
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
SPARE = 32  # file descriptors left for the files and pipes of the server itself
FILES = 65_536  # open files that are asked for; some systems have no bound, and then tables are made for all of them
_YOUNG = 0.5  # seconds that a new connection has to send a request before it may be closed to make room
_IDLE, _TIMED, _BUSY = range(3)


def room(most: int) -> int:
    """Raise this process's limit of open files, and return how many connections of `most` fit below it, at least 1."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    free = FILES if soft == resource.RLIM_INFINITY else soft - len(list(Path("/dev/fd").iterdir())) - SPARE
    fitting = max(1, min(most, free))
    if fitting < most:
        log.warning("only %d connections at a time fit the limit of open files, not %d: raise ulimit -n", fitting, most)
    return fitting


class ConnectionWatchdog:
    """Closes connections of a uvicorn server that keep it waiting."""

    def __init__(self, connections: Set[Any], most: int, seconds: float) -> None:
        """Watch the server's own set of connections.

        Args:
            most: connections that may be open.
            seconds: that headers, a body, or the reading of an answer may each take.
        """
        self.connections, self.most, self.seconds = connections, most, seconds
        self._since: dict[tuple[Any, int, Any], float] = {}

    async def run(self) -> None:
        """Close connections that take too long, or are too many, until cancelled."""
        while True:
            for connection in self._late():
                log.warning("closed connections that sent half a request, or read no answer, for %g s", self.seconds)
                connection.transport.abort()
            for _ in range(len(self._since) - self.most):
                self.make_room()
            await asyncio.sleep(min(1.0, self.seconds / 4))

    async def wait_for_room(self) -> None:
        """Wait until there is room for a connection, and make some."""
        while len(self.connections) >= self.most:
            log.warning("%d connections are open, which is the most: those that wait longest are closed", self.most)
            await asyncio.sleep(0.01 if self.make_room() else 0.1)

    def make_room(self) -> bool:
        """Close the connection that has been idle longest, else has waited longest for its client; False if none."""
        self._look()
        late = time.monotonic() - _YOUNG
        begun = self._since.items()
        # uvicorn closes an idle connection the earlier, the longer it has been idle
        waiting = [
            (stage, one.timeout_keep_alive_task.when() if stage == _IDLE else since, one)
            for (one, stage, _), since in begun
        ]
        waiting = [entry for entry in waiting if entry[0] == _IDLE or (entry[0] == _TIMED and entry[1] < late)]
        if waiting:
            connection = min(waiting, key=lambda entry: entry[:2])[2]
            connection.transport.abort()
            self._since = {key: since for key, since in self._since.items() if key[0] is not connection}
        return bool(waiting)

    def _late(self) -> Iterator[Any]:
        self._look()
        late = time.monotonic() - self.seconds
        return (one for (one, stage, _), since in self._since.items() if stage == _TIMED and since < late)

    def _look(self) -> None:
        """Note since when each connection has been in the stage that it is in."""
        now = time.monotonic()
        stages = [(one, *_stage(one)) for one in self.connections]
        self._since = {key: self._since.get(key, now) for key in stages}


def _stage(connection: Any) -> tuple[int, Any]:
    """What a connection of uvicorn's does, and the request that it is about."""
    cycle = getattr(connection, "cycle", connection)
    if cycle is connection:  # a websocket, or another protocol than HTTP/1.1
        return _BUSY, None
    if connection.transport.is_closing():  # what was written is sent first, and the client may not read it
        return _TIMED, None
    if cycle is None or cycle.response_complete:
        idle = connection.timeout_keep_alive_task is not None  # for these uvicorn has a time limit
        return (_IDLE if idle else _TIMED), cycle
    return (_TIMED if cycle.more_body or connection.flow.write_paused else _BUSY), cycle


class BoundedServer(uvicorn.Server):
    """A uvicorn server that accepts a connection only where there is room for it."""

    def __init__(self, config: uvicorn.Config, most: int, seconds: float) -> None:
        """Make a server; `most` and `seconds` are those of `ConnectionWatchdog`."""
        super().__init__(config)
        self.watch = ConnectionWatchdog(self.server_state.connections, most, seconds)
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; without sockets it accepts nothing by itself."""
        await super().startup(sockets=[])
        self._tasks = [asyncio.create_task(one) for one in (self.watch.run(), *map(self._accept, sockets or []))]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        watch, *accepting = self._tasks
        for task in accepting:
            task.cancel()
        await asyncio.gather(*accepting, return_exceptions=True)
        await super().shutdown(sockets)
        watch.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                await self.watch.wait_for_room()
                connection, _ = await loop.sock_accept(listening)
                await loop.connect_accepted_socket(self._protocol, connection)
            except Exception as error:  # no file descriptors, no memory, a client that has gone: others come
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(0.1)

    def _protocol(self) -> asyncio.Protocol:
        state = self.lifespan.state
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(config=self.config, server_state=self.server_state, app_state=state)
        return protocol
