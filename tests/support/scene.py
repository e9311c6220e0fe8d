"""Mails in every state that an operator meets, put into a store step by step as the stages do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from responder.mail.lifecycle import Event
from responder.store.records import NewMail, NewOutbound, Settlement
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.operator import Operator
from tests.support.stores import claim_out

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
"""Clears the screen, sets the title, colours (as 8-bit CSI too), turns the direction of reading."""

SAFE = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]*")


LETTER = (
    b"From: Ann <ann@client.example>\nTo: echo@test.example\nSubject: Hi\nMessage-ID: <1@client.example>\n\nHello\n"
)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def with_store(operator: Operator, work: Callable[[SQLiteStore, ManualClock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = ManualClock()
        store = SQLiteStore(operator.folder / "state" / "responder.db", clock)
        await store.open()
        try:
            await work(store, clock)
        finally:
            await store.close()

    asyncio.run(run())


def new_mail(clock: ManualClock, *recipients: str, sender: str = "ann@client.example", **facts: Any) -> NewMail:
    identifier = clock.new_id()
    return NewMail(
        id=identifier,
        received_at=clock.now(),
        reverse_path=sender,
        peer="192.0.2.7",
        helo="client.example",
        message_id=facts.get("message_id", f"<{identifier}@client.example>"),
        content=facts.get("content", b"From: Ann <ann@client.example>\r\nSubject: Hi\r\n\r\nHello\r\n"),
        recipients=tuple((one, one.partition("@")[0]) for one in recipients or ("echo@test.example",)),
        note="from client.example [192.0.2.7] by ESMTP, 53 octets",
    )


class Scene:
    """Some mails: one whose answer was delivered, one silent, one that failed, one whose answer is deferred, one that waits."""

    def __init__(self) -> None:
        self.mails: dict[str, NewMail] = {}
        self.answers: dict[str, str] = {}

    async def build(self, store: SQLiteStore, clock: ManualClock) -> None:
        await store.beat("worker", 60)
        for name in ("delivered", "silent", "failed", "deferred"):
            mail = self.mails[name] = new_mail(clock)
            await store.accept(mail)
            [item], _ = await store.claim_inbound("worker", 1)
            clock.advance(1)
            if name == "silent":
                await store.settle_inbound(item, Settlement(Event.SILENCE, "list-id: List-Id: <x.list.example>"))
                continue
            if name == "failed":
                reason = (
                    "the agent raised ValueError: boom, attempt 1 of 1\nTraceback (most recent call last):\n  File x"
                )
                await store.settle_inbound(item, Settlement(Event.FAIL, reason))
                continue
            identifier = self.answers[name] = clock.new_id()
            answer = NewOutbound(
                id=identifier,
                kind="answer",
                cause=item.id,
                inbox="echo",
                content_id=identifier,
                reverse_path=f"bounces+{identifier}@test.example",
                recipient="ann@client.example",
                domain="client.example",
                return_to="",
                created_at=clock.now(),
                expires_at=clock.now() + 1000,
            )
            content = b"From: echo@test.example\r\nTo: ann@client.example\r\nSubject: Re: Hi\r\n\r\nYou wrote:\r\n"
            settlement = Settlement(Event.ANSWER, "answered by echo", (answer,), ((identifier, content),))
            await store.settle_inbound(item, settlement)
            [sending] = await claim_out(store, "worker", 1)
            if name == "delivered":
                end = Settlement(Event.DELIVER, "250 2.0.0 taken (mx.client.example)")
            else:
                end = Settlement(Event.DEFER, "451 4.3.0 later (mx.client.example)", due_at=clock.now() + 300)
            await store.settle_outbound(sending, end)
        self.mails["waiting"] = new_mail(clock, "echo@test.example", "debug@test.example")
        await store.accept(self.mails["waiting"])
        await store.leave("worker")
