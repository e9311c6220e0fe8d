"""The listening sockets and what the sessions of one process share."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from responder.clock import Clock
from responder.config import Limits, Listen
from responder.inbound.connection import Connection
from responder.inbound.limits import Gatekeeper
from responder.inbound.replies import SHUTTING_DOWN, Reply
from responder.inbound.session import Handler, Session
from responder.observe import event

BACKLOG = 1024
SWEEP = 5.0  # seconds between two looks for sessions whose time is over: one timer for all of them


class ListenError(Exception):
    """A listening socket could not be opened; the message names the address and the reason."""


class Service:
    """What every session of this process shares."""

    def __init__(self, hostname: str, limits: Limits, gatekeeper: Gatekeeper, handler: Handler, clock: Clock) -> None:
        self.hostname = hostname
        self.limits = limits
        self.handler = handler
        self.clock = clock
        self.gatekeeper = gatekeeper
        self.sessions: set[Connection] = set()
        self.busy: set[asyncio.Task[Reply]] = set()
        self.draining = False
        self.ehlo = self._ehlo()

    def _ehlo(self) -> bytes:
        """The reply to EHLO, made once (RFC 5321 4.1.1.1)."""
        lines = (
            self.hostname,
            "PIPELINING",
            f"SIZE {self.limits.message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "HELP",
        )
        return b"".join(
            f"250{' ' if number == len(lines) else '-'}{line}\r\n".encode() for number, line in enumerate(lines, 1)
        )

    def follow(self, hostname: str, limits: Limits) -> None:
        """Take a new configuration; sessions that are open go on under it."""
        self.hostname = hostname
        self.limits = limits
        self.gatekeeper.follow(limits, self.clock)
        self.ehlo = self._ehlo()

    def connected(self, session: Connection) -> Reply | None:
        """Register a session; the reply where it is refused."""
        self.sessions.add(session)
        refusal = self.gatekeeper.connect(session.peer)
        if refusal is not None:
            event("refused", peer=session.peer, code=refusal.code, reason=refusal.text)
        return SHUTTING_DOWN if self.draining else refusal

    def disconnected(self, session: Connection) -> None:
        self.sessions.discard(session)
        self.gatekeeper.disconnect(session.peer)

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        now = self.clock.monotonic()
        for session in list(self.sessions):
            reply = session.overdue(now)
            if reply is not None:
                session.hang_up(reply)


class Listener:
    """The sockets of one process."""

    def __init__(self, service: Service) -> None:
        self._service = service
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

    async def _open(self, listen: Listen) -> None:
        loop = asyncio.get_running_loop()
        try:
            if listen.path is not None:
                server = await loop.create_unix_server(self._session, str(listen.path), backlog=BACKLOG)
                self._paths.append(listen.path)
            else:
                server = await loop.create_server(self._session, listen.host, listen.port, backlog=BACKLOG)
        except (OSError, socket.gaierror) as error:
            # asyncio's own text wraps this one in several others; a resolver's error numbers are no system's.
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise ListenError(f"{listen.address}: {reason}") from error
        self._servers.append(server)
        for sock in server.sockets:
            name = sock.getsockname()
            if isinstance(name, tuple):
                self.addresses.append((name[0], name[1]))

    def _session(self) -> Session:
        return Session(self._service)

    async def _sweep(self) -> None:
        while True:
            await self._service.clock.sleep(SWEEP)
            self._service.sweep()

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
        self._service.draining = True
        self.stop()
        for session in list(self._service.sessions):
            if session.idle:
                session.hang_up(SHUTTING_DOWN)
        ends = self._service.clock.monotonic() + seconds
        while self._service.sessions and self._service.clock.monotonic() < ends:
            await self._service.clock.sleep(0.02)
        for session in list(self._service.sessions):
            session.hang_up(SHUTTING_DOWN)
        if self._service.busy:
            await asyncio.wait(self._service.busy, timeout=seconds)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
