"""Several processes' delivery stages on one store, by a clock that the test moves: who is spoken to, when, and by how many."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from responder.config import Config
from responder.delivery.stage import Delivery
from responder.mail.lifecycle import State
from responder.mail.status import Failure, Outcome, RemoteReply, Scope, Trouble
from responder.outbound.base import Envelope, RecipientResult
from responder.store.records import NewOutbound, Parcel
from responder.store.sqlite import SQLiteStore
from responder.worker import Lease
from tests.support.clock import ManualClock
from tests.support.stages import configured

Word = Failure | None
TAKEN: Word = None
REFUSED = Failure(Scope.RECIPIENT, Outcome.PERMANENT, "5.1.1", 550, "5.1.1 nobody here")
GREYLISTED = Failure(Scope.RECIPIENT, Outcome.TRANSIENT, "4.2.0", 450, "4.2.0 greylisted, try again later")
THROTTLED = Failure(Scope.HOST, Outcome.TRANSIENT, "4.7.0", 421, "4.7.0 too many connections from your address")
DOWN = Trouble.UNREACHABLE.failure()
CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


class Far:
    """All the hosts there are. `say` is asked for each recipient; where `held`, nobody answers before `release`."""

    def __init__(self) -> None:
        self.say: Callable[[str], Word] = lambda _: TAKEN
        self.providers: dict[str, str] = {}
        self.hosts: dict[str, str] = {}  # who speaks for a domain
        self.open: Counter[str] = Counter()  # connections now, by provider
        self.most: Counter[str] = Counter()
        self.sent: list[Envelope] = []
        self.asked: list[str] = []
        self.held = False
        self._released = asyncio.Event()

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        domain = envelope.recipients[0].rpartition("@")[2]
        provider = self.providers.get(domain, domain)
        self.open[provider] += 1
        self.most[provider] = max(self.most[provider], self.open[provider])
        self.sent.append(envelope)
        try:
            if self.held:
                await self._released.wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.open[provider] -= 1
        host = self.hosts.get(domain, "")
        if host and envelope.provider and not host.endswith(f".{envelope.provider}"):
            return [RecipientResult.failed(one, Trouble.MOVED.failure()) for one in envelope.recipients]
        return [replace(self._result(one, self.say(one)), host=host) for one in envelope.recipients]

    def _result(self, recipient: str, word: Word) -> RecipientResult:
        if word is None:
            return RecipientResult.success(recipient, RemoteReply(250, "2.0.0 taken"))
        return RecipientResult.failed(recipient, word)

    def release(self) -> None:
        """Those that are held are answered, and so are all that come."""
        self.held = False
        self._released.set()
        self._released = asyncio.Event()

    async def provider(self, domain: str) -> str:
        self.asked.append(domain)
        return self.providers.get(domain, domain)

    async def close(self) -> None:
        pass

    @property
    def recipients(self) -> list[str]:
        """Who was written to, in this order."""
        return [one for envelope in self.sent for one in envelope.recipients]


class Process:
    """One process: a stage that takes turns by hand."""

    def __init__(self, store: SQLiteStore, config: Config, far: Far, clock: ManualClock) -> None:
        self.lease = Lease(store, clock, 1e9, 5)
        self.stage = Delivery(config, far, store, self.lease, clock)
        self._running: dict[asyncio.Task[None], Parcel] = {}

    async def begin(self, limit: int = 100) -> list[Parcel]:
        """Claim, and begin with what was claimed."""
        parcels, _ = await self.stage.claim(self.lease.token, limit)
        for parcel in parcels:
            self._running[asyncio.create_task(self._run(parcel))] = parcel
        for _ in range(5):
            await asyncio.sleep(0)
        return parcels

    async def _run(self, parcel: Parcel) -> None:
        await self.stage.settle(parcel, await self.stage.handle(parcel))

    async def end(self) -> None:
        """Wait for all that has begun."""
        running, self._running = list(self._running), {}
        await asyncio.wait_for(asyncio.gather(*running), 20)

    async def turn(self, limit: int = 100) -> list[str]:
        """Claim and do it; the ids of the items."""
        parcels = await self.begin(limit)
        await self.end()
        return [item.id for parcel in parcels for item in parcel.items]

    async def drain(self, limit: int = 100) -> int:
        """Turns until nothing is due; how many."""
        for turns in count():
            if not await self.turn(limit):
                return turns
        raise AssertionError


class Network:
    """A store, the far side, and as many processes as are asked for."""

    def __init__(self, store: SQLiteStore, clock: ManualClock, config: Config) -> None:
        self.store = store
        self.clock = clock
        self.config = config
        self.far = Far()

    async def process(self, config: Config | None = None) -> Process:
        """One more."""
        made = Process(self.store, config or self.config, self.far, self.clock)
        await made.lease.start()
        return made

    async def put(self, *recipients: str, one: bool = False, content: bytes = CONTENT, **fields: Any) -> list[str]:
        """Queue a message to each of these, or with `one` one content to all of them; the ids."""
        now = self.clock.now()
        made: list[NewOutbound] = []
        for recipient in recipients:
            name = self.clock.new_id()
            message = NewOutbound(
                id=name,
                kind="answer",
                cause="none.0",
                inbox="echo",
                content_id=made[0].content_id if one and made else name,
                reverse_path="bounces@test.example",
                recipient=recipient,
                domain=recipient.rpartition("@")[2],
                return_to="",
                created_at=now,
                expires_at=now + 5 * 86400,
            )
            made.append(replace(message, **fields))
        names = dict.fromkeys(message.content_id for message in made)
        contents = [(name, content) for name in names if name in {message.id for message in made}]
        await self.store.enqueue(made, contents)
        return [message.id for message in made]

    async def states(self) -> Counter[str]:
        """How many items are in each state."""
        return Counter((await self.store.stats())["outbound"])

    async def attempts(self) -> dict[str, int]:
        """By recipient, what each item was charged."""
        return {view.recipient: view.attempts for view in await self.store.items(list(State), 100_000)}

    async def size(self, place: str) -> int:
        """The room of a place's provider."""
        views = await self.store._read(
            lambda c: c.execute(
                "SELECT p.room FROM pace p WHERE p.provider = coalesce((SELECT provider FROM destination WHERE place = ?), ?)",
                (place, place),
            ).fetchone()
        )
        return int(views[0])


@contextlib.asynccontextmanager
async def network(folder: Path, **delivery: Any) -> AsyncIterator[Network]:
    """Open for the length of the block. `delivery`: keys of that table; `providers` is a table of its own."""
    clock = ManualClock()
    store = SQLiteStore(folder / "responder.db", clock)
    await store.open()
    providers = delivery.pop("providers", {})
    table = {"retry": ["1m", "5m", "15m", "1h"], "expire": "5d", **delivery}
    try:
        yield Network(store, clock, configured({"echo": "answer"}, delivery=table, providers=providers))
    finally:
        await store.close()
