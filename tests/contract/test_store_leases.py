"""What every store promises of leases: whose work is free, and that a poison mail retires itself."""

from __future__ import annotations

from responder.mail.lifecycle import Event, State
from responder.store.base import Store
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
    queue,
    state_of,
)


async def test_first_beat_is_new_and_the_next_is_not(store: Store, clock: ManualClock) -> None:
    assert await store.beat("w1", LEASE) is False
    assert await store.beat("w1", LEASE) is True
    clock.advance(LEASE + 1)
    assert await store.beat("w1", LEASE) is True  # late, but nobody has swept it away
    clock.advance(LEASE + 1)
    await store.sweep(5)
    assert await store.beat("w1", LEASE) is False


async def test_living_workers_keep_what_they_have(backend: Backend, store: Store, clock: ManualClock) -> None:
    await store.beat("w1", LEASE)
    [identifier] = await accept(store, clock)
    [item] = await claim(store, "w1")
    clock.advance(LEASE - 1)
    assert await (await backend.another()).sweep(5) == 0
    assert await state_of(store, identifier) is State.ANSWERING
    assert await store.settle_inbound(item, answer(clock, item)) is not None


async def test_dead_workers_items_are_free_again(backend: Backend, store: Store, clock: ManualClock) -> None:
    await store.beat("w1", LEASE)
    [message] = await queue(store, clock)
    [sending] = await claim_out(store, "w1")
    [identifier] = await accept(store, clock)
    [item] = await claim(store, "w1")
    clock.advance(LEASE + 1)
    other = await backend.another()
    assert await other.sweep(5) == 2
    assert await state_of(other, identifier) is State.RECEIVED
    assert await state_of(other, message) is State.DEFERRED
    assert (await history(store, identifier))[-1] == ("expire-lease", "RECEIVED", "the worker that had it died")
    # Who comes back from the dead finds his claims gone, even where nobody else has taken the work yet.
    assert await store.settle_inbound(item, answer(clock, item)) is None
    assert await store.settle_outbound(sending, Settlement(Event.DELIVER, "250")) is None
    [again] = await claim(other, "w2")
    assert again.claim == Claim("w2", 2)
    assert await store.settle_inbound(item, answer(clock, item)) is None


async def test_poison_mail_fails_when_its_attempts_are_used_up(store: Store, clock: ManualClock) -> None:
    """A mail that kills the process each time retires itself: the attempt is charged before the work starts."""
    [identifier] = await accept(store, clock)
    for attempt in range(1, 4):
        assert await state_of(store, identifier) is State.RECEIVED
        await store.beat(f"w{attempt}", LEASE)
        assert len(await claim(store, f"w{attempt}")) == 1
        clock.advance(LEASE + 1)
        assert await store.sweep(3) == 1
    assert await state_of(store, identifier) is State.FAILED
    assert (await history(store, identifier))[-1] == ("fail", "FAILED", "the worker that had it died, attempt 3 of 3")


async def test_who_leaves_gives_back_its_work_untouched(backend: Backend, store: Store, clock: ManualClock) -> None:
    await store.beat("w1", LEASE)
    await store.beat("w2", LEASE)
    [message] = await queue(store, clock)
    await claim_out(store, "w1")
    ids = [*await accept(store, clock), *await accept(store, clock)]
    [mine] = await claim(store, "w1", 1)
    [others] = await claim(store, "w2", 1)
    await store.leave("w1")
    assert {mine.id, others.id} == set(ids)
    assert (await state_of(store, mine.id), await attempts_of(store, mine.id)) == (State.RECEIVED, 0)
    assert (await state_of(store, message), await attempts_of(store, message)) == (State.DEFERRED, 0)
    assert await state_of(store, others.id) is State.ANSWERING
    other = await backend.another()
    assert [item.id for item in await claim(other, "w3")] == [mine.id]  # due at once
    assert [item.id for item in await claim_out(other, "w3")] == [message]
    assert await store.beat("w1", LEASE) is False


async def test_deaths_are_counted_where_a_worker_died_and_nowhere_else(backend: Backend, clock: ManualClock) -> None:
    store = await backend.another()
    [identifier] = await accept(store, clock)
    for deaths in range(3):
        await store.beat("w1", LEASE)
        [item] = await claim(store, "w1")
        assert item.deaths == deaths
        clock.advance(LEASE + 1)
        assert await store.sweep(10) == 1
    await store.beat("w2", LEASE)
    [item] = await claim(store, "w2")
    await store.settle_inbound(item, Settlement(Event.DEFER, "later", due_at=clock.now()))
    [item] = await claim(store, "w2")
    await store.leave("w2")
    await store.beat("w3", LEASE)
    [item] = await claim(store, "w3")
    assert (item.id, item.deaths) == (identifier, 3)
