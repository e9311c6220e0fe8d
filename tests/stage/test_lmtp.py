"""LMTP where a conversation in a file can't show it: replies that differ, a stage that fails, TLS (RFC 2033)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from responder.config import TLS
from responder.inbound import replies
from responder.inbound.replies import Reply
from responder.inbound.roles import Transaction
from responder.inbound.tls import Certificate
from responder.mail.lifecycle import State
from responder.store.base import StoreUnavailableError
from tests.support.dialog import Front, listening

WAIT = 20.0
LMTP = {"protocol": "lmtp"}
RECIPIENTS = ("echo", "bob", "ECHO", "team-a")


class Client:
    """One connection that says whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> str:
        """The last line of the next reply."""
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), WAIT)).decode().rstrip("\r\n")
            if line[3:4] != "-":
                return line

    async def say(self, *lines: str) -> str:
        """Write them all; the reply to the last one."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        return [await self.reply() for _ in lines][-1]

    async def mail(self) -> list[str]:
        """A mail to all recipients, and what is said behind the dot."""
        rcpts = [f"RCPT TO:<{name}@test.example>" for name in RECIPIENTS]
        assert (await self.say("LHLO c.example", "MAIL FROM:<a@example.org>", *rcpts, "DATA")).startswith("354")
        self.writer.write(b"hello\r\n.\r\n")
        return [await self.reply() for _ in RECIPIENTS]


@contextlib.asynccontextmanager
async def client_of(front: Front) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    client = Client(reader, writer)
    try:
        assert await client.reply() == "220 mx.test.example LMTP"
        yield client
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_replies_when_they_differ_then_each_recipient_has_its_own_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def message(session: Transaction, content: bytes) -> dict[str, Reply]:
        return {
            "team-a@test.example": replies.STORE_FULL,
            "bob@test.example": Reply(550, "5.2.1", "Not bob"),
            "echo@test.example": replies.queued("1"),
            "ECHO@test.example": replies.queued("1"),
        }

    async with listening(tmp_path, {}, LMTP) as front, client_of(front) as client:
        monkeypatch.setattr(front.service.handler, "message", message)
        said = await client.mail()
        assert said == [
            "250 2.0.0 Queued as 1",
            "550 5.2.1 Not bob",
            "250 2.0.0 Queued as 1",
            replies.STORE_FULL.line.decode()[:-2],
        ]
        assert await client.say("NOOP") == "250 2.0.0 Ok"


@pytest.mark.parametrize("error", [RuntimeError("our own mistake"), StoreUnavailableError("the disk is gone")])
async def test_replies_when_the_stage_fails_then_every_recipient_is_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def accept(*_: object) -> None:
        raise error

    async with listening(tmp_path, {}, LMTP) as front, client_of(front) as client:
        monkeypatch.setattr(front.store, "accept", accept)
        assert {reply[:9] for reply in await client.mail()} == {"451 4.3.0"}
        assert await client.say("NOOP") == "250 2.0.0 Ok"


async def test_message_when_the_client_leaves_behind_the_dot_then_it_is_stored_once(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, LMTP) as front:
        async with client_of(front) as client:
            rcpts = [f"RCPT TO:<{name}@test.example>" for name in RECIPIENTS]
            await client.say("LHLO c.example", "MAIL FROM:<a@example.org>", *rcpts, "DATA")
            client.writer.write(b"hello\r\n.\r\n")
            await client.writer.drain()
        async with asyncio.timeout(WAIT):
            while len(await front.store.items([State.RECEIVED])) < 3:
                await asyncio.sleep(0.01)
        items = await front.store.items([State.RECEIVED])
    assert sorted(item.recipient for item in items) == ["bob@test.example", "echo@test.example", "team-a@test.example"]


async def test_tls_when_it_begins_then_lhlo_is_said_again_and_the_mail_came_by_lmtps(tmp_path: Path) -> None:
    authority = trustme.CA()
    chain = tmp_path / "chain.pem"
    authority.issue_cert("mx.test.example").private_key_and_cert_chain_pem.write_to_path(chain)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with listening(tmp_path, {}, LMTP) as front:
        front.service.certificate = Certificate(TLS(certificate=chain, key=chain), front.clock)
        front.service.follow(front.service.hostname, front.service.limits)
        async with client_of(front) as client:
            await client.say("LHLO c.example")
            assert (await client.say("STARTTLS")).startswith("220 ")
            await client.writer.start_tls(context, server_hostname="mx.test.example")
            assert (await client.say("EHLO c.example")).startswith("500 5.5.1 ")
            assert (await client.say("MAIL FROM:<a@example.org>")).startswith("503 5.5.1 ")
            assert {reply[:3] for reply in await client.mail()} == {"250"}
        item, *_ = await front.store.items([State.RECEIVED])
        assert b" with LMTPS (TLSv1.3 " in await front.store.content(item.id.partition(".")[0])
