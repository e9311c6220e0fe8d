"""Checks of a test's own before a real listener: `async with guarded(tmp_path, {"name": CheckClass}) as it`, then talk to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from responder.agents.checks import Check
from responder.agents.guards import Guards, build
from responder.agents.registry import CheckType, check_type
from responder.clock import Clock
from responder.config import Check as CheckTable
from responder.intake.checking import Checking
from responder.intake.stage import Intake
from responder.mail.lifecycle import State
from tests.support.clock import ManualClock
from tests.support.dialog import Front, listening
from tests.support.memory import MemoryState

WAIT = 20.0

Given = type[Check] | Callable[..., Any]


def guards(checks: Mapping[str, Given], tables: Mapping[str, Mapping[str, Any]] | None = None) -> Guards:
    """These checks, built, in this order. `tables` are what stands in `[checks.NAME]`."""
    types = {name: check_type(name, thing, "the test", "") for name, thing in checks.items()}
    return made(types, tables)


def made(types: Mapping[str, CheckType], tables: Mapping[str, Mapping[str, Any]] | None = None) -> Guards:
    return Guards([build(name, CheckTable.model_validate((tables or {}).get(name, {})), types) for name in types])


@contextlib.asynccontextmanager
async def started(them: Guards, clock: Clock | None = None) -> AsyncIterator[Guards]:
    """Equipped, started, and stopped behind the block."""
    clock = clock or ManualClock()
    them.equip(lambda name: MemoryState(ManualClock()), clock)
    await them.start()
    try:
        yield them
    finally:
        await them.stop(1.0)


class Talk:
    """One connection to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, *lines: str) -> None:
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())

    async def reply(self) -> str:
        """The next reply, its last line."""
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), WAIT)).decode().rstrip("\r\n")
            if line[3:4] != "-":
                return line

    async def ask(self, *lines: str) -> str:
        """The last reply to these lines."""
        said = ""
        for line in lines:
            self.say(line)
            said = await self.reply()
        return said

    async def greeted(self) -> None:
        assert (await self.reply()).startswith("220 ")
        assert (await self.ask("EHLO client.example")).startswith("250 ")

    async def mail(self, *message: str, sender: str = "a@example.org", to: tuple[str, ...] = ("echo",)) -> str:
        """A whole transaction; the reply to its dot."""
        said = await self.ask(f"MAIL FROM:<{sender}>")
        for name in to:
            said = await self.ask(f"RCPT TO:<{name}@test.example>")
        if not (said := await self.ask("DATA")).startswith("354"):
            return said
        return await self.ask("\r\n".join([*message, "."]))


class Guarded:
    """A listener whose intake asks these checks."""

    def __init__(self, front: Front, them: Guards) -> None:
        self.front = front
        self.guards = them

    @property
    def intake(self) -> Intake:
        return cast(Intake, self.front.service.handler)

    @contextlib.asynccontextmanager
    async def talk(self) -> AsyncIterator[Talk]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.front.port)
        try:
            yield Talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def stored(self) -> list[bytes]:
        """What was taken, oldest first."""
        items = await self.front.store.items([State.RECEIVED])
        mails = sorted({item.id.partition(".")[0] for item in items})
        return [await self.front.store.content(mail) for mail in mails]


@contextlib.asynccontextmanager
async def guarded(
    folder: Path,
    checks: Mapping[str, Given],
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    settings: dict[str, Any] | None = None,
) -> AsyncIterator[Guarded]:
    """For the length of the block."""
    async with listening(folder, settings or {}) as front, started(guards(checks, tables), front.clock) as them:
        it = Guarded(front, them)
        it.intake.checks = Checking(them)
        yield it
