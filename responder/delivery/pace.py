"""The pace of this process: the connections that it may have with each provider, and what an attempt tells of one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType

from responder.clock import Clock
from responder.config import Config, Rate
from responder.config import Delivery as DeliveryTable
from responder.delivery.providers import providers
from responder.delivery.telling import describe
from responder.mail.pacing import LONGEST, PAUSE, Sign, read
from responder.mail.status import Outcome
from responder.mail.suffix import provider_of
from responder.outbound.base import RecipientResult
from responder.store.records import Allowance, Note, Pacing, Parcel

LARGE = 512 << 20  # octets of large messages that one process has in memory for all that it delivers, or one message
HANGING = 20  # deliveries that may hang, for one that goes on
REASON = 200  # characters of what a place said that are kept with its pace


class Room:
    """The connections of this process with one provider. Whoever finds none free waits, in the order of coming.

    It is an `outbound.base.Berth`: one that is kept takes room as well. Where others work on the same queue, they know of what is
    claimed alone: then there are no more of those than mails here that wait for one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.limit = 1
        self.shared = False  # others work beside
        self.parcels = 0  # claimed, whether they have a connection or wait for one
        self.down: set[str] = set()  # places of the provider that turned out to be out of reach while some waited
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def spare(self) -> int:
        """How many connections may stand idle beside those that are used."""
        if self.shared:
            return sum([not turn.done() for turn in self._waiting])
        return max(self.limit - self._used, 0)

    @property
    def kept(self) -> int:
        """How many may when one that is used becomes idle. Alone with the queue, as many as there is room for: who comes next
        takes one, or has those closed that are too much before it opens its own."""
        if self.shared:
            return self.spare
        return self.limit if self._used <= self.limit else 0

    def resize(self, limit: int) -> None:
        """Another limit from now on. Who has a connection keeps it."""
        self.limit = limit
        self._admit()

    async def __aenter__(self) -> None:
        if self._used < self.limit and not self._waiting:
            self._used += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given one in the moment that it left
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._used -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._used < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._used += 1
                turn.set_result(None)


class Octets:
    """The memory of this process for large messages: whoever would pass `LARGE` waits, in the order of coming."""

    def __init__(self) -> None:
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def held(self, octets: int) -> AsyncIterator[None]:
        """Have so many for the length of the block. One that is larger than all goes alone; who wants none never waits."""
        if octets and (self._waiting or not self._fits(octets)):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((octets, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was given them in the moment that it left
                    self._give_back(octets)
                raise
        else:
            self._used += octets
        try:
            yield
        finally:
            self._give_back(octets)

    def _fits(self, octets: int) -> bool:
        return not self._used or self._used + octets <= LARGE

    def _give_back(self, octets: int) -> None:
        self._used -= octets
        while self._waiting and self._fits(self._waiting[0][0]):
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._used += wanted
                turn.set_result(None)


class Pace:
    """The rooms of one process, and the bounds that its claims keep. `config` follows a reload."""

    def __init__(self, config: Config) -> None:
        self.octets = Octets()
        self._rooms: dict[str, Room] = {}
        self.follow(config)

    def follow(self, config: Config) -> None:
        """Take the bounds of a configuration."""
        self.pacing = pacing_of(config)
        self._retry = config.delivery.retry
        self._suffixes = {suffix: name for name, table in providers(config).items() for suffix in table.suffixes}

    def claimed(self, parcels: Sequence[Parcel]) -> None:
        """Make room for what was claimed: the last one knows best how much there is."""
        for parcel in parcels:
            if parcel.late:
                continue
            room = self._rooms.get(parcel.provider)
            if room is None:
                room = self._rooms[parcel.provider] = Room(parcel.provider)
            room.shared = parcel.shared
            room.parcels += 1
            room.down.discard(parcel.place)
            if room.limit != parcel.connections:
                room.resize(parcel.connections)

    def room(self, parcel: Parcel) -> Room:
        """Where the parcel waits for its connection."""
        return self._rooms[parcel.provider]

    def settled(self, parcel: Parcel) -> None:
        """It is done with."""
        if parcel.late:
            return
        room = self._rooms[parcel.provider]
        room.parcels -= 1
        if not room.parcels:
            del self._rooms[parcel.provider]

    def provider(self, domain: str) -> str:
        """The name under which the configuration knows a provider, by one of its hosts or domains; else the registered domain."""
        return provider_of(domain, self._suffixes)

    def berth(self, parcel: Parcel) -> Room | None:
        """Whose connections the parcel's counts among; None where the operator has named the host."""
        return None if not parcel.place or ":" in parcel.place else self._rooms[parcel.provider]

    def elsewhere(self, parcel: Parcel, provider: str) -> Note | None:
        """Where a place that nobody has spoken to turns out to be that provider's: it has to wait for room there."""
        if provider in (parcel.provider, self.provider(parcel.place)):
            return None
        return Note(parcel.place, provider, self.pacing.of(provider).connections, Sign.NONE)

    def speaks_for(self, provider: str, results: Sequence[RecipientResult]) -> bool:
        """Whether those who were spoken to are the provider's hosts: what others say must not count as its word."""
        return all(result.host in ("", provider) or self.provider(result.host) == provider for result in results)

    def bound(self, parcel: Parcel) -> str:
        """The provider whose hosts alone the parcel may go to, as it takes their room; "" where it has a place of its own."""
        operators = not parcel.place or ":" in parcel.place
        return parcel.provider if not operators and parcel.provider != parcel.place else ""

    def note(self, parcel: Parcel, results: Sequence[RecipientResult], clock: Clock) -> Note | None:
        """What an attempt tells of the place, where that is anything new. The room follows at once, before the store tells."""
        if parcel.settled and all(result.outcome is Outcome.SUCCESS for result in results):
            return None
        sign = read([None if result.outcome is Outcome.SUCCESS else result.failure for result in results])
        room = self._rooms[parcel.provider]
        if sign is Sign.NONE or (sign is Sign.GOOD and parcel.settled):
            return None
        if sign is Sign.THROTTLED:
            room.resize(max(1, min(room.limit, parcel.connections) // 2))
        elif sign is Sign.DOWN:
            room.down.add(parcel.place)
        operators = not parcel.place or (
            parcel.place[-1].isdigit() and ":" in parcel.place
        )  # host:port, not [IPv6:...]
        longest = min(PAUSE if operators else LONGEST, max(self._retry))
        return Note(
            place=parcel.place,
            provider=parcel.provider,
            limit=parcel.limit,
            sign=sign,
            chance=clock.jitter(0.0, 1.0),
            known=parcel.known,
            reason=describe(results[0])[:REASON],
            # Nobody is left in peace for longer than a mail would wait anyway; a host of the operator's own is back soon.
            # Hosts that are known to be dead are not asked any sooner than that.
            first=min(longest, max(min(PAUSE, self._retry[0]), max([result.pause for result in results]))),
            longest=longest,
        )


def pacing_of(config: Config) -> Pacing:
    """The bounds that a configuration sets."""
    table = config.delivery
    connections = table.concurrency if table.transport == "print" else table.connections_per_host
    named: Mapping[str, Allowance] = {
        name: Allowance(one.connections, interval(one.rate or table.rate)) for name, one in providers(config).items()
    }
    return Pacing(
        allowance=Allowance(connections, interval(table.rate)),
        named=MappingProxyType(named),
        one_way=table.transport != "mx",
        warn_after=table.delay_warning or 0.0,
    )


def interval(rate: Rate | None) -> float:
    """Seconds between two messages that keep to a rate; 0.0 where there is none."""
    return rate.seconds / rate.count if rate else 0.0


def places(table: DeliveryTable) -> int:
    """How many parcels may be under way at a time, those that wait for a connection included."""
    return 2 * (table.connections_per_host if table.transport == "smarthost" else table.concurrency)


def places_aside(table: DeliveryTable, descriptors: int) -> int:
    """How many deliveries may hang beside those, where a process may have so many descriptors: each has one or two."""
    return min(HANGING * table.concurrency, descriptors // 8)
