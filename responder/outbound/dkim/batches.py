"""Signatures in a thread of their own: an RSA one takes 0.2 ms, in which neither the event loop nor Python's lock is held.

A thread that comes back for Python's lock after each piece of work makes the loop stumble: with a pool of threads and a task for
each mail a server answered half as many mails as one that signs nothing, and fewer than one that signs in the loop. So there is
one thread, it is handed digests only, takes what is waiting at a stretch, and wakes the loop once for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from responder.outbound.dkim.keys import SigningKey

MOST: Final = 32  # tasks in a batch: 7 ms

Wanted = Sequence[tuple[SigningKey, bytes]]
Signatures = list[bytes]


class _Task(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Signatures]
    wanted: Wanted


class Batches:
    """The thread. It begins with the first task."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def sign(self, wanted: Wanted) -> Signatures:
        """The signatures of (key, digest) pairs. Raises what the keys raise. Who waits may be cancelled."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="responder-dkim", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Signatures] = loop.create_future()
        self._tasks.put(_Task(loop, future, wanted))
        return await future

    def close(self) -> None:
        """Sign what is waiting, and no more."""
        self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            batch = [task]
            with contextlib.suppress(queue.Empty):
                while len(batch) < MOST and (task := self._tasks.get_nowait()) is not None:
                    batch.append(task)
            outcomes = [_outcome(one.wanted) for one in batch]
            with contextlib.suppress(RuntimeError):  # the loop has ended
                batch[0].loop.call_soon_threadsafe(_complete, batch, outcomes)
            if task is None:
                return


def _outcome(wanted: Wanted) -> Signatures | Exception:
    try:
        return [key.sign(digest) for key, digest in wanted]
    except Exception as error:
        return error


def _complete(batch: Sequence[_Task], outcomes: Sequence[Signatures | Exception]) -> None:
    for task, outcome in zip(batch, outcomes, strict=True):
        if task.future.done():
            continue
        if isinstance(outcome, Exception):
            task.future.set_exception(outcome)
        else:
            task.future.set_result(outcome)
