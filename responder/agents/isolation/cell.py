"""One worker process of an isolated inbox: the agent, its event loop, and what it may ask of the server.

It is forked from the nursery, takes one mail at a time from one pipe and answers into the other. Memory is limited; state and log
are the server's, asked for over the same pipes; clock and HTTP client are its own. It ends when the first pipe does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from responder.agents import attempts
from responder.agents.answers import TryLater
from responder.agents.attempts import Attempts, Bench
from responder.agents.base import Agent
from responder.agents.context import JSON, MAIL_ID, Context
from responder.agents.inboxes import build
from responder.agents.isolation import frames, passage
from responder.agents.registry import AgentType, PluginError
from responder.agents.results import AgentError, check, where
from responder.agents.threads import Threads
from responder.clock import SystemClock

THREADS = 16  # of plain functions; each run has one, the others are for what hangs until the process is replaced
STOP = 5.0  # seconds for the agent's `stop`
LATE = 0.5  # seconds behind an agent's time and grace, after which a process that still runs it ends itself
MAX_LINE = 16384  # characters of one log line
BROKEN = 70  # exit status: EX_SOFTWARE of sysexits.h
OVERDUE = 75  # EX_TEMPFAIL: the agent took too long, and could not even say where it was

Find = Callable[[Mapping[str, tuple[str, bool]], str], AgentType]


def live(order: dict[str, Any], kind: AgentType, reading: int, writing: int, find: Find) -> NoReturn:
    """Be a worker process until there is no more work."""
    status = BROKEN
    try:
        confine(order["memory"])
        asyncio.run(_Cell(order, kind, reading, writing, find).live())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def confine(memory: int) -> None:
    """Limit what this process and all that it starts may have: `memory` octets of private memory on top of what it begins
    with; shared memory counts as address space, of which there is more. No core dump: it would hold mails."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sizes = [int(word) * resource.getpagesize() for word in Path("/proc/self/statm").read_text().split()]
    except OSError:  # not Linux
        sizes = [0] * 7
    for limit, most in (
        (resource.RLIMIT_DATA, sizes[5] + memory),
        (resource.RLIMIT_AS, sizes[0] + 2 * memory + (1 << 30)),
    ):
        hard = resource.getrlimit(limit)[1]
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(limit, (most, most))


class _Cell:
    def __init__(self, order: dict[str, Any], kind: AgentType, reading: int, writing: int, find: Find) -> None:
        self._order = order
        self._kind = kind
        self._find = find
        self._reading = reading
        self._pipe = _Pipe(writing)
        self._attempts = Attempts(Threads(THREADS))
        self._bench = Bench(order["inbox"])
        self._work: set[asyncio.Task[None]] = set()
        self._end = asyncio.Event()
        self._number = 0

    async def live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._state = _State(self._pipe)
        _Lines(self._pipe).take_over()
        signal.signal(signal.SIGALRM, self._overdue)
        threading.Thread(target=self._read, name="responder-cell", daemon=True).start()
        context = Context(self._order["inbox"], self._state, SystemClock(), self._inner)
        try:
            self._agent = build(
                self._order["inbox"], {self._kind.name: self._kind}, self._kind.name, self._order["settings"]
            )[1]
            self._agent.context = context
            context.open()
            await self._attempts.run(self._bench, self._agent.start, seconds=self._order["timeout"])
        except (PluginError, AgentError, TryLater) as error:
            self._pipe.send({"op": "failed", "reason": str(error), "detail": getattr(error, "detail", "")})
            return
        self._pipe.send({"op": "ready"})
        await self._end.wait()
        try:
            await self._attempts.run(self._bench, self._agent.stop, seconds=STOP)
            await context.close()
        except (AgentError, TryLater) as error:
            context.log.warning("stop: %s", error)

    def _read(self) -> None:
        """In a thread: what comes, until nothing can come any more. Then an agent that blocks ends all the same."""
        try:
            with os.fdopen(self._reading, "rb") as file:
                while (frame := frames.read(file.read, frames.MAX_MAIL)) is not None:
                    self._loop.call_soon_threadsafe(self._take, frame)
                    del frame
        except MemoryError:
            self._pipe.last({"op": "error", "reason": "the mail does not fit into the memory of the agent's process"})
        except (OSError, frames.FrameError, RuntimeError):
            pass
        else:
            self._loop.call_soon_threadsafe(self._leave)
            threading.Event().wait(STOP + LATE)
        os._exit(0)

    def _leave(self) -> None:
        if self._work:  # nobody will hear the answer
            os._exit(0)
        self._end.set()

    def _take(self, frame: frames.Frame) -> None:
        if frame.header["op"] == "state":
            self._state.answered(frame.header)
            return
        task = self._loop.create_task(self._serve(frame))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _serve(self, frame: frames.Frame) -> None:
        told, self._number = frame.header, frame.header["n"]
        signal.setitimer(signal.ITIMER_REAL, self._order["timeout"] + attempts.GRACE + LATE)
        answer, blobs = await self._answer(told, frame.blobs)
        signal.setitimer(signal.ITIMER_REAL, 0)
        odd = answer.pop("odd", False) or self._attempts.stuck > 0
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        if (task := asyncio.current_task()) is not None:
            self._work.discard(task)  # before the answer: what ends the process may come right behind it
        self._pipe.send({**answer, "n": self._number, "odd": odd}, blobs)

    async def _answer(self, told: dict[str, Any], blobs: Any) -> passage.Packed:
        """What the agent has to say. Nothing of what went wrong is held on to: it may be what the memory is full of."""
        seconds = self._order["timeout"]
        try:
            if told["op"] == "bounce":
                bounce = passage.unpack_bounce(told["bounce"])
                await self._attempts.run(self._bench, self._agent.bounced, bounce, seconds=seconds)
                return {"op": "answer", "is": "silence"}, []
            mail = passage.unpack_mail(told["mail"], blobs)
            found = await self._attempts.run(self._bench, self._agent.answer, mail, seconds=seconds, mail=mail.id)
            packed, data = passage.pack_answer(check(found))
            return {"op": "answer", **packed}, data
        except TryLater as wish:
            return {"op": "later", "seconds": wish.seconds}, []
        except AgentError as error:
            cause = error.__cause__
            odd = isinstance(cause, MemoryError) or not isinstance(cause, Exception | None)
            return {
                "op": "error", "reason": error.reason, "detail": error.detail, "final": error.final, "odd": odd
            }, []  # fmt: skip

    def _overdue(self, number: int, frame: FrameType | None) -> NoReturn:
        """The signal handler: the agent keeps the event loop to itself. Say where, and end."""
        reason = f"the agent took longer than {self._order['timeout']:g} s"
        self._pipe.last({"op": "error", "n": self._number, "reason": reason, "detail": where(frame)})
        os._exit(OVERDUE)

    def _inner(self, name: str, settings: Mapping[str, Any]) -> Agent:
        """Another agent for the agent: see `Context.agent`."""
        try:
            kind = self._kind if name == self._kind.name else self._find(self._order["sources"], name)
            return build(self._order["inbox"], {name: kind}, name, settings)[1]
        except PluginError as error:
            known = name in self._order["sources"]
            raise (ValueError if known else LookupError)(str(error)) from error


class _Pipe:
    """The way to the server, for all threads. One that is gone ends the process: nobody is left to work for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, header: dict[str, Any], blobs: Any = ()) -> None:
        """Raises `TypeError` or `ValueError` for what is no JSON."""
        pieces = frames.encode(header, blobs)
        with self._lock:
            self._write(pieces)

    def last(self, header: dict[str, Any]) -> None:
        """Say a last thing of a run, unless somebody was interrupted while speaking."""
        if self._lock.acquire(timeout=0.2):
            self._write(frames.encode({**header, "odd": True}))

    def _write(self, pieces: list[bytes]) -> None:
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._descriptor, view) :]
        except OSError:
            os._exit(0)


class _State:
    """`responder.agents.context.State`, in the server."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def get(self, key: str, default: JSON = None) -> JSON:
        found: list[JSON] = await self._ask("get", key)
        return found[0] if found else default

    async def set(self, key: str, value: JSON, *, expires: float | None = None) -> None:
        await self._ask("set", key, value, expires=expires)

    async def add(self, key: str, value: JSON, *, expires: float | None = None) -> bool:
        return bool(await self._ask("add", key, value, expires=expires))

    async def increment(self, key: str, by: int = 1, *, expires: float | None = None) -> int:
        return int(await self._ask("increment", key, by, expires=expires))

    async def delete(self, key: str) -> None:
        await self._ask("delete", key)

    async def items(self, prefix: str = "") -> dict[str, JSON]:
        found: dict[str, JSON] = await self._ask("items", prefix)
        return found

    def answered(self, told: dict[str, Any]) -> None:
        future = self._waiting.pop(told["n"], None)
        if future is not None:  # of a loop of the agent's own, perhaps: `asyncio.run` in a plain function
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                future.get_loop().call_soon_threadsafe(self._settle, future, told)

    @staticmethod
    def _settle(future: asyncio.Future[JSON], told: dict[str, Any]) -> None:
        if future.done():
            return
        if "error" in told:
            future.set_exception((ValueError if told["is"] == "ValueError" else RuntimeError)(told["error"]))
        else:
            future.set_result(told["value"])

    async def _ask(self, call: str, *arguments: JSON, **named: JSON) -> Any:
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._pipe.send({"op": "state", "n": number, "call": call, "arguments": arguments, "named": named})
        except (TypeError, RecursionError) as error:
            raise ValueError(f"a value must be JSON: {error}") from None
        return await future


class _Lines(logging.Handler):
    """Log lines, to be written by the server."""

    def __init__(self, pipe: _Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def take_over(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)[:MAX_LINE]
            self._pipe.send({
                "op": "log", "level": record.levelno, "logger": record.name, "text": text, "mail": MAIL_ID.get()
            })  # fmt: skip
        except Exception:
            self.handleError(record)
