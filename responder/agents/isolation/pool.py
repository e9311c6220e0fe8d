"""Runs the agent of one inbox in worker processes of its own, which are replaced when they hang, die or behave oddly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from responder.agents.answers import Answer, TryLater
from responder.agents.attempts import GRACE
from responder.agents.base import Bounce, Mail
from responder.agents.inboxes import Inbox
from responder.agents.isolation import passage
from responder.agents.isolation.cell import STOP
from responder.agents.isolation.frames import Frame
from responder.agents.isolation.links import Link, one_line
from responder.agents.isolation.spawn import Nursery
from responder.agents.results import TRACEBACK, AgentError, check, wish
from responder.observe import event

PROCESSES = 4  # of an inbox that was not meant to be isolated: each is a Python of its own
IDLE = 60.0  # seconds without work after which a process ends
PAUSE = 1.0  # seconds between two starts of a nursery
FORK = 10.0  # seconds for a nursery to fork: it takes milliseconds
KILL = (
    GRACE + 1.0
)  # seconds behind an agent's time after which its process is killed; until then it says itself where it was


class Isolated:
    """One inbox's worker processes: one for each run that is under way at a time, made when they are needed."""

    def __init__(self, inbox: Inbox, starts: asyncio.Semaphore) -> None:
        self._inbox = inbox
        self._starts = starts
        most = inbox.concurrency if inbox.isolated else min(PROCESSES, inbox.concurrency)
        self._places = asyncio.Semaphore(most)
        self._opening = asyncio.Lock()
        self._nursery: Nursery | None = None
        self._paused = False
        self._idle: list[Link] = []
        self._links: set[Link] = set()

    async def start(self) -> None:
        """Import the plugin and start one process. Raises `AgentError`."""
        self._rest(await self._begin())

    async def run(self, mail: Mail) -> Answer:
        """The agent's answer, checked. Raises `TryLater` and `AgentError`."""
        told, blobs = passage.pack_mail(mail)
        return judge(await self._call({"op": "mail", "mail": told}, blobs, mail.id))

    async def bounced(self, bounce: Bounce) -> None:
        """Tell the agent of a bounce. Raises `TryLater` and `AgentError`."""
        told, _ = passage.pack_bounce(bounce)
        judge(await self._call({"op": "bounce", "bounce": told}))

    async def close(self) -> None:
        """Let the agents stop, and end all processes."""
        links = list(self._links)
        for link in links:
            link.finish()
        try:
            async with asyncio.timeout(STOP + GRACE):
                for link in links:
                    await link.ended.wait()
        except TimeoutError:
            event("agent does not stop", level=logging.WARNING, inbox=self._inbox.name)
        self.kill()
        if self._nursery is not None:
            await self._nursery.wait()

    def kill(self) -> None:
        """End all processes now."""
        if self._nursery is not None:
            self._nursery.close()
        for link in list(self._links):
            self._drop(link)

    async def _call(self, header: dict[str, Any], blobs: Sequence[bytes] = (), mail: str = "") -> Frame:
        async with self._places:
            link = await self._free()
            try:
                async with asyncio.timeout(self._inbox.timeout + KILL):
                    frame = await link.call(header, blobs, mail)
            except TimeoutError:
                self._drop(link)
                raise AgentError(f"the agent took longer than {self._inbox.timeout:g} s") from None
            except BaseException:  # it failed, or we are being cancelled
                self._drop(link)
                raise
            if frame.header.get("odd"):
                self._drop(link)
            else:
                self._rest(link)
            return frame

    async def _free(self) -> Link:
        """A process without work. Raises `AgentError`."""
        while self._idle:
            link = self._idle.pop()
            if link.resting is not None:
                link.resting.cancel()
            if link.alive:
                return link
            self._drop(link)
        return await self._begin()

    async def _begin(self) -> Link:
        """A new process, whose agent has started. Raises `AgentError`."""
        async with self._opening:
            if self._nursery is None or not self._nursery.alive:
                if self._paused:
                    raise AgentError("the agent's processes have ended; they are begun again in a moment")
                self._paused = True
                asyncio.get_running_loop().call_later(PAUSE, self._resume)
                self._nursery = Nursery(self._inbox)
                async with self._starts:
                    await self._nursery.open()
        nursery = self._nursery
        try:
            async with asyncio.timeout(FORK):
                link = await nursery.fork()
        except TimeoutError:  # stopped, or hung by what its plugin did
            nursery.destroy()
            raise AgentError("the process that the agent's processes come from does not respond") from None
        self._links.add(link)
        try:
            async with asyncio.timeout(self._inbox.timeout + KILL):
                error = await asyncio.shield(link.begun)
        except TimeoutError:
            self._drop(link)
            raise AgentError(f"the agent took longer than {self._inbox.timeout:g} s") from None
        except BaseException:
            self._drop(link)
            raise
        if error is not None:
            self._drop(link)
            raise error
        return link

    def _rest(self, link: Link) -> None:
        self._idle.append(link)
        link.resting = asyncio.get_running_loop().call_later(IDLE, self._dismiss, link)

    def _dismiss(self, link: Link) -> None:
        """It has had nothing to do for long: it may stop."""
        self._idle.remove(link)
        self._links.discard(link)
        link.finish()
        asyncio.get_running_loop().call_later(STOP + GRACE, link.kill)

    def _drop(self, link: Link) -> None:
        self._links.discard(link)
        link.kill()
        link.close()

    def _resume(self) -> None:
        self._paused = False


def judge(frame: Frame) -> Answer:
    """What a process says is an answer, or what it says went wrong. Raises `TryLater` and `AgentError`."""
    told = frame.header
    if told["op"] == "later":
        try:
            later = TryLater(told["seconds"])
        except Exception as error:
            raise AgentError(f"the agent's TryLater names no time: {type(error).__name__}") from None
        raise wish(later)
    if told["op"] == "error":
        detail = str(told.get("detail", ""))[-TRACEBACK:]
        raise AgentError(one_line(told.get("reason")), detail, final=told.get("final") is True)
    try:
        answer = passage.unpack_answer(told, frame.blobs)
    except Exception as error:
        raise AgentError(f"the agent's process sent no answer: {type(error).__name__}") from None
    return check(answer)
