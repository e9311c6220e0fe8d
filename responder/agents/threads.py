"""Threads for synchronous agents.

An executor's threads are waited for when the program ends, and one that hangs takes a place for ever. These are daemons:
an agent that never returns holds up neither the end of the server nor, up to a bound, the agents of other inboxes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]
Outcome = tuple[Any, BaseException | None]


class BusyError(Exception):
    """No thread is free, and there are as many as there may be: most of them hang."""


class Threads:
    """Threads that are made when they are needed and used again; for one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle: list[SimpleQueue[Job | None]] = []
        self._closed = False

    @property
    def busy(self) -> int:
        """How many run something, whether or not anybody still waits for it."""
        return self._count - len(self._idle)

    def run(self, function: Callable[[], Any]) -> asyncio.Future[Outcome]:
        """What the function returned, or what it raised: as a value, for an event loop ends at a `SystemExit` and never takes
        a `StopIteration`. Cancelling the future gives the thread up, no more. Raises `BusyError`."""
        loop = asyncio.get_running_loop()
        if self._idle:
            jobs = self._idle.pop()
        elif self._count < self._most:
            jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(jobs,), name="responder-agent", daemon=True).start()
            self._count += 1
        else:
            raise BusyError(f"all {self._most} threads for agents are taken; agents that hang keep theirs")
        future: asyncio.Future[Outcome] = loop.create_future()
        jobs.put((function, loop, future))
        return future

    def close(self) -> None:
        """Let the threads end, each when it has nothing to do."""
        self._closed = True
        while self._idle:
            self._free(self._idle.pop())

    def _work(self, jobs: SimpleQueue[Job | None]) -> None:
        while (job := jobs.get()) is not None:
            function, loop, future = job
            try:
                outcome: Outcome = (function(), None)
            except BaseException as error:
                outcome = (None, error)
            try:
                loop.call_soon_threadsafe(self._done, jobs, future, outcome)
            except RuntimeError:  # the loop has ended
                return
            del job, function, future, outcome  # a mail is not kept until the next one comes

    def _done(self, jobs: SimpleQueue[Job | None], future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._free(jobs)
        if not future.done():
            future.set_result(outcome)

    def _free(self, jobs: SimpleQueue[Job | None]) -> None:
        if self._closed:
            jobs.put(None)
            self._count -= 1
        else:
            self._idle.append(jobs)
