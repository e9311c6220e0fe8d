"""A provider's connections are counted whether they are used or kept, and from the first mail on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from responder.clock import SystemClock
from responder.delivery.pace import Room
from responder.outbound.pool import Key, Pool
from responder.outbound.smtp.session import ClientSession
from responder.outbound.sources import Source
from tests.support.pacing import network
from tests.support.smtp_sink import SMTPSink

KEY = Key("mx.big.test", 25, named=False, source=Source("mx.example.org"))


@dataclass
class Fixed:
    """A berth whose numbers the test says."""

    name: str
    spare: int = 9
    kept: int = 9


def key(number: int) -> Key:
    """The host of one domain."""
    return KEY._replace(host=f"mx{number}.big.test")


async def connect(sink: SMTPSink) -> ClientSession:
    return await ClientSession.connect("sink.test", sink.address, sink.port, local_hostname="mx.example.org")


async def test_kept_connections_when_one_more_is_opened_then_those_idle_longest_are_gone_before() -> None:
    async with SMTPSink() as sink:
        pool = Pool(SystemClock())
        big, other = Fixed("big"), Fixed("other")
        for n in range(3):
            pool.give(key(n), await connect(sink), big)
        pool.give(key(9), await connect(sink), other)
        big.spare = 1
        await pool.make_way(big)
        assert sink.verbs().count("QUIT") == 2  # said already, not some time later
        assert [pool.take(key(n)) is not None for n in (0, 1, 2, 9)] == [False, False, True, True]
        await pool.close_all()


async def test_kept_connection_when_there_is_room_for_none_then_it_is_closed_and_the_next_one_waits_for_that() -> None:
    async with SMTPSink() as sink:
        pool = Pool(SystemClock())
        full = Fixed("big", spare=0, kept=0)
        pool.give(key(0), await connect(sink), full)
        assert len(pool) == 0
        await pool.make_way(full)
        assert sink.verbs()[-1] == "QUIT"
        await pool.close_all()


async def test_kept_connections_when_all_are_closed_then_nothing_is_remembered_of_their_provider() -> None:
    async with SMTPSink() as sink:
        pool = Pool(SystemClock())
        for n in range(3):
            pool.give(key(n), await connect(sink), Fixed(f"provider{n}"))
        await pool.close_all()
        assert not pool._by_room and not pool._leaving and not pool._by_key


async def test_room_when_one_more_is_opened_then_only_the_rest_may_stand_idle() -> None:
    room = Room("big")
    room.resize(3)
    assert room.spare == 3
    async with room, room:
        assert (room.spare, room.kept) == (1, 3)
        room.resize(1)  # the provider throttles
        assert (room.spare, room.kept) == (0, 0)


async def test_room_when_others_work_beside_then_nothing_is_kept_that_nobody_waits_for() -> None:
    room = Room("big")
    room.resize(3)
    room.shared = True
    async with room:
        assert (room.spare, room.kept) == (0, 0)


async def test_provider_when_nobody_has_spoken_to_its_domains_then_they_share_its_room_at_once(tmp_path: Path) -> None:
    providers = {"big": {"suffixes": ["big.example"], "connections": 3}}
    async with network(tmp_path, providers=providers) as it:
        domains = [f"d{n}.example" for n in range(20)]
        it.far.providers = dict.fromkeys(domains, "big.example")
        one, two = await it.process(), await it.process()
        await it.put(*[f"u{n}@{domain}" for domain in domains for n in range(3)])
        for process in (one, two) * 40:
            await process.turn()
        assert it.far.most["big.example"] <= 3
        assert len(it.far.sent) == 60
        assert set((await it.attempts()).values()) == {1}  # to wait is no attempt
