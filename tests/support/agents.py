"""Plugin files, inboxes and mails for tests of agents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from responder import Agent, Mail
from responder.agents.context import Context
from responder.agents.host import Inbox, build
from responder.agents.load import AgentType, load
from responder.agents.registry import agent_type
from responder.mail.address import Address
from tests.support.clock import ManualClock
from tests.support.memory import MemoryState

RAW = b"From: Ann <ann@client.example>\r\nTo: x@test.example\r\nSubject: Hello\r\n\r\nHow are you?\r\n"

HEADER = "from responder import Agent, Attachment, Forward, Mail, Reply, TryLater, agent, hookimpl\n"


class Plugins:
    """Plugin files in folders of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, source: str) -> Path:
        """A file, `folder/name.py`; the usual imports stand in front unless the source begins with its own."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        source = dedent(source).lstrip("\n")
        path.write_text(source if source.startswith("from __future__") else HEADER + source)
        return path

    def load(self, *folders: str) -> dict[str, AgentType]:
        return load([self.folder / name for name in folders or ("own",)])


def mail(raw: bytes = RAW) -> Mail:
    return Mail(
        raw, id="0" * 18 + ".0", inbox="x", recipient=Address("x+tag", "test.example"), sender="ann@client.example"
    )


def inbox(thing: Any, timeout: float = 10.0) -> Inbox:
    """An inbox whose agent is that function, or that object with an `answer`."""
    kind = agent_type("x", type(thing) if isinstance(thing, Agent) else thing, "here", "")
    agent = thing if isinstance(thing, Agent) else kind.build(kind.settings())
    agent.context = Context("x", MemoryState(clock := ManualClock()), clock)
    return Inbox("x", kind, agent, "service", 0.0, timeout)


def loaded(agents: dict[str, AgentType], name: str, **settings: Any) -> Inbox:
    kind, built = build("x", agents, name, settings)
    built.context = Context("x", MemoryState(clock := ManualClock()), clock)
    return Inbox("x", kind, built, kind.kind, kind.interval, 10.0, kind.isolated, settings=settings, agents=agents)


def returning(value: object) -> Callable[[Mail], Any]:
    async def answer(mail: Mail) -> object:
        return value

    return answer


def raising(error: BaseException) -> Callable[[Mail], Any]:
    async def answer(mail: Mail) -> None:
        raise error

    return answer


def raising_in_thread(error: BaseException) -> Callable[[Mail], Any]:
    def answer(mail: Mail) -> None:
        raise error

    return answer
