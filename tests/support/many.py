"""Many mails to many destinations through the real stage, worker and store, some of which are dead."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from responder.clock import SystemClock
from responder.config import Config
from responder.delivery.pace import places
from responder.delivery.stage import Delivery
from responder.mail.status import RemoteReply, Trouble
from responder.outbound.base import Envelope, RecipientResult
from responder.store.records import NewOutbound
from responder.store.sqlite import SQLiteStore
from responder.worker import Lease, Worker
from tests.support.stages import configured

DAY = 86400.0
TAKEN = RemoteReply(250, "2.0.0 taken")
CONTENT = b"Subject: hello\r\n\r\nhello\r\n"
HANG = 60.0  # seconds until who connects to nowhere gives up
SPEED = 0.05  # seconds that a live host takes for a mail
NO_DNS = 10.0  # seconds until a name server that says nothing is given up


def is_dead(number: int, dead: int) -> bool:
    """One destination in `dead` is."""
    return bool(dead) and number % dead == 0


@dataclass
class Network:
    """What hosts do. Who is live takes `speed` seconds a mail."""

    speed: float
    dead: int = 0  # one in so many destinations; 0: none
    taken: dict[str, int] = field(default_factory=dict)  # by domain
    at: dict[str, float] = field(default_factory=dict)  # when each message was taken
    tried: int = 0
    under_way: int = 0
    most: int = 0

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        domain = envelope.recipients[0].rpartition("@")[2]
        number = int(domain[1:].partition(".")[0])
        if is_dead(number, self.dead):
            self.tried += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                trouble = await self._fail(number // self.dead % 4)
            finally:
                self.under_way -= 1
            return [RecipientResult.failed(one, trouble.failure(), host=domain) for one in envelope.recipients]
        await asyncio.sleep(self.speed)
        self.taken[domain] = self.taken.get(domain, 0) + len(envelope.recipients)
        self.at[envelope.id] = time.monotonic()
        return [RecipientResult.success(one, TAKEN) for one in envelope.recipients]

    async def _fail(self, way: int) -> Trouble:
        if way == 0:
            return Trouble.UNREACHABLE  # refused
        if way == 1:
            await asyncio.sleep(HANG)  # connects to nowhere, or a banner that never comes
            return Trouble.TIMED_OUT
        if way == 2:
            return Trouble.NO_DOMAIN
        await asyncio.sleep(NO_DNS)
        return Trouble.DNS_FAILED

    async def provider(self, domain: str) -> str:
        return domain

    async def close(self) -> None:
        pass


@dataclass
class Run:
    """What came of one run. Times in seconds."""

    took: float
    network: Network
    claims: list[float]

    @property
    def claim(self) -> str:
        """What claims cost, for a report."""
        middle = statistics.median(self.claims) * 1000
        return f"{len(self.claims)} claims, median {middle:.1f} ms, longest {max(self.claims) * 1000:.0f} ms"


def messages(number: int, domains: Sequence[int], *, inbox: str = "echo", kind: str = "answer") -> list[NewOutbound]:
    """So many messages, to one domain after the other."""
    clock = SystemClock()
    now = clock.now()
    made = []
    for n in range(number):
        domain = f"d{domains[n % len(domains)]}.example"
        name = clock.new_id()
        made.append(
            NewOutbound(
                id=name,
                kind=kind,
                cause="none.0",
                inbox=inbox,
                content_id=name,
                reverse_path=f"bounces+{name}@test.example",
                recipient=f"u{n}@{domain}",
                domain=domain,
                return_to="",
                created_at=now,
                expires_at=now + DAY,
            )
        )
    return made


@contextlib.asynccontextmanager
async def delivering(folder: Path, network: Network, config: Config | None = None) -> AsyncIterator[Works]:
    """A store, and a delivery worker once `start` is called."""
    clock = SystemClock()
    store = SQLiteStore(folder / "responder.db", clock)
    await store.open()
    works = Works(store, network, config or configured({"echo": "answer"}))
    try:
        await works.lease.start()
        yield works
    finally:
        await works.stop()
        await store.close()


class Works:
    """The delivery stage at work."""

    def __init__(self, store: SQLiteStore, network: Network, config: Config) -> None:
        clock = SystemClock()
        self.store = store
        self.network = network
        self.claims: list[float] = []
        self.lease = Lease(store, clock, 30.0, 5)
        self.stage = Delivery(config, network, store, self.lease, clock)
        table = config.delivery
        self.worker = Worker(
            self.stage, places(table), store.wake_outbound, self.lease, clock, aside=20 * table.concurrency
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._claim = self.stage.claim
        self.stage.claim = self._timed  # type: ignore[method-assign]

    async def _timed(self, token: str, limit: int):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        found = await self._claim(token, limit)
        self.claims.append(time.perf_counter() - began)
        return found

    async def put(self, made: Sequence[NewOutbound]) -> None:
        """Queue messages, a thousand at a time."""
        for at in range(0, len(made), 1000):
            part = made[at : at + 1000]
            await self.store.enqueue(part, [(message.id, CONTENT) for message in part])

    def start(self) -> None:
        """Begin to deliver."""
        self._tasks = [asyncio.create_task(self.lease.run()), asyncio.create_task(self.worker.run())]

    async def until(self, condition: Callable[[], bool], seconds: float) -> float:
        """Wait for it; how long that took."""
        began = time.monotonic()
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
            assert time.monotonic() - began < seconds, f"not done in {seconds} s"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def stop(self) -> None:
        if self._tasks:
            await self.worker.stop(0.0)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


async def deliver(folder: Path, mails: int, domains: int, dead: int, *, only_live: bool, seconds: float) -> Run:
    """Deliver to `domains`, one in `dead` of which is dead (with `only_live` without those), until the live have theirs."""
    network = Network(SPEED, dead)
    numbers = [n for n in range(domains) if not (only_live and is_dead(n, dead))]
    live = sum(not is_dead(n, dead) for n in range(domains)) * (mails // domains)
    async with delivering(folder, network) as works:
        await works.put(messages(len(numbers) * (mails // domains), numbers))
        works.start()
        took = await works.until(lambda: sum(network.taken.values()) >= live, seconds)
    return Run(took, network, works.claims)
