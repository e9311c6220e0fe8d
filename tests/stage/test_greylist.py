"""Greylisting with a real store: who passes, who waits, what is remembered and how much of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from responder.config import Config
from responder.config import Greylist as Settings
from responder.inbound import replies
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient
from responder.intake import greylist as module
from responder.intake.greylist import INBOX, NEWCOMERS, TRUSTED, Greylist, stable
from responder.intake.stage import Intake
from responder.store.base import StoreUnavailableError
from responder.store.records import Memory
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.dialog import listening

WAIT = 20.0
SETTINGS = Settings.model_validate({"enabled": True, "delay": "5m", "window": "2d", "keep": "35d"})
DAY = 86_400.0
ANN = "ann@example.org"
ECHO = "echo@test.example"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "responder.db", clock)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def greylist(store: SQLiteStore, clock: ManualClock) -> Greylist:
    return Greylist(SETTINGS, store, clock)


async def kept(store: SQLiteStore) -> int:
    """How much is remembered, but for the key."""
    return len(await store.values_below(INBOX, "")) - 1


async def test_stranger_is_put_off_until_he_comes_again_in_time(greylist: Greylist, clock: ManualClock) -> None:
    for _ in range(3):
        assert await greylist.defers("192.0.2.1", ANN, ECHO)
        clock.advance(99)
    clock.advance(2)
    assert await greylist.defers("192.0.2.1", ANN, ECHO)
    clock.advance(2)  # 301 s: the tries between did not begin anew
    assert not await greylist.defers("192.0.2.1", ANN, ECHO)
    assert not await greylist.defers("192.0.2.77", ANN, ECHO)  # another host of the network
    assert await greylist.defers("192.0.3.1", ANN, ECHO)
    assert await greylist.defers("192.0.2.1", "bob@example.org", ECHO)
    assert await greylist.defers("192.0.2.1", ANN, "bob@test.example")


async def test_who_comes_again_too_late_is_a_stranger(greylist: Greylist, clock: ManualClock) -> None:
    assert await greylist.defers("192.0.2.1", ANN, ECHO)
    clock.advance(2 * DAY + 1)
    assert await greylist.defers("192.0.2.1", ANN, ECHO)
    clock.advance(300)
    assert not await greylist.defers("192.0.2.1", ANN, ECHO)


async def test_who_is_known_stays_so_for_as_long_as_he_writes(greylist: Greylist, clock: ManualClock) -> None:
    await greylist.defers("192.0.2.1", ANN, ECHO)
    clock.advance(300)
    for _ in range(6):
        assert not await greylist.defers("192.0.2.1", ANN, ECHO)
        clock.advance(20 * DAY)
    clock.advance(16 * DAY)
    assert await greylist.defers("192.0.2.1", ANN, ECHO)


async def test_network_that_has_shown_its_queue_is_trusted(greylist: Greylist, clock: ManualClock) -> None:
    for number in range(TRUSTED):
        assert await greylist.defers("2001:db8:1:2::1", f"s{'x' * number}@example.org", ECHO)
    clock.advance(300)
    for number in range(TRUSTED):
        assert not await greylist.defers("2001:db8:1:2::2", f"s{'x' * number}@example.org", ECHO)
    assert not await greylist.defers("2001:db8:1:2::3", "new@example.org", "bob@test.example")
    assert await greylist.defers("2001:db8:1:3::3", "new@example.org", "bob@test.example")


async def test_restart_and_another_process_know_what_was_noted(store: SQLiteStore, clock: ManualClock) -> None:
    assert await Greylist(SETTINGS, store, clock).defers("192.0.2.1", ANN, ECHO)
    clock.advance(300)
    assert not await Greylist(SETTINGS, store, clock).defers("192.0.2.1", ANN, ECHO)


async def test_processes_that_begin_together_agree_on_one_key(store: SQLiteStore, clock: ManualClock) -> None:
    lists = [Greylist(SETTINGS, store, clock) for _ in range(8)]
    await asyncio.gather(*(one.defers("192.0.2.1", ANN, ECHO) for one in lists))
    assert len({one._secret for one in lists}) == 1
    clock.advance(300)
    assert not await lists[0].defers("192.0.2.1", ANN, ECHO)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ann@example.org", "ANN@Example.org"),
        ("ann+one@example.org", "ann+two@example.org"),
        ("bounces-12345-6789@list.example", "bounces-12346-6790@list.example"),
        ("prvs=1234abcdef=ann@example.org", "prvs=5678fedcba=ann@example.org"),
        ("SRS0=aB1c=XY=example.org=ann@relay.example", "srs0=Zz9d=YZ=example.org=ann@relay.example"),
    ],
)
def test_senders_that_change_from_mail_to_mail_are_one(first: str, second: str) -> None:
    assert stable(first) == stable(second)


@pytest.mark.parametrize("path", ["", "+@example.org", "@", "a", "=@=", "prvs=", "srs0=", "ü+ö@bücher.example"])
def test_odd_sender_does_no_harm(path: str) -> None:
    assert stable(path) == stable(path.upper())
    assert stable("ann@example.org") != stable("bob@example.org")


async def test_random_senders_of_one_network_fill_nothing(
    greylist: Greylist, store: SQLiteStore, clock: ManualClock
) -> None:
    for number in range(400):
        sender = "".join(chr(97 + int(digit)) for digit in str(number))
        assert await greylist.defers("192.0.2.1", f"{sender}@example.org", ECHO)
    assert 0 < await kept(store) <= NEWCOMERS.count
    # It is not for ever: who comes again later is noted then.
    clock.advance(3600)
    assert await greylist.defers("192.0.2.1", ANN, ECHO)
    clock.advance(300)
    assert not await greylist.defers("192.0.2.1", ANN, ECHO)


async def test_many_networks_take_each_others_places_and_no_more(
    greylist: Greylist, store: SQLiteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WAITING", "KNOWN", "NETWORKS"):
        monkeypatch.setattr(module, name, 8)
    for turn in range(2):
        for number in range(60):
            await greylist.defers(f"192.0.{number}.1", ANN, ECHO)
        clock.advance(300)
        assert await kept(store) <= 24, turn
    # Who finds somebody else in his place is not taken for him.
    for number in range(60, 80):
        assert await greylist.defers(f"192.0.{number}.1", ANN, ECHO)
    # Somebody whose place was taken is put off anew, and passes as before.
    for _ in range(2):
        deferred = await greylist.defers("198.51.100.1", ANN, ECHO)
        clock.advance(300)
    assert not deferred


async def test_expired_entries_leave_the_database(greylist: Greylist, store: SQLiteStore, clock: ManualClock) -> None:
    await greylist.defers("192.0.2.1", ANN, ECHO)
    assert await kept(store) == 1
    clock.advance(3 * DAY)
    now = clock.now()
    while await store.purge(now, now):
        pass
    assert await kept(store) == 0


@pytest.mark.parametrize("verb", ["values", "remember"])
async def test_store_in_trouble_lets_mail_pass_and_says_so_once_a_minute(
    greylist: Greylist, store: SQLiteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "event", lambda name, **fields: told.append(name))
    await greylist.defers("203.0.113.1", ANN, ECHO)

    async def fail(*_: Any) -> Any:
        raise StoreUnavailableError("/path: I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(store, verb, fail)
        for _ in range(3):
            assert not await greylist.defers("192.0.2.1", ANN, ECHO)
    assert told == ["greylist failed"]
    assert await greylist.defers("192.0.2.1", ANN, ECHO)


async def test_mail_of_somebody_known_costs_no_write(
    greylist: Greylist, store: SQLiteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await greylist.defers("192.0.2.1", ANN, ECHO)
    clock.advance(300)
    await greylist.defers("192.0.2.1", ANN, ECHO)

    async def fail(memory: Memory) -> bool:
        raise AssertionError(memory)

    monkeypatch.setattr(store, "remember", fail)
    for _ in range(10):
        assert not await greylist.defers("192.0.2.1", ANN, ECHO)
        clock.advance(3600)


def test_window_that_nobody_can_meet_is_refused() -> None:
    with pytest.raises(ValueError, match=r"greylist\.delay"):
        Config.model_validate({"greylist": {"delay": "1h", "window": "1h"}})


async def test_no_inbox_can_have_the_name_that_is_reserved() -> None:
    with pytest.raises(ValueError, match="greylist"):
        Config.model_validate({"inboxes": {INBOX: {"agent": "echo"}}})


async def test_mail_passes_at_its_second_try_over_the_wire(tmp_path: Path) -> None:
    settings = {"greylist": {"enabled": True}, "authentication": {"trusted_networks": []}}
    async with listening(tmp_path, settings) as front:

        async def send() -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(b"HELO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo+tag@test.example>\r\nQUIT\r\n")
            said = (await asyncio.wait_for(reader.read(), WAIT)).decode().splitlines()
            writer.close()
            return said[3]

        assert await send() == "451 4.7.1 Not known here yet, try again in a few minutes"
        front.clock.advance(301)
        assert await send() == "250 2.1.5 Recipient ok"


class Refusing:
    """Checks that refuse every recipient, after a moment."""

    def hello(self, session: object, name: str) -> None:
        return None

    def sender(self, session: object, path: object, accepted: Reply) -> Reply:
        return accepted

    async def recipient(self, session: object, found: Recipient) -> Recipient:
        return Recipient(replies.NOT_OUR_DOMAIN)


@pytest.mark.parametrize(("user", "refused"), [("ann", False), ("", True)])
async def test_users_and_those_who_are_refused_for_good_leave_no_entry(
    tmp_path: Path, user: str, refused: bool
) -> None:
    settings = {"greylist": {"enabled": True}, "authentication": {"trusted_networks": []}}
    async with listening(tmp_path, settings) as front:
        intake = front.service.handler
        assert isinstance(intake, Intake)
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        assert (await asyncio.wait_for(reader.readline(), WAIT)).startswith(b"220 ")
        [session] = front.service.open
        session.user = user  # type: ignore[attr-defined]  # as AUTH does
        if refused:
            intake.checks = Refusing()  # type: ignore[assignment]
        writer.write(b"HELO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo@test.example>\r\nQUIT\r\n")
        said = (await asyncio.wait_for(reader.read(), WAIT)).decode().splitlines()
        assert said[2][:3] == ("550" if refused else "250")
        assert not await front.store.values_below(INBOX, "")
        writer.close()
