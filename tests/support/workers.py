"""A worker with a real store and a scripted stage, and a lease whose clock the test moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from responder.mail.lifecycle import Event
from responder.store.base import StoreUnavailableError
from responder.store.records import InboundItem, Settlement
from responder.store.sqlite import SQLiteStore
from responder.worker import Lease, Worker
from tests.support.clock import ManualClock

Handle = Callable[[InboundItem], Awaitable[Settlement]]
PATIENCE = 20.0  # seconds until a test that waits for something gives up


@dataclass
class ScriptedStage:
    """Work on real items by a script; the store can be made to fail while a turn is settled."""

    store: SQLiteStore
    handle_: Handle
    name: str = "scripted"
    settle_failures: int = 0
    settle_error: type[Exception] = StoreUnavailableError

    def __post_init__(self) -> None:
        self.handled: list[str] = []
        self.settled: list[tuple[str, str]] = []
        self.claiming: asyncio.Event | None = None  # when set by a test: claims wait for it
        self.claims = 0

    async def claim(self, token: str, limit: int) -> tuple[list[InboundItem], float | None]:
        self.claims += 1
        found = await self.store.claim_inbound(token, limit)
        if self.claiming is not None:
            await self.claiming.wait()
        return found

    async def handle(self, item: InboundItem) -> Settlement:
        self.handled.append(item.id)
        return await self.handle_(item)

    def broken(self, item: InboundItem, error: Exception) -> Settlement:
        return Settlement(Event.FAIL, f"broken: {type(error).__name__}")

    async def settle(self, item: InboundItem, settlement: Settlement) -> None:
        if self.settle_failures:
            self.settle_failures -= 1
            raise self.settle_error("trouble")
        ended = await self.store.settle_inbound(item, settlement)
        self.settled.append((item.id, ended[0] if ended else "stale"))


class Rig:
    """A store, a lease and a worker that runs until the test ends."""

    def __init__(self, store: SQLiteStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.lease = Lease(store, clock, 30.0, 3)
        self._runs: list[tuple[Worker[InboundItem, Settlement], asyncio.Task[None]]] = []

    def start(self, stage: ScriptedStage, places: int = 4) -> Worker[InboundItem, Settlement]:
        worker = Worker(stage, places, self.store.wake_inbound, self.lease, self.clock)
        self._runs.append((worker, asyncio.create_task(worker.run())))
        return worker

    async def end(self) -> None:
        for worker, task in self._runs:
            await worker.stop(0)
            await asyncio.wait_for(task, PATIENCE)


@contextlib.asynccontextmanager
async def working(folder: Path) -> AsyncIterator[Rig]:
    """A rig, with a valid lease, for the length of the block."""
    clock = ManualClock()
    store = SQLiteStore(folder / "responder.db", clock)
    await store.open()
    rig = Rig(store, clock)
    await rig.lease.start()
    try:
        yield rig
    finally:
        await rig.end()
        await store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so. Fails with `TimeoutError`."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def silence(item: InboundItem) -> Settlement:
    return Settlement(Event.SILENCE, "so")
