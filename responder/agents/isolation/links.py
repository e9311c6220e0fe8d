"""The server's end of one worker process: asks it to answer, does for it what it may ask for, notices when it is gone.

What comes out of it is not trusted: what is no frame, too large, or out of turn ends it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import Any

from responder.agents.context import MAIL_ID
from responder.agents.inboxes import Inbox
from responder.agents.isolation.cell import OVERDUE
from responder.agents.isolation.frames import MAX_ANSWER, MAX_HEADER, Frame, FrameError, Parser, encode
from responder.agents.results import AgentError, told

CHUNK = 1 << 18  # octets that are written at once
CALLS = 1000  # calls of an agent's state under way in one process
LINES = 1000  # log lines of one run that are written
FLOOD = 20_000  # log lines of one run at which the process is ended
LAST_WORDS = 0.5  # seconds in which what an ended process had said may still arrive
STATE = frozenset({"get", "set", "add", "increment", "delete", "items"})


class Link:
    """One worker process. `begun` comes with its first word: None, or why its agent does not start. `ended` is set when it is
    gone. `kill` is how it is killed."""

    def __init__(self, inbox: Inbox, pid: int, kill: Callable[[], None]) -> None:
        self.inbox = inbox
        self.pid = pid
        self.kill = kill
        self._loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[AgentError | None] = self._loop.create_future()
        self.ended = asyncio.Event()
        self.resting: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        self._number = 0
        self._heard: asyncio.Future[Frame] | None = None
        self._context: Context | None = None
        self._lines = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()
        self._failed: AgentError | None = None

    @property
    def alive(self) -> bool:
        """Whether it can be asked something."""
        return self._failed is None

    async def open(self, reading: int, writing: int) -> None:
        """Take the server's ends of both pipes, file descriptors, as its own."""
        self._receiver = Receiver(MAX_ANSWER, self._take, self._cut)
        self._source, _ = await self._loop.connect_read_pipe(lambda: self._receiver, os.fdopen(reading, "rb", 0))
        self._sender, self._flow = await self._loop.connect_write_pipe(_Flow, os.fdopen(writing, "wb", 0))

    async def call(self, header: dict[str, Any], blobs: Sequence[bytes] = (), mail: str = "") -> Frame:
        """What it says to a mail or a bounce. What it asks for meanwhile is done in the caller's context. Raises `AgentError`
        where it fails or ends; then, and where this is cancelled, it is of no further use."""
        if self._failed is not None:
            raise self._failed
        self._number, self._lines = next(self._numbers), 0
        self._context = copy_context()
        self._context.run(MAIL_ID.set, mail)
        heard = self._heard = self._loop.create_future()
        try:
            sending = self._loop.create_task(self._send({**header, "n": self._number}, blobs))
            try:
                await asyncio.wait((heard,))
                frame: Frame = heard.result()
                return frame
            finally:
                sending.cancel()
        finally:
            self._heard = self._context = None

    def finish(self) -> None:
        """Let it stop its agent and end."""
        self._sender.close()

    def gone(self, status: int | None) -> None:
        """It has ended, with that exit status (of a signal: negative). Its last words may be on their way."""
        if status is None:
            reason = "the agent's process was lost"
        elif status == OVERDUE:
            reason = f"the agent took longer than {self.inbox.timeout:g} s"
        elif status < 0:
            reason = f"the agent's process was ended by signal {-status} ({signal.strsignal(-status)})"
        else:
            reason = f"the agent's process ended with exit status {status}"
        error = AgentError(reason)
        if self._receiver.ended:
            self._fail(error)
        else:
            self._loop.call_later(LAST_WORDS, self._fail, error)
            self._receiver.on_end = lambda _: self._fail(error)
        self.ended.set()

    def close(self) -> None:
        """Let go of the pipes."""
        if self.resting is not None:
            self.resting.cancel()
        self._fail(AgentError("the agent's process was ended"))
        self._source.close()
        if not self._flow.lost:
            self._sender.abort()

    def _fail(self, error: AgentError) -> None:
        if self._failed is None:
            self._failed = error
        if not self.begun.done():
            self.begun.set_result(error)
        if self._heard is not None and not self._heard.done():
            self._heard.set_exception(error)

    def _broken(self, reason: str) -> None:
        self._fail(AgentError(f"the agent's process broke the protocol: {reason}"))
        self._source.close()
        self.kill()

    def _cut(self, error: Exception | None) -> None:
        """Nothing can come any more: the nursery tells why, unless it is our own doing."""
        if error is not None:
            self._broken(str(error))

    def _take(self, frame: Frame) -> None:
        header = frame.header
        match header.get("op"):
            case "log":
                self._log(header)
            case "state" if len(self._calls) < CALLS:
                context = Context() if self._context is None else self._context.copy()
                task = self._loop.create_task(self._remember(header), context=context)
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            case "ready" if not self.begun.done():
                self.begun.set_result(None)
            case "failed" if not self.begun.done():
                self.begun.set_result(AgentError(one_line(header.get("reason")), str(header.get("detail", ""))))
            case "answer" | "later" | "error" if self._heard is not None and not self._heard.done():
                if header.get("n", self._number) == self._number:
                    self._heard.set_result(frame)
                    return
                self._broken("an answer to something else")
            case _:
                self._broken("out of turn")

    def _log(self, header: dict[str, Any]) -> None:
        self._lines += 1
        if self._lines >= FLOOD:
            self._broken(f"more than {FLOOD} log lines at once")
        level, text = header.get("level"), header.get("text")
        if self._lines > LINES or type(level) is not int or not isinstance(text, str):
            return
        if self._lines == LINES:
            level, text = logging.WARNING, f"more than {LINES} log lines at once: the others are not shown"
        log = self.inbox.agent.context.log
        (self._context.copy() if self._context else Context()).run(log.log, level, "%s", text)

    async def _remember(self, header: dict[str, Any]) -> None:
        """Do what it asks of the inbox's state, in the context of the run it is asked in."""
        answer: dict[str, Any] = {"op": "state", "n": header.get("n")}
        try:
            call, arguments, named = header["call"], header["arguments"], header["named"]
            if call not in STATE:
                raise ValueError("state has no such call")
            state, missing = self.inbox.agent.context.state, object()
            if call == "get":
                value = await state.get(arguments[0], missing)
                answer["value"] = [] if value is missing else [value]
            else:
                answer["value"] = await getattr(state, call)(*arguments, **named)
                if call == "items" and len(encode(answer)[0]) > MAX_HEADER:
                    raise ValueError(f"what is found has more than {MAX_HEADER} octets: ask for less at a time")
        except Exception as error:
            answer.pop("value", None)
            answer |= {"error": told(error), "is": "ValueError" if isinstance(error, ValueError) else "other"}
        await self._send(answer)

    async def _send(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        async with self._sending:
            for piece in encode(header, blobs):
                for start in range(0, len(piece), CHUNK):
                    await self._flow.free.wait()
                    self._sender.write(piece[start : start + CHUNK])


class Receiver(asyncio.Protocol):
    """Frames as they come; then `on_end` with what was wrong, or None."""

    def __init__(
        self, most: int, on_frame: Callable[[Frame], None], on_end: Callable[[Exception | None], None]
    ) -> None:
        self._parser = Parser(most)
        self._on_frame = on_frame
        self.on_end = on_end
        self.ended = False

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        try:
            for frame in self._parser.feed(data):
                self._on_frame(frame)
        except FrameError as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self.ended:
            self.ended = True
            self.on_end(error)


class _Flow(asyncio.BaseProtocol):
    """Whether more may be written."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.lost = False

    def pause_writing(self) -> None:
        self.free.clear()

    def resume_writing(self) -> None:
        self.free.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.free.set()


def one_line(text: object) -> str:
    """A reason that somebody else gives."""
    return " ".join(str(text).split())[:500]
