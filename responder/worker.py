"""What answering and delivery share: a lease that says we live, and the loop that claims work and waits for more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Generic, Protocol, TypeVar

from responder.clock import Clock
from responder.observe import event
from responder.store.base import Store, StoreError

POLL = 1.0  # seconds between two looks for work that another process left without waking us
ENDED = 8  # tasks that end before their places are offered again, if others go on meanwhile
SOON = 0.02  # seconds in which they are offered in any case: the others may take minutes
TROUBLE = 1.0  # seconds to wait after the store failed
SLOW = 3.0  # seconds after which an item is set aside, where there is room for such
QUICK = 0.1  # or after so many at the least, where the others are quick
TIMES = 8.0  # as long as the others take
SHARE = 0.05  # of the last one in what the others take on average


class Claimed(Protocol):
    """What every claimed item has."""

    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=Claimed)
Ended = TypeVar("Ended")


class Lease:
    """Keeps this process's claims its own. When it dies, they run out, and another one (or its next start) frees them."""

    def __init__(self, store: Store, clock: Clock, seconds: float, attempts: int) -> None:
        self.token = clock.new_id()
        self.seconds = seconds
        self.attempts = attempts
        self._store = store
        self._clock = clock
        self._until = 0.0

    @property
    def valid(self) -> bool:
        """Whether our claims are still ours. What has an effect outside the store is not begun without."""
        return self._clock.monotonic() < self._until

    async def start(self) -> None:
        """Take the first lease and free what the dead have left. Raises `StoreError`."""
        await self._beat()
        await self._store.sweep(self.attempts)

    async def run(self) -> None:
        """Beat three times a lease, sweep after each beat, until cancelled.

        Where we could not beat in time, because the store failed or the machine slept, others may not have either: they get two
        rounds to show that they live, as what they have done and could not note yet would be done again.
        """
        patience = 0
        while True:
            await self._clock.sleep(self.seconds / 3)
            try:
                if not self.valid:
                    patience = 2
                await self._beat()
                if patience:
                    patience -= 1
                    continue
                freed = await self._store.sweep(self.attempts)
                if freed:
                    event("freed", level=logging.WARNING, items=freed, reason="the worker that had them died")
            except StoreError as error:
                event("lease not renewed", level=logging.ERROR, cause=str(error))

    async def end(self) -> None:
        """Give back what is still claimed."""
        self._until = 0.0
        await self._store.leave(self.token)

    async def _beat(self) -> None:
        # Counted from before the write: the store must never think longer of us than we do.
        began = self._clock.monotonic()
        if not await self._store.beat(self.token, self.seconds) and self._until:
            event("lease lost", level=logging.WARNING, reason="too late; work under way is done again")
        self._until = began + self.seconds


class Stage(Protocol[Item, Ended]):
    """What a stage tells its worker."""

    name: str

    async def claim(self, token: str, limit: int) -> tuple[list[Item], float | None]:
        """Items to work on, and when the next one is due (Unix seconds). Raises `StoreError`."""
        ...

    async def handle(self, item: Item) -> Ended:
        """Do the work of one item. What it raises is our own mistake: see `broken`."""
        ...

    def broken(self, item: Item, error: Exception) -> Ended:
        """How an item goes on whose `handle` raised."""
        ...

    async def settle(self, item: Item, ended: Ended) -> None:
        """Commit. Raises `StoreError`, and then is called again."""
        ...


class Worker(Generic[Item, Ended]):
    """One stage's loop: claim as much as there are free places, run each item in a task, wait for work or a free place.

    With `aside`, an item that takes far longer than others do no longer has one of the `places` but one of so many beside them:
    those that hang (a host that says nothing for minutes) must not keep the quick ones waiting.
    """

    def __init__(
        self, stage: Stage[Item, Ended], places: int, wake: asyncio.Event, lease: Lease, clock: Clock, *, aside: int = 0
    ) -> None:
        self._stage = stage
        self._places = places
        self._aside = aside
        self._wake = wake
        self._lease = lease
        self._clock = clock
        self._tasks: dict[asyncio.Task[None], float] = {}  # when they began, the first one first
        self._slow: set[asyncio.Task[None]] = set()
        self._usual = SLOW / TIMES  # seconds that an item takes
        self._share = 1.0  # of the next one in that
        self._ended = 0  # tasks since the last claim
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping.is_set():
            self._wake.clear()
            self._ended = 0
            ageing = self._set_aside()
            free = self._places - len(self._tasks)
            if free <= 0 or not self._lease.valid:
                await self._wait(TROUBLE if free > 0 else ageing)
                continue
            try:
                items, due = await self._stage.claim(self._lease.token, free)
            except StoreError as error:
                event("no work claimed", level=logging.ERROR, stage=self._stage.name, cause=str(error))
                await self._wait(TROUBLE)
                continue
            if self._stopping.is_set():  # it began while we claimed: `Lease.end` gives them back, untouched
                break
            now = self._clock.monotonic()
            for item in items:
                task = asyncio.create_task(self._run(item), name=f"{self._stage.name} {item.id}")
                self._tasks[task] = now
                task.add_done_callback(self._done)
            if len(items) < free:
                # What is due and was not claimed waits for a place at its destination: a task that ends wakes us.
                pause = POLL if due is None else due - self._clock.now()
                await self._wait(min(POLL, pause) if pause > 0 else POLL)

    def _set_aside(self) -> float | None:
        """Free the places of those that take long, as far as there is room for them. Seconds until there may be more of them;
        None where there will not be."""
        before = self._clock.monotonic() - max(QUICK, min(TIMES * self._usual, SLOW))
        while len(self._slow) < self._aside and self._tasks:
            task, began = next(iter(self._tasks.items()))
            if began > before:
                return began - before
            del self._tasks[task]
            self._slow.add(task)
        return None

    async def stop(self, seconds: float) -> None:
        """Claim no more, and let what is under way end within `seconds`; then cancel it."""
        self._stopping.set()
        self._wake.set()
        if tasks := {*self._tasks, *self._slow}:
            await asyncio.wait(tasks, timeout=seconds)
        for task in (*self._tasks, *self._slow):
            task.cancel()
        if tasks := {*self._tasks, *self._slow}:
            await asyncio.wait(tasks)

    async def _wait(self, seconds: float | None) -> None:
        """Until there may be work or a place, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _run(self, item: Item) -> None:
        try:
            ended = await self._stage.handle(item)
        except Exception as error:
            event("stage failed", level=logging.ERROR, stage=self._stage.name, id=item.id, error=error)
            ended = self._stage.broken(item, error)
        # What was done must be noted, however long the store is in trouble: an answer that left must not leave again.
        while True:
            try:
                await self._stage.settle(item, ended)
            except StoreError as error:
                event("not settled yet", level=logging.ERROR, stage=self._stage.name, id=item.id, cause=str(error))
                await self._clock.sleep(TROUBLE)
            except Exception as error:  # what was to be stored is our own mistake: it would fail again, and for ever
                event("stage failed", level=logging.ERROR, stage=self._stage.name, id=item.id, error=error)
                ended = self._stage.broken(item, error)
                await self._clock.sleep(TROUBLE)
            else:
                return

    def _done(self, task: asyncio.Task[None]) -> None:
        began = self._tasks.pop(task, None)
        if began is None:
            self._slow.discard(task)
        elif self._aside:
            self._usual += self._share * (self._clock.monotonic() - began - self._usual)
            self._share = max(SHARE, self._share / (1 + self._share))  # 1, 1/2, 1/3: the plain average at first
        self._ended += 1
        # Not for each: a claim is a transaction, and a handful of places filled by one costs as much as one place.
        if self._ended >= ENDED or not self._tasks:
            self._wake.set()
        elif self._ended == 1:
            asyncio.get_running_loop().call_later(SOON, self._wake.set)
