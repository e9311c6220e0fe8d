"""Connections kept for the next mail to the same host.

A host that has just taken a mail is left connected for a few seconds: the next mail saves the lookup, three round trips and
the TLS handshake. Nothing here waits; what has to be closed is closed aside.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count
from types import MappingProxyType
from typing import NamedTuple

from responder.clock import Clock
from responder.outbound.base import Berth
from responder.outbound.smtp.session import ClientSession
from responder.outbound.sources import Source
from responder.outbound.tls.security import OPPORTUNISTIC, Security

GOODBYE = 1.0  # seconds that a connection waits for those that end to make way for it


class Key(NamedTuple):
    """What must be the same for a connection to serve the next mail too."""

    host: str
    port: int
    named: bool
    """Whether the operator named that host: only then may its address be a private one, so a connection that was made under that
    permission must never serve a host which a stranger's MX record names."""
    source: Source
    """Where it comes from: another domain's mail has its own address and name."""
    security: Security = OPPORTUNISTIC
    """What was asked of it: a connection that was good enough for one mail may not be for another."""


class _Idle(NamedTuple):
    key: Key
    session: ClientSession
    since: float  # by clock.monotonic()
    room: str  # whose connection it is


class Pool:
    """Idle sessions. Whoever takes one owns it until it is given back."""

    def __init__(
        self,
        clock: Clock,
        *,
        idle: float = 10.0,  # seconds; long waits hold the remote host's resources (RFC 5321 4.5.4.1 asks for moderation)
        max_messages: int = 100,  # on one connection: some hosts count, and a fresh one spreads load over their MX
        by_suffix: Mapping[str, int] = MappingProxyType({}),  # the same for hosts in these domains
        max_per_host: int = 10,
        max_total: int = 200,
    ) -> None:
        self._clock = clock
        self._idle_limit = idle
        self._max_messages = max_messages
        self._by_suffix = by_suffix
        self._max_per_host = max_per_host
        self._max_total = max_total
        self._idle: OrderedDict[int, _Idle] = OrderedDict()  # the longest idle first
        self._by_key: dict[Key, list[int]] = {}
        self._by_room: dict[str, dict[int, None]] = {}  # numbers in the order of coming
        self._leaving: dict[str, set[asyncio.Task[None]]] = {}  # what is being closed, by room
        self._serial = count()
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None  # runs while anything is idle
        self._closed = False

    def __len__(self) -> int:
        """How many sessions are idle."""
        return len(self._idle)

    def take(self, key: Key) -> ClientSession | None:
        """The session to that host that was used last, if one is alive."""
        while numbers := self._by_key.get(key):
            idle = self._remove(numbers[-1])
            if idle.session.reusable and not self._is_stale(idle):
                return idle.session
            self._discard(idle.session, idle.room)
        return None

    async def make_way(self, berth: Berth) -> None:
        """Before one more connection with a provider: close what is idle there and too much, and wait for all that is being
        closed. A provider counts what is kept as well as what is used, and may have a host of its own for each domain."""
        self._trim(berth.name, berth.spare)
        leaving = self._leaving.get(
            berth.name
        )  # the room of one that leaves is free for the next mail before it is gone
        if leaving and len(leaving) + len(self._by_room.get(berth.name, ())) > berth.spare:
            await asyncio.wait(leaving, timeout=GOODBYE)

    def give(self, key: Key, session: ClientSession, berth: Berth | None = None) -> None:
        """Keep the session for the next mail, or close it where it is spent."""
        room = berth.name if berth else ""
        if self._closed or not session.reusable or session.messages_sent >= self._most(key.host):
            self._discard(session, room)
            return
        number = next(self._serial)
        self._idle[number] = _Idle(key, session, self._clock.monotonic(), room)
        self._by_room.setdefault(room, {})[number] = None
        numbers = self._by_key.setdefault(key, [])
        numbers.append(number)
        if len(numbers) > self._max_per_host:
            self._dismiss(numbers[0])
        if len(self._idle) > self._max_total:
            self._dismiss(next(iter(self._idle)))
        if berth is not None:
            self._trim(room, berth.kept)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep_while_idle(), name="sweep kept connections")

    def _most(self, host: str) -> int:
        """How many messages one connection to the host may take."""
        name = host if self._by_suffix else ""
        while name:
            if name in self._by_suffix:
                return self._by_suffix[name]
            name = name.partition(".")[2]
        return self._max_messages

    def sweep(self) -> None:
        """Close what has been idle for too long, or was closed by its host."""
        for number, idle in list(self._idle.items()):
            if self._is_stale(idle) or not idle.session.reusable:
                self._dismiss(number)

    async def close_all(self) -> None:
        """Close all, and whatever is given back from now on. Returns when the hosts have been told."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for number in list(self._idle):
            self._dismiss(number)
        while self._closing:
            await asyncio.wait(self._closing)

    async def _sweep_while_idle(self) -> None:
        while self._idle:
            await self._clock.sleep(max(self._idle_limit / 4, 0.1))
            self.sweep()

    def _is_stale(self, idle: _Idle) -> bool:
        return self._clock.monotonic() - idle.since >= self._idle_limit

    def _remove(self, number: int) -> _Idle:
        idle = self._idle.pop(number)
        numbers = self._by_key[idle.key]
        numbers.remove(number)
        if not numbers:
            del self._by_key[idle.key]
        fellows = self._by_room[idle.room]
        del fellows[number]
        if not fellows:
            del self._by_room[idle.room]
        return idle

    def _trim(self, room: str, most: int) -> None:
        """Close what has been idle there for longest, but for so many."""
        numbers = self._by_room.get(room, {})
        while len(numbers) > most:
            self._dismiss(next(iter(numbers)))

    def _dismiss(self, number: int) -> None:
        idle = self._remove(number)
        self._discard(idle.session, idle.room)

    def _discard(self, session: ClientSession, room: str) -> None:
        task = asyncio.create_task(session.close(), name=f"quit {session.host}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        if room:
            self._leaving.setdefault(room, set()).add(task)
            task.add_done_callback(lambda task: self._gone(room, task))

    def _gone(self, room: str, task: asyncio.Task[None]) -> None:
        tasks = self._leaving[room]
        tasks.discard(task)
        if not tasks:
            del self._leaving[room]
