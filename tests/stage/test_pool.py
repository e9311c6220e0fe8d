"""Kept connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from responder.clock import SystemClock
from responder.outbound.base import Envelope
from responder.outbound.pool import Key, Pool
from responder.outbound.smtp.session import ClientSession
from responder.outbound.sources import Source
from responder.outbound.tls.security import Level, Security
from tests.support.smtp_sink import SMTPSink

SOURCE = Source("mx.example.org")
KEY = Key("sink.test", 25, named=False, source=SOURCE)
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\n")


class Clock(SystemClock):
    """Stands still until it is put forward."""

    time = 1000.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
async def sink() -> AsyncIterator[SMTPSink]:
    async with SMTPSink() as sink:
        yield sink


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def connect(sink: SMTPSink) -> ClientSession:
    return await ClientSession.connect("sink.test", sink.address, sink.port, local_hostname="mx.example.org")


async def test_session_given_is_taken_once(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock)
    session = await connect(sink)
    pool.give(KEY, session)
    for other in (
        KEY._replace(host="other.test"),
        KEY._replace(port=26),
        KEY._replace(named=True),
        KEY._replace(source=Source("mx.example.org", "192.0.2.1")),
        KEY._replace(source=Source("mx.example.net")),
        KEY._replace(security=Security(Level.VERIFIED)),
        KEY._replace(security=Security(requiretls=True)),
    ):
        assert pool.take(other) is None
    assert pool.take(KEY) is session
    assert pool.take(KEY) is None
    await session.close()


async def test_last_used_is_taken_first(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock)
    first, second = await connect(sink), await connect(sink)
    pool.give(KEY, first)
    pool.give(KEY, second)
    assert pool.take(KEY) is second
    await pool.close_all()
    await second.close()


async def test_idle_for_too_long_then_it_is_closed_politely(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock, idle=10)
    pool.give(KEY, await connect(sink))
    clock.time += 9.9
    pool.sweep()
    assert len(pool) == 1
    clock.time += 0.1
    pool.sweep()
    assert len(pool) == 0
    await pool.close_all()
    assert sink.verbs() == ["EHLO", "QUIT"]


async def test_stale_session_is_not_taken_even_without_a_sweep(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock, idle=10)
    pool.give(KEY, await connect(sink))
    clock.time += 11
    assert pool.take(KEY) is None
    await pool.close_all()
    assert sink.verbs()[-1] == "QUIT"


async def test_dead_session_is_not_taken(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock)
    alive, dead = await connect(sink), await connect(sink)
    pool.give(KEY, alive)
    pool.give(KEY, dead)
    dead.abort()
    assert pool.take(KEY) is alive
    await alive.close()
    await pool.close_all()


async def test_session_used_up_is_closed(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock, max_messages=2)
    session = await connect(sink)
    for kept in (1, 0):
        await session.send(MAIL)
        pool.give(KEY, session)
        assert len(pool) == kept
        pool.take(KEY)
    await pool.close_all()
    assert sink.verbs()[-1] == "QUIT"


@pytest.mark.parametrize(("suffix", "kept"), [("test", 0), ("sink.test", 0), ("other.test", 1), ("ink.test", 1)])
async def test_provider_bears_fewer_messages_then_its_hosts_get_no_more(
    sink: SMTPSink, clock: Clock, suffix: str, kept: int
) -> None:
    pool = Pool(clock, max_messages=2, by_suffix={suffix: 1})
    session = await connect(sink)
    await session.send(MAIL)
    pool.give(KEY, session)
    assert len(pool) == kept
    await pool.close_all()


async def test_too_many_then_the_longest_idle_is_closed(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock, max_per_host=2, max_total=3)
    sessions = [await connect(sink) for _ in range(5)]
    for session in sessions[:3]:
        pool.give(KEY, session)
    assert len(pool) == 2
    pool.give(KEY._replace(host="b.test"), sessions[3])
    pool.give(KEY._replace(host="c.test"), sessions[4])
    assert len(pool) == 3
    assert pool.take(KEY) is sessions[2]
    assert pool.take(KEY) is None
    await pool.close_all()
    await sessions[2].close()


async def test_closed_pool_keeps_nothing(sink: SMTPSink, clock: Clock) -> None:
    pool = Pool(clock)
    first, second = await connect(sink), await connect(sink)
    pool.give(KEY, first)
    await pool.close_all()
    assert not first.reusable
    pool.give(KEY, second)
    assert pool.take(KEY) is None
    await pool.close_all()
    assert not second.reusable
    assert sink.verbs().count("QUIT") == 2


async def test_idle_session_is_closed_by_itself_time_after_time(sink: SMTPSink) -> None:
    pool = Pool(SystemClock(), idle=0.1)
    for connection in (1, 2):
        pool.give(KEY, await connect(sink))
        async with asyncio.timeout(2):
            while "QUIT" not in sink.verbs(connection):
                await asyncio.sleep(0.01)
        assert len(pool) == 0
    await pool.close_all()
