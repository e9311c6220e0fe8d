"""What every store promises the operator of many items at a time, and of those who are not written to."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from responder.mail.lifecycle import Event, State
from responder.store.base import Store
from responder.store.records import NewOutbound, Settlement
from responder.store.returns import Selection, Suppression
from tests.support.clock import ManualClock
from tests.support.stores import DAY, accept, answer, claim, claim_out, history, in_state, outbound, state_of

NOBODY = Suppression("gone@far.example", "echo", "hard-bounce", "550 5.1.1", 0.0, 0.0)


async def put(store: Store, clock: ManualClock, *targets: str, inbox: str = "echo", kind: str = "answer") -> list[str]:
    """Messages to these; their ids."""
    await accept(store, clock)
    [item] = await claim(store, "put")
    messages: list[NewOutbound] = [replace(outbound(clock, item.id, to, kind=kind), inbox=inbox) for to in targets]
    contents = tuple([(message.id, b"x") for message in messages])
    await store.settle_inbound(item, Settlement(Event.ANSWER, "so", tuple(messages), contents))
    return [message.id for message in messages]


# -- selections --------------------------------------------------------------------------------------------------------


async def test_many_when_they_have_a_domain_in_common_then_those_are_stepped_and_no_other(
    store: Store, clock: ManualClock
) -> None:
    far, near, other = await put(store, clock, "a@far.example", "a@near.example", "b@far.example")
    [news] = await put(store, clock, "c@far.example", inbox="news", kind="list")
    chosen = Selection(domain="far.example", inbox="echo")
    assert await store.count(chosen, Event.HOLD) == {"QUEUED": 2}
    assert await store.act_on(chosen, Event.HOLD, "because") == {State.HELD: 2}
    assert [await state_of(store, item) for item in (far, near, other, news)] == ["HELD", "QUEUED", "HELD", "QUEUED"]
    assert (await history(store, far))[-1] == ("hold", "HELD", "because")
    assert await store.act_on(Selection(kind="list"), Event.DROP, "x") == {State.DROPPED: 1}
    assert await store.act_on(Selection(), Event.RELEASE, "x") == {State.QUEUED: 2}
    assert await store.act_on(Selection(domain="nowhere.example"), Event.DROP, "x") == {}


async def test_many_when_a_worker_has_some_then_those_are_left_alone(store: Store, clock: ManualClock) -> None:
    first, second = await put(store, clock, "a@far.example", "a@near.example")
    [item] = await claim_out(store, limit=1)
    assert await store.act_on(Selection(), Event.HOLD, "x") == {State.HELD: 1}
    assert {await state_of(store, one) for one in (first, second)} == {State.HELD, State.SENDING}
    assert await store.settle_outbound(item, Settlement(Event.DELIVER, "250")) is not None


@pytest.mark.parametrize(
    ("event", "state", "touched"),
    [
        (Event.RETRY, State.FAILED, 1),
        (Event.RETRY, State.DEFERRED, 1),
        (Event.RETRY, State.BOUNCED, 0),  # who was told must not be told again by a slip of the hand
        (Event.DROP, State.FAILED, 0),
        (Event.DROP, State.HELD, 1),
        (Event.EXPIRE, State.HELD, 1),
        (Event.EXPIRE, State.FAILED, 0),
        (Event.RETRY, State.DELIVERED, 0),
    ],
)
async def test_many_when_no_state_is_named_then_some_ends_are_left_alone(
    store: Store, clock: ManualClock, event: Event, state: State, touched: int
) -> None:
    item = await in_state(store, clock, "outbound", state)
    chosen = Selection(domain="example.org")
    assert sum((await store.count(chosen, event)).values()) == touched
    assert sum((await store.act_on(chosen, event, "x")).values()) == touched
    if not touched and state is not State.DELIVERED and (event, state) != (Event.EXPIRE, State.FAILED):
        assert sum((await store.act_on(replace(chosen, states=(state,)), event, "x")).values()) == 1
    if state is State.DELIVERED:
        assert await state_of(store, item) is State.DELIVERED


@pytest.mark.parametrize("many", [False, True])
async def test_expire_when_said_then_one_last_attempt_is_due_and_its_time_is_over(
    store: Store, clock: ManualClock, many: bool
) -> None:
    identifier = await in_state(store, clock, "outbound", State.DEFERRED)
    if many:
        await store.act_on(Selection(domain="example.org"), Event.EXPIRE, "x")
    else:
        await store.act(identifier, Event.EXPIRE, "x")
    [item] = await claim_out(store)
    assert (item.id, item.expires_at, item.claim.attempts) == (identifier, clock.now(), 2)


async def test_inbound_when_its_inbox_is_named_then_it_is_retried_too(store: Store, clock: ManualClock) -> None:
    failed = await in_state(store, clock, "inbound", State.FAILED)
    silent = await in_state(store, clock, "inbound", State.SILENT)
    assert await store.act_on(Selection(inbox="echo"), Event.RETRY, "x") == {State.RECEIVED: 1}
    assert (await state_of(store, failed), await state_of(store, silent)) == ("RECEIVED", "SILENT")
    assert await store.act_on(Selection(inbox="echo", domain="x.example"), Event.RETRY, "x") == {}


async def test_list_when_it_is_narrowed_then_only_those_are_shown(store: Store, clock: ManualClock) -> None:
    far, near = await put(store, clock, "a@far.example", "a@near.example")
    [news] = await put(store, clock, "c@far.example", inbox="news", kind="list")

    async def shown(**fields: str) -> set[str]:
        return {view.id for view in await store.items((), 100, Selection(**fields))}  # type: ignore[arg-type]

    assert await shown(domain="far.example") == {far, news}
    assert await shown(domain="far.example", kind="list") == {news}
    assert await shown(inbox="news") == {news}
    assert await shown(inbox="x' OR 1=1 --") == set()
    assert near in await shown()


async def test_crowds_when_counted_then_the_largest_come_first(store: Store, clock: ManualClock) -> None:
    await put(store, clock, "a@far.example", "b@far.example", "a@near.example", "a@small.example", "b@near.example")
    [held, *_] = await put(store, clock, "c@far.example")
    await store.act(held, Event.HOLD, "x")
    assert await store.crowds("domain", 2) == [
        ("far.example", "HELD", 1),
        ("far.example", "QUEUED", 2),
        ("near.example", "QUEUED", 2),
    ]
    assert await store.crowds("inbox") == [("echo", "HELD", 1), ("echo", "QUEUED", 5)]


async def test_twenty_thousand_when_held_then_mail_goes_in_between(store: Store, clock: ManualClock) -> None:
    """In portions, so that nobody waits for the writer for long."""
    await accept(store, clock)
    [item] = await claim(store, "put")
    settlement = answer(clock, item, *[f"a{number}@far.example" for number in range(20_000)])
    await store.settle_inbound(item, settlement)
    begun = time.perf_counter()
    longest = 0.0
    holding = asyncio.create_task(store.act_on(Selection(domain="far.example"), Event.HOLD, "x"))
    beats = 0
    while not holding.done():
        at = time.perf_counter()
        await accept(store, clock)
        longest = max(longest, time.perf_counter() - at)
        beats += 1
    assert holding.result() == {State.HELD: 20_000}
    taken = time.perf_counter() - begun
    print(f"20,000 held in {taken:.2f} s, {beats} mails accepted meanwhile, the slowest in {longest * 1000:.0f} ms")
    assert beats >= 10
    assert taken < 20


# -- who is not written to ---------------------------------------------------------------------------------------------


async def test_suppression_when_added_then_claims_bear_it_until_it_ends(store: Store, clock: ManualClock) -> None:
    await store.suppress(replace(NOBODY, created_at=clock.now(), expires_at=clock.now() + DAY))
    await put(store, clock, '"Gone"@far.example', "ann@far.example")
    await put(store, clock, "gone@far.example", inbox="news")
    await put(store, clock, "gone@far.example", kind="proxy")
    claimed = {(item.recipient, item.inbox, item.kind): item.suppressed for item in await claim_out(store)}
    assert claimed == {
        ('"Gone"@far.example', "echo", "answer"): "hard-bounce, 550 5.1.1",
        ("ann@far.example", "echo", "answer"): "",
        ("gone@far.example", "news", "answer"): "",
        ("gone@far.example", "echo", "proxy"): "",
    }
    clock.advance(DAY + 1)
    assert await store.suppressions() == []
    await put(store, clock, "gone@far.example")
    assert [item.suppressed for item in await claim_out(store)] == [""]
    assert await store.purge(0.0, 0.0) == 1
    assert await store.unsuppress("gone@far.example", None) == 0


async def test_suppression_when_the_operator_has_spoken_then_a_bounce_changes_nothing(
    store: Store, clock: ManualClock
) -> None:
    operators = replace(NOBODY, reason="operator", detail="mine")
    bounced = replace(NOBODY, expires_at=clock.now() + DAY)
    await store.suppress(operators)
    await store.suppress(bounced)
    assert await store.suppressions() == [operators]
    await store.suppress(replace(operators, expires_at=clock.now() + 5))
    assert [entry.expires_at for entry in await store.suppressions()] == [clock.now() + 5]
    await store.unsuppress("gone@far.example", "echo")
    await store.suppress(replace(bounced, expires_at=clock.now() + 9 * DAY))
    await store.suppress(bounced)
    assert [entry.expires_at for entry in await store.suppressions()] == [clock.now() + 9 * DAY]


async def test_suppression_when_it_is_removed_then_of_one_inbox_or_of_all(store: Store, clock: ManualClock) -> None:
    for inbox in ("", "echo", "news"):
        await store.suppress(replace(NOBODY, inbox=inbox))
    assert await store.unsuppress("gone@far.example", "news") == 1
    assert [entry.inbox for entry in await store.suppressions()] == ["", "echo"]
    assert [entry.inbox for entry in await store.suppressions("echo")] == ["echo"]
    assert await store.unsuppress("gone@far.example", None) == 2


async def test_suppression_when_a_settlement_is_stale_then_it_is_not_stored(store: Store, clock: ManualClock) -> None:
    await put(store, clock, "gone@far.example")
    [item] = await claim_out(store)
    settlement = Settlement(Event.FAIL, "no", suppressions=(NOBODY,))
    stale = replace(item, claim=replace(item.claim, attempts=7))
    assert await store.settle_outbound(stale, settlement) is None
    assert await store.suppressions() == []
    await store.settle_outbound(item, settlement)
    assert await store.suppressions() == [NOBODY]
