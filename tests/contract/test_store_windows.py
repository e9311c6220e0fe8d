"""What every store promises of windows: an answer that does not fit leaves nothing, whoever else answers at that moment."""

from __future__ import annotations

import asyncio

from responder.mail.lifecycle import Event, State
from responder.store.base import Store
from responder.store.records import InboundItem, Settlement, Window
from tests.support.clock import ManualClock
from tests.support.stores import Backend, accept, answer, claim, claim_out, history, state_of

ONE = Window("sender a", 1, 60, "interval: this sender was answered")
TWO = Window("inbox echo", 2, 3600, "breaker-per-inbox: 2/1h answers reached")


async def items_of(store: Store, clock: ManualClock, number: int, token: str = "w1") -> list[InboundItem]:
    for _ in range(number):
        await accept(store, clock)
    return await claim(store, token)


async def test_answer_that_does_not_fit_is_silence_with_the_windows_reason(store: Store, clock: ManualClock) -> None:
    first, second = await items_of(store, clock, 2)
    assert await store.settle_inbound(first, answer(clock, first, windows=(ONE,))) == (
        State.ANSWERED,
        "answered by echo",
    )
    late = answer(clock, second, windows=(ONE,))
    assert await store.settle_inbound(second, late) == (State.SILENT, ONE.reason)
    assert (await history(store, second.id))[-1] == ("silence", "SILENT", ONE.reason)
    assert [message.cause for message in await claim_out(store)] == [first.id]


async def test_the_first_full_window_gives_the_reason(store: Store, clock: ManualClock) -> None:
    items = await items_of(store, clock, 4)
    ends = [await store.settle_inbound(item, answer(clock, item, windows=(TWO, ONE))) for item in items]
    assert ends[1] == (State.SILENT, ONE.reason)
    clock.advance(61)
    ends += [
        await store.settle_inbound(i, answer(clock, i, windows=(TWO, ONE))) for i in await items_of(store, clock, 2)
    ]
    assert ends[4:] == [(State.ANSWERED, "answered by echo"), (State.SILENT, TWO.reason)]


async def test_window_has_room_again_when_its_time_is_over(store: Store, clock: ManualClock) -> None:
    [item] = await items_of(store, clock, 1)
    await store.settle_inbound(item, answer(clock, item, windows=(ONE,)))
    assert await store.exceeded((TWO, ONE)) == ONE
    clock.advance(59.5)
    assert await store.exceeded((ONE,)) == ONE
    clock.advance(0.5)
    assert await store.exceeded((ONE,)) is None
    [again] = await items_of(store, clock, 1)
    assert await store.settle_inbound(again, answer(clock, again, windows=(ONE,))) == (
        State.ANSWERED,
        "answered by echo",
    )


async def test_silence_and_stale_answers_do_not_count(store: Store, clock: ManualClock) -> None:
    first, second, third = await items_of(store, clock, 3)
    await store.settle_inbound(first, Settlement(Event.SILENCE, "silent", windows=(ONE,)))
    await store.settle_inbound(second, answer(clock, second, windows=(TWO,)))
    await store.settle_inbound(second, answer(clock, second, windows=(ONE, TWO)))  # stale by now
    assert await store.exceeded((ONE, TWO)) is None
    full = answer(clock, third, windows=(ONE, TWO, Window("never", 0, 1, "none")))
    assert await store.settle_inbound(third, full) == (State.SILENT, "none")
    assert await store.exceeded((ONE, TWO)) is None  # what was not answered was not counted in any window


async def test_a_look_counts_nothing(store: Store, clock: ManualClock) -> None:
    for _ in range(3):
        assert await store.exceeded((ONE,)) is None


async def test_windows_are_told_apart_by_their_whole_key(store: Store, clock: ManualClock) -> None:
    [item] = await items_of(store, clock, 1)
    await store.settle_inbound(item, answer(clock, item, windows=(ONE,)))
    for key in ("sender A", "sender", "sender a ", "sender ä", "%", "sender _"):
        assert await store.exceeded((Window(key, 1, 60, "x"),)) is None


async def test_one_of_many_at_once_passes(store: Store, clock: ManualClock) -> None:
    items = await items_of(store, clock, 10)
    ends = await asyncio.gather(*(store.settle_inbound(i, answer(clock, i, windows=(ONE,))) for i in items))
    assert [state for state, _ in filter(None, ends)].count(State.ANSWERED) == 1
    assert len(await claim_out(store)) == 1


async def test_one_of_two_processes_passes(backend: Backend, store: Store, clock: ManualClock) -> None:
    """Two stores on one database, each with its own connection: what one commits the other one counts."""
    other = await backend.another()
    for round_ in range(10):
        await asyncio.gather(accept(store, clock), accept(other, clock))
        [mine], [others] = await claim(store, "w1", 1), await claim(other, "w2", 1)
        window = Window(f"round {round_}", 1, 60, "full")
        ends = await asyncio.gather(
            store.settle_inbound(mine, answer(clock, mine, windows=(window,))),
            other.settle_inbound(others, answer(clock, others, windows=(window,))),
        )
        assert sorted(end[0] for end in ends if end) == [State.ANSWERED, State.SILENT]
        assert {await state_of(store, mine.id), await state_of(other, others.id)} == {State.ANSWERED, State.SILENT}
    assert len(await claim_out(store)) == 10
