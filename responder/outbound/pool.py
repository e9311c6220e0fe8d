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
from responder.outbound.session import ClientSession
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
        self._by_room: dict[str, list[int]] = {}
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
            self._discard(idle.session)
        return None

    async def make_way(self, room: str, spare: int) -> None:
        """Before one more connection of a room: close what is idle there but for so many, and wait until it is gone. A provider
        counts what is kept as well as what is used, and may have a host of its own for each domain."""
        numbers = self._by_room.get(room, [])
        if len(numbers) > spare:
            surplus = [self._discard(self._remove(number).session) for number in numbers[: len(numbers) - spare]]
            await asyncio.wait(surplus, timeout=GOODBYE)

    def give(self, key: Key, session: ClientSession, room: str = "") -> None:
        """Keep the session for the next mail, or close it where it is spent."""
        if self._closed or not session.reusable or session.messages_sent >= self._most(key.host):
            self._discard(session)
            return
        number = next(self._serial)
        self._idle[number] = _Idle(key, session, self._clock.monotonic(), room)
        self._by_room.setdefault(room, []).append(number)
        numbers = self._by_key.setdefault(key, [])
        numbers.append(number)
        if len(numbers) > self._max_per_host:
            self._discard(self._remove(numbers[0]).session)
        if len(self._idle) > self._max_total:
            self._discard(self._remove(next(iter(self._idle))).session)
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
                self._discard(self._remove(number).session)

    async def close_all(self) -> None:
        """Close all, and whatever is given back from now on. Returns when the hosts have been told."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for number in list(self._idle):
            self._discard(self._remove(number).session)
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
        numbers = self._by_room[idle.room]
        numbers.remove(number)
        if not numbers:
            del self._by_room[idle.room]
        return idle

    def _discard(self, session: ClientSession) -> asyncio.Task[None]:
        task = asyncio.create_task(session.close(), name=f"quit {session.host}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task
