"""Messages that no item brings about: queued with their contents and what is remembered of them, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from responder.store.base import Store
from responder.store.records import Memory, NewOutbound, Value
from tests.support.clock import ManualClock
from tests.support.stores import claim_out

MESSAGE = NewOutbound(
    id="o1",
    kind="report",
    cause="r1",
    inbox="",
    content_id="c1",
    reverse_path="bounces+o1@test.example",
    recipient="a@far.example",
    domain="far.example",
    return_to="",
    created_at=1_800_000_000.0,
    expires_at=1_800_100_000.0,
)


async def test_message_is_queued_then_it_is_claimed_with_its_content(store: Store, clock: ManualClock) -> None:
    store.wake_outbound.clear()
    assert await store.enqueue([MESSAGE], [("c1", b"x")])
    assert store.wake_outbound.is_set()
    (item,) = await claim_out(store, "w")
    assert (item.id, item.kind, item.content, item.requiretls) == ("o1", "report", b"x", False)


async def test_message_requires_tls_then_so_does_what_is_claimed(store: Store, clock: ManualClock) -> None:
    assert await store.enqueue([replace(MESSAGE, requiretls=True)], [("c1", b"x")])
    (item,) = await claim_out(store, "w")
    assert item.requiretls


async def test_memory_has_changed_meanwhile_then_nothing_is_stored(store: Store, clock: ManualClock) -> None:
    await store.remember(Memory(".x", {}, (Value("k", "1"),)))
    seen = {"k": (await store.values(".x", ["k"]))["k"][1]}
    await store.remember(Memory(".x", {}, (Value("k", "2"),)))
    assert not await store.enqueue([MESSAGE], [("c1", b"x")], Memory(".x", seen, (Value("k", None),)))
    assert await claim_out(store, "w") == []
    assert await store.values_below(".x", "") == {"k": "2"}
    assert await store.enqueue(
        [MESSAGE], [("c1", b"x")], Memory(".x", {}, (Value("k", None),))
    )  # the content's id is free
    assert await store.values_below(".x", "") == {}


async def test_two_come_together_on_one_memory_then_the_first_wins(store: Store, clock: ManualClock) -> None:
    memory = Memory(".x", {"k": ""}, (Value("k", "1"),))
    other = replace(MESSAGE, id="o2", content_id="c2")
    results = await asyncio.gather(
        store.enqueue([MESSAGE], [("c1", b"x")], memory), store.enqueue([other], [("c2", b"y")], memory)
    )
    assert sorted(results) == [False, True]
    assert len(await claim_out(store, "w")) == 1
