"""When a session's time is over and when it is not, and what happens where there is no room: on a real listener, by a clock that
the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from responder.config import Listen
from responder.inbound.limits.budget import HURRY, PATIENCE, PATIENCE_BEFORE
from responder.inbound.listening.listener import SWEEP
from responder.inbound.replies import Reply
from responder.inbound.session import Session
from tests.support.clock import ManualClock
from tests.support.dialog import Front, listening

WAIT = 20.0
LINE = b"x" * 98 + b"\r\n"
TIGHT = {"message_size": 200_000, "in_flight": 400_000}
"""Room for one message that grows, and a little for others: the marks are at 100,000 and 350,000 octets."""


class Client:
    """One client of the front."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> str:
        return (await asyncio.wait_for(self.reader.readline(), WAIT)).decode().rstrip("\r\n")

    async def say(self, text: str) -> str:
        """One command and its last reply line."""
        self.writer.write(text.encode() + b"\r\n")
        while (said := await self.line())[3:4] == "-":
            pass
        return said

    async def begin(self, size: int = 0) -> None:
        """As far as the 354 to DATA."""
        assert (await self.line()).startswith("220 ")
        await self.say("EHLO client.example")
        told = f" SIZE={size}" if size else ""
        assert (await self.say(f"MAIL FROM:<a@example.org>{told}")).startswith("250 ")
        assert (await self.say("RCPT TO:<echo@test.example>")).startswith("250 ")

    async def data(self, size: int = 0) -> None:
        await self.begin(size)
        assert (await self.say("DATA")).startswith("354 ")

    async def ended(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), WAIT) == b""

    def leave(self) -> None:
        """Without a word: a FIN might be a half-close."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connection(front: Front) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.001)


async def pass_time(front: Front, seconds: float) -> None:
    """Let the sweeper look after each of its pauses, as it does in life."""
    while seconds > 0:
        await until(lambda: front.clock.sleeping)
        front.clock.advance(min(SWEEP, seconds))
        seconds -= SWEEP
        for _ in range(3):
            await asyncio.sleep(0)


def session(front: Front) -> Session:
    """The only one."""
    (found,) = front.service.open
    assert isinstance(found, Session)
    return found


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_line_that_comes_octet_by_octet_is_no_progress(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": {"idle": "1m"}}) as front, connection(front) as client:
        await client.line()
        for octet in b"EHLO ":
            client.writer.write(bytes([octet]))
            await pass_time(front, 10)
        await pass_time(front, 15)
        assert await client.line() == "421 4.4.2 Idle for too long, closing the connection"
        assert await client.ended()


async def test_client_that_is_never_between_two_mails_comes_to_an_end_too(tmp_path: Path) -> None:
    """RSET and MAIL in one write: no sweep ever sees it outside of a transaction."""
    async with listening(tmp_path, {"limits": {"session": "10m"}}) as front, connection(front) as client:
        await client.line()
        await client.say("EHLO client.example")
        said = ""
        for _ in range(20):
            client.writer.write(b"RSET\r\nMAIL FROM:<a@example.org>\r\n")
            await client.line()
            said = await client.line()
            if said.startswith("421"):
                break
            await pass_time(front, 60)
        assert said == "421 4.4.2 Session lasts too long, closing the connection"
        assert await client.ended()
        assert front.clock.monotonic() < 1000 + 12 * 60


async def test_message_that_trickles_ends_when_its_transaction_has_lasted_too_long(tmp_path: Path) -> None:
    limits = {"transaction": "5m", "slowest": 10}
    async with listening(tmp_path, {"limits": limits}) as front, connection(front) as client:
        await client.data()
        last = asyncio.create_task(client.line())
        spent = 0
        while not last.done():
            client.writer.write(b"x")  # an octet in 30 s earns 0.1 s
            await pass_time(front, 30)
            spent += 30
            assert spent < 400
        assert last.result() == "421 4.4.2 Transaction lasts too long, closing the connection"
        assert spent >= 300


@pytest.mark.parametrize("begin", ["DATA", "BDAT 999999999999"])
async def test_message_past_its_limit_earns_no_more_time(tmp_path: Path, begin: str) -> None:
    """Nothing of it is kept: else a client that goes on would never come to an end."""
    limits = {"message_size": 10_000, "transaction": "5m", "slowest": 100}
    async with listening(tmp_path, {"limits": limits}) as front, connection(front) as client:
        await client.begin()
        client.writer.write(begin.encode() + b"\r\n")
        last = asyncio.create_task(client.line() if begin != "DATA" else client.reader.readuntil(b"421 4"))
        sent = 0
        while not last.done():
            client.writer.write(LINE * 100)  # a hundred seconds' worth, in thirty
            sent += 10_000
            await until(lambda sent=sent: last.done() or session(front)._received == sent)  # type: ignore[misc]
            await pass_time(front, 30)
            assert sent < 200_000
        assert "421 4" in str(last.result())
        assert sent >= 130_000


async def test_slow_honest_client_gets_through(tmp_path: Path) -> None:
    """25 MB at 16 KB a second: half an hour for one message, in a session of ten minutes."""
    limits = {"idle": "1m", "session": "10m", "transaction": "5m", "slowest": 15_000}
    async with listening(tmp_path, {"limits": limits}) as front, connection(front) as client:
        await client.data(size=26_000_000)
        sent = 0
        while sent < 26_000_000:
            client.writer.write(LINE * 1600)
            sent += 160_000
            await until(lambda sent=sent: session(front)._received == sent)  # type: ignore[misc]
            await pass_time(front, 10)
        assert (await client.say("."))[:4] == "250 "
        assert front.clock.monotonic() > 1000 + 1600


async def test_client_that_thinks_for_four_minutes_gets_through(tmp_path: Path) -> None:
    async with listening(tmp_path, {}) as front, connection(front) as client:
        await client.line()
        for command in ("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<echo@test.example>", "DATA"):
            await pass_time(front, 240)
            assert (await client.say(command))[0] in "23"
        await pass_time(front, 240)
        client.writer.write(b"Subject: x\r\n")
        await pass_time(front, 240)
        assert (await client.say("."))[:4] == "250 "


async def test_client_does_not_read_then_little_is_kept_for_it_and_it_is_closed(tmp_path: Path) -> None:
    limits = {"idle": "1m", "junk_commands": 1_000_000}
    async with listening(tmp_path, {"limits": limits}) as front, connection(front) as client:
        await client.line()
        one = session(front)
        client.writer.write(b"HELP\r\n" * 200_000)  # a reply takes twenty times the command
        await until(lambda: one._write_paused and one._read_paused)
        assert one.transport is not None
        assert one.transport.get_write_buffer_size() < 1 << 20
        assert len(one._buffer) < 1 << 20
        await pass_time(front, 75)
        await until(lambda: not front.service.open)


async def test_what_a_command_waits_for_never_ends_then_the_session_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path, {"limits": {"session": "10m"}}) as front, connection(front) as client:
        broken_off = asyncio.Event()

        async def hang() -> Reply:
            try:
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
            finally:
                broken_off.set()

        monkeypatch.setattr(front.service.handler, "sender", lambda *_: hang())
        await client.line()
        await client.say("EHLO x")
        client.writer.write(b"MAIL FROM:<a@example.org>\r\n")
        await until(lambda: session(front)._waiting)
        await pass_time(front, 590)
        assert not broken_off.is_set()
        await pass_time(front, 20)
        assert (await client.line())[:4] == "451 "
        assert await client.ended()
        assert broken_off.is_set()


def test_sweep_over_ten_thousand_sessions_is_cheap() -> None:
    """It stands in the event loop's way: some milliseconds (the figure is printed), every five seconds."""

    async def sweep() -> float:
        from responder.config import Config
        from responder.inbound.limits.gatekeeper import Gatekeeper
        from responder.inbound.sessions import Sessions

        config, clock = Config(), ManualClock()
        shared = Sessions("mx.test.example", config.limits, Gatekeeper(config.limits, clock), None, clock)  # type: ignore[arg-type]
        profile = shared.profile(Listen())
        for _ in range(10_000):
            one = Session(shared, profile)
            one.envelope = Envelope()
            one.active = clock.monotonic()
            one.ends = one.active + 3600
            shared.open.add(one)
        began = time.perf_counter()
        shared.sweep()
        return time.perf_counter() - began

    from aiosmtpd.smtp import Envelope

    seconds = asyncio.run(sweep())
    print(f"sweep of 10,000 sessions: {seconds * 1000:.1f} ms")
    assert seconds < 0.5


# -- room --------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two(front: Front) -> AsyncIterator[tuple[Client, Client]]:
    """The first has been promised the rest of its room, the second waits."""
    async with connection(front) as first, connection(front) as second:
        await first.data()
        await second.data()
        first.writer.write(LINE * 1200)
        await until(lambda: front.service.budget.used == 120_000)
        second.writer.write(LINE * 700)
        await until(lambda: front.service.budget.crowded)
        yield first, second


async def test_no_room_then_one_waits_and_both_get_through(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": TIGHT | {"idle": "1m"}}) as front, two(front) as (first, second):
        second.writer.write(LINE * 1000 + b".\r\n")
        first.writer.write(LINE * 500)
        await pass_time(front, 25)
        assert front.service.budget.crowded
        assert (await first.say("."))[:4] == "250 "
        assert (await second.line())[:4] == "250 "
        assert front.service.budget.used == front.service.budget.promised == 0


async def test_waiting_for_room_is_not_the_clients_fault(tmp_path: Path) -> None:
    limits = TIGHT | {"idle": "1m", "slowest": 1}
    async with listening(tmp_path, {"limits": limits}) as front, two(front) as (first, second):
        (waiting,) = [
            one for one in front.service.open if isinstance(one, Session) and one._place and one._place.waiting
        ]
        began = waiting._began
        for _ in range(20):
            first.writer.write(LINE * 4)
            await pass_time(front, SWEEP)
        assert (await first.say("."))[:4] == "250 "
        assert waiting._began == began + 20 * SWEEP
        await pass_time(front, 50)
        assert (await second.say("."))[:4] == "250 "


async def test_whoever_holds_room_that_others_wait_for_must_not_stand_still(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": TIGHT}) as front, two(front) as (first, second):
        await pass_time(front, HURRY + SWEEP)
        assert (await first.line()).startswith("421 4.4.2 Transaction lasts too long")
        assert await first.ended()
        assert (await second.say("."))[:4] == "250 "


async def test_nobody_waits_then_nobody_is_pushed(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": TIGHT}) as front, connection(front) as client:
        await client.data()
        client.writer.write(LINE * 1200)
        await until(lambda: front.service.budget.used == 120_000)
        await pass_time(front, 240)
        assert (await client.say("."))[:4] == "250 "


async def test_waited_for_too_long_then_the_message_is_refused_at_its_end_and_the_session_goes_on(
    tmp_path: Path,
) -> None:
    async with listening(tmp_path, {"limits": TIGHT | {"slowest": 1}}) as front, two(front) as (first, second):
        second.writer.write(LINE * 1000)
        for _ in range(int(PATIENCE // SWEEP) + 1):
            first.writer.write(LINE * 4)
            await pass_time(front, SWEEP)
        assert not front.service.budget.crowded
        assert await second.say(".") == "452 4.3.1 No room now, try again later"
        assert (await second.say("NOOP"))[:4] == "250 "
        assert (await first.say("."))[:4] == "250 "
        assert front.service.budget.used == 0


async def test_chunks_wait_and_are_refused_like_any_message(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": TIGHT | {"slowest": 1}}) as front, connection(front) as first:
        async with connection(front) as second:
            await first.data()
            first.writer.write(LINE * 1200)
            await until(lambda: front.service.budget.used == 120_000)
            await second.begin()
            second.writer.write(b"BDAT 70000\r\n" + LINE * 700)
            assert (await second.line())[:4] == "250 "
            assert front.service.budget.used == 190_000
            assert front.service.budget.crowded
            second.writer.write(b"BDAT 100 LAST\r\n" + LINE)
            for _ in range(int(PATIENCE // SWEEP) + 1):
                first.writer.write(LINE * 4)
                await pass_time(front, SWEEP)
            assert await second.line() == "452 4.3.1 No room now, try again later"
            assert (await second.say("NOOP"))[:4] == "250 "
        first.leave()
        await until(lambda: front.service.budget.used == 0)


async def test_small_chunks_in_one_write_hold_what_they_are_and_no_more(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": TIGHT}) as front, connection(front) as client:
        await client.begin()
        client.writer.write((b"BDAT 300\r\n" + LINE * 3) * 200)
        for _ in range(200):
            assert (await client.line())[:4] == "250 "
        assert front.service.budget.used == 60_000
        assert (await client.say("BDAT 0 LAST"))[:4] == "250 "
        assert front.service.budget.used == 0


async def test_big_mail_that_says_so_waits_before_its_first_octet(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, {"limits": TIGHT}) as front,
        two(front) as (first, second),
        connection(front) as third,
    ):
        await third.begin(size=100_000)
        third.writer.write(b"DATA\r\n")
        await until(lambda: len(front.service.budget._queue) == 2)
        assert (await first.say("."))[:4] == "250 "
        assert (await second.say("."))[:4] == "250 "
        assert (await third.line())[:4] == "354 "
        third.writer.write(LINE * 1000)
        assert (await third.say("."))[:4] == "250 "


async def test_big_mail_waits_in_vain_then_it_is_put_off(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, {"limits": TIGHT | {"slowest": 1}}) as front,
        two(front) as (first, _),
        connection(front) as third,
        connection(front) as fourth,
    ):
        await third.begin(size=100_000)
        third.writer.write(b"DATA\r\n")
        await until(lambda: len(front.service.budget._queue) == 2)
        for _ in range(int(PATIENCE_BEFORE // SWEEP) + 1):
            first.writer.write(LINE * 4)
            await pass_time(front, SWEEP)
        assert await third.line() == "452 4.3.1 No room now, try again later"
        assert (await third.say("RSET"))[:4] == "250 "
        await fourth.line()
        await fourth.say("EHLO x")
        # Others wait for long: whoever comes now with as much is told at once.
        assert (await fourth.say("MAIL FROM:<a@example.org> SIZE=100000"))[:4] == "452 "
        assert (await fourth.say("MAIL FROM:<a@example.org> SIZE=1000"))[:4] == "250 "


async def test_client_vanishes_then_what_it_held_is_free(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": TIGHT}) as front, two(front) as (first, second):
        async with connection(front) as third:
            await third.begin(size=100_000)
            third.writer.write(b"DATA\r\n")
            await until(lambda: len(front.service.budget._queue) == 2)
            third.leave()
            await until(lambda: len(front.service.budget._queue) == 1)
        second.leave()  # nobody reads from it: it is found out when its turn comes
        first.leave()
        await until(lambda: not front.service.open)
        budget = front.service.budget
        assert (budget.used, budget.promised, budget.crowded) == (0, 0, False)


async def test_client_vanishes_behind_the_dot_then_its_room_is_free_when_the_mail_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path, {}) as front, connection(front) as client:
        reached, opened = asyncio.Event(), asyncio.Event()
        accept = front.store.accept

        async def slow(mail: Any) -> None:
            reached.set()
            await opened.wait()
            await accept(mail)

        monkeypatch.setattr(front.store, "accept", slow)
        await client.data()
        client.writer.write(LINE * 10 + b".\r\n")
        await asyncio.wait_for(reached.wait(), WAIT)
        client.leave()
        await until(lambda: not front.service.open)
        assert front.service.budget.used >= 1000
        opened.set()
        await until(lambda: front.service.budget.used == 0)


@pytest.mark.parametrize("end", ["RSET", "QUIT", "EHLO x"])
async def test_transaction_is_given_up_between_chunks_then_its_room_is_free(tmp_path: Path, end: str) -> None:
    async with listening(tmp_path, {}) as front, connection(front) as client:
        await client.begin()
        client.writer.write(b"BDAT 10000\r\n" + LINE * 100)
        assert (await client.line())[:4] == "250 "
        assert front.service.budget.used == 10_000
        await client.say(end)
        await until(lambda: front.service.budget.used == 0)


async def test_message_past_its_limit_holds_nothing(tmp_path: Path) -> None:
    async with listening(tmp_path, {"limits": TIGHT}) as front, connection(front) as client:
        await client.data()
        client.writer.write(LINE * 3000)
        await until(lambda: session(front)._received == 300_000)
        assert front.service.budget.used == 0
        assert (await client.say("."))[:4] == "552 "


@pytest.mark.parametrize("octets", [1001, 65_536, 1 << 20])
async def test_long_lines_of_real_mail_are_taken(tmp_path: Path, octets: int) -> None:
    async with listening(tmp_path, {}) as front, connection(front) as client:
        await client.data()
        client.writer.write(b"Subject: x\r\n\r\n" + b"x" * (octets - 2) + b"\r\n")
        assert (await client.say("."))[:4] == "250 "
        (item,) = await front.store.items()
        assert (await front.store.content(item.id.partition(".")[0])).endswith(
            b"\r\n\r\n" + b"x" * (octets - 2) + b"\r\n"
        )
