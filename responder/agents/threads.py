"""Threads for synchronous agents.

An executor's threads are waited for when the program ends, and one that hangs takes a place for ever. These are daemons:
an agent that never returns holds up neither the end of the server nor, up to a bound, the agents of other inboxes. One that
nobody waits for any more is asked to end by an exception, which a loop of Python code cannot miss.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from types import FrameType
from typing import Any

Outcome = tuple[Any, BaseException | None]

ASK = 1.0  # seconds between two exceptions in a thread that nobody waits for
ASKED = 10  # of them; one that waits in C code gets none before it returns


class BusyError(Exception):
    """No thread is free, and there are as many as there may be: most of them hang."""


class Overdue(BaseException):
    """Raised in an agent that took too long and still runs."""


class _Job:
    """One call. `running` is cleared before the thread turns to anything else, under `lock`."""

    def __init__(self, function: Callable[[], Any], context: Context, future: asyncio.Future[Outcome]) -> None:
        self.function = function
        self.context = context
        self.future = future
        self.lock = threading.Lock()
        self.thread = 0
        self.asked = 0

    def run(self) -> Outcome:
        try:
            with self.lock:
                self.thread = threading.get_ident()
            return self.context.run(self.function), None
        except BaseException as error:
            return None, error
        finally:
            self.end()

    def end(self) -> None:
        """From now on no exception is raised in its thread."""
        while True:
            try:
                with self.lock:
                    self.thread = 0
                return
            except Overdue:  # it was on its way
                continue

    def ask(self) -> bool:
        """Raise `Overdue` in its thread. Whether it still runs."""
        with self.lock:
            if self.thread:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(Overdue))
            return bool(self.thread)


Queue = SimpleQueue[_Job | None]


class Threads:
    """Threads that are made when they are needed and used again; for one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle: list[Queue] = []
        self._running: dict[asyncio.Future[Outcome], _Job] = {}
        self._closed = False

    @property
    def busy(self) -> int:
        """How many run something, whether or not anybody still waits for it."""
        return self._count - len(self._idle)

    def run(self, function: Callable[[], Any]) -> asyncio.Future[Outcome]:
        """What the function returned, or what it raised: as a value, for an event loop ends at a `SystemExit` and never takes
        a `StopIteration`. It runs in a copy of the caller's context. Cancelling the future gives the thread up: what runs there
        is asked to end. Raises `BusyError`."""
        loop = asyncio.get_running_loop()
        if self._idle:
            jobs = self._idle.pop()
        elif self._count < self._most:
            jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(jobs, loop), name="responder-agent", daemon=True).start()
            self._count += 1
        else:
            raise BusyError(f"all {self._most} threads for agents are taken; agents that hang keep theirs")
        future: asyncio.Future[Outcome] = loop.create_future()
        job = self._running[future] = _Job(function, copy_context(), future)
        future.add_done_callback(self._given_up)
        jobs.put(job)
        return future

    def frame(self, future: asyncio.Future[Outcome]) -> FrameType | None:
        """Where a call is now, if it still runs."""
        job = self._running.get(future)
        return sys._current_frames().get(job.thread) if job else None

    def close(self) -> None:
        """Let the threads end, each when it has nothing to do."""
        self._closed = True
        while self._idle:
            self._free(self._idle.pop())

    def _work(self, jobs: Queue, loop: asyncio.AbstractEventLoop) -> None:
        while (job := jobs.get()) is not None:
            outcome = job.run()
            try:
                loop.call_soon_threadsafe(self._done, jobs, job.future, outcome)
            except RuntimeError:  # the loop has ended
                return
            del job, outcome  # a mail is not kept until the next one comes

    def _done(self, jobs: Queue, future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._running.pop(future, None)
        self._free(jobs)
        if not future.done():
            future.set_result(outcome)

    def _given_up(self, future: asyncio.Future[Outcome]) -> None:
        if future.cancelled() and not future.get_loop().is_closed():
            future.get_loop().call_later(ASK, self._ask, future)

    def _ask(self, future: asyncio.Future[Outcome]) -> None:
        job = self._running.get(future)
        if job is not None and job.ask() and job.asked < ASKED:
            job.asked += 1
            future.get_loop().call_later(ASK, self._ask, future)

    def _free(self, jobs: Queue) -> None:
        if self._closed:
            jobs.put(None)
            self._count -= 1
        else:
            self._idle.append(jobs)
