"""What one client may cost: limits of connections, rates and time, on a real listener, by a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from responder.config import Limits
from responder.inbound.listener import SWEEP
from tests.support.dialog import Front, listening

WAIT = 20.0
ENVELOPE = b"HELO client.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo@test.example>\r\nDATA\r\n"


@contextlib.asynccontextmanager
async def connection(front: Front) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def line(reader: asyncio.StreamReader) -> str:
    return (await asyncio.wait_for(reader.readline(), WAIT)).decode().rstrip("\r\n")


async def ended(reader: asyncio.StreamReader) -> bool:
    return await asyncio.wait_for(reader.read(), WAIT) == b""


async def gone(front: Front) -> None:
    """Until the server has noticed that its clients left."""
    async with asyncio.timeout(WAIT):
        while front.service.open:
            await asyncio.sleep(0.001)


async def greeting(front: Front) -> str:
    async with connection(front) as (reader, _):
        said = await line(reader)
    await gone(front)
    return said


async def test_connections_past_the_limit_of_an_address_are_put_off(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, {"limits": {"connections_per_ip": 2}}) as front,
        contextlib.AsyncExitStack() as stack,
    ):
        readers = [(await stack.enter_async_context(connection(front)))[0] for _ in range(2)]
        assert [(await line(reader))[:3] for reader in readers] == ["220", "220"]
        async with connection(front) as (reader, _):
            assert await line(reader) == "421 4.7.0 Too many connections, try again later"
            assert await ended(reader)
        await stack.aclose()
        await gone(front)
        assert (await greeting(front)).startswith("220 ")


async def test_connections_that_come_too_fast_are_put_off_until_time_passes(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"connection_rate": "3/1m"}}) as front:
        assert [(await greeting(front))[:3] for _ in range(5)] == ["220"] * 3 + ["421"] * 2
        assert await greeting(front) == "421 4.7.0 Connecting too fast, try again later"
        front.clock.advance(60)
        assert (await greeting(front)).startswith("220 ")


async def test_guesser_of_names_is_put_off_at_his_next_connection_too(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"unknown_recipients": "2/2m"}}) as front:
        async with connection(front) as (reader, writer):
            writer.write(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@test.example>\r\nRCPT TO:<y@test.example>\r\nNOOP\r\n")
            codes = [(await line(reader))[:3] for _ in range(6)]
            assert codes == ["220", "250", "250", "550", "550", "421"]
            assert await ended(reader)
        await gone(front)
        assert await greeting(front) == "421 4.7.1 Too many unknown recipients, try again later"
        front.clock.advance(120)
        assert (await greeting(front)).startswith("220 ")


async def test_same_subject_is_put_off_for_everybody(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"same_subject": "2/1m"}}) as front:

        async def send(subject: str) -> str:
            async with connection(front) as (reader, writer):
                writer.write(ENVELOPE)
                for _ in range(5):
                    await line(reader)
                writer.write(f"Subject: {subject}\r\n\r\nx\r\n.\r\n".encode())
                return (await line(reader))[:9]

        assert [await send(subject) for subject in ("win", "Re: win", "Fwd: Re: win", "other")] == [
            "250 2.0.0",
            "250 2.0.0",
            "451 4.7.1",
            "250 2.0.0",
        ]
        front.clock.advance(60)
        assert await send("win") == "250 2.0.0"


# -- time --------------------------------------------------------------------------------------------------------------


async def pass_time(front: Front, seconds: float) -> None:
    """Let the sweeper look after each of its pauses, as it does in life."""
    while seconds > 0:
        async with asyncio.timeout(WAIT):
            while not front.clock.sleeping:
                await asyncio.sleep(0)
        front.clock.advance(min(SWEEP, seconds))
        seconds -= SWEEP
        for _ in range(3):
            await asyncio.sleep(0)


async def test_idle_client_is_let_go(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"idle": "1m"}}) as front, connection(front) as (reader, writer):
        assert (await line(reader)).startswith("220 ")
        await pass_time(front, 50)
        writer.write(b"NOOP\r\n")
        assert await line(reader) == "250 2.0.0 Ok"
        await pass_time(front, 50)
        writer.write(b"NOOP\r\n")
        assert await line(reader) == "250 2.0.0 Ok"
        await pass_time(front, 65)
        assert await line(reader) == "421 4.4.2 Idle for too long, closing the connection"
        assert await ended(reader)


@pytest.mark.parametrize("trickle", [b"N", b"NOOP\r\n"])
async def test_slow_trickle_does_not_live_for_ever(tmp_path: Path, trickle: bytes) -> None:
    limits = {"idle": "1m", "session": "10m"}
    async with listening(tmp_path, {"limits": limits}) as front, connection(front) as (reader, writer):
        assert (await line(reader)).startswith("220 ")
        for _ in range(19):
            writer.write(trickle)
            await pass_time(front, 30)
            if trickle.endswith(b"\n"):
                assert await line(reader) == "250 2.0.0 Ok"
        await pass_time(front, 40)
        assert await line(reader) == "421 4.4.2 Session lasts too long, closing the connection"
        assert await ended(reader)


async def test_client_that_stops_in_the_middle_of_a_message_is_let_go(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"idle": "1m"}}) as front, connection(front) as (reader, writer):
        writer.write(ENVELOPE + b"Subject: x\r\n")
        for _ in range(5):
            await line(reader)
        await pass_time(front, 70)
        assert (await line(reader)).startswith("421 4.4.2 ")
        assert await ended(reader)


async def test_store_that_is_slow_is_not_the_clients_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(tmp_path, {"limits": {"idle": "1m"}}) as front, connection(front) as (reader, writer):
        reached, opened = asyncio.Event(), asyncio.Event()
        accept = front.store.accept

        async def slow(mail: Any) -> None:
            reached.set()
            await opened.wait()
            await accept(mail)

        monkeypatch.setattr(front.store, "accept", slow)
        writer.write(ENVELOPE)
        for _ in range(5):
            await line(reader)
        writer.write(b"x\r\n.\r\n")
        await asyncio.wait_for(reached.wait(), WAIT)
        await pass_time(front, 300)
        opened.set()
        assert (await line(reader)).startswith("250 2.0.0 Queued as ")


# -- reload and drain --------------------------------------------------------------------------------------------------


async def test_new_limits_hold_for_sessions_that_are_open(tmp_path: Path) -> None:
    async with listening(tmp_path, {}) as front, connection(front) as (reader, writer):
        assert (await line(reader)).startswith("220 mx.test.example")
        front.service.follow("mx2.test.example", Limits(message_size=1000))
        writer.write(b"EHLO x\r\n")
        said = [await line(reader) for _ in range(7)]
        assert said[0] == "250-mx2.test.example"
        assert "250-SIZE 1000" in said
        writer.write(b"MAIL FROM:<a@example.org> SIZE=1001\r\n")
        assert (await line(reader)).startswith("552 5.3.4 ")


async def test_drain_says_421_to_the_idle_and_lets_a_message_end(tmp_path: Path) -> None:
    async with listening(tmp_path, {}) as front, connection(front) as idle, connection(front) as busy:
        assert (await line(idle[0])).startswith("220 ")
        busy[1].write(ENVELOPE + b"Subject: x\r\n")
        for _ in range(5):
            await line(busy[0])
        draining = asyncio.create_task(front.listener.drain(60))
        assert await line(idle[0]) == "421 4.3.2 Shutting down, try again later"
        assert await ended(idle[0])
        busy[1].write(b"\r\nx\r\n.\r\nMAIL FROM:<b@example.org>\r\n")
        assert (await line(busy[0])).startswith("250 2.0.0 Queued as ")
        assert await line(busy[0]) == "421 4.3.2 Shutting down, try again later"
        assert await ended(busy[0])
        async with asyncio.timeout(WAIT):
            while not draining.done():
                front.clock.advance(0.02)
                await asyncio.sleep(0)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", front.port)


async def test_drain_waits_no_longer_than_it_was_told_to(tmp_path: Path) -> None:
    async with listening(tmp_path, {}) as front, connection(front) as (reader, writer):
        writer.write(ENVELOPE + b"Subject: x\r\n")
        for _ in range(5):
            await line(reader)
        draining = asyncio.create_task(front.listener.drain(10))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not draining.done()
        async with asyncio.timeout(WAIT):
            while not draining.done():
                front.clock.advance(0.1)
                await asyncio.sleep(0)
        assert await line(reader) == "421 4.3.2 Shutting down, try again later"
        assert await ended(reader)
