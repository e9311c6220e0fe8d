"""How far a run of `responder verify` is: one line on a terminal's standard error, drawn over and over; nothing elsewhere."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Callable

from responder.cli.output import harmless
from responder.clock import Clock

EVERY = 0.5  # seconds between two drawings
BAR = 20  # characters


class Progress:
    """Counts, and draws in a task of its own while the block runs."""

    def __init__(self, clock: Clock, state: Callable[[], tuple[int, int]]) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._state = state  # addresses in all, and those that wait to be asked again
        self._began = clock.monotonic()
        self._shown = sys.stderr.isatty()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Progress:
        if self._shown:
            self._task = asyncio.create_task(self._draw(), name="progress")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        self.clear()

    def clear(self) -> None:
        """Take the line away, for what is printed in its place."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    async def _draw(self) -> None:
        while True:
            total, postponed = self._state()
            seconds = self._clock.monotonic() - self._began
            line = harmless(bar(self.counts, total, postponed, seconds))
            sys.stderr.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            sys.stderr.flush()
            await self._clock.sleep(EVERY)


def bar(counts: Counter[str], total: int, postponed: int, seconds: float) -> str:
    """`[#####---------------] 120/500 31.2/s 12s left | exists 80, unknown 40`."""
    done = counts.total()
    filled = BAR * done // total if total else 0
    rate = done / seconds if seconds > 0 else 0.0
    left = f" {span((total - done) / rate)} left" if rate and total > done else ""
    waiting = f", {postponed} asked again later" if postponed else ""
    words = ", ".join([f"{word} {count}" for word, count in counts.most_common()])
    line = f"[{'#' * filled}{'-' * (BAR - filled)}] {done}/{total} {rate:.1f}/s{left}{waiting}"
    return f"{line} | {words}" if words else line


def span(seconds: float) -> str:
    """`45s`, `12m`, `3h 20m`."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{int(seconds)}s"
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h {minutes % 60}m"
