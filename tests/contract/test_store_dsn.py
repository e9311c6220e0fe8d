"""What every store keeps of a sender's wishes (RFC 3461), and the notification that goes along with the end of a mail's run."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from responder.mail.envelope import NO_WISH, Wish
from responder.mail.lifecycle import Event, State
from responder.store.base import Store
from responder.store.records import InboundItem, Memory, Receipt, Settlement, Value, Window
from tests.support.clock import ManualClock
from tests.support.stores import accept, answer, claim, claim_out, new_mail, outbound, state_of

WISH = Wish("SUCCESS,DELAY", r"utf-8;j\x{FC}rgen@example.net")


def receipt(clock: ManualClock, item: InboundItem, *windows: Window) -> Receipt:
    return Receipt(outbound(clock, item.id, kind="dsn"), b"Subject: arrived\r\n\r\n", windows)


async def test_wishes_are_kept_for_each_recipient(store: Store, clock: ManualClock) -> None:
    mail = replace(
        new_mail(clock, "echo@test.example", "bob@test.example", "eve@test.example"),
        ret="HDRS",
        envid="QQ+2B1",
        wishes=(WISH, NO_WISH, Wish("NEVER")),
    )
    await store.accept(mail)
    items = sorted(await claim(store), key=lambda item: item.id)
    assert [(item.wish, item.ret, item.envid) for item in items] == [
        (WISH, "HDRS", "QQ+2B1"),
        (NO_WISH, "HDRS", "QQ+2B1"),
        (Wish("NEVER"), "HDRS", "QQ+2B1"),
    ]


async def test_nothing_was_asked_then_nothing_is_kept(store: Store, clock: ManualClock) -> None:
    await accept(store, clock)
    [item] = await claim(store)
    assert (item.wish, item.ret, item.envid) == (NO_WISH, "", "")


async def test_wishes_go_along_with_what_leaves(store: Store, clock: ManualClock) -> None:
    await accept(store, clock)
    [item] = await claim(store)
    settlement = answer(clock, item, "a@far.example", "b@far.example")
    first, second = settlement.outbound
    await store.settle_inbound(
        item, replace(settlement, outbound=(replace(first, wish=WISH, ret="FULL", envid="e"), second))
    )
    leaving = {one.id: (one.wish, one.ret, one.envid) for one in await claim_out(store)}
    assert leaving == {first.id: (WISH, "FULL", "e"), second.id: (NO_WISH, "", "")}


@pytest.mark.parametrize(
    ("event", "told"), [(Event.ANSWER, True), (Event.SILENCE, True), (Event.DEFER, False), (Event.FAIL, False)]
)
async def test_receipt_is_stored_with_the_end_that_it_tells_of(
    store: Store, clock: ManualClock, event: Event, told: bool
) -> None:
    await accept(store, clock)
    [item] = await claim(store)
    mine = receipt(clock, item)
    await store.settle_inbound(item, Settlement(event, "so", due_at=clock.now() + 10, receipt=mine))
    leaving = await claim_out(store)
    assert [one.id for one in leaving] == ([mine.message.id] if told else [])
    assert [one.content for one in leaving] == ([mine.content] if told else [])


async def test_stale_end_stores_no_receipt(store: Store, clock: ManualClock) -> None:
    await accept(store, clock)
    [item] = await claim(store)
    await store.leave("w1")
    assert await store.settle_inbound(item, Settlement(Event.SILENCE, "so", receipt=receipt(clock, item))) is None
    assert await claim_out(store) == []


async def test_state_was_changed_then_no_receipt_is_stored(store: Store, clock: ManualClock) -> None:
    [identifier] = await accept(store, clock)
    [item] = await claim(store)
    memory = Memory("echo", {"k": "another"}, (Value("k", "1"),))
    await store.settle_inbound(item, Settlement(Event.SILENCE, "so", memory=memory, receipt=receipt(clock, item)))
    assert await state_of(store, identifier) is State.RECEIVED
    assert await claim_out(store) == []


async def test_answer_has_no_room_then_the_receipt_leaves_all_the_same(store: Store, clock: ManualClock) -> None:
    full = Window("interval x", 1, 60, "interval: full")
    for number in range(2):
        await accept(store, clock)
        [item] = await claim(store)
        settlement = replace(answer(clock, item, windows=(full,)), receipt=receipt(clock, item))
        ended = await store.settle_inbound(item, settlement)
        assert ended is not None
        assert ended[0] is (State.SILENT if number else State.ANSWERED)
    assert sorted(one.kind for one in await claim_out(store)) == ["answer", "dsn", "dsn"]


async def test_receipts_of_one_batch_count_in_their_own_window(store: Store, clock: ManualClock) -> None:
    window = Window("sender a", 2, 60, "full")
    for _ in range(5):
        await accept(store, clock)
    items = await claim(store)
    ends = await asyncio.gather(
        *(
            store.settle_inbound(item, Settlement(Event.SILENCE, "so", receipt=receipt(clock, item, window)))
            for item in items
        )
    )
    assert [end[0] for end in ends if end] == [State.SILENT] * 5
    assert len(await claim_out(store)) == 2
    clock.advance(61)
    await accept(store, clock)
    [item] = await claim(store)
    await store.settle_inbound(item, Settlement(Event.SILENCE, "so", receipt=receipt(clock, item, window)))
    assert len(await claim_out(store)) == 1
