"""The pace of what leaves: how many connections, how fast, and what a place that is dead or throttles costs the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from responder.config import Rate
from responder.delivery import pace
from responder.mail.lifecycle import Event, State
from responder.store.records import DestinationView
from tests.support.pacing import DOWN, GREYLISTED, REFUSED, THROTTLED, network

# -- room --------------------------------------------------------------------------------------------------------------


async def test_room_when_two_processes_share_a_store_then_together_they_keep_to_it(tmp_path: Path) -> None:
    async with network(tmp_path, connections_per_host=4) as it:
        one, two = await it.process(), await it.process()
        for n in range(300):
            await it.put(f"u{n}@far.example")
        for turn in range(100):
            it.far.held = turn % 3 == 0
            await one.begin(1 + turn % 7)
            await two.begin(1 + turn % 5)
            it.far.release()
            await (two if turn % 2 else one).end()
        await asyncio.gather(one.end(), two.end())
        await one.drain()
        await two.drain()
        assert (await it.states()) == {State.DELIVERED: 300}
        assert it.far.most["far.example"] == 4


async def test_room_when_a_place_was_never_spoken_to_then_two_find_out_first(tmp_path: Path) -> None:
    async with network(tmp_path, connections_per_host=10) as it:
        process = await it.process()
        for n in range(200):
            await it.put(f"u{n}@far.example")
        assert [len(await process.turn()) for _ in range(4)] == [2, 8, 20, 20]  # ahead of what has a connection
        assert it.far.most["far.example"] == 10
        assert await it.size("far.example") == 10


async def test_room_when_a_provider_throttles_then_it_is_halved_and_comes_back_slowly(tmp_path: Path) -> None:
    async with network(tmp_path, connections_per_host=16) as it:
        process = await it.process()
        for n in range(400):
            await it.put(f"u{n}@far.example")
        for _ in range(5):
            await process.turn()
        assert await it.size("far.example") == 16
        it.far.say = lambda _: THROTTLED
        await process.turn(1)
        assert await it.size("far.example") == 8
        await process.turn(1)
        assert await it.size("far.example") == 4
        it.far.say = lambda _: None
        it.far.most.clear()
        await process.turn(4)
        assert await it.size("far.example") == 4  # a round, not a success, for one more
        await process.turn(5)
        assert await it.size("far.example") == 5
        assert it.far.most["far.example"] <= 5


async def test_room_when_nothing_is_left_to_halve_then_the_provider_gets_a_pause(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.providers = {"a.example": "host.example", "b.example": "host.example"}
        await it.put("u@a.example", "u@b.example")
        await process.turn()  # from now on it is known who takes their mail
        it.far.say = lambda _: THROTTLED
        for n in range(12):
            await it.put(f"u{n}@a.example")
            await process.turn(1)
        tried = len(it.far.sent)
        await it.put("v@b.example")
        assert await process.turn() == []
        it.clock.advance(59)
        assert await process.turn() == []
        it.far.say = lambda _: None
        it.clock.advance(2)
        await process.turn()
        assert len(it.far.sent) == tried + 1  # one finds out
        await process.drain()
        assert (await it.states())[State.DELIVERED] >= 4


async def test_greylisting_is_no_reason_to_be_slower(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.say = lambda _: GREYLISTED
        for n in range(20):
            await it.put(f"u{n}@far.example")
        await process.drain()
        assert len(it.far.sent) == 20
        assert await it.store.destinations() == []


async def test_greylisting_when_it_lasts_five_minutes_then_there_is_one_delivery(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        began = it.clock.now()
        taken: list[float] = []

        def say(recipient: str):  # type: ignore[no-untyped-def]
            if it.clock.now() < began + 300:
                return GREYLISTED
            taken.append(it.clock.now() - began)
            return None

        it.far.say = say
        [item] = await it.put("ann@far.example")
        while it.clock.now() < began + 7200:
            await process.turn()
            it.clock.advance(5)
        assert len(taken) == 1
        assert taken[0] == pytest.approx(360, abs=10)  # a minute, then five: the schedule
        assert [envelope.id for envelope in it.far.sent] == [item] * 3
        assert await it.states() == {State.DELIVERED: 1}


# -- providers ---------------------------------------------------------------------------------------------------------


async def test_provider_when_many_domains_are_hosted_there_then_they_share_its_room(tmp_path: Path) -> None:
    providers = {"big": {"suffixes": ["big.example"], "connections": 3}}
    async with network(tmp_path, connections_per_host=10, providers=providers) as it:
        process = await it.process()
        domains = [f"d{n}.example" for n in range(20)]
        it.far.providers = dict.fromkeys(domains, "mx.big.example")
        await it.put(*(f"u@{domain}" for domain in domains))
        await process.turn()
        assert sorted(it.far.asked) == sorted(domains)
        it.far.most.clear()
        for n in range(10):
            await it.put(*(f"u{n}@{domain}" for domain in domains))
        await process.drain()
        assert it.far.most["mx.big.example"] == 3
        assert len(it.far.asked) == 20  # once for each
        assert (await it.states())[State.DELIVERED] == 220


async def test_provider_when_a_strangers_host_throttles_in_its_name_then_it_goes_on(tmp_path: Path) -> None:
    """Whoever has a domain has it name his own host while that is spoken to, and another's when it is asked who that was."""
    async with network(tmp_path) as it:
        process = await it.process()
        strangers = [f"s{n}.evil.example" for n in range(20)]
        it.far.providers = {"ann.example": "big.example", **dict.fromkeys(strangers, "big.example")}
        it.far.hosts = dict.fromkeys(strangers, "mx.evil.example")
        await it.put("ann@ann.example")
        await process.drain()
        room = await it.size("ann.example")
        it.far.say = lambda recipient: THROTTLED if "evil" in recipient else None
        for domain in strangers:
            await it.put(f"u@{domain}")
            await process.drain()
        assert await it.size("ann.example") == room
        await it.put("bob@ann.example")
        await process.turn()
        assert it.far.recipients[-1] == "bob@ann.example"


async def test_hosts_that_hang_when_one_stranger_has_domains_without_number_then_others_do_not_wait(
    tmp_path: Path,
) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.held = True
        await it.put(*(f"u@s{n}.evil.example" for n in range(500)))
        await process.begin()
        await process.begin()
        assert len(it.far.sent) == 2
        await it.put("ann@far.example")
        await process.begin()
        assert it.far.recipients[-1] == "ann@far.example"
        it.far.release()
        await process.end()


async def test_provider_when_a_domain_leaves_it_then_nobody_is_asked_in_its_room(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.providers = {"moving.example": "big.example"}
        await it.put("u@moving.example")
        await process.drain()
        it.far.providers["moving.example"] = "small.example"
        it.far.hosts["moving.example"] = "mx.small.example"
        await it.put("v@moving.example", "u@big.example")
        await process.drain()
        assert [envelope.provider for envelope in it.far.sent] == ["big.example", "big.example", ""]
        it.clock.advance(120)
        await process.drain()
        assert [envelope.provider for envelope in it.far.sent][3:] == ["small.example"]
        assert await it.states() == {State.DELIVERED: 3}


async def test_rate_when_set_then_messages_are_spread_over_the_time(tmp_path: Path) -> None:
    async with network(tmp_path, rate="6/1m") as it:
        one, two = await it.process(), await it.process()
        for n in range(30):
            await it.put(f"u{n}@far.example")
        await it.put("u@other.example")
        sent: list[float] = []
        began = it.clock.now()
        for _ in range(120):
            for process in (one, two):
                before = len(it.far.sent)
                await process.turn()
                sent += [it.clock.now() - began for e in it.far.sent[before:] if "far" in e.recipients[0]]
            it.clock.advance(1)
        assert len(sent) in (12, 13)
        assert max(sum(at <= other < at + 60 for other in sent) for at in sent) <= 6
        assert "u@other.example" in it.far.recipients[:2]


# -- places that are dead ----------------------------------------------------------------------------------------------


async def test_dead_place_when_it_has_a_queue_then_it_rests_and_one_finds_out(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.say = lambda recipient: DOWN if "dead" in recipient else None
        await it.put(*(f"u{n}@dead.example" for n in range(50)))
        await it.put("u@live.example")
        await process.turn()
        assert len([r for r in it.far.recipients if "dead" in r]) == 2
        pauses = []
        for _ in range(6):
            waited = 0
            tried = len(it.far.sent)
            while len(it.far.sent) == tried:
                it.clock.advance(5)
                waited += 5
                await process.turn()
                assert waited < 2000
            pauses.append(waited)
            assert len(it.far.sent) == tried + 1  # one mail at a time
        assert pauses == [pytest.approx(expected, abs=10) for expected in (60, 120, 240, 480, 900, 900)]
        [view] = await it.store.destinations()
        assert isinstance(view, DestinationView)
        assert (view.place, view.sending, view.rests_until > it.clock.now()) == ("dead.example", 0, True)
        assert view.waiting >= 42
        attempts = await it.attempts()
        assert sum(number for recipient, number in attempts.items() if "dead" in recipient) == 8  # what was tried
        it.far.say = lambda _: None
        it.clock.advance(1200)
        await process.drain()
        it.clock.advance(7200)
        await process.drain()
        assert (await it.states()) == {State.DELIVERED: 51}
        assert await it.store.destinations() == []


async def test_dead_place_when_some_wait_for_a_connection_then_they_are_given_back_untried(tmp_path: Path) -> None:
    async with network(tmp_path, connections_per_host=2) as it:
        process = await it.process()
        await it.put("first@far.example", "second@far.example")
        await process.turn()
        it.far.say = lambda _: DOWN
        it.far.held = True
        await it.put(*(f"u{n}@far.example" for n in range(4)))
        assert len(await process.begin()) == 4  # two of them ahead
        it.far.release()
        await process.end()
        assert len(it.far.sent) == 4
        attempts = await it.attempts()
        assert sorted(attempts[f"u{n}@far.example"] for n in range(4)) == [0, 0, 1, 1]


async def test_dead_place_when_mail_expires_then_it_ends_though_it_is_not_its_turn(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.say = lambda _: DOWN
        await it.put(*(f"u{n}@dead.example" for n in range(30)), return_to="ann@near.example")
        for _ in range(100):
            await process.turn()
            it.clock.advance(300)
        it.clock.advance(5 * 86400)
        it.far.say = lambda recipient: DOWN if "dead" in recipient else None
        for _ in range(60):
            await process.turn()
            it.clock.advance(60)
        states = await it.states()
        assert states[State.BOUNCED] + states[State.FAILED] == 30
        assert states[State.BOUNCED] >= 1


async def test_delay_when_a_warning_is_asked_for_then_it_is_told_once(tmp_path: Path) -> None:
    async with network(tmp_path, delay_warning="4h") as it:
        process = await it.process()
        it.far.say = lambda recipient: DOWN if "dead" in recipient else None
        await it.put(*(f"u{n}@dead.example" for n in range(3)), return_to="ann@near.example")
        for _ in range(3 * 24 * 4):
            await process.turn()
            it.clock.advance(900)
        told = [envelope for envelope in it.far.sent if envelope.recipients == ("ann@near.example",)]
        assert len(told) == 3
        assert all(b"Action: delayed" in envelope.content for envelope in told)


async def test_dead_place_when_very_many_are_late_or_expired_then_all_are_told_in_one_go(tmp_path: Path) -> None:
    async with network(tmp_path, delay_warning="4h") as it:
        process = await it.process()
        it.far.say = lambda recipient: DOWN if "dead" in recipient else None
        for n in range(3):
            await it.put(*(f"u{n}.{m}@dead.example" for m in range(150)), return_to=f"ann{n}@near.example")
        began = it.clock.now()
        for hours, told in ((3.5, 0), (4.5, 450), (119, 450), (121, 900)):
            while it.clock.now() < began + hours * 3600:
                await process.drain()
                it.clock.advance(600)
            assert sum("near" in recipient for recipient in it.far.recipients) == told
        assert (await it.states())[State.BOUNCED] == 450
        assert sum("dead" in recipient for recipient in it.far.recipients) < 600  # one in a quarter of an hour


async def test_provider_that_always_throttles_when_mail_expires_then_it_ends_though_it_is_not_its_turn(
    tmp_path: Path,
) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.say = lambda recipient: THROTTLED if "far" in recipient else None
        await it.put(*(f"u{n}@far.example" for n in range(600)), return_to="ann@near.example")
        for _ in range(121):
            await process.drain()
            it.clock.advance(3600)
        assert not {State.QUEUED, State.DEFERRED, State.SENDING} & set(await it.states())
        assert sum("far" in recipient for recipient in it.far.recipients) < 200


# -- clocks and configurations that change -----------------------------------------------------------------------------


async def test_pause_when_the_clock_was_wrong_and_is_set_back_then_nobody_waits_for_that_time(tmp_path: Path) -> None:
    async with network(tmp_path, rate="1/1m") as it:
        process = await it.process()
        it.clock.jump(365 * 86400)
        it.far.say = lambda recipient: DOWN if "dead" in recipient else None
        await it.put("a@dead.example", "a@far.example")
        await process.drain()
        it.clock.jump(-365 * 86400)
        it.far.say = lambda _: None
        it.far.sent.clear()
        await it.put("c@dead.example", "d@far.example", "e@far.example")
        await process.drain()
        assert sorted(it.far.recipients) == ["c@dead.example", "d@far.example"]
        it.clock.advance(61)
        await process.drain()
        assert it.far.recipients[2:] == ["e@far.example"]


async def test_rate_when_it_is_loosened_then_nobody_waits_for_the_old_one(tmp_path: Path) -> None:
    async with network(tmp_path, rate="1/1d") as it:
        process = await it.process()
        await it.put("a@far.example", "b@far.example")
        await process.drain()
        assert it.far.recipients == ["a@far.example"]
        table = it.config.delivery.model_copy(update={"rate": Rate(10, 1.0)})
        process.stage.config = it.config.model_copy(update={"delivery": table})
        it.clock.advance(1)
        await process.drain()
        assert it.far.recipients == ["a@far.example", "b@far.example"]


async def test_backlog_of_an_address_literal_when_the_way_out_changes_then_it_goes_the_new_way(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        await it.put(*(f"u{n}@[IPv6:2001:db8::1]" for n in range(200)))
        it.clock.advance(5)
        await process.turn()
        table = it.config.delivery.model_copy(update={"transport": "smarthost", "smarthost": "127.0.0.9:25"})
        other = await it.process(it.config.model_copy(update={"delivery": table}))
        await other.turn()  # it is looked at anew
        await other.drain()
        assert await it.states() == {State.DELIVERED: 200}


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_large_messages_when_all_hosts_hang_then_few_are_in_memory_and_small_ones_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LARGE", 250_000)
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.held = True
        sizes = [100_000] * 20 + [300_000]
        for n, size in enumerate(sizes):
            await it.put(f"large{n}@d{n}.example", content=b"x" * size)
        await it.put("small@live.example")
        await process.begin(100)
        async with asyncio.timeout(20):
            while len(it.far.sent) < 3:
                await asyncio.sleep(0)
        assert sorted(it.far.recipients) == ["large0@d0.example", "large1@d1.example", "small@live.example"]
        it.far.release()
        await process.end()
        assert await it.states() == {State.DELIVERED: 22}
        assert it.far.recipients[-1] == "large20@d20.example"  # larger than all there is: alone


# -- what comes first --------------------------------------------------------------------------------------------------


async def test_order_when_answers_lists_and_retries_wait_then_answers_come_first(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.say = lambda _: GREYLISTED
        await it.put(*(f"again{n}@d{n}.example" for n in range(5)))
        await process.turn()
        it.clock.advance(61)
        it.far.say = lambda _: None
        it.far.sent.clear()
        await it.put(*(f"report{n}@d{n}.example" for n in range(3)), kind="dsn")
        await it.put(*(f"report{n}@d{n}.example" for n in range(3, 5)), kind="report")
        await it.put(*(f"copy{n}@d{n}.example" for n in range(5)), kind="list")
        await it.put(*(f"answer{n}@d{n}.example" for n in range(5)))
        for _ in range(20):
            await process.turn(1)
        kinds = [
            recipient.rstrip("0123456789").partition("@")[0].rstrip("0123456789") for recipient in it.far.recipients
        ]
        assert kinds == ["answer"] * 5 + ["copy"] * 5 + ["again"] * 5 + ["report"] * 5


async def test_order_when_answers_never_end_then_what_stands_behind_is_sent_at_last(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        await it.put(*(f"report{n}@d{n}.example" for n in range(3)), kind="dsn")
        it.clock.advance(5)
        n = 0
        while not any("report" in recipient for recipient in it.far.recipients):
            for _ in range(30):
                n += 1
                await it.put(f"answer{n}@e{n % 50}.example")
            await process.turn(20)  # always fewer than come
            it.clock.advance(1)
            assert n < 5000
        assert n > 300


@pytest.mark.parametrize("domains", [1, 200])
async def test_fairness_when_one_inbox_has_a_long_list_then_others_pass_it(tmp_path: Path, domains: int) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        for at in range(0, 20_000, 1000):
            await it.put(*(f"c{n}@d{n % domains}.example" for n in range(at, at + 1000)), kind="list", inbox="news")
        it.clock.advance(5)
        for _ in range(40):
            await process.turn(20)
        [answer] = await it.put("ann@d0.example", inbox="help")
        [copy] = await it.put("bob@d0.example", kind="list", inbox="small")
        before = len(it.far.sent)
        for _ in range(40):
            await process.turn(20)
        sent = [envelope.id for envelope in it.far.sent[before:]]
        assert sent.index(answer) < 25  # of the turn that follows
        assert sent.index(copy) < 450


async def test_held_mail_of_the_backlog_when_released_then_it_is_sent(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        items = await it.put(*(f"u{n}@far.example" for n in range(200)))
        await process.turn()  # two leave, the others are put into the backlog
        for item in items[100:]:
            await it.store.act(item, Event.HOLD, "wait")
        await process.drain()
        assert await it.states() == {State.DELIVERED: 100, State.HELD: 100}
        for item in items[100:]:
            await it.store.act(item, Event.RELEASE, "go")
        await process.drain()
        assert await it.states() == {State.DELIVERED: 200}


async def test_backlog_when_the_way_out_changes_then_it_goes_the_new_way(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        await it.put(*(f"u{n}@far.example" for n in range(200)))
        it.clock.advance(5)
        await process.turn()
        table = it.config.delivery.model_copy(update={"transport": "smarthost", "smarthost": "127.0.0.9:25"})
        other = await it.process(it.config.model_copy(update={"delivery": table}))
        assert await other.turn() == []  # it is looked at anew
        await other.drain()
        assert await it.states() == {State.DELIVERED: 200}


# -- parcels -----------------------------------------------------------------------------------------------------------


async def test_parcel_when_many_recipients_share_message_and_domain_then_one_transaction_takes_them(
    tmp_path: Path,
) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.say = lambda recipient: REFUSED if recipient.startswith("u7@") else None
        await it.put(*(f"u{n}@far.example" for n in range(250)), *(f"v{n}@other.example" for n in range(3)), one=True)
        await process.turn()
        sizes = sorted(len(envelope.recipients) for envelope in it.far.sent)
        assert sizes == [3, 100, 100]  # two to one that is new
        await process.drain()
        assert sorted(len(envelope.recipients) for envelope in it.far.sent) == [3, 50, 100, 100]
        assert await it.states() == {State.DELIVERED: 252, State.FAILED: 1}
        assert set((await it.attempts()).values()) == {1}


async def test_parcel_when_siblings_wait_in_the_backlog_then_they_go_along(tmp_path: Path) -> None:
    async with network(tmp_path) as it:
        process = await it.process()
        it.far.held = True
        await it.put("x@far.example", "y@far.example")
        await process.begin()
        await it.put(*(f"z{n}@far.example" for n in range(100)))
        items = await it.put(*(f"u{n}@far.example" for n in range(60)), one=True)
        it.clock.advance(5)
        await process.begin()  # no room: all of it is put into the backlog
        it.far.release()
        await process.end()
        await process.drain()
        assert await it.states() == {State.DELIVERED: 162}
        assert [len(envelope.recipients) for envelope in it.far.sent if envelope.id in items] == [60]


async def test_parcel_when_envelopes_differ_then_each_has_its_own(tmp_path: Path) -> None:
    async with network(tmp_path, connections_per_host=10) as it:
        process = await it.process()
        await it.put("warm@far.example")
        await process.turn()
        [first] = await it.put("a@far.example")
        await it.put("b@far.example", content_id=first, head="List-Id: x\r\n")
        await it.put("c@far.example", content_id=first, reverse_path="other@test.example")
        await it.put("d@far.example", content_id=first, envid="e")
        await it.put("e@far.example", content_id=first)
        it.far.sent.clear()
        await process.drain()
        assert sorted(envelope.recipients for envelope in it.far.sent) == [
            ("a@far.example", "e@far.example"),
            ("b@far.example",),
            ("c@far.example",),
            ("d@far.example",),
        ]
