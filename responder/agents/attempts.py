"""One attempt of an agent at something: in its time, contained, and on record, so that what blocks the event loop has a name.

It runs in a task of its own: one that cancels itself, or that goes on when it is cancelled, holds up nobody else. What the task
and all that it starts runs in carries the attempt in a context variable, by which `watchdog` tells an agent's code from ours.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from responder.agents.answers import GiveUp, TryLater
from responder.agents.context import MAIL_ID
from responder.agents.results import AgentError, told, trace, where, wish
from responder.agents.threads import BusyError, Threads
from responder.observe import event

GRACE = 1.0  # seconds that an agent which took too long gets to clean up in
LIMIT = 0.5  # seconds that an agent may keep the event loop from everybody else
BLOCKED = f"the agent blocked the server for longer than {LIMIT:g} s: make it a plain def, or isolated"


class Bench:
    """What all attempts of one inbox share. `blocks` is set once one of them has blocked the event loop; `elsewhere`: then
    there is another place for the next ones."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks = False
        self.elsewhere = True


class Attempt:
    """One call of an agent. `interrupted` is set where it blocked the event loop."""

    __slots__ = ("bench", "interrupted")

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.interrupted = False


class Interrupted(BaseException):
    """Raised in an agent that blocks the event loop."""


class DivertedError(Exception):
    """The call was not begun, because the inbox's agent has blocked the event loop before."""


ATTEMPT: ContextVar[Attempt | None] = ContextVar("responder_attempt", default=None)
"""The attempt that this code belongs to, where it is an agent's."""


class Attempts:
    """Makes attempts. Synchronous functions run in `threads`."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._left_behind: set[asyncio.Task[Any]] = set()

    @property
    def stuck(self) -> int:
        """How many go on that nobody waits for any more, or still does."""
        return len(self._left_behind) + self._threads.busy

    async def run(
        self, bench: Bench, function: Callable[..., Any], *arguments: object, seconds: float, mail: str = ""
    ) -> object:
        """What the function, plain or `async`, returned within its time. `mail` is the id that log lines carry.

        Raises `TryLater` (the function's own), `DivertedError`, and `AgentError` for all else.
        """
        attempt = Attempt(bench)
        task = asyncio.create_task(self._contained(attempt, function, arguments, mail))
        place = ""
        try:
            done, _ = await asyncio.wait((task,), timeout=seconds)
            if not done:
                place = self._place(task)
                task.cancel()
                await asyncio.wait((task,), timeout=GRACE)
        finally:
            if not task.done():  # we are being cancelled ourselves, or it does not end: then we go on without it
                task.cancel()
                self._left_behind.add(task)
                task.add_done_callback(self._left_behind.discard)
        if attempt.interrupted:  # whatever it made of that: it broke off in the middle
            error = task.result()[1] if task.done() and not task.cancelled() else None
            raise AgentError(BLOCKED, trace(error) if error else "")
        if not done:
            if not task.done():
                event("agent does not end", level=logging.WARNING, id=mail or None, inbox=bench.name)
            error = task.result()[1] if task.done() and not task.cancelled() else None
            raise AgentError(f"the agent took longer than {seconds:g} s", place or (trace(error) if error else ""))
        if task.cancelled():  # by itself: cancelled, and then returned without a pause
            raise AgentError("the agent cancelled its own task")
        result, error = task.result()
        _judge(error)
        return result

    def _place(self, task: asyncio.Task[Any]) -> str:
        """Where a plain function is, that a task waits for."""
        future = _WAITING.get(task)
        frame = self._threads.frame(future) if future else None
        return where(frame) if frame else ""

    async def _contained(
        self, attempt: Attempt, function: Callable[..., Any], arguments: tuple[object, ...], mail: str
    ) -> tuple[object, BaseException | None]:
        """What the agent returned, or what it raised, `SystemExit` and its own cancellation included: out of a task, these
        would end the server."""
        MAIL_ID.set(mail)
        try:
            if inspect.iscoroutinefunction(function):
                if attempt.bench.blocks and attempt.bench.elsewhere:
                    raise DivertedError
                ATTEMPT.set(attempt)
                return await call(function, arguments), None
            return await self._in_thread(attempt, function, arguments), None
        except BaseException as error:
            return None, error

    async def _in_thread(self, attempt: Attempt, function: Callable[..., Any], arguments: tuple[object, ...]) -> object:
        future = self._threads.run(lambda: function(*arguments))
        task = asyncio.current_task()
        assert task is not None
        _WAITING[task] = future
        try:
            result, error = await future
        finally:
            del _WAITING[task]
        if error is not None:
            raise error
        if inspect.isawaitable(result):
            ATTEMPT.set(attempt)
            return await call(lambda: result, ())
        return result


async def call(function: Callable[..., Any], arguments: tuple[object, ...]) -> object:
    """The last of our frames below an agent: `watchdog` knows it by that."""
    return await function(*arguments)


def _judge(error: BaseException | None) -> None:
    """Raises what an attempt comes to, unless that is a result."""
    if isinstance(error, DivertedError):
        raise error
    if isinstance(error, TryLater):
        raise wish(error)
    if isinstance(error, GiveUp):
        raise AgentError(f"the agent gave up: {told(error)}", final=True)
    if isinstance(error, BusyError):
        raise AgentError(str(error))
    if error is not None:
        raise AgentError(f"the agent raised {type(error).__name__}: {told(error)}", trace(error)) from error


_WAITING: dict[asyncio.Task[Any], asyncio.Future[Any]] = {}
