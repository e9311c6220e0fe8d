"""The loop that both stages share: real store, scripted stage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from responder import worker as module
from responder.mail.lifecycle import Event, State
from responder.store.base import StoreUnavailableError
from responder.store.records import InboundItem, Settlement
from responder.store.sqlite import SQLiteStore
from tests.support.stores import accept, answer, attempts_of, claim_out, history, state_of
from tests.support.workers import PATIENCE, Rig, ScriptedStage, silence, until, working


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with working(tmp_path) as rig:
        yield rig


# -- the loop ----------------------------------------------------------------------------------------------------------


async def test_work_that_waits_and_work_that_comes_is_done(rig: Rig) -> None:
    ids = await accept(rig.store, rig.clock)
    stage = ScriptedStage(rig.store, silence)
    rig.start(stage)
    await until(lambda: len(stage.settled) == 1)
    ids += await accept(rig.store, rig.clock)
    await until(lambda: len(stage.settled) == 2)
    assert stage.handled == ids
    assert [await state_of(rig.store, item) for item in ids] == [State.SILENT] * 2


async def test_no_more_are_under_way_than_there_are_places(rig: Rig) -> None:
    busy = most = 0

    async def count(item: InboundItem) -> Settlement:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        return Settlement(Event.SILENCE, "so")

    for _ in range(20):
        await accept(rig.store, rig.clock)
    stage = ScriptedStage(rig.store, count)
    rig.start(stage, places=3)
    await until(lambda: len(stage.settled) == 20)
    assert most == 3


async def test_place_that_is_free_is_used_though_others_hang(rig: Rig) -> None:
    """Some items take for ever. What waits must not wait for them, nor for new work to come by."""
    release = asyncio.Event()
    hanging = await accept(rig.store, rig.clock, "a@test.example", "b@test.example")
    rig.clock.advance(1)
    quick = await accept(rig.store, rig.clock, *(f"u{n}@test.example" for n in range(4)))

    async def handle(item: InboundItem) -> Settlement:
        if item.id in hanging:
            await release.wait()
        return Settlement(Event.SILENCE, "so")

    stage = ScriptedStage(rig.store, handle)
    rig.start(stage, places=3)
    await until(lambda: len(stage.settled) == len(quick))
    assert {item for item, _ in stage.settled} == set(quick)
    release.set()
    await until(lambda: len(stage.settled) == len(quick) + len(hanging))


async def test_item_that_another_process_left_is_found_without_a_wake(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)
    stage = ScriptedStage(rig.store, silence)
    rig.start(stage)
    await until(lambda: stage.claims > 1)
    other = SQLiteStore(rig.store._path, rig.clock)
    await other.open()
    [item] = await accept(other, rig.clock)
    await until(lambda: stage.handled == [item])
    await other.close()


async def test_mistake_in_one_item_ends_that_item_alone(rig: Rig) -> None:
    async def handle(item: InboundItem) -> Settlement:
        if item.recipient.startswith("bad"):
            raise KeyError("a mistake of ours")
        return Settlement(Event.SILENCE, "so")

    ids = await accept(rig.store, rig.clock, "bad@test.example", "good@test.example")
    stage = ScriptedStage(rig.store, handle)
    rig.start(stage)
    await until(lambda: len(stage.settled) == 2)
    assert sorted(stage.settled) == [(ids[0], "FAILED"), (ids[1], "SILENT")]
    assert (await history(rig.store, ids[0]))[-1] == ("fail", "FAILED", "broken: KeyError")


async def test_claim_that_fails_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TROUBLE", 0.01)
    failures = 3
    stage = ScriptedStage(rig.store, silence)
    claim = stage.claim

    async def failing(token: str, limit: int) -> tuple[list[InboundItem], float | None]:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailableError("trouble")
        return await claim(token, limit)

    monkeypatch.setattr(stage, "claim", failing)
    await accept(rig.store, rig.clock)
    rig.start(stage)
    await until(lambda: len(stage.settled) == 1)


# -- settling ----------------------------------------------------------------------------------------------------------


async def test_what_was_done_is_noted_when_the_store_works_again_and_once(rig: Rig) -> None:
    """The answer is computed once, however often its storing fails."""
    [item] = await accept(rig.store, rig.clock)

    async def answered(item: InboundItem) -> Settlement:
        return answer(rig.clock, item)

    stage = ScriptedStage(rig.store, answered, settle_failures=3)
    rig.start(stage)
    for left in (2, 1, 0):
        await until(lambda left=left: stage.settle_failures == left and rig.clock.sleeping == 1)  # type: ignore[misc]
        assert await state_of(rig.store, item) is State.ANSWERING
        rig.clock.advance(module.TROUBLE)
    await until(lambda: stage.settled == [(item, "ANSWERED")])
    assert stage.handled == [item]
    assert len(await claim_out(rig.store)) == 1
    assert [event for event, _, _ in await history(rig.store, item)] == ["accept", "claim", "answer"]


async def test_what_cannot_be_stored_is_ended_as_our_mistake_and_not_for_ever(rig: Rig) -> None:
    [item] = await accept(rig.store, rig.clock)
    stage = ScriptedStage(rig.store, silence, settle_failures=1, settle_error=TypeError)
    rig.start(stage)
    await until(lambda: rig.clock.sleeping == 1)
    rig.clock.advance(module.TROUBLE)
    await until(lambda: stage.settled == [(item, "FAILED")])
    assert (await history(rig.store, item))[-1] == ("fail", "FAILED", "broken: TypeError")


# -- stopping ----------------------------------------------------------------------------------------------------------


async def test_stop_lets_what_is_under_way_end_and_takes_nothing_new(rig: Rig) -> None:
    release = asyncio.Event()

    async def wait(item: InboundItem) -> Settlement:
        await release.wait()
        return Settlement(Event.SILENCE, "so")

    [first] = await accept(rig.store, rig.clock)
    stage = ScriptedStage(rig.store, wait)
    worker = rig.start(stage)
    await until(lambda: stage.handled == [first])
    stopping = asyncio.create_task(worker.stop(PATIENCE))
    await asyncio.sleep(0)
    [second] = await accept(rig.store, rig.clock)
    release.set()
    await asyncio.wait_for(stopping, PATIENCE)
    assert stage.settled == [(first, "SILENT")]
    assert await state_of(rig.store, second) is State.RECEIVED


async def test_what_does_not_end_in_time_is_given_back_with_its_attempt(rig: Rig) -> None:
    async def hang(item: InboundItem) -> Settlement:
        await asyncio.Event().wait()
        raise AssertionError("never")

    [item] = await accept(rig.store, rig.clock)
    stage = ScriptedStage(rig.store, hang)
    worker = rig.start(stage)
    await until(lambda: stage.handled == [item])
    await asyncio.wait_for(worker.stop(0.01), PATIENCE)
    assert await state_of(rig.store, item) is State.ANSWERING
    await rig.lease.end()
    assert (await state_of(rig.store, item), await attempts_of(rig.store, item)) == (State.RECEIVED, 0)
    assert (await history(rig.store, item))[-1][:2] == ("release", "RECEIVED")
    assert not rig.lease.valid


async def test_what_is_claimed_while_the_stop_begins_is_not_begun(rig: Rig) -> None:
    """A claim was on its way when the stop came: a message would leave, and nobody would note it."""
    [item] = await accept(rig.store, rig.clock)
    stage = ScriptedStage(rig.store, silence)
    stage.claiming = asyncio.Event()
    worker = rig.start(stage)
    await until(lambda: stage.claims == 1)
    await worker.stop(PATIENCE)
    stage.claiming.set()
    await rig.end()
    assert stage.handled == []
    await rig.lease.end()
    assert (await state_of(rig.store, item), await attempts_of(rig.store, item)) == (State.RECEIVED, 0)
