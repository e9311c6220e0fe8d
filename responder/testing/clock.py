"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import TypeVar

from responder.agents.context import MAIL_ID
from responder.clock import format_id

T = TypeVar("T")

START = 1_800_000_000.0  # Unix seconds at which every test begins: 2027-01-15 08:00 UTC


class StandingClock:
    """`responder.clock.Clock` in the hands of a test. Where an agent sleeps while it answers, time passes at once, for nobody
    else could let it pass; all others wake in `advance`."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._number = count(1)
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return START + self._passed

    def monotonic(self) -> float:
        return 1000.0 + self._passed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0 or MAIL_ID.get():
            self.advance(max(seconds, 0.0))
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), future))
        await future

    def jitter(self, low: float, high: float) -> float:
        return (low + high) / 2

    def shuffle(self, items: list[T]) -> list[T]:
        return list(items)

    def new_id(self) -> str:
        return format_id(int(self.now() * 1000), next(self._number))

    def advance(self, seconds: float) -> None:
        """Let time pass; who has slept long enough wakes, in the order of their times."""
        self._passed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._passed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
