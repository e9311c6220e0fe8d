"""The listening sockets of one process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from responder.config import Listen
from responder.inbound.replies import SHUTTING_DOWN
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions

BACKLOG = 1024
SWEEP = 5.0  # seconds between two looks for sessions whose time is over: one timer for all of them


Socket = socket.socket


class ListenError(Exception):
    """A listening socket could not be opened; the message names the address and the reason."""


def bind(address: tuple[str, int]) -> Socket:
    """A TCP socket bound to `(host, port)`, before there is an event loop; it does not listen yet. A host with several
    addresses has the first of them. Raises `OSError`."""
    family, kind, *_ = socket.getaddrinfo(address[0], address[1], type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


@cache
def own_name() -> str:
    """This machine's name, as full as the resolver knows it; asked for once, as that may take a while."""
    return socket.getfqdn()


class Listener:
    """The sockets of one process."""

    def __init__(self, shared: Sessions) -> None:
        self._shared = shared
        self._servers: list[asyncio.Server] = []
        self._paths: list[Path] = []
        self._sweeper: asyncio.Task[None] | None = None
        self.addresses: list[tuple[str, int]] = []

    async def open(self, listens: Sequence[Listen]) -> None:
        """Open all sockets; none stays open where one fails. Raises `ListenError`."""
        try:
            for listen in listens:
                await self._open(listen)
        except BaseException:
            self.stop()
            raise
        self._sweeper = asyncio.create_task(self._sweep())

    async def adopt(self, sock: Socket, session: Callable[[], Session]) -> asyncio.Server:
        """Serve a socket that was bound before, with sessions of its own kind. It may be closed by itself."""
        server = await asyncio.get_running_loop().create_server(session, sock=sock, backlog=BACKLOG)
        self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        return server

    async def _open(self, listen: Listen) -> None:
        loop = asyncio.get_running_loop()
        session = partial(Session, self._shared, self._shared.profile(listen))
        try:
            if listen.path is not None:
                server = await loop.create_unix_server(session, str(listen.path), backlog=BACKLOG)
                self._paths.append(listen.path)
            else:
                server = await loop.create_server(session, listen.host, listen.port, backlog=BACKLOG)
        except (OSError, socket.gaierror) as error:
            # asyncio's own text wraps this one in several others; a resolver's error numbers are no system's.
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise ListenError(f"{listen.address}: {reason}") from error
        self._servers.append(server)
        for sock in server.sockets:
            name = sock.getsockname()
            if isinstance(name, tuple):
                self.addresses.append((name[0], name[1]))

    async def _sweep(self) -> None:
        while True:
            await self._shared.clock.sleep(SWEEP)
            self._shared.sweep()

    def stop(self) -> None:
        """Take no new connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()

    async def drain(self, seconds: float) -> None:
        """Take no new connections, let transactions that have reached DATA end within `seconds`, say 421 to all others."""
        self._shared.draining = True
        self.stop()
        for session in list(self._shared.open):
            if session.idle:
                session.hang_up(SHUTTING_DOWN)
        ends = self._shared.clock.monotonic() + seconds
        while self._shared.open and self._shared.clock.monotonic() < ends:
            await self._shared.clock.sleep(0.02)
        for session in list(self._shared.open):
            session.hang_up(SHUTTING_DOWN)
        if self._shared.busy:
            await asyncio.wait(self._shared.busy, timeout=seconds)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
