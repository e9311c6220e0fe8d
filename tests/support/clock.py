"""A clock that stands still until a test moves it, and a chance that always falls the same way."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import TypeVar

from responder.clock import format_id

T = TypeVar("T")

START = 1_800_000_000.0  # Unix seconds at which every test begins


class ManualClock:
    """`responder.clock.Clock` in the hands of a test. Sleepers wake in `advance`, and only there.

    Wall clock and monotonic clock move together; `jump` moves the wall clock alone, as an operator or NTP does.
    """

    def __init__(self, start: float = START) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._number = count(1)
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.chance = 0.5  # where `jitter` falls between low (0) and high (1)

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))
        await future

    def jitter(self, low: float, high: float) -> float:
        return low + (high - low) * self.chance

    def shuffle(self, items: list[T]) -> list[T]:
        return list(items)

    def new_id(self) -> str:
        return format_id(int(self._now * 1000), next(self._number))

    @property
    def sleeping(self) -> int:
        """How many sleep now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass; who has slept long enough wakes, in the order of their times."""
        self._now += seconds
        self._monotonic += seconds
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    def jump(self, seconds: float) -> None:
        """Set the wall clock without a second passing."""
        self._now += seconds
