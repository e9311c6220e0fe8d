"""An agent's surroundings without a server: a context whose state lives in a dictionary and whose clock is the test's."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from responder.agents.base import Agent
from responder.agents.context import JSON, Context
from tests.support.clock import ManualClock

A = TypeVar("A", bound=Agent)


class MemoryState:
    """`responder.agents.context.State` in a dictionary, with expiry by the test's clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.values: dict[str, tuple[str, float]] = {}

    async def get(self, key: str, default: JSON = None) -> JSON:
        text, until = self.values.get(key, ("null", -1.0))
        return json.loads(text) if self._holds(until) else default

    async def set(self, key: str, value: JSON, *, expires: float | None = None) -> None:
        self.values[key] = (json.dumps(value), 0.0 if expires is None else self._clock.now() + expires)

    async def add(self, key: str, value: JSON, *, expires: float | None = None) -> bool:
        if await self.get(key, self) is not self:
            return False
        await self.set(key, value, expires=expires)
        return True

    async def increment(self, key: str, by: int = 1, *, expires: float | None = None) -> int:
        number = int(await self.get(key, 0)) + by
        until = self.values[key][1] if await self.get(key, self) is not self else None
        await self.set(key, number, expires=expires)
        if until is not None:
            self.values[key] = (json.dumps(number), until)
        return number

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def items(self, prefix: str = "") -> dict[str, JSON]:
        return {
            key: json.loads(text)
            for key, (text, until) in sorted(self.values.items())
            if key.startswith(prefix) and self._holds(until)
        }

    def _holds(self, until: float) -> bool:
        return until == 0.0 or until > self._clock.now()


def equipped(kind: type[A], clock: ManualClock | None = None, inbox: str = "inbox", **settings: Any) -> A:
    """An agent with its settings and a context, as the server would hand it to an inbox (not started)."""
    agent = kind(kind.Settings.model_validate(settings))
    clock = clock or ManualClock()
    agent.context = Context(inbox, MemoryState(clock), clock)
    return agent
