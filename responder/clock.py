"""Time and chance: the only module that reads a clock, sleeps or rolls dice, so that a test can stand in for all three."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import Protocol, TypeVar

T = TypeVar("T")

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter that reads as another


class Clock(Protocol):
    """What the rest of the program knows of time and chance."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC: what is stored and shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards: what time limits are measured with."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...

    def jitter(self, low: float, high: float) -> float:
        """A random number from `low` to `high`."""
        ...

    def shuffle(self, items: list[T]) -> list[T]:
        """The items in a random order, as a new list."""
        ...

    def new_id(self) -> str:
        """A new identifier of 18 characters `[0-9a-z]`: unique, not to be guessed, and later ones sort behind earlier ones."""
        ...


class SystemClock:
    """The machine's own clock and random source."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def jitter(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing

    def shuffle(self, items: list[T]) -> list[T]:
        return random.sample(items, len(items))

    def new_id(self) -> str:
        return format_id(time.time_ns() // 1_000_000, secrets.randbits(40))


def format_id(milliseconds: int, noise: int) -> str:
    """An identifier from a time (45 bits) and 40 random bits, as 18 characters that sort by time."""
    value = ((milliseconds & (1 << 45) - 1) << 45) | (noise & (1 << 40) - 1)
    return "".join([_ALPHABET[value >> shift & 31] for shift in range(85, -1, -5)])
