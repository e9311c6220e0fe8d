"""What one client may cost: limits of connections, rates and time, on a real listener, by a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from responder.config import Limits
from responder.inbound.limits.denied import DenyList
from responder.inbound.listening.listener import SWEEP
from responder.store.base import StoreFullError
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


# -- guessing of names -------------------------------------------------------------------------------------------------


async def guesser(front: Front, stack: contextlib.AsyncExitStack, names: int) -> asyncio.StreamReader:
    """A client that has pipelined so many unknown recipients, as far as the reply to MAIL."""
    reader, writer = await stack.enter_async_context(connection(front))
    guesses = b"".join([b"RCPT TO:<guess-%d@test.example>\r\n" % number for number in range(names)])
    writer.write(b"HELO x\r\nMAIL FROM:<>\r\n" + guesses)
    assert [(await line(reader))[:3] for _ in range(3)] == ["220", "250", "250"]
    return reader


async def asleep(front: Front, sleepers: int) -> None:
    """Until so many sessions are held back: the sweep sleeps, too."""
    async with asyncio.timeout(WAIT):
        while front.clock.sleeping < sleepers + 1:
            await asyncio.sleep(0.001)


async def test_guesses_are_held_back_and_good_clients_of_the_address_are_not(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, {"limits": {"tarpit": "5s"}}) as front,
        contextlib.AsyncExitStack() as stack,
    ):
        guessers = [await guesser(front, stack, 1) for _ in range(40)]
        await asleep(front, 40)
        assert len(asyncio.all_tasks()) < 40 + 20  # one for each that is held back, and the test's own
        async with connection(front) as (reader, writer):
            writer.write(ENVELOPE + b"Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n")
            assert [(await line(reader))[:3] for _ in range(7)] == ["220", "250", "250", "250", "354", "250", "221"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(guessers[0].read(1), 0.02)
        front.clock.advance(5)
        assert [await line(reader) for reader in guessers] == ["550 5.1.1 No such inbox here"] * 40


async def test_guesses_over_many_connections_wait_as_long_as_over_one(tmp_path: Path) -> None:
    """They are counted at once, not when their replies leave."""
    settings = {"limits": {"tarpit": "1h", "unknown_recipients": "10/2m"}}
    async with listening(tmp_path, settings) as front, contextlib.AsyncExitStack() as stack:
        readers = [await guesser(front, stack, 1) for _ in range(10)]
        await asleep(front, 10)
        assert await greeting_now(front) == "421 4.7.1 Too many unknown recipients, try again later"
        front.clock.advance(0.1 * 2**9 - 0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(readers[-1].read(1), 0.02)
        front.clock.advance(0.02)
        assert await line(readers[-1]) == "550 5.1.1 No such inbox here"
        assert await line(readers[-1]) == "421 4.7.1 Too many unknown recipients, try again later"
        assert await ended(readers[-1])


async def greeting_now(front: Front) -> str:
    """What a new client is told, while others stay."""
    async with connection(front) as (reader, _):
        return await line(reader)


async def test_guesser_who_vanishes_is_forgotten_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"tarpit": "1h"}}) as front, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            reader, writer = await stack.enter_async_context(connection(front))
            writer.write(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<guess@test.example>\r\n")
            for _ in range(3):
                await line(reader)
            linger = struct.pack("ii", 1, 0)  # with a RST, as who just left may still want to know
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await asleep(front, 1)
            writer.transport.abort()
        await gone(front)
        assert front.clock.sleeping <= 1


async def test_drain_does_not_wait_for_who_is_held_back(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"tarpit": "1h"}}) as front, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            async with asyncio.timeout(WAIT):
                reader = await guesser(front, stack, 20)
        await asleep(front, 3)
        draining = asyncio.create_task(front.listener.drain(5))
        async with asyncio.timeout(WAIT):
            while not draining.done():
                front.clock.advance(0.02)
                await asyncio.sleep(0)
        assert not front.service.busy
        assert (await line(reader)).startswith(("550 ", "421 "))


# -- mails of one address, and who is denied ---------------------------------------------------------------------------


async def test_mails_of_an_address_are_put_off_until_time_passes(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"message_rate": "2/2m"}}) as front:

        async def send() -> list[str]:
            async with connection(front) as (reader, writer):
                writer.write(ENVELOPE.replace(b"DATA\r\n", b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"))
                await line(reader)
                await line(reader)
                said = await line(reader)
            return [said[:9]]

        assert [await send() for _ in range(3)] == [["250 2.1.0"], ["250 2.1.0"], ["450 4.7.1"]]
        front.clock.advance(120)
        assert await send() == ["250 2.1.0"]


async def test_deny_list_that_changes_holds_for_the_next_client(tmp_path: Path) -> None:
    path = tmp_path / "deny.txt"
    path.write_text("192.0.2.1\n")
    async with listening(tmp_path, {}) as front:
        front.service.gatekeeper.denied = denied = DenyList((), path)
        front.service.followed = [denied]
        assert (await greeting(front)).startswith("220 ")
        path.write_text("192.0.2.1\n127.0.0.0/8  # whoever it is\n")
        await pass_time(front, SWEEP)
        async with asyncio.timeout(WAIT):
            while "127.0.0.1" not in denied:
                await asyncio.sleep(0.001)
        assert await greeting(front) == "554 5.7.1 No service for your address"


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


async def test_slow_trickle_of_commands_does_not_live_for_ever(tmp_path: Path) -> None:
    limits = {"idle": "1m", "session": "10m"}
    async with listening(tmp_path, {"limits": limits}) as front, connection(front) as (reader, writer):
        assert (await line(reader)).startswith("220 ")
        for _ in range(19):
            writer.write(b"NOOP\r\n")
            await pass_time(front, 30)
            assert await line(reader) == "250 2.0.0 Ok"
        await pass_time(front, 40)
        assert await line(reader) == "421 4.4.2 Session lasts too long, closing the connection"
        assert await ended(reader)


async def test_command_that_trickles_in_octet_by_octet_is_idleness(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"idle": "1m"}}) as front, connection(front) as (reader, writer):
        assert (await line(reader)).startswith("220 ")
        for _ in range(2):
            writer.write(b"N")
            await pass_time(front, 30)
        assert await line(reader) == "421 4.4.2 Idle for too long, closing the connection"
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
        said = [await line(reader)]
        while said[-1].startswith("250-"):
            said.append(await line(reader))
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


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
async def test_drain_is_over_while_a_message_is_stored_then_its_reply_is_the_first(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path, {}, {"protocol": protocol}) as front, connection(front) as (reader, writer):
        reached, opened = asyncio.Event(), asyncio.Event()
        accept = front.store.accept

        async def slow(mail: Any) -> None:
            reached.set()
            await opened.wait()
            await accept(mail)

        monkeypatch.setattr(front.store, "accept", slow)
        writer.write(ENVELOPE.replace(b"HELO", b"LHLO") if protocol == "lmtp" else ENVELOPE)
        while not (await line(reader)).startswith("354 "):
            pass
        writer.write(b"x\r\n.\r\n")
        await asyncio.wait_for(reached.wait(), WAIT)
        draining = asyncio.create_task(front.listener.drain(5))
        await pass_time(front, 10)
        assert not draining.done()
        opened.set()
        assert (await line(reader)).startswith("250 2.0.0 Queued as ")
        assert await line(reader) == "421 4.3.2 Shutting down, try again later"
        assert await ended(reader)
        await asyncio.wait_for(draining, WAIT)


async def test_store_is_full_then_who_tries_mail_after_mail_is_not_cut_off_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path, {"limits": {"junk_commands": 10}}) as front, connection(front) as (reader, writer):

        async def full(mail: Any) -> None:
            raise StoreFullError("no room")

        monkeypatch.setattr(front.store, "accept", full)
        hello, mail = ENVELOPE.split(b"MAIL ")
        writer.write(hello)
        assert [(await line(reader))[:3] for _ in range(2)] == ["220", "250"]
        for _ in range(10):
            writer.write(b"MAIL " + mail + b"x\r\n.\r\n")
            assert [(await line(reader))[:3] for _ in range(4)] == ["250", "250", "354", "452"]
