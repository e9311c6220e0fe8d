"""The store against a model of it that fits on a page: whatever is done in whatever order, both tell the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from responder.mail.lifecycle import TRANSITIONS, Event, IllegalTransitionError, State, final_states
from responder.store.base import Store
from responder.store.records import InboundItem, OutboundItem, Settlement
from tests.support.stores import BACKENDS, LEASE, accept, answer, backend_of, bounds

T = TypeVar("T")
ATTEMPTS = 3
WORKERS = st.sampled_from(["w1", "w2"])
HELD = {"inbound": State.ANSWERING, "outbound": State.SENDING}
WAITING = {"inbound": (State.RECEIVED,), "outbound": (State.QUEUED, State.DEFERRED)}


@dataclass
class Row:
    """What the model knows of an item."""

    table: str
    state: State
    due_at: float
    changed_at: float
    domain: str = ""
    claim: str = ""
    attempts: int = 0
    events: list[str] = field(default_factory=list)

    def step(self, event: Event, now: float, due_at: float) -> None:
        self.state = TRANSITIONS[self.table][self.state, event]
        self.events.append(event)
        self.due_at, self.changed_at, self.claim = due_at, now, ""


class StoreMachine(RuleBasedStateMachine):
    """Two workers and an operator at one store."""

    backend = "sqlite"

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        backend = self.do(self.stack.enter_async_context(backend_of(self.backend, Path(folder))))
        self.clock = backend.clock
        self.store: Store = self.do(backend.another())
        self.rows: dict[str, Row] = {}
        self.workers: dict[str, float] = {}
        self.claimed: list[InboundItem | OutboundItem] = []

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.do(self.stack.aclose())
            self.runner.close()

    def do(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.runner.run(run())

    @rule(recipients=st.integers(1, 3))
    def accept(self, recipients: int) -> None:
        now = self.clock.now()
        for item in self.do(accept(self.store, self.clock, *(f"u{n}@test.example" for n in range(recipients)))):
            self.rows[item] = Row("inbound", State.RECEIVED, now, now, events=["accept"])

    @rule(seconds=st.sampled_from([1.0, 20.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(token=WORKERS)
    def beat(self, token: str) -> None:
        assert self.do(self.store.beat(token, LEASE)) is (token in self.workers)
        self.workers[token] = self.clock.now() + LEASE

    @rule(token=WORKERS, limit=st.integers(1, 4))
    def claim_inbound(self, token: str, limit: int) -> None:
        due = self.due("inbound")
        items, following = self.do(self.store.claim_inbound(token, limit))
        assert len(items) == min(limit, len(due))
        self.take(list(items), token)
        assert following == self.next_due("inbound")

    @rule(token=WORKERS, limit=st.integers(1, 4), share=st.integers(1, 2))
    def claim_outbound(self, token: str, limit: int, share: int) -> None:
        due = self.due("outbound")
        parcels, following = self.do(self.store.claim_outbound(token, limit, bounds(share)))
        items = [item for parcel in parcels for item in parcel.items]
        sending = [row.domain for row in self.rows.values() if row.state is State.SENDING]  # whoever has them
        room = {domain: max(share - sending.count(domain), 0) for domain in ("one.example", "two.example")}
        expected = sum(min(room[domain], sum(row.domain == domain for row in due)) for domain in room)
        assert len(items) == min(limit, expected)
        for domain, places in room.items():
            assert sum(item.domain == domain for item in items) <= places
        self.take(list(items), token)
        soonest = self.next_due("outbound")
        if soonest is not None:
            assert following is not None
            assert following == soonest or following <= self.clock.now()  # there may be room at any moment

    def due(self, table: str) -> list[Row]:
        now = self.clock.now()
        return [r for r in self.rows.values() if r.table == table and r.state in WAITING[table] and r.due_at <= now]

    def next_due(self, table: str) -> float | None:
        waiting = [row.due_at for row in self.rows.values() if row.table == table and row.state in WAITING[table]]
        return min(waiting, default=None)

    def take(self, items: list[Any], token: str) -> None:
        now = self.clock.now()
        if all(isinstance(item, InboundItem) for item in items):  # what leaves has its turn
            assert [self.rows[i.id].due_at for i in items] == sorted(self.rows[i.id].due_at for i in items)
        for item in items:
            row = self.rows[item.id]
            assert row.state in WAITING[row.table]
            assert row.due_at <= now
            row.step(Event.CLAIM, now, row.due_at)
            row.claim = token
            row.attempts += 1
            assert (item.claim.token, item.claim.attempts) == (token, row.attempts)
            self.claimed.append(item)

    @rule(data=st.data(), event=st.sampled_from([*Event]), pause=st.sampled_from([0.0, 50.0]))
    def settle(self, data: st.DataObject, event: Event, pause: float) -> None:
        if not self.claimed:
            return
        item = data.draw(st.sampled_from(self.claimed))  # among them those that are settled or lost already: stale
        row = self.rows.get(item.id)
        table = "inbound" if isinstance(item, InboundItem) else "outbound"
        now, due_at = self.clock.now(), self.clock.now() + pause
        settlement = Settlement(event, "so", due_at=due_at)
        if isinstance(item, InboundItem) and event is Event.ANSWER:
            settlement = answer(self.clock, item, "a@one.example", "b@two.example")
            due_at = 0.0
        held = row is not None and (row.state, row.claim, row.attempts) == (HELD[table], *_claim(item))
        allowed = (HELD[table], event) in TRANSITIONS[table]
        try:
            settle: Any = self.store.settle_inbound if table == "inbound" else self.store.settle_outbound
            end = self.do(settle(item, settlement))
        except IllegalTransitionError:
            assert held
            assert not allowed
            return
        assert (end is not None) is held
        if row is None or not held:
            return
        assert allowed
        row.step(event, now, due_at)
        assert end == (row.state, settlement.reason)
        for message in settlement.outbound:
            self.rows[message.id] = Row("outbound", State.QUEUED, now, now, message.domain, events=["queue"])

    @rule(token=WORKERS)
    def leave(self, token: str) -> None:
        self.do(self.store.leave(token))
        for row in self.rows.values():
            if row.claim == token:
                row.step(Event.RELEASE if row.table == "inbound" else Event.YIELD, self.clock.now(), self.clock.now())
                row.attempts -= 1
        self.workers.pop(token, None)

    @rule()
    def sweep(self) -> None:
        now = self.clock.now()
        self.workers = {token: until for token, until in self.workers.items() if until >= now}
        lost = [row for row in self.rows.values() if row.claim and row.claim not in self.workers]
        for row in lost:
            used_up = row.table == "inbound" and row.attempts >= ATTEMPTS
            row.step(Event.FAIL if used_up else Event.EXPIRE_LEASE, now, now)
        assert self.do(self.store.sweep(ATTEMPTS)) == len(lost)

    @rule(data=st.data(), event=st.sampled_from([Event.RETRY, Event.DROP, Event.HOLD, Event.RELEASE]))
    def act(self, data: st.DataObject, event: Event) -> None:
        if not self.rows:
            return
        item = data.draw(st.sampled_from(sorted(self.rows)))
        row = self.rows[item]
        now = self.clock.now()
        try:
            state = self.do(self.store.act(item, event, "so"))
        except IllegalTransitionError:
            assert row.claim or (row.state, event) not in TRANSITIONS[row.table]
            return
        row.step(event, now, now)
        assert state is row.state
        row.attempts = 0 if event is Event.RETRY else row.attempts

    @rule(age=st.sampled_from([10.0, 60.0]), limit=st.sampled_from([1, 100]))
    def purge(self, age: float, limit: int) -> None:
        before = self.clock.now() - age
        while self.do(self.store.purge(before, before, limit)):
            pass
        self.rows = {
            item: row
            for item, row in self.rows.items()
            if row.state not in final_states(TRANSITIONS[row.table]) or row.changed_at >= before
        }

    @invariant()
    def both_tell_the_same(self) -> None:
        if not hasattr(self, "rows"):
            return
        found = {view.id: (view.state, view.attempts) for view in self.do(self.store.items(list(State)))}
        assert found == {item: (row.state, row.attempts) for item, row in self.rows.items()}
        for item, row in self.rows.items():
            accounts = self.do(self.store.account(item))
            assert [entry.event for entry in accounts[0].history if entry.item == item] == row.events


def _claim(item: InboundItem | OutboundItem) -> tuple[str, int]:
    return item.claim.token, item.claim.attempts


@pytest.mark.parametrize("name", BACKENDS)
def test_store_and_model_agree(name: str) -> None:
    machine = type("Machine", (StoreMachine,), {"backend": name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
