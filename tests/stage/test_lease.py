"""The lease: how long a process may think that its claims are its own, and what others may take when it is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from responder import worker as module
from responder.mail.lifecycle import State
from responder.store.base import StoreUnavailableError
from responder.worker import Lease
from tests.support.stores import accept, attempts_of, state_of
from tests.support.workers import Rig, ScriptedStage, silence, until, working


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with working(tmp_path) as rig:
        yield rig


async def test_nothing_is_claimed_without_a_valid_lease(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TROUBLE", 0.01)
    rig.clock.advance(31)
    [item] = await accept(rig.store, rig.clock)
    stage = ScriptedStage(rig.store, silence)
    rig.start(stage)
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert stage.claims == 0
    await rig.lease.start()
    await until(lambda: stage.handled == [item])


async def test_lease_beats_three_times_in_its_length(rig: Rig) -> None:
    beating = asyncio.create_task(rig.lease.run())
    try:
        for _ in range(10):
            await until(lambda: rig.clock.sleeping == 1)
            rig.clock.advance(10)
            assert rig.lease.valid
        await until(lambda: rig.clock.sleeping == 1)
        assert await rig.store.beat(rig.lease.token, 30) is True
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


async def test_lease_that_cannot_be_renewed_ends_for_us_no_later_than_for_the_store(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(token: str, lease: float) -> bool:
        raise StoreUnavailableError("trouble")

    monkeypatch.setattr(rig.store, "beat", fail)
    beating = asyncio.create_task(rig.lease.run())
    try:
        for seconds in (10, 20, 30):
            await until(lambda: rig.clock.sleeping == 1)
            rig.clock.advance(10)
            assert rig.lease.valid is (seconds < 30)
        monkeypatch.undo()
        await until(lambda: rig.clock.sleeping == 1)
        rig.clock.advance(10)
        await until(lambda: rig.lease.valid)
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


async def test_slow_beat_is_counted_from_its_beginning(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store may have written it at once and answered late: it must never think longer of us than we do."""
    beat = rig.store.beat

    async def slow(token: str, lease: float) -> bool:
        known = await beat(token, lease)
        rig.clock.advance(12)
        return known

    monkeypatch.setattr(rig.store, "beat", slow)
    await rig.lease.start()
    rig.clock.advance(17)
    assert rig.lease.valid
    rig.clock.advance(1)
    assert not rig.lease.valid


async def test_new_process_frees_what_the_dead_one_had(rig: Rig) -> None:
    [item] = await accept(rig.store, rig.clock)
    await rig.store.claim_inbound(rig.lease.token, 1)
    rig.clock.advance(31)
    other = Lease(rig.store, rig.clock, 30.0, 3)
    await other.start()
    assert (await state_of(rig.store, item), await attempts_of(rig.store, item)) == (State.RECEIVED, 1)


async def test_store_when_it_failed_for_longer_than_a_lease_then_the_living_keep_their_claims_and_the_dead_do_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(token: str, lease: float) -> bool:
        raise StoreUnavailableError("trouble")

    async def pass_time(seconds: int) -> None:
        for _ in range(seconds):
            await until(lambda: rig.clock.sleeping == len(beating))
            rig.clock.advance(1)

    beating: list[asyncio.Task[None]] = []
    items = []
    try:
        for number in range(3):
            lease = Lease(rig.store, rig.clock, 30.0, 5)
            await lease.start()
            await accept(rig.store, rig.clock)
            [claimed], _ = await rig.store.claim_inbound(lease.token, 1)
            items.append(claimed.id)
            if number < 2:  # the third one dies at once
                beating.append(asyncio.create_task(lease.run()))
                await pass_time(5)
        monkeypatch.setattr(rig.store, "beat", fail)
        await pass_time(60)
        monkeypatch.undo()
        await pass_time(60)
        states = [await state_of(rig.store, item) for item in items]
        assert states == [State.ANSWERING, State.ANSWERING, State.RECEIVED]
    finally:
        for task in beating:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
