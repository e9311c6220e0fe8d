"""One stage at a time, with a real store: a desk where mails are put and turns are taken by hand."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from responder.agents.host import Host
from responder.agents.load import load
from responder.answering.setup import equip, set_up
from responder.answering.stage import Answering
from responder.config import Config
from responder.delivery.stage import Delivery
from responder.mail.lifecycle import State
from responder.mail.status import Outcome
from responder.outbound.base import Envelope, RecipientResult
from responder.store.records import NewMail, OutboundItem
from responder.store.sqlite import SQLiteStore
from responder.worker import Lease
from tests.support.clock import ManualClock
from tests.support.server import ROOT
from tests.support.stores import claim_out

PLUGINS = ROOT / "tests" / "support" / "plugins"
QUIET = {"per_sender": "off", "per_conversation": "off", "per_inbox": "off"}


def configured(inboxes: Mapping[str, Any], **tables: Any) -> Config:
    """A configuration with these inboxes; the value may be the name of what the scripted agent does."""
    full = {
        name: {"agent": "scripted", "settings": {"does": table}} if isinstance(table, str) else table
        for name, table in inboxes.items()
    }
    base: dict[str, Any] = {
        "hostname": "mx.test.example",
        "domains": ["test.example"],
        "plugins": [str(PLUGINS)],
        "inboxes": full,
        "reply": QUIET,
        "answering": {"attempts": 3, "retry": ["10s", "1m"], "timeout": "20s"},
        "delivery": {"retry": ["1m", "5m"], "expire": "1h"},
    }
    return Config.model_validate(base | tables)


class Desk:
    """A store and the answering stage. `clock` is the test's."""

    def __init__(self, path: Path, config: Config, clock: ManualClock) -> None:
        self.clock = clock
        self.store = SQLiteStore(path, clock)
        self.host = Host(4)
        self.setup = set_up(config, load(config.plugins))
        equip(self.setup, self.store, clock)
        self.stage = Answering(self.setup, self.store, self.host, clock)

    async def put(
        self,
        inbox: str = "echo",
        sender: str = "a@example.org",
        *fields: str,
        message_id: str = "",
        recipients: tuple[str, ...] = (),
    ) -> str:
        """Store a mail to that inbox; its (first) item. `fields` come on top of From, To and Subject."""
        to = tuple(f"{name}@test.example" for name in (inbox, *recipients))
        lines = [f"From: {sender or 'Mailer <daemon@example.org>'}", f"To: {', '.join(to)}", "Subject: hello", *fields]
        if message_id:
            lines.append(f"Message-ID: {message_id}")
        mail = NewMail(
            id=self.clock.new_id(),
            received_at=self.clock.now(),
            reverse_path=sender,
            peer="192.0.2.1",
            helo="client.example",
            message_id=message_id,
            content="\r\n".join([*lines, "", "hello", ""]).encode(),
            recipients=tuple((address, address.partition("@")[0]) for address in to),
        )
        await self.store.accept(mail)
        return f"{mail.id}.0"

    async def turn(self, limit: int = 100) -> list[str]:
        """Answer what is due, one after the other; the ids."""
        items, _ = await self.stage.claim("w1", limit)
        for item in items:
            await self.stage.settle(item, await self.stage.handle(item))
        return [item.id for item in items]

    async def turn_together(self, limit: int = 100) -> None:
        """The same, with all agents run before the first answer is stored: none knows of another."""
        items, _ = await self.stage.claim("w1", limit)
        for item, settlement in [(item, await self.stage.handle(item)) for item in items]:
            await self.stage.settle(item, settlement)

    async def leaving(self) -> list[OutboundItem]:
        """What waits to leave, claimed."""
        return await claim_out(self.store, "post")

    async def end(self, item: str) -> tuple[State, str]:
        """Where an item stands, and the last reason that history tells."""
        [view] = [view for view in await self.store.items(list(State)) if view.id == item]
        return view.state, view.reason


@contextlib.asynccontextmanager
async def desk(folder: Path, config: Config, clock: ManualClock | None = None) -> AsyncIterator[Desk]:
    """Open for the length of the block. A second block on the same folder is a restart."""
    it = Desk(folder / "responder.db", config, clock or ManualClock())
    await it.store.open()
    inboxes = list(it.setup.inboxes.values())
    try:
        await it.host.start(inboxes)
        yield it
    finally:
        await it.host.retire(inboxes, 5.0)
        it.host.close()
        await it.store.close()


Script = Callable[[Envelope], Any]


class ScriptedTransport:
    """Does with each message what the script says: returns a result, raises, or waits. Keeps what it was given."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: list[Envelope] = []

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        self.sent.append(envelope)
        result = self.script(envelope)
        if not isinstance(result, RecipientResult):
            result = await result
        return [result] * len(envelope.recipients)

    async def provider(self, domain: str) -> str:
        return domain

    async def close(self) -> None:
        pass


def result(outcome: Outcome, code: int = 0, text: str = "", enhanced: str = "") -> RecipientResult:
    """What a host said."""
    enhanced = enhanced or {Outcome.SUCCESS: "2.0.0", Outcome.TRANSIENT: "4.0.0", Outcome.PERMANENT: "5.0.0"}[outcome]
    return RecipientResult("", outcome, enhanced, code, text, host="mx.far.example", address="192.0.2.25")


DELIVERED = result(Outcome.SUCCESS, 250, "2.0.0 taken")
LATER = result(Outcome.TRANSIENT, 451, "4.3.0 later")
NEVER = result(Outcome.PERMANENT, 550, "5.1.1 nobody here", "5.1.1")


class Post:
    """A store and the delivery stage, with a scripted way out."""

    def __init__(self, path: Path, config: Config, clock: ManualClock, script: Script) -> None:
        self.clock = clock
        self.store = SQLiteStore(path, clock)
        self.transport = ScriptedTransport(script)
        self.lease = Lease(self.store, clock, 30.0, 5)
        self.stage = Delivery(config, self.transport, self.store, self.lease, clock)
        self.stage._pace.pacing = replace(self.stage._pace.pacing, start=100.0)  # nobody is new: see test_pace

    async def turn(self, limit: int = 100) -> list[str]:
        """Renew the lease, then deliver what is due, one after the other; the ids."""
        await self.lease.start()
        parcels, _ = await self.stage.claim(self.lease.token, limit)
        for parcel in parcels:
            await self.stage.settle(parcel, await self.stage.handle(parcel))
        return [item.id for parcel in parcels for item in parcel.items]

    async def end(self, item: str) -> tuple[State, str]:
        """Where an item stands, and the last reason that history tells."""
        [view] = [view for view in await self.store.items(list(State)) if view.id == item]
        return view.state, view.reason


@contextlib.asynccontextmanager
async def post(folder: Path, config: Config, script: Script) -> AsyncIterator[Post]:
    """Open, with a valid lease, for the length of the block."""
    it = Post(folder / "responder.db", config, ManualClock(), script)
    await it.store.open()
    try:
        await it.lease.start()
        yield it
    finally:
        await it.store.close()
