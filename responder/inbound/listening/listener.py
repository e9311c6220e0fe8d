"""The listening sockets of one process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from functools import cache, partial

from responder.config import Inherited, Listen
from responder.inbound.listening.arrival import Arrivals
from responder.inbound.listening.sockets import ListenError, Socket, SocketFile, bind, close_all, open_sockets, serve
from responder.inbound.profile import Profile
from responder.inbound.replies import SHUTTING_DOWN
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions

__all__ = ["ListenError", "Listener", "Socket", "bind", "own_name"]

SWEEP = 5.0  # seconds between two looks for sessions whose time is over: one timer for all of them
_NONE = Inherited()


@cache
def own_name() -> str:
    """This machine's name, as full as the resolver knows it; asked for once, as that may take a while."""
    return socket.getfqdn()


class Listener:
    """The sockets of one process."""

    def __init__(self, shared: Sessions) -> None:
        self._shared = shared
        self._arrivals = Arrivals(shared)
        self._servers: list[asyncio.Server] = []
        self._files: list[SocketFile] = []
        self._sweeper: asyncio.Task[None] | None = None
        self.addresses: list[tuple[str, int]] = []

    async def open(self, listens: Sequence[Listen], inherited: Inherited = _NONE) -> None:
        """Open all sockets; none stays open where one fails. `inherited` is what systemd has handed over. Raises
        `ListenError`."""
        bound: list[list[Socket]] = []
        try:
            for listen in listens:  # all of them before a client is let in anywhere
                sockets = await self._bind(listen, inherited)
                bound.append(sockets)
            for listen, sockets in zip(listens, bound, strict=True):
                await self._serve(listen, sockets)
        except BaseException:
            for sockets in bound:
                close_all(sockets)
            self.stop()
            raise
        self._sweeper = asyncio.create_task(self._sweep())

    async def adopt(self, sock: Socket, session: Callable[[], Session]) -> asyncio.Server:
        """Serve a socket that was bound before, with sessions of its own kind. It may be closed by itself."""
        server = await serve(sock, session)
        self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        return server

    async def _bind(self, listen: Listen, inherited: Inherited) -> list[Socket]:
        sockets = await open_sockets(listen, inherited)
        if listen.path is not None:
            self._files.append(SocketFile(listen.path))
        return sockets

    async def _serve(self, listen: Listen, sockets: list[Socket]) -> None:
        factory = self._factory(self._shared.profile(listen))
        while sockets:
            name = sockets[0].getsockname()
            try:
                self._servers.append(await serve(sockets[0], factory))
            except OSError as error:  # an address may be taken as late as this
                raise ListenError(f"{listen.address}: {os.strerror(error.errno or 0)}") from error
            sockets.pop(0)  # from now on it is the server's
            if isinstance(name, tuple):
                self.addresses.append((name[0], name[1]))

    def _factory(self, profile: Profile) -> Callable[[], asyncio.Protocol]:
        if profile.proxies is not None:
            return self._arrivals.factory(profile)
        return partial(profile.session or Session, self._shared, profile)

    async def _sweep(self) -> None:
        while True:
            await self._shared.clock.sleep(SWEEP)
            self._shared.sweep()
            self._shared.look()
            self._arrivals.sweep()

    def stop(self) -> None:
        """Take no new connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for file in self._files:
            file.remove()
        self._files.clear()
        self._arrivals.stop()

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
