"""What every store promises of the agents' memory: durable, with an end, and one with the answer that it belongs to."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from responder.mail.lifecycle import Event, State
from responder.store.base import Store
from responder.store.records import InboundItem, Memory, Settlement, Value, Window
from responder.store.sqlite import work
from tests.support.clock import ManualClock
from tests.support.stores import Backend, accept, answer, attempts_of, claim, claim_out, history, new_mail


def memory(key: str, json: str | None, seen: dict[str, str] | None = None, *, until: float = 0.0) -> Memory:
    return Memory("echo", seen or {}, (Value(key, json, until),))


async def one(store: Store, clock: ManualClock, token: str = "w1") -> InboundItem:
    await accept(store, clock)
    [item] = await claim(store, token)
    return item


async def read(store: Store, key: str, inbox: str = "echo") -> str | None:
    return (await store.values(inbox, [key])).get(key, (None,))[0]


async def test_values_are_there_for_another_process_each_inbox_its_own(backend: Backend) -> None:
    store, other = await backend.another(), await backend.another()
    assert await store.remember(memory("a", '"x"'))
    assert await store.remember(Memory("news", {}, (Value("a", "1"), Value("b", "2"))))
    assert [await read(other, "a"), await read(other, "a", "news"), await read(other, "c")] == ['"x"', "1", None]
    assert await store.remember(memory("a", None))
    assert [await read(other, "a"), await read(other, "a", "news")] == [None, "1"]


async def test_value_ends_with_its_time_and_is_purged(store: Store, clock: ManualClock) -> None:
    await store.remember(memory("short", "1", until=clock.now() + 60))
    await store.remember(memory("long", "2"))
    clock.advance(59.9)
    assert await read(store, "short") == "1"
    assert await store.purge(0.0, 0.0) == 0
    clock.advance(0.1)
    assert await read(store, "short") is None
    assert await store.values_below("echo", "") == {"long": "2"}
    assert await store.purge(0.0, 0.0) == 1
    assert await store.purge(0.0, 0.0) == 0


async def test_values_below_a_prefix_come_in_their_order(store: Store) -> None:
    keys = ["member:a", "member:\U0001f600", "member:b", "member", "members", "n", "member:", "mem%ber:x"]
    await store.remember(Memory("echo", {}, tuple(Value(key, "0") for key in keys)))
    assert list(await store.values_below("echo", "member:")) == ["member:", "member:a", "member:b", "member:\U0001f600"]
    assert list(await store.values_below("echo", "")) == sorted(keys)
    assert await store.values_below("other", "") == {}


async def test_change_that_saw_something_else_is_refused(store: Store, clock: ManualClock) -> None:
    assert await store.remember(memory("n", "1", {"n": ""}))
    assert not await store.remember(memory("n", "2", {"n": ""}))
    version = (await store.values("echo", ["n"]))["n"][1]
    assert await store.remember(memory("n", "2", {"n": version}))
    assert not await store.remember(memory("n", "3", {"n": version}))
    assert await read(store, "n") == "2"
    # Gone and made anew is not the same
    await store.remember(memory("n", None))
    await store.remember(memory("n", "2"))
    assert not await store.remember(memory("n", "9", {"n": version}))
    # What has expired counts as not there, as its reader sees it
    await store.remember(memory("old", "1", until=clock.now() + 1))
    clock.advance(2)
    assert await store.remember(memory("old", "2", {"old": ""}))


async def test_two_changes_of_one_batch_do_not_both_count(store: Store) -> None:
    outcomes = await asyncio.gather(*(store.remember(memory("n", str(number), {"n": ""})) for number in range(20)))
    assert sum(outcomes) == 1


@pytest.mark.parametrize("event", [Event.ANSWER, Event.SILENCE, Event.DEFER])
async def test_memory_is_stored_with_the_end_of_a_run(store: Store, clock: ManualClock, event: Event) -> None:
    item = await one(store, clock)
    settlement = replace(answer(clock, item), event=event, memory=memory("k", "1", {"k": ""}))
    ended = await store.settle_inbound(item, settlement)
    assert ended is not None
    assert ended[1] == "answered by echo"
    assert await read(store, "k") == "1"


async def test_run_whose_reading_is_out_of_date_leaves_nothing_and_is_done_again(
    store: Store, clock: ManualClock
) -> None:
    first, second = await one(store, clock), await one(store, clock, "w2")
    window = Window("sender a", 1, 60, "interval: so")
    one_answer = replace(answer(clock, first), memory=memory("n", "1", {"n": ""}))
    other = replace(answer(clock, second, windows=(window,)), memory=memory("n", "1", {"n": ""}))
    assert (await store.settle_inbound(first, one_answer) or [None])[0] is State.ANSWERED
    ended = await store.settle_inbound(second, other)
    assert ended is not None
    assert ended[0] is State.RECEIVED
    assert ended[1].startswith("state-changed: ")
    assert (await history(store, second.id))[-1][:2] == ("defer", "RECEIVED")
    assert [message.cause for message in await claim_out(store)] == [first.id]
    assert await store.exceeded((window,)) is None  # nor was its window counted
    assert await attempts_of(store, second.id) == 0  # given back
    [again] = await claim(store)
    assert again.id == second.id
    version = (await store.values("echo", ["n"]))["n"][1]
    ended = await store.settle_inbound(again, replace(answer(clock, again), memory=memory("n", "2", {"n": version})))
    assert (ended or [None])[0] is State.ANSWERED
    assert await read(store, "n") == "2"


async def test_run_whose_reading_never_stands_still_is_done_later_and_given_up_in_the_end(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "SOON", 1)
    monkeypatch.setattr(work, "REFUSALS", 4)
    item = await one(store, clock)
    waits = []
    while True:
        await store.remember(memory("n", "1"))  # as a task of the agent's own does, again and again
        ended = await store.settle_inbound(item, replace(answer(clock, item), memory=memory("m", "1", {"n": ""})))
        assert ended is not None
        if ended[0] is State.FAILED:
            break
        found, due = await store.claim_inbound("w1", 10)
        waits.append(0.0 if due is None else due - clock.now())
        clock.advance(waits[-1] + 0.01)
        [item] = found or await claim(store)
    assert waits == [0, pytest.approx(0.1), pytest.approx(0.2)]
    assert ended[1].startswith("state-changed: ")
    assert await read(store, "m") is None
    # An operator's retry is a fresh start
    await store.act(item.id, Event.RETRY, "by hand")
    [item] = await claim(store)
    ended = await store.settle_inbound(item, replace(answer(clock, item), memory=memory("m", "1", {"n": ""})))
    assert (ended or [None])[0] is State.RECEIVED


async def test_two_runs_of_one_batch_with_one_reading_are_not_both_stored(store: Store, clock: ManualClock) -> None:
    items = [await one(store, clock, f"w{number}") for number in range(5)]
    ends = await asyncio.gather(
        *(store.settle_inbound(i, replace(answer(clock, i), memory=memory("n", f'"{i.id}"', {"n": ""}))) for i in items)
    )
    assert sorted(end[0] for end in ends if end) == [State.ANSWERED] + 4 * [State.RECEIVED]
    [answered] = [item for item, end in zip(items, ends, strict=True) if end and end[0] is State.ANSWERED]
    assert await read(store, "n") == f'"{answered.id}"'


async def test_answer_that_does_not_fit_its_window_leaves_no_memory(store: Store, clock: ManualClock) -> None:
    item = await one(store, clock)
    full = replace(answer(clock, item, windows=(Window("x", 0, 1, "full"),)), memory=memory("k", "1"))
    assert (await store.settle_inbound(item, full) or [None])[0] is State.SILENT
    assert await read(store, "k") is None


async def test_stale_run_leaves_no_memory(store: Store, clock: ManualClock) -> None:
    item = await one(store, clock)
    await store.settle_inbound(item, Settlement(Event.SILENCE, "so"))
    assert await store.settle_inbound(item, replace(answer(clock, item), memory=memory("k", "1"))) is None
    assert await read(store, "k") is None


async def test_mail_to_ourselves_arrives_with_the_end_that_brings_it(store: Store, clock: ManualClock) -> None:
    item = await one(store, clock)
    await store.settle_inbound(item, answer(clock, item))
    [leaving] = await claim_out(store)
    arrival = new_mail(clock, "bounces+x@test.example")
    store.wake_inbound.clear()
    await store.settle_outbound(leaving, Settlement(Event.FAIL, "no such user", arrivals=(arrival,)))
    assert store.wake_inbound.is_set()
    assert [item.recipient for item in await claim(store)] == ["bounces+x@test.example"]


async def test_route_and_head_are_those_that_were_stored(store: Store, clock: ManualClock) -> None:
    item = await one(store, clock)
    settlement = answer(clock, item)
    message = replace(
        settlement.outbound[0], kind="list", route="mail.example:2525", head="List-Unsubscribe: <x:y>\r\n"
    )
    await store.settle_inbound(item, replace(settlement, outbound=(message,)))
    [leaving] = await claim_out(store)
    assert (leaving.route, leaving.head) == ("mail.example:2525", "List-Unsubscribe: <x:y>\r\n")
    sent = await store.sent(leaving.id)
    assert sent is not None and (sent.kind, sent.inbox, sent.recipient) == ("list", "echo", "a@example.org")
    assert (sent.state, sent.head) == ("SENDING", leaving.head)
    assert await store.sent("nothing") is None


async def test_no_inbox_takes_more_places_than_it_has(store: Store, clock: ManualClock) -> None:
    for _ in range(30):
        await accept(store, clock, "slow@test.example")
    for _ in range(3):
        await accept(store, clock, "echo@test.example")
    items, due = await store.claim_inbound("w1", 10, {}, {}, 4)
    assert sorted(item.inbox for item in items) == 3 * ["echo"] + 4 * ["slow"]
    assert due == clock.now()
    items, _ = await store.claim_inbound("w1", 10, {"slow": 3, "echo": 4}, {"echo": 4}, 4)
    assert [item.inbox for item in items] == ["slow"]
    items, _ = await store.claim_inbound("w1", 10, {"slow": 6}, {}, 4)
    assert items == []
    items, _ = await store.claim_inbound("w1", 100)
    assert len(items) == 25


async def test_inbox_takes_no_more_places_than_stay_free(store: Store, clock: ManualClock) -> None:
    for inbox in ("one", "two", "three"):
        for _ in range(40):
            await accept(store, clock, f"{inbox}@test.example")
    counts = []
    running: dict[str, int] = {}
    for _ in range(3):  # again and again: what is free goes to those that have less
        items, _ = await store.claim_inbound("w1", 64 - sum(running.values()), running, {}, 40)
        for item in items:
            running[item.inbox] = running.get(item.inbox, 0) + 1
        counts.append(sum(running.values()))
    assert running == {"one": 32, "two": 16, "three": 8}
    assert counts == 3 * [56]
    await accept(store, clock, "four@test.example")
    items, _ = await store.claim_inbound("w1", 8, running, {}, 40)
    assert [item.inbox for item in items] == ["four"]
    items, _ = await store.claim_inbound("w1", 1, {}, {}, 40)
    assert len(items) == 1  # a worker of one place works, too
