"""What every store promises the operator: act, lists, accounts, retention."""

from __future__ import annotations

from dataclasses import replace

import pytest

from responder.mail.lifecycle import TRANSITIONS, Event, IllegalTransitionError, State
from responder.store.base import Store
from responder.store.records import Settlement, Window
from tests.support.clock import ManualClock
from tests.support.stores import (
    DAY,
    accept,
    answer,
    attempts_of,
    claim,
    claim_out,
    history,
    in_state,
    new_mail,
    outbound,
    queue,
    state_of,
)

# -- act ---------------------------------------------------------------------------------------------------------------


OPERATOR = (Event.RETRY, Event.DROP, Event.HOLD, Event.RELEASE, Event.EXPIRE, Event.RETURN)
CASES = [
    (name, state, event)
    for name, machine in TRANSITIONS.items()
    for state in dict.fromkeys([state for state, _ in machine] + list(machine.values()))
    for event in OPERATOR
]


@pytest.mark.parametrize(("name", "state", "event"), CASES)
async def test_operators_hand_follows_the_table(
    store: Store, clock: ManualClock, name: str, state: State, event: Event
) -> None:
    identifier = await in_state(store, clock, name, state)
    assert await state_of(store, identifier) is state
    told = await history(store, identifier)
    allowed = TRANSITIONS[name].get((state, event))
    # A worker has it: RELEASE there is not his. What comes back from another host is not his either.
    if allowed is None or state in (State.ANSWERING, State.SENDING) or event is Event.RETURN:
        with pytest.raises(IllegalTransitionError):
            await store.act(identifier, event, "because")
        assert await state_of(store, identifier) is state
        assert await history(store, identifier) == told
    else:
        assert await store.act(identifier, event, "because") is allowed
        assert await state_of(store, identifier) is allowed
        assert await history(store, identifier) == [*told, (event, allowed, "because")]


async def test_worker_events_are_not_the_operators(store: Store, clock: ManualClock) -> None:
    [identifier] = await accept(store, clock)
    for event in (Event.CLAIM, Event.EXPIRE_LEASE, Event.ANSWER, Event.DEFER, Event.FAIL):
        with pytest.raises(IllegalTransitionError):
            await store.act(identifier, event, "")
    with pytest.raises(KeyError):
        await store.act("nobody.0", Event.RETRY, "")


async def test_retry_is_due_at_once_with_all_its_attempts_and_time(store: Store, clock: ManualClock) -> None:
    identifier = await in_state(store, clock, "outbound", State.FAILED)
    assert await attempts_of(store, identifier) == 1
    clock.advance(20 * DAY)
    store.wake_outbound.clear()
    await store.act(identifier, Event.RETRY, "mended")
    assert store.wake_outbound.is_set()
    [item] = await claim_out(store)
    assert (item.id, item.claim.attempts) == (identifier, 1)
    assert item.expires_at == clock.now() + 5 * DAY
    mail = await in_state(store, clock, "inbound", State.FAILED)
    store.wake_inbound.clear()
    await store.act(mail, Event.RETRY, "mended")
    assert store.wake_inbound.is_set()
    assert [(item.id, item.claim.attempts) for item in await claim(store)] == [(mail, 1)]


async def test_held_message_waits_until_it_is_released(store: Store, clock: ManualClock) -> None:
    identifier = await in_state(store, clock, "outbound", State.HELD)
    clock.advance(DAY)
    assert await claim_out(store) == []
    await store.act(identifier, Event.RELEASE, "")
    assert [item.id for item in await claim_out(store)] == [identifier]


# -- lists -------------------------------------------------------------------------------------------------------------


async def test_list_shows_what_waits_and_what_failed(store: Store, clock: ManualClock) -> None:
    silent = await in_state(store, clock, "inbound", State.SILENT)
    failed = await in_state(store, clock, "inbound", State.FAILED)
    clock.advance(1)
    held = await in_state(store, clock, "outbound", State.HELD)
    delivered = await in_state(store, clock, "outbound", State.DELIVERED)
    received = await in_state(store, clock, "inbound", State.RECEIVED)
    assert [view.id for view in await store.items()] == sorted([failed, held, received])
    assert [view.id for view in await store.items([State.SILENT, State.DELIVERED])] == [silent, delivered]
    assert [view.id for view in await store.items(limit=1)] == [failed]
    [view] = await store.items([State.FAILED])
    assert (view.direction, view.kind, view.sender, view.recipient) == (
        "inbound",
        "echo",
        "a@example.org",
        "echo@test.example",
    )
    assert (view.attempts, view.reason) == (1, "so")
    assert await store.stats() == {
        "inbound": {"SILENT": 1, "FAILED": 1, "ANSWERED": 2, "RECEIVED": 1},
        "outbound": {"HELD": 1, "DELIVERED": 1},
    }


# -- accounts ----------------------------------------------------------------------------------------------------------


async def test_account_holds_an_answer_whose_item_retention_removed(store: Store, clock: ManualClock) -> None:
    """The answer waits for its host while the other recipient's item still waits for its agent."""
    [identifier, second] = await accept(store, clock, "echo@test.example", "bob@test.example")
    item = next(item for item in await claim(store) if item.id == identifier)
    settlement = answer(clock, item)
    await store.settle_inbound(item, settlement)
    clock.advance(20.0)
    while await store.purge(clock.now() - 10, clock.now() - 10):
        pass
    [leaving] = settlement.outbound
    for key in (leaving.id, second, second.partition(".")[0]):
        [account] = await store.account(key)
        assert {view.id for view in account.items} == {leaving.id, second}
        assert [entry.event for entry in account.history if entry.item == leaving.id] == ["queue"]


async def test_account_is_found_by_every_name_a_mail_has(store: Store, clock: ManualClock) -> None:
    """Mail, its items, what answered it, the DSN that came of the answer, its Message-ID and those of ours: one account."""
    [identifier, second] = await accept(
        store, clock, "echo@test.example", "bob@test.example", message_id="<id-1@example.org>"
    )
    item, other = await claim(store)
    forwarded = answer(clock, item)
    await store.settle_inbound(item, forwarded)
    await store.settle_inbound(other, Settlement(Event.SILENCE, "no answer"))
    [leaving] = await claim_out(store)
    dsn = outbound(clock, leaving.id, kind="dsn")
    await store.settle_outbound(leaving, Settlement(Event.BOUNCE, "550 no", (dsn,), ((dsn.id, b"dsn"),)))
    mail = identifier.partition(".")[0]
    ours = (f"<auto.{identifier}.0@mx.test.example>", f"auto.{dsn.id}@mx.test.example")
    for key in (mail, identifier, second, leaving.id, dsn.id, "<id-1@example.org>", "id-1@example.org", *ours):
        [account] = await store.account(key)
        assert account.mail is not None
        assert account.mail["id"] == mail
        assert {view.id for view in account.items} == {identifier, second, leaving.id, dsn.id}
        events = {
            view.id: [entry.event for entry in account.history if entry.item == view.id] for view in account.items
        }
        assert events == {
            identifier: ["accept", "claim", "answer"],
            second: ["accept", "claim", "silence"],
            leaving.id: ["queue", "claim", "bounce"],
            dsn.id: ["queue"],
        }
        assert all(entry.at == clock.now() for entry in account.history)
    assert await store.account("<nobody@example.org>") == await store.account("nobody") == await store.account("") == []


async def test_message_id_that_two_mails_bear_gives_two_accounts(store: Store, clock: ManualClock) -> None:
    [first] = await accept(store, clock, message_id="<same@example.org>")
    [second] = await accept(store, clock, message_id="<same@example.org>")
    accounts = await store.account("<same@example.org>")
    assert [[view.id for view in account.items] for account in accounts] == [[first], [second]]


async def test_mails_whose_ids_begin_alike_are_not_mixed_up(store: Store, clock: ManualClock) -> None:
    one = replace(new_mail(clock), id="abc")
    two = replace(new_mail(clock), id="abcd")
    await store.accept(one)
    await store.accept(two)
    [account] = await store.account("abc")
    assert [view.id for view in account.items] == ["abc.0"]


async def test_content_is_found_by_item(store: Store, clock: ManualClock) -> None:
    [leaving] = await queue(store, clock)
    [item] = [view for view in await store.items(list(State)) if view.direction == "inbound"]
    assert await store.content_of(item.id) == item.id.partition(".")[0]
    assert await store.content(await store.content_of(leaving)) == b"Subject: Re: x\r\n\r\ny\r\n"
    for missing in (store.content_of("nobody"), store.content("nobody")):
        with pytest.raises(KeyError):
            await missing


# -- retention ---------------------------------------------------------------------------------------------------------


async def purge_all(store: Store, done_before: float, failed_before: float) -> int:
    total = 0
    while removed := await store.purge(done_before, failed_before, 3):
        total += removed
    return total


async def test_purge_removes_what_has_ended_for_long_enough(store: Store, clock: ManualClock) -> None:
    old = [await in_state(store, clock, "inbound", state) for state in (State.SILENT, State.DROPPED)]
    failed = await in_state(store, clock, "inbound", State.FAILED)
    clock.advance(10)
    young = await in_state(store, clock, "inbound", State.SILENT)
    waiting = await in_state(store, clock, "inbound", State.RECEIVED)
    assert await purge_all(store, clock.now() - 5, clock.now() - 60) == 2
    assert {view.id for view in await store.items(list(State))} == {failed, young, waiting}
    for gone in old:
        assert await store.account(gone) == []
        with pytest.raises(KeyError):
            await store.content(gone.partition(".")[0])
    assert await purge_all(store, 0, clock.now() - 5) == 1
    assert {view.id for view in await store.items(list(State))} == {young, waiting}
    assert await store.content(waiting.partition(".")[0])


async def test_purge_keeps_a_mail_while_one_of_its_items_stays(store: Store, clock: ManualClock) -> None:
    [first, second] = await accept(store, clock, "echo@test.example", "bob@test.example")
    [item] = await claim(store, limit=1)
    await store.settle_inbound(item, Settlement(Event.SILENCE, "silent"))
    clock.advance(10)
    assert await purge_all(store, clock.now(), clock.now()) == 1
    mail = first.partition(".")[0]
    assert [view.id for view in await store.items(list(State))] == [second]
    assert await store.content(mail)
    [waiting] = await claim(store)
    assert waiting.content == await store.content(mail)
    await store.settle_inbound(waiting, Settlement(Event.SILENCE, "silent"))
    clock.advance(10)
    assert await purge_all(store, clock.now(), clock.now()) == 1
    with pytest.raises(KeyError):
        await store.content(mail)
    assert await store.account(mail) == []


async def test_purge_keeps_shared_content_while_one_message_needs_it(store: Store, clock: ManualClock) -> None:
    await queue(store, clock, "a@example.org", "b@example.org", "c@example.org")
    items = await claim_out(store)
    content_id = items[0].content_id
    assert {item.content_id for item in items} == {content_id}
    await store.settle_outbound(items[0], Settlement(Event.DELIVER, "250"))
    await store.settle_outbound(items[1], Settlement(Event.FAIL, "550"))
    await store.settle_outbound(items[2], Settlement(Event.DEFER, "451", due_at=clock.now() + 60))
    clock.advance(100)
    assert await purge_all(store, clock.now(), clock.now()) == 3  # two messages and the mail that they answered
    [left] = await claim_out(store)
    assert left.content == await store.content(content_id)
    await store.settle_outbound(left, Settlement(Event.DELIVER, "250"))
    clock.advance(1)
    assert await purge_all(store, clock.now(), clock.now()) == 1
    with pytest.raises(KeyError):
        await store.content(content_id)
    assert await store.stats() == {"inbound": {}, "outbound": {}}


async def test_purge_forgets_windows_that_are_over(store: Store, clock: ManualClock) -> None:
    await accept(store, clock)
    [item] = await claim(store)
    windows = tuple(Window(f"w{n}", 1, 60 * (n + 1), "full") for n in range(4))
    await store.settle_inbound(item, answer(clock, item, windows=windows))
    clock.advance(121)
    assert await purge_all(store, 0, 0) == 2
    assert [await store.exceeded((window,)) for window in windows] == [None, None, *windows[2:]]


async def test_purge_takes_no_more_than_it_is_told_to(store: Store, clock: ManualClock) -> None:
    for _ in range(5):
        await in_state(store, clock, "inbound", State.SILENT)
    clock.advance(10)
    assert [await store.purge(clock.now(), clock.now(), 2) for _ in range(4)] == [2, 2, 1, 0]
