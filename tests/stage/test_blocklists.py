"""DNS blocklists: a name server on the loopback answers for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.inbound.limits import blocklists as module
from responder.inbound.limits.blocklists import Blocklists
from responder.intake.stage import Intake
from tests.support.clock import ManualClock
from tests.support.dialog import Front, listening
from tests.support.dns_server import DNSServer, Zone

WAIT = 20.0
ZONE: Zone = {
    "99.2.0.192.one.example": {"A": ["127.0.0.2"]},
    "98.2.0.192.two.example": {"A": ["127.0.0.4"]},
    "99.2.0.192.two.example": {"A": ["127.0.0.4"]},
    "1.0.0.127.one.example": {"A": ["127.0.0.2"]},
    "97.2.0.192.one.example": {"A": ["127.255.255.254"]},
    "96.2.0.192.one.example": {"A": ["203.0.113.1"]},
    "95.2.0.192.one.example": "SERVFAIL",
    "94.2.0.192.one.example": "TIMEOUT",
    "94.2.0.192.two.example": {"A": ["127.0.0.4"]},
    "93.2.0.192.one.example": {"A": ["127.255.255.255", "127.0.0.9"]},
    f"{'.'.join(reversed('20010db8000000000000000000000001'))}.one.example": {"A": ["127.0.0.2"]},
}
SILENT: Zone = {"1.0.0.127.one.example": "TIMEOUT"}


@dataclass
class Asker:
    """Blocklists with the name server that they ask."""

    lists: Blocklists
    server: DNSServer
    clock: ManualClock

    async def __call__(self, peer: str) -> str | None:
        task = self.lists.ask(peer)
        return None if task is None else await asyncio.wait_for(asyncio.shield(task), WAIT)


@contextlib.asynccontextmanager
async def asking(*zones: str, timeout: float = WAIT, give_up: float = 1.0) -> AsyncIterator[Asker]:
    """`timeout` (seconds) is that of the lists, `give_up` that of the resolver beneath."""
    async with DNSServer(dict(ZONE)) as server:
        resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=give_up)
        clock = ManualClock()
        try:
            yield Asker(Blocklists(zones, timeout, resolver, clock), server, clock)
        finally:
            await resolver.close()


@pytest.mark.parametrize(
    ("peer", "zone"),
    [
        ("192.0.2.99", "one.example"),  # in both: the first of the configuration is named
        ("192.0.2.98", "two.example"),
        ("192.0.2.1", ""),
        ("::ffff:192.0.2.99", "one.example"),
        ("2001:db8::1", "one.example"),
        ("2001:db8::2", ""),
        ("192.0.2.97", ""),
        ("192.0.2.96", ""),
        ("192.0.2.95", ""),
        ("192.0.2.93", "one.example"),
        ("", None),
    ],
)
async def test_address_is_listed_by_what_its_zones_answer(peer: str, zone: str | None) -> None:
    async with asking("one.example", "two.example") as ask:
        assert await ask(peer) == zone


async def test_codes_that_are_not_asked_for_list_nobody() -> None:
    async with asking("one.example=127.0.0.3-9", "two.example=127.0.0.4") as ask:
        assert await ask("192.0.2.99") == "two.example"
        assert ask.server.queries["99.2.0.192.one.example", "A"] == 1


async def test_zone_without_an_answer_in_time_lists_nobody_and_spoils_nothing() -> None:
    async with asking("one.example", "two.example", timeout=0.3, give_up=30) as ask:
        assert await ask("192.0.2.94") == "two.example"


async def test_trouble_with_a_zone_is_told_once_in_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "event", lambda name, **fields: told.append({"event": name, **fields}))
    async with asking("one.example") as ask:
        for _ in range(3):
            await ask("192.0.2.97")
            await ask("192.0.2.95")
        assert [(entry["event"], entry["zone"]) for entry in told] == [("blocklist failed", "one.example")]
        assert told[0]["reason"] == "answers 127.255.255.254, which lists nobody"
        ask.clock.advance(3600)
        await ask("192.0.2.95")
        assert len(told) == 2


async def test_questions_are_bounded_and_clients_of_one_address_share_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    monkeypatch.setattr(module, "WAITING", 10)
    running = most = 0

    class Slow:
        async def ipv4(self, name: str) -> list[str]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return ["127.0.0.2"]

    lists = Blocklists(["one.example", "two.example"], WAIT, Slow(), ManualClock())  # type: ignore[arg-type]
    tasks = [lists.ask(f"192.0.2.{number}") for number in range(15)]
    assert [task is None for task in tasks] == [False] * 10 + [True] * 5
    assert lists.ask("192.0.2.3") is tasks[3]
    assert [await task for task in tasks if task is not None] == ["one.example"] * 10
    assert most == 3
    assert lists._asked == {}


# -- in a session ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def guarded(
    folder: Path, zone: Zone | None = None, *, trusted: tuple[str, ...] = (), timeout: float = WAIT
) -> AsyncIterator[tuple[Front, DNSServer]]:
    """A front whose policy asks about 127.0.0.1, where the tests' clients are."""
    settings = {"authentication": {"trusted_networks": list(trusted)}}
    async with listening(folder, settings) as front, DNSServer({**ZONE, **(zone or {})}) as server:
        resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=30)
        lists = Blocklists(["one.example"], timeout, resolver, front.clock)
        intake = front.service.handler
        assert isinstance(intake, Intake) and intake.policy is not None
        intake.policy._blocklists = lists
        try:
            yield front, server
        finally:
            await resolver.close()


async def line(reader: asyncio.StreamReader) -> str:
    return (await asyncio.wait_for(reader.readline(), WAIT)).decode().rstrip("\r\n")


async def test_listed_client_is_greeted_and_refused_at_mail(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (front, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"HELO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo@test.example>\r\nMAIL FROM:<>\r\nQUIT\r\n")
        assert [await line(reader) for _ in range(6)] == [
            "220 mx.test.example ESMTP",
            "250 mx.test.example",
            "554 5.7.1 Your address is listed by one.example",
            "503 5.5.1 Say MAIL first",
            "554 5.7.1 Your address is listed by one.example",
            "221 2.0.0 Bye",
        ]
        assert server.queries["1.0.0.127.one.example", "A"] == 1
        writer.close()


async def test_greeting_does_not_wait_for_the_lists_and_mail_does(tmp_path: Path) -> None:
    async with guarded(tmp_path, SILENT) as (front, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"HELO x\r\nNOOP\r\nMAIL FROM:<a@example.org>\r\n")
        assert [(await line(reader))[:3] for _ in range(3)] == ["220", "250", "250"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        other, writing = await asyncio.open_connection("127.0.0.1", front.port)  # nobody else waits
        writing.write(b"HELO x\r\nRSET\r\n")
        assert [(await line(other))[:3] for _ in range(3)] == ["220", "250", "250"]
        writer.close()
        writing.close()


async def test_list_that_does_not_answer_lets_pass(tmp_path: Path) -> None:
    async with guarded(tmp_path, SILENT, timeout=0.2) as (front, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"HELO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo@test.example>\r\n")
        assert [(await line(reader))[:3] for _ in range(4)] == ["220", "250", "250", "250"]
        writer.close()


async def test_trusted_network_is_not_asked_about(tmp_path: Path) -> None:
    async with guarded(tmp_path, trusted=("127.0.0.0/8",)) as (front, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"HELO x\r\nMAIL FROM:<a@example.org>\r\n")
        assert [(await line(reader))[:3] for _ in range(3)] == ["220", "250", "250"]
        assert not server.queries
        writer.close()


async def test_who_has_logged_in_is_not_refused(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (front, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        assert (await line(reader)).startswith("220 ")
        [session] = front.service.open
        session.user = "ann"  # type: ignore[attr-defined]  # as AUTH does
        writer.write(b"HELO x\r\nMAIL FROM:<a@example.org>\r\n")
        assert [(await line(reader))[:3] for _ in range(2)] == ["250", "250"]
        writer.close()


class Held:
    """A resolver that answers when it is told to."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def ipv4(self, name: str) -> list[str]:
        await self.told.wait()
        return ["127.0.0.2"]


async def test_client_that_leaves_takes_nothing_with_it_that_others_wait_for(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (front, _):
        intake, held = front.service.handler, Held()
        assert isinstance(intake, Intake) and intake.policy is not None
        intake.policy._blocklists = Blocklists(["one.example"], WAIT, held, front.clock)  # type: ignore[arg-type]
        clients = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(2)]
        for reader, writer in clients:
            writer.write(b"HELO x\r\nMAIL FROM:<a@example.org>\r\n")
            assert [(await line(reader))[:3] for _ in range(2)] == ["220", "250"]
        linger = struct.pack("ii", 1, 0)
        clients[0][1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        clients[0][1].transport.abort()
        async with asyncio.timeout(WAIT):
            while len(front.service.open) > 1:
                await asyncio.sleep(0.001)
        held.told.set()
        assert (await line(clients[1][0])).startswith("554 5.7.1")
        clients[1][1].close()
