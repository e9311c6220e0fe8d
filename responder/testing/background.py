"""An event loop in a thread, for tests that are plain synchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 60.0  # seconds behind a plugin's own time limit: then something hangs that must not


class Loop:
    """An event loop in a thread: what an agent does in the background goes on between two mails."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="responder-testing", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run something there, and wait for it. Raises `TimeoutError`."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def call(self, function: Any, *values: Any) -> None:
        """Call a function there, and let what it woke take its turn."""

        async def call() -> None:
            function(*values)
            for _ in range(3):
                await asyncio.sleep(0)

        self.run(call(), PATIENCE)

    def close(self) -> None:
        self.run(self._loop.shutdown_default_executor(), PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._loop.close()
