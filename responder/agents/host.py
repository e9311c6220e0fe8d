"""Runs agents and contains them: whatever an agent does, what comes out is an answer, silence, or a described failure.

An agent runs in the server's event loop (`async`), in a thread (a plain function), or in processes of its own (`isolated`).
One that blocks the event loop is interrupted by `watchdog`, and is run in processes of its own from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

from responder.agents.answers import Answer, TryLater
from responder.agents.attempts import Attempts, Bench, DivertedError
from responder.agents.base import Bounce, Mail
from responder.agents.inboxes import Inbox, build
from responder.agents.isolation.pool import Isolated
from responder.agents.registry import PluginError
from responder.agents.results import MAX_ANSWER, AgentError, check
from responder.agents.threads import Threads
from responder.agents.watchdog import Watchdog
from responder.config.errors import dotted
from responder.observe import event

__all__ = ["MAX_ANSWER", "AgentError", "Host", "Inbox", "build", "check"]

SPARE = 256  # threads in place of those in which an agent hangs
STARTS = 4  # nurseries that begin at a time: a Python and a plugin each, which all have the same time to
STOP = 5.0  # seconds that one agent gets to stop in
IMPORT = 60.0  # seconds that the import of all plugins may take at a reload
T = TypeVar("T")


class _Place(Bench):
    """What the host knows of one inbox."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(inbox.name)
        self.room = asyncio.Semaphore(inbox.concurrency)
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.isolated: Isolated | None = None
        self.told = False


class Host:
    """Runs the agents of a configuration. Synchronous ones run in threads: one for each run that may be under way at a time,
    and `SPARE` in place of those that hang."""

    def __init__(self, threads: int) -> None:
        self._threads = Threads(threads + SPARE)
        self._attempts = Attempts(self._threads)
        self._watchdog = Watchdog()
        self._starts = asyncio.Semaphore(STARTS)
        self._places: dict[Inbox, _Place] = {}

    def close(self) -> None:
        """Let go of the threads, and end the worker processes; an agent that hangs does not hold us up."""
        self._watchdog.stop()
        self._threads.close()
        for place in self._places.values():
            if place.isolated is not None:
                place.isolated.kill()

    @property
    def stuck(self) -> int:
        """How many runs go on that nobody waits for any more, or still does."""
        return self._attempts.stuck

    async def start(self, inboxes: Collection[Inbox]) -> None:
        """Start the agents of a configuration, all at once, each within its inbox's time. From now on the event loop is
        watched. Raises `PluginError`, one line, where one does not start; then those that did are stopped again."""
        self._watchdog.start()
        tasks = [asyncio.create_task(self._start(inbox)) for inbox in inboxes]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        except BaseException:  # we are being cancelled ourselves
            await self._stop_all([inbox for inbox, task in zip(inboxes, tasks, strict=True) if _succeeded(task)])
            raise
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            await self._stop_all([inbox for inbox, task in zip(inboxes, tasks, strict=True) if _succeeded(task)])
            raise failed[0]

    async def load(self, function: Callable[..., T], *arguments: object) -> T:
        """Call what imports plugins, in a thread. Raises what that raises, and `PluginError` where it takes too long: an import
        that never ends must hold up neither the next one nor the server's end."""
        try:
            return cast(T, await self._attempts.run(Bench(""), function, *arguments, seconds=IMPORT))
        except AgentError as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None
            raise PluginError(f"plugins: their import takes longer than {IMPORT:g} s") from None

    async def retire(self, inboxes: Collection[Inbox], patience: float) -> None:
        """Stop the agents of a configuration that is replaced: once what runs of them has ended, or after `patience` seconds.
        Never raises for what an agent does."""
        idle = [asyncio.create_task(self._place(inbox).idle.wait()) for inbox in inboxes]
        if idle:
            await asyncio.wait(idle, timeout=patience)
        for task in idle:
            task.cancel()
        await self._stop_all(inboxes)

    async def run(self, inbox: Inbox, mail: Mail, *, isolated: bool = False) -> Answer:
        """The agent's answer, checked. `isolated`: in a process of its own, whatever the inbox says, where that can be.

        Raises `TryLater` (the agent's own) and `AgentError` for all else. No more runs of an inbox go on than its
        `concurrency`: others wait, and their time has not begun.
        """
        place = self._enter(inbox)
        try:
            async with place.room:
                apart = self._apart(inbox, place, isolated)
                if apart is None:
                    try:
                        found = await self._attempt(place, inbox, inbox.agent.answer, mail, mail=mail.id)
                    except DivertedError:
                        apart = self._apart(inbox, place, isolated)
                        if apart is None:
                            raise AgentError("the agent has blocked the server, and can't be isolated") from None
                    else:
                        return check(found)
                return await apart.run(mail)
        finally:
            self._leave(place)

    async def bounced(self, inbox: Inbox, bounce: Bounce) -> None:
        """Tell an agent of a bounce. What goes wrong is logged, no more."""
        place = self._enter(inbox)
        try:
            async with place.room:
                apart = self._apart(inbox, place)
                if apart is None:
                    await self._attempt(place, inbox, inbox.agent.bounced, bounce)
                else:
                    await apart.bounced(bounce)
        except (AgentError, TryLater, DivertedError) as error:
            event("bounce not told", level=logging.WARNING, inbox=inbox.name, reason=str(error))
        finally:
            self._leave(place)

    async def _attempt(
        self, place: _Place, inbox: Inbox, function: Callable[..., Any], *arguments: object, mail: str = ""
    ) -> object:
        try:
            return await self._attempts.run(place, function, *arguments, seconds=inbox.timeout, mail=mail)
        finally:
            if place.blocks and not place.told:
                place.told = True
                event(
                    "agent isolated",
                    level=logging.WARNING,
                    inbox=inbox.name,
                    reason="it blocked the server: from now on it runs in processes of its own",
                )

    def _apart(self, inbox: Inbox, place: _Place, isolated: bool = False) -> Isolated | None:
        """The processes that an inbox's agent runs in, or None where it runs here. An agent that was built from no file or
        module can't be found by another process."""
        if not inbox.type.source or not (isolated or inbox.isolated or place.blocks):
            return None
        if place.isolated is None:
            place.isolated = Isolated(inbox, self._starts)
        return place.isolated

    def _place(self, inbox: Inbox) -> _Place:
        if inbox not in self._places:
            self._places[inbox] = _Place(inbox)
        return self._places[inbox]

    def _enter(self, inbox: Inbox) -> _Place:
        place = self._place(inbox)
        place.running += 1
        place.idle.clear()
        return place

    def _leave(self, place: _Place) -> None:
        place.running -= 1
        if not place.running:
            place.idle.set()

    async def _start(self, inbox: Inbox) -> None:
        place = self._place(inbox)
        try:
            apart = self._apart(inbox, place)
            if apart is None:
                inbox.agent.context.open()
                await self._attempt(place, inbox, inbox.agent.start)
            else:
                await apart.start()
        except (AgentError, TryLater, DivertedError) as error:
            await self._stop(inbox, started=False)
            reason = str(error).removeprefix("the agent raised ")
            key = dotted(("inboxes", inbox.name))
            raise PluginError(f'{key}: the agent "{inbox.type.name}" does not start: {reason}') from error

    async def _stop_all(self, inboxes: Collection[Inbox]) -> None:
        if inboxes:
            await asyncio.wait([asyncio.create_task(self._stop(inbox)) for inbox in inboxes])

    async def _stop(self, inbox: Inbox, started: bool = True) -> None:
        """End what there is of one inbox: the agent, its context, its processes. Everything of the agent's is contained."""
        place = self._place(inbox)
        steps: list[Callable[..., Any]] = [inbox.agent.context.close]
        if started and not (inbox.isolated and inbox.type.source):
            steps.insert(0, inbox.agent.stop)
        for step in steps:
            try:
                await self._attempts.run(Bench(inbox.name), step, seconds=STOP)
            except (AgentError, TryLater, DivertedError) as error:
                event("agent did not stop", level=logging.WARNING, inbox=inbox.name, reason=str(error))
        if place.isolated is not None:
            await place.isolated.close()
        self._places.pop(inbox, None)


def _succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
