"""Agents that do what a test tells them: answer, fail in every way there is, hang, flood. One setting says which."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from responder import Agent, Attachment, Forward, Mail, Reply, TryLater, hookimpl


class UnprintableError(Exception):
    """Raises when it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("not even that")


def endless(n: int) -> int:
    return endless(n + 1)


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


EVIL = "a\r\nBcc: victim@example.net\r\n\r\nbody\x00"
NESTED = ExceptionGroup("several", [ValueError("it broke"), TryLater(1)])

ACTS: dict[str, Callable[[], Any]] = {
    "answer": lambda: Reply(text="hello\n"),
    "text": lambda: "hello\n",
    "silent": lambda: None,
    "blank": lambda: "  \n",
    # failures
    "raise": raising(ValueError("it broke")),
    "raise-base": raising(BaseExceptionGroup("several", [SystemExit(3)])),
    "raise-group": raising(NESTED),
    "raise-surrogate": raising(ValueError("it broke \ud800 \x00 \r\n two")),
    "raise-unprintable": raising(UnprintableError()),
    "exit": raising(SystemExit(3)),
    "interrupt": raising(KeyboardInterrupt()),
    "cancelled": raising(asyncio.CancelledError()),
    "stop-iteration": raising(StopIteration("it broke")),
    "timeout": raising(TimeoutError("of its own")),
    "recursion": lambda: endless(0),
    "later": raising(TryLater(120)),
    # results that are none
    "number": lambda: 42,
    "bytes": lambda: b"hello",
    "list": lambda: ["hello"],
    "class": lambda: Reply,
    "text-number": lambda: Reply(text=42),  # type: ignore[arg-type]
    "html-bytes": lambda: Reply(html=b"<p>"),  # type: ignore[arg-type]
    "subject-number": lambda: Reply(text="x", subject=42),  # type: ignore[arg-type]
    "headers-list": lambda: Reply(text="x", headers=["X-Mailer"]),  # type: ignore[arg-type]
    "headers-number": lambda: Reply(text="x", headers={"X-Mailer": 42}),  # type: ignore[dict-item]
    "attachments-none": lambda: Reply(text="x", attachments=None),  # type: ignore[arg-type]
    "attachments-text": lambda: Reply(text="x", attachments=["file"]),  # type: ignore[list-item]
    "attachment-text": lambda: Reply(text="x", attachments=[Attachment("a", "text/plain", "text")]),  # type: ignore[arg-type]
    "surrogates": lambda: Reply(text="a \ud800 b", subject="\ud800"),
    "huge-text": lambda: "x" * (11 << 20),
    "huge-file": lambda: Reply(text="x", attachments=[Attachment("a", "text/plain", b"x" * (11 << 20))]),
    "forward-number": lambda: Forward(to=42),  # type: ignore[arg-type]
    "forward-text": lambda: Forward(to="one@far.example"),
    "forward-prefix": lambda: Forward(subject_prefix=42),  # type: ignore[arg-type]
    # what nobody may
    "forbidden-header": lambda: Reply(text="x", headers={"Bcc": "victim@example.net"}),
    "forward-elsewhere": lambda: Forward(to=["victim@example.net"]),
    "inject": lambda: Reply(
        text="hello\r\n.\r\nMAIL FROM:<>\r\n",
        subject=EVIL,
        headers={"X-Mailer": EVIL},
        attachments=[Attachment(EVIL, EVIL, b"data")],
    ),
    # forwards
    "forward": lambda: Forward(),
    "forward-one": lambda: Forward(to=["Two@far.example"]),
}


class Scripted(Agent):
    """Does one of `ACTS`, or one of the few that wait."""

    class Settings(BaseModel):
        does: str = "answer"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.runs = 0

    async def answer(self, mail: Mail) -> Any:
        self.runs += 1
        match self.settings.does:
            case "hang":
                await asyncio.Event().wait()
            case "stubborn":  # is cancelled twice before it ends
                for _ in range(2):
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
                return "too late"
            case "cancel-itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case "once":
                if self.runs == 1:
                    raise ValueError("the first time")
                return f"run {self.runs}"
            case "coroutine":
                return self.answer
            case act:
                return ACTS[act]()
        return None


class Synchronous(Agent):
    """The same in a thread; `block` waits there, for a second."""

    class Settings(BaseModel):
        does: str = "answer"

    def answer(self, mail: Mail) -> Any:
        if self.settings.does == "block":
            threading.Event().wait(1.0)
            return "too late"
        return ACTS[self.settings.does]()


class Personal(Scripted):
    """Answers as a vacation notice does."""

    kind = "personal"
    interval = 7 * 86400.0


class Reader(Scripted):
    """Is run for automatic mail, too."""

    reads_automatic_mail = True


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"scripted": Scripted, "synchronous": Synchronous, "personal": Personal, "reader": Reader}
