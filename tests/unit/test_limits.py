"""Rate counters and the gatekeeper, by a clock that the test moves."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.config import Limits, Rate
from responder.inbound import replies
from responder.inbound.limits import gatekeeper as module
from responder.inbound.limits.gatekeeper import Gatekeeper, RateCounter, is_in
from tests.support.clock import ManualClock


def test_window_slides() -> None:
    clock = ManualClock()
    counter = RateCounter(Rate(3, 60), clock)
    for _ in range(3):
        assert not counter.full("a")
        counter.add("a")
        clock.advance(20)
    assert not counter.full("a")  # the first one is 60 s old
    counter.add("a")
    assert counter.full("a")
    clock.advance(19.9)
    assert counter.full("a")
    clock.advance(0.1)
    assert not counter.full("a")
    assert not counter.full("b")


def test_wall_clock_that_jumps_opens_nothing() -> None:
    clock = ManualClock()
    counter = RateCounter(Rate(1, 60), clock)
    counter.add("a")
    clock.jump(10_000)
    assert counter.full("a")


def test_no_rate_counts_nothing() -> None:
    counter = RateCounter(None, ManualClock())
    for _ in range(1000):
        counter.add("a")
    assert not counter.full("a")
    assert counter._events == {}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30)), max_size=40))
def test_counter_allows_what_counting_by_hand_allows(steps: list[tuple[str, float]]) -> None:
    clock = ManualClock()
    counter = RateCounter(Rate(3, 60), clock)
    let_in: dict[str, list[float]] = {"a": [], "b": []}
    for key, pause in steps:
        clock.advance(pause)
        now = clock.monotonic()
        recent = [at for at in let_in[key] if at > now - 60]
        assert counter.full(key) is (len(recent) >= 3)
        if len(recent) < 3:
            counter.add(key)
            let_in[key].append(now)


def test_flood_of_addresses_takes_bounded_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 100)
    clock = ManualClock()
    counter = RateCounter(Rate(2, 60), clock)
    aged = 0
    age = counter._age

    def counting(events: Any) -> None:
        nonlocal aged
        aged += 1
        age(events)

    monkeypatch.setattr(counter, "_age", counting)
    for number in range(5000):
        counter.add(f"2001:db8::{number:x}")
        assert len(counter._events) <= 100
    assert aged == 0  # a newcomer costs no look at the others
    counter.add("2001:db8::1387")
    assert counter.full("2001:db8::1387")  # the newest is remembered
    clock.advance(61)
    counter.add("a")
    counter.add("b")
    assert not counter.full("2001:db8::1387")


def test_flood_does_not_free_whom_the_limit_has_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 100)
    counter = RateCounter(Rate(3, 60), ManualClock())
    for _ in range(3):
        counter.add("caught")
    for number in range(1000):
        counter.add(f"newcomer {number}")
    assert counter.full("caught")
    assert len(counter._events) == 100


def test_flood_of_full_keys_forgets_the_oldest_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 100)
    counter = RateCounter(Rate(1, 60), ManualClock())
    for number in range(1000):
        counter.add(str(number))
        assert len(counter._events) <= 100
    assert counter.full("999")


def test_key_keeps_no_more_events_than_its_limit() -> None:
    counter = RateCounter(Rate(3, 60), ManualClock())
    for _ in range(1000):
        counter.add("a")
    assert len(counter._events["a"]) == 3


def test_new_rate_counts_what_was_counted_before() -> None:
    clock = ManualClock()
    counter = RateCounter(Rate(3, 60), clock)
    counter.add("a")
    counter.add("a")
    counter.follow(Rate(2, 60))
    assert counter.full("a")
    counter.follow(None)
    assert not counter.full("a")


def gatekeeper(clock: ManualClock, **limits: Any) -> Gatekeeper:
    base = {"connection_rate": "off", "unknown_recipients": "off", "tarpit": "0s"}
    return Gatekeeper(Limits.model_validate({**base, **limits}), clock)


def test_connections_of_one_address_are_counted_while_they_last() -> None:
    keeper = gatekeeper(ManualClock(), connections_per_ip=2, connections=3)
    assert keeper.connect("192.0.2.1") is None
    assert keeper.connect("192.0.2.1") is None
    assert keeper.connect("192.0.2.1") == replies.TOO_MANY_CONNECTIONS
    keeper.disconnect("192.0.2.1")  # the refused one
    assert keeper.connect("192.0.2.2") is None
    assert keeper.connect("192.0.2.3") == replies.TOO_MANY_CONNECTIONS  # three in all
    keeper.disconnect("192.0.2.3")
    keeper.disconnect("192.0.2.1")
    assert keeper.connect("192.0.2.1") is None


def test_who_keeps_trying_gets_in_at_the_rate_that_is_allowed() -> None:
    clock = ManualClock()
    keeper = gatekeeper(clock, connection_rate="2/1m")
    let_in = 0
    for _ in range(240):  # twice a second for two minutes
        if keeper.connect("192.0.2.1") is None:
            let_in += 1
        keeper.disconnect("192.0.2.1")
        clock.advance(0.5)
    assert let_in == 4
    assert keeper.connect("192.0.2.9") is None


def test_too_many_unknown_recipients_shut_the_door_for_a_while() -> None:
    clock = ManualClock()
    keeper = gatekeeper(clock, unknown_recipients="2/2m")
    assert keeper.unknown_recipient("192.0.2.1")[1] is None
    assert keeper.unknown_recipient("192.0.2.1")[1] == replies.TOO_MANY_UNKNOWN
    assert keeper.connect("192.0.2.1") == replies.TOO_MANY_UNKNOWN
    assert keeper.connect("192.0.2.2") is None
    clock.advance(120)
    assert keeper.connect("192.0.2.1") is None


def test_subject_is_limited_for_all_senders_together() -> None:
    clock = ManualClock()
    keeper = gatekeeper(clock, same_subject="2/1m")
    assert [keeper.subject(text) for text in ("win", "win", "other", "win")] == [None, None, None, replies.SAME_SUBJECT]
    clock.advance(60)
    assert keeper.subject("win") is None


def test_subject_costs_its_key_alone_however_long_it_is() -> None:
    keeper = gatekeeper(ManualClock(), same_subject="2/1m")
    for text in ("Win " + "x" * 1_000_000, "WIN " + "X" * 1_000_000):
        assert keeper.subject(text) is None
    assert keeper.subject("win " + "x" * 1_000_000) == replies.SAME_SUBJECT
    assert [len(key) for key in keeper._subjects._events] == [32]


@pytest.mark.parametrize(
    "peers",
    [
        ["2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:0db8:1:2::3"],
        ["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:c000:201"],
        ["fe80::1%eth0", "fe80::2", "fe80::3%eth1"],
    ],
)
def test_limits_count_an_ipv6_network_and_a_mapped_address_as_one(peers: list[str]) -> None:
    clock = ManualClock()
    keeper = gatekeeper(
        clock, connections_per_ip=2, connection_rate="2/1m", message_rate="2/1m", unknown_recipients="2/1m"
    )
    assert [keeper.connect(peer) for peer in peers] == [None, None, replies.TOO_MANY_CONNECTIONS]
    for peer in reversed(peers):
        keeper.disconnect(peer)
    assert keeper._open == {}
    assert [keeper.connect(peers[2]), keeper.connect("2001:db8:1:3::1")] == [replies.TOO_FAST, None]
    assert [keeper.message(peer) for peer in peers] == [None, None, replies.TOO_MANY_MESSAGES]
    assert [keeper.unknown_recipient(peer)[1] for peer in peers[:2]] == [None, replies.TOO_MANY_UNKNOWN]
    clock.advance(60)
    assert keeper.message(peers[0]) is None


def test_unix_socket_has_no_limit_by_address_but_counts_in_all() -> None:
    keeper = gatekeeper(
        ManualClock(),
        connections=3,
        connections_per_ip=1,
        connection_rate="1/1m",
        message_rate="1/1m",
        unknown_recipients="1/1m",
    )
    assert [keeper.connect("") for _ in range(4)] == [None, None, None, replies.TOO_MANY_CONNECTIONS]
    assert [keeper.message("") for _ in range(3)] == [None, None, None]
    assert [keeper.unknown_recipient("") for _ in range(3)] == [(0.0, None)] * 3


def test_each_unknown_recipient_of_an_address_is_answered_later_up_to_a_bound() -> None:
    clock = ManualClock()
    keeper = gatekeeper(clock, tarpit="1s", unknown_recipients="5/2m")
    found = [keeper.unknown_recipient("192.0.2.1") for _ in range(6)]
    assert [delay for delay, _ in found] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [end for _, end in found] == [None] * 4 + [replies.TOO_MANY_UNKNOWN] * 2
    assert keeper.unknown_recipient("192.0.2.2")[0] == 0.1
    clock.advance(120)
    assert keeper.unknown_recipient("192.0.2.1")[0] == 0.1


def test_tarpit_works_without_a_limit_and_ends_nothing_then() -> None:
    keeper = gatekeeper(ManualClock(), tarpit="1h")
    delays = [keeper.unknown_recipient("192.0.2.1") for _ in range(100)]
    assert [end for _, end in delays] == [None] * 100
    assert delays[0][0] == 0.1
    assert delays[-1][0] == 0.1 * 2**15
    assert keeper.connect("192.0.2.1") is None
    assert gatekeeper(ManualClock(), tarpit="0s").unknown_recipient("192.0.2.1") == (0.0, None)


def test_mails_of_an_address_are_limited_as_mailinator_did() -> None:
    clock = ManualClock()
    keeper = gatekeeper(clock, message_rate="20/2m")
    assert [keeper.message("192.0.2.1") for _ in range(20)] == [None] * 20
    assert keeper.message("192.0.2.1") == replies.TOO_MANY_MESSAGES
    assert keeper.message("192.0.2.2") is None
    clock.advance(120)
    assert keeper.message("192.0.2.1") is None


def test_fewer_descriptors_than_connections_are_the_limit() -> None:
    keeper = gatekeeper(ManualClock(), connections=10)
    keeper.room = 1
    assert keeper.connect("192.0.2.1") is None
    assert keeper.connect("192.0.2.2") == replies.TOO_MANY_CONNECTIONS


def test_reload_keeps_what_was_counted() -> None:
    clock = ManualClock()
    keeper = gatekeeper(clock, connection_rate="2/1m")
    for _ in range(2):
        keeper.connect("192.0.2.1")
        keeper.disconnect("192.0.2.1")
    keeper.follow(Limits(connection_rate=Rate(2, 60.0)), clock)
    assert keeper.connect("192.0.2.1") == replies.TOO_FAST


def test_reload_keeps_who_is_connected() -> None:
    clock = ManualClock()
    keeper = gatekeeper(clock, connections_per_ip=5)
    for _ in range(3):
        assert keeper.connect("192.0.2.1") is None
    keeper.follow(Limits(connections_per_ip=3, connection_rate=None), clock)
    assert keeper.connect("192.0.2.1") == replies.TOO_MANY_CONNECTIONS
    for _ in range(4):
        keeper.disconnect("192.0.2.1")
    assert keeper.connect("192.0.2.1") is None


@pytest.mark.parametrize(
    ("peer", "inside"),
    [
        ("192.0.2.7", True),
        ("192.0.3.1", False),
        ("::ffff:192.0.2.7", True),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("", False),
        ("nonsense", False),
    ],
)
def test_address_lies_in_a_network(peer: str, inside: bool) -> None:
    networks = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), ip_network("fe80::/10")]
    assert is_in(peer, networks) is inside


def test_denied_address_is_told_so_before_all_else() -> None:
    keeper = gatekeeper(ManualClock(), deny=["192.0.2.0/24"], connections_per_ip=1)
    assert [keeper.connect("192.0.2.1") for _ in range(3)] == [replies.DENIED] * 3
