"""What every store promises the workers: accept, claim, settle (`responder/store/base.py`)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from responder.mail.lifecycle import Event, IllegalTransitionError, State
from responder.store.base import Store, StoreError
from responder.store.records import Claim, Settlement
from tests.support.clock import ManualClock
from tests.support.stores import (
    LEASE,
    Backend,
    accept,
    answer,
    attempts_of,
    claim,
    claim_out,
    history,
    new_mail,
    outbound,
    queue,
    state_of,
)

# -- accept ------------------------------------------------------------------------------------------------------------


async def test_accepted_mail_is_there_for_another_process(backend: Backend, store: Store, clock: ManualClock) -> None:
    mail = new_mail(clock, "echo@test.example", "bob@test.example", message_id="<1@example.org>")
    await store.accept(mail)
    other = await backend.another()
    items = await claim(other)
    assert [(item.id, item.recipient, item.inbox) for item in items] == [
        (f"{mail.id}.0", "echo@test.example", "echo"),
        (f"{mail.id}.1", "bob@test.example", "bob"),
    ]
    first = items[0]
    assert first.content == mail.content
    assert first.mail_id == mail.id
    assert (first.reverse_path, first.peer, first.helo) == ("a@example.org", "192.0.2.1", "client.example")
    assert (first.message_id, first.received_at, first.claim) == ("<1@example.org>", clock.now(), Claim("w1", 1))
    assert await other.content(mail.id) == mail.content


async def test_large_mail_is_claimed_without_its_content(store: Store, clock: ManualClock) -> None:
    content = b"x" * 300_000
    mail = new_mail(clock, content=content)
    await store.accept(mail)
    [item] = await claim(store)
    assert item.content is None
    assert await store.content(item.mail_id) == content


async def test_same_id_twice_is_refused_and_the_first_stays(store: Store, clock: ManualClock) -> None:
    mail = new_mail(clock)
    await store.accept(mail)
    with pytest.raises(StoreError):
        await store.accept(replace(mail, content=b"other"))
    assert await store.content(mail.id) == mail.content
    assert len(await claim(store)) == 1


async def test_accept_goes_on_when_the_client_is_gone(backend: Backend, store: Store, clock: ManualClock) -> None:
    task = asyncio.ensure_future(store.accept(new_mail(clock)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.beat("w1", LEASE)  # behind it in the same queue
    assert len(await claim(await backend.another())) == 1


async def test_accept_wakes_whoever_waits(store: Store, clock: ManualClock) -> None:
    store.wake_inbound.clear()
    store.wake_outbound.clear()
    await queue(store, clock)
    assert store.wake_inbound.is_set()
    assert store.wake_outbound.is_set()


# -- claim -------------------------------------------------------------------------------------------------------------


async def test_claim_takes_the_oldest_first_and_no_more_than_asked_for(store: Store, clock: ManualClock) -> None:
    ids = []
    for _ in range(5):
        ids += await accept(store, clock)
        clock.advance(1)
    assert [item.id for item in await claim(store, limit=3)] == ids[:3]
    assert [item.id for item in await claim(store, limit=3)] == ids[3:]
    assert await claim(store) == []


async def test_claimed_item_is_nobody_elses(backend: Backend, store: Store, clock: ManualClock) -> None:
    for _ in range(20):
        await accept(store, clock)
    other = await backend.another()
    one, two = await asyncio.gather(claim(store, "w1", 15), claim(other, "w2", 15))
    ids = [item.id for item in one + two]
    assert len(ids) == len(set(ids)) == 20


async def test_claim_charges_the_attempt_at_once(backend: Backend, store: Store, clock: ManualClock) -> None:
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    assert item.claim == Claim("w1", 1)
    assert await attempts_of(await backend.another(), identifier) == 1
    assert (await history(store, identifier))[-1] == ("claim", "ANSWERING", "")


async def test_item_is_claimed_when_it_is_due_and_not_before(store: Store, clock: ManualClock) -> None:
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    due = clock.now() + 60
    await store.settle_inbound(item, Settlement(Event.DEFER, "later", due_at=due))
    clock.advance(59)
    assert await store.claim_inbound("w1", 10) == ([], due)
    clock.advance(1)
    [again] = await claim(store)
    assert (again.id, again.claim.attempts) == (identifier, 2)
    assert (await store.claim_inbound("w1", 10))[1] is None


async def test_outbound_item_is_claimed_with_all_that_delivery_needs(store: Store, clock: ManualClock) -> None:
    [identifier] = await queue(store, clock, "a@example.org")
    [item] = await claim_out(store)
    assert (item.id, item.kind, item.recipient, item.domain) == (identifier, "answer", "a@example.org", "example.org")
    assert item.content == b"Subject: Re: x\r\n\r\ny\r\n" == await store.content(item.content_id)
    assert (item.claim, item.expires_at - item.created_at) == (Claim("w1", 1), 5 * 86400)
    assert await state_of(store, identifier) is State.SENDING


async def test_no_domain_gets_more_than_its_share(store: Store, clock: ManualClock) -> None:
    slow = await queue(store, clock, *(f"u{n}@slow.example" for n in range(50)))
    clock.advance(1)
    fast = await queue(store, clock, "a@fast.example", "b@fast.example")
    items = await claim_out(store, "w1", 10, 3)
    assert [item.id for item in items] == slow[:3] + fast
    assert await claim_out(store, "w1", 10, 3) == []
    await store.settle_outbound(items[0], Settlement(Event.DELIVER, "250"))
    assert [item.id for item in await claim_out(store, "w2", 10, 3)] == [slow[3]]  # whoever has them counts


async def test_a_long_queue_of_full_domains_hides_nobody(store: Store, clock: ManualClock) -> None:
    """More due items of full domains than one page of the claim holds: the next page is asked for."""
    await queue(store, clock, *(f"u{n}@slow{n % 3}.example" for n in range(120)))
    clock.advance(1)
    [last] = await queue(store, clock, "a@fast.example")
    items = await claim_out(store, "w1", 4, 1)
    assert {item.domain for item in items} == {"slow0.example", "slow1.example", "slow2.example", "fast.example"}
    assert items[-1].id == last


# -- settle ------------------------------------------------------------------------------------------------------------


async def test_answer_and_what_leaves_are_stored_together(backend: Backend, store: Store, clock: ManualClock) -> None:
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    settlement = answer(clock, item, "a@example.org", "b@example.org")
    assert await store.settle_inbound(item, settlement) == (State.ANSWERED, "answered by echo")
    other = await backend.another()
    assert await state_of(other, identifier) is State.ANSWERED
    assert [message.recipient for message in await claim_out(other)] == ["a@example.org", "b@example.org"]
    assert (await history(other, settlement.outbound[0].id))[0] == ("queue", "QUEUED", f"answer for {identifier}")


async def test_failure_in_the_middle_leaves_nothing(store: Store, clock: ManualClock) -> None:
    """The second message bears an id that is taken: neither the first one nor the step itself may be stored."""
    [taken] = await queue(store, clock)
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    good = answer(clock, item)
    clash = replace(outbound(clock, item.id), id=taken)
    with pytest.raises(StoreError):
        await store.settle_inbound(item, replace(good, outbound=(*good.outbound, clash)))
    assert await state_of(store, identifier) is State.ANSWERING
    assert [message.id for message in await claim_out(store)] == [taken]
    with pytest.raises(KeyError):
        await store.content(good.contents[0][0])
    assert await store.settle_inbound(item, good) == (State.ANSWERED, "answered by echo")


@pytest.mark.parametrize("wrong", ["token", "attempts", "settled", "gone"])
async def test_stale_claim_stores_nothing(store: Store, clock: ManualClock, wrong: str) -> None:
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    stale = item
    if wrong == "token":
        stale = replace(item, claim=Claim("w2", 1))
    elif wrong == "attempts":
        stale = replace(item, claim=Claim("w1", 2))
    elif wrong == "gone":
        stale = replace(item, id=f"{clock.new_id()}.0")
    else:
        await store.settle_inbound(item, Settlement(Event.SILENCE, "silent"))
    before = await state_of(store, identifier)
    settlement = answer(clock, item)
    told = len(await history(store, identifier))
    assert await store.settle_inbound(stale, settlement) is None
    assert await state_of(store, identifier) is before
    assert len(await history(store, identifier)) == told
    assert await claim_out(store) == []
    with pytest.raises(KeyError):
        await store.content(settlement.contents[0][0])


async def test_stale_claim_of_what_leaves_stores_nothing(store: Store, clock: ManualClock) -> None:
    [identifier] = await queue(store, clock)
    [item] = await claim_out(store)
    stale = replace(item, claim=Claim("w1", 0))
    dsn = outbound(clock, identifier, kind="dsn")
    bounce = Settlement(Event.BOUNCE, "550 no", (dsn,), ((dsn.id, b"dsn"),))
    assert await store.settle_outbound(stale, bounce) is None
    assert await state_of(store, identifier) is State.SENDING
    assert await store.settle_outbound(item, bounce) == (State.BOUNCED, "550 no")
    assert await store.settle_outbound(item, bounce) is None
    assert [message.id for message in await claim_out(store)] == [dsn.id]


async def test_two_settlements_at_once_of_one_item_are_one(store: Store, clock: ManualClock) -> None:
    await accept(store, clock)
    [item] = await claim(store)
    ends = await asyncio.gather(*(store.settle_inbound(item, answer(clock, item)) for _ in range(4)))
    assert sorted(end is None for end in ends) == [False, True, True, True]
    assert len(await claim_out(store)) == 1


async def test_event_that_no_worker_causes_is_refused(store: Store, clock: ManualClock) -> None:
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    for event in (Event.DELIVER, Event.HOLD, Event.RETRY, Event.DROP, Event.CLAIM):
        with pytest.raises(IllegalTransitionError):
            await store.settle_inbound(item, Settlement(event, "no"))
    assert await state_of(store, identifier) is State.ANSWERING


async def test_bad_operation_does_not_take_its_neighbours_down(store: Store, clock: ManualClock) -> None:
    taken = new_mail(clock)
    await store.accept(taken)
    mails = [new_mail(clock) for _ in range(20)]
    mails[7] = replace(mails[7], id=taken.id)
    ends = await asyncio.gather(
        *(store.accept(mail) for mail in mails), store.act("nobody.0", Event.DROP, ""), return_exceptions=True
    )
    failed = [number for number, end in enumerate(ends) if isinstance(end, BaseException)]
    assert failed == [7, 20]
    assert isinstance(ends[7], StoreError)
    assert isinstance(ends[20], KeyError)
    assert len(await claim(store)) == 20


@pytest.mark.parametrize("reason", ["line\nline", "\ud800 lone surrogate", "nul \x00 nul", "x" * 100_000, "'; DROP"])
async def test_reason_may_be_any_text(store: Store, clock: ManualClock, reason: str) -> None:
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    assert await store.settle_inbound(item, Settlement(Event.FAIL, reason)) is not None
    [(_, state, told)] = (await history(store, identifier))[-1:]
    assert (state, told) == ("FAILED", reason.replace("\ud800", "?").replace("\x00", " "))
