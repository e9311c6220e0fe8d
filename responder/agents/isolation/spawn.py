"""Starts an inbox's nursery, has it fork worker processes, and hears from it how they end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

from responder.agents.inboxes import Inbox
from responder.agents.isolation.frames import Frame, encode
from responder.agents.isolation.links import Link, Receiver, one_line
from responder.agents.results import AgentError

START = 30.0  # seconds for a Python to start and to import one plugin
END = 5.0  # seconds for a nursery to end all that it began
FORK, KILL = b"F", b"K"

_BEGIN = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[3]);"
    "from responder.agents.isolation.nursery import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_FOLDER = Path.cwd()  # an agent may change it


class Nursery:
    """One inbox's nursery. It is a process in a session of its own, so that no terminal's signal meets it."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._links: dict[int, Link] = {}
        self._forking: deque[asyncio.Future[int]] = deque()
        self.alive = False

    async def open(self) -> None:
        """Start it, and wait until the plugin is imported. Raises `AgentError`."""
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[AgentError | None] = loop.create_future()
        self._ended = asyncio.Event()
        self._requests, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            path = json.dumps([str(_FOLDER / entry) for entry in sys.path])
            arguments = ["-P", "-c", _BEGIN, str(theirs.fileno()), str(writing), path]
            # It returns within milliseconds; what takes its time is `ready`.
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own interpreter, our own module
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), writing),
                start_new_session=True,
            )
        except OSError as error:
            self._requests.close()
            os.close(reading)
            raise AgentError(f"no process can be started for the agent: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(writing)
        self.alive = True
        receiver = Receiver(0, self._hear, self._lost)
        self._source, _ = await loop.connect_read_pipe(lambda: receiver, os.fdopen(reading, "rb", 0))
        try:
            for piece in encode(order(self._inbox)):
                self._requests.sendall(piece)
            self._requests.setblocking(False)  # one that takes no requests any more must not hold us up
            async with asyncio.timeout(START):
                failed = await self._ready
        except TimeoutError:
            failed = AgentError(f"the plugin was not imported within {START:g} s")
        except OSError:
            failed = AgentError("the process for the agent's plugin ended")
        except BaseException:
            self.close()
            raise
        if failed is not None:
            self.close()
            raise failed

    async def fork(self) -> Link:
        """A new worker process, whose agent is about to start. Raises `AgentError`."""
        loop = asyncio.get_running_loop()
        their_input, writing = os.pipe()
        reading, their_output = os.pipe()
        forked: asyncio.Future[int] = loop.create_future()
        try:
            try:
                socket.send_fds(self._requests, [FORK + bytes(4)], [their_input, their_output])
            finally:
                os.close(their_input)
                os.close(their_output)
            self._forking.append(forked)
            pid = await forked
        except BaseException as error:
            os.close(writing)  # a worker process that is begun all the same finds that nobody speaks to it
            os.close(reading)
            if isinstance(error, OSError):
                raise AgentError(f"no process can be started for the agent: {error.strerror}") from error
            raise
        link = Link(self._inbox, pid, lambda: self.kill(pid))
        await link.open(reading, writing)
        if pid in self._links:  # it has ended already
            self._links.pop(pid).gone(None)
        self._links[pid] = link
        if not self.alive:
            link.gone(None)
        return link

    def kill(self, pid: int) -> None:
        """Kill a worker process and all that it has started, unless it has ended: the nursery knows."""
        if self.alive:
            try:
                self._requests.send(KILL + pid.to_bytes(4, "big"))
            except OSError:  # it does not even take requests any more
                self.close()

    def close(self) -> None:
        """Have it end, with all that it has begun."""
        self._requests.close()
        if not self._ready.done():  # it may be importing for ever
            self._process.kill()

    def destroy(self) -> None:
        """End it by force; its worker processes end with it."""
        self._process.kill()

    async def wait(self) -> None:
        """Until it has ended, behind `close`; if need be, by force."""
        try:
            async with asyncio.timeout(END):
                await self._ended.wait()
        except TimeoutError:
            self._process.kill()

    def _hear(self, frame: Frame) -> None:
        told = frame.header
        match told["op"]:
            case "ready":
                self._ready.set_result(None)
            case "failed":
                self._ready.set_result(AgentError(one_line(told["reason"])))
            case "forked":
                forked = self._forking.popleft()
                if forked.done():
                    pass  # nobody waits for it any more, and it finds its pipe closed
                elif told["pid"]:
                    forked.set_result(told["pid"])
                else:
                    forked.set_exception(AgentError(f"no process can be started for the agent: {told['reason']}"))
            case "ended":
                link = self._links.pop(told["pid"], None)
                if link is not None:
                    link.gone(told["status"])

    def _lost(self, error: Exception | None) -> None:
        """It has ended, and its worker processes with it."""
        self.alive = False
        self._requests.close()
        self._process.kill()
        threading.Thread(target=self._process.wait, name="responder-reaper", daemon=True).start()
        gone = AgentError("the process that the agent's processes come from has ended")
        if not self._ready.done():
            self._ready.set_result(gone)
        while self._forking:
            forked = self._forking.popleft()
            if not forked.done():
                forked.set_exception(gone)
        for link in list(self._links.values()):
            link.gone(None)
        self._links.clear()
        self._ended.set()


def order(inbox: Inbox) -> dict[str, Any]:
    """What a nursery has to know."""
    agents = {**inbox.agents, inbox.type.name: inbox.type}
    return {
        "inbox": inbox.name,
        "agent": inbox.type.name,
        "sources": {
            name: (
                str(_FOLDER / kind.source) if isinstance(kind.source, Path) else kind.source,
                isinstance(kind.source, Path),
            )
            for name, kind in agents.items()
            if kind.source
        },
        "settings": dict(inbox.settings),
        "timeout": inbox.timeout,
        "memory": inbox.memory,
    }
