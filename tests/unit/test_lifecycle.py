"""The life of a mail: the table of both machines, the store that applies it, and the diagrams that show it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from responder.mail.lifecycle import (
    INITIAL,
    TRANSITIONS,
    Event,
    IllegalTransitionError,
    State,
    diagram,
    final_states,
    states,
    step,
)
from responder.store.records import Claim, InboundItem, OutboundItem, Settlement
from responder.store.returns import Returned
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.server import ROOT
from tests.support.stores import accept, attempts_of, claim, claim_out, history, in_state, state_of

PAIRS = [(name, state, event) for name in TRANSITIONS for state in State for event in Event]
LIVED = [(name, state, event) for name, state, event in PAIRS if state in states(TRANSITIONS[name])]
OPERATOR = {Event.RETRY, Event.DROP, Event.HOLD, Event.EXPIRE}
LATER = {Event.RETURN}  # what another host does to what is done


@pytest.mark.parametrize(("name", "state", "event"), PAIRS)
def test_step_is_the_tables_and_every_other_pair_is_illegal(name: str, state: State, event: Event) -> None:
    machine = TRANSITIONS[name]
    if (state, event) in machine:
        assert step(machine, state, event) is machine[state, event]
    else:
        with pytest.raises(IllegalTransitionError, match=f"a mail that is {state} can't {event}"):
            step(machine, state, event)


# What no edit of the table may take away. Each line is a promise of the documentation.


def test_inbound_machine_is_the_one_that_was_agreed_on() -> None:
    assert states(TRANSITIONS["inbound"]) == ["RECEIVED", "ANSWERING", "DROPPED", "ANSWERED", "SILENT", "FAILED"]
    assert final_states(TRANSITIONS["inbound"]) == ["DROPPED", "ANSWERED", "SILENT", "FAILED"]


def test_outbound_machine_is_the_one_that_was_agreed_on() -> None:
    assert set(states(TRANSITIONS["outbound"])) == {
        "QUEUED", "SENDING", "DEFERRED", "HELD", "DELIVERED", "BOUNCED", "FAILED", "DROPPED",
    }  # fmt: skip
    assert set(final_states(TRANSITIONS["outbound"])) == {"DELIVERED", "BOUNCED", "FAILED", "DROPPED"}


@pytest.mark.parametrize("state", [State.ANSWERED, State.DELIVERED, State.DROPPED])
def test_what_is_done_is_done_for_ever(state: State) -> None:
    """Nothing of ours brings it back, not even an operator: an answer is computed once, and sent once. But a host that took it
    may send it back."""
    events = {event for machine in TRANSITIONS.values() for (at, event) in machine if at is state}
    assert events == (LATER if state is State.DELIVERED else set())


@pytest.mark.parametrize("name", TRANSITIONS)
def test_every_state_is_reached_and_only_final_ones_and_held_wait_for_a_person(name: str) -> None:
    machine = TRANSITIONS[name]
    reached = {INITIAL[name]} | set(machine.values())
    assert reached == set(states(machine))
    waiting = {
        state
        for state in states(machine)
        if not any(at is state for at, event in machine if event not in OPERATOR | LATER)
    }
    assert waiting == set(final_states(machine))


@pytest.mark.parametrize("name", TRANSITIONS)
def test_work_is_given_back_or_ended_and_never_in_two_hands(name: str) -> None:
    machine = TRANSITIONS[name]
    [held] = {to for (_, event), to in machine.items() if event is Event.CLAIM}
    assert (held, Event.CLAIM) not in machine
    assert (held, Event.EXPIRE_LEASE) in machine
    assert not any((held, event) in machine for event in OPERATOR)


# -- applied -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "responder.db", clock)
    await store.open()
    yield store
    await store.close()


@pytest.mark.parametrize(("name", "state", "event"), LIVED)
async def test_store_does_what_the_table_says_or_nothing(
    store: SQLiteStore, clock: ManualClock, name: str, state: State, event: Event
) -> None:
    """Each event by the verb that causes it: claims, sweeps and leaves, the operator's hand, a worker's settlement."""
    item = await in_state(store, clock, name, state)
    before = (await attempts_of(store, item), await history(store, item))
    await cause(store, clock, name, item, event)
    expected = TRANSITIONS[name].get((state, event))
    told = await history(store, item)
    if expected is None:
        assert (await state_of(store, item), await attempts_of(store, item), told) == (state, *before)
    else:
        assert await state_of(store, item) is expected
        assert [entry[:2] for entry in told] == [*[entry[:2] for entry in before[1]], (event, expected)]


async def cause(store: SQLiteStore, clock: ManualClock, name: str, item: str, event: Event) -> None:
    if event is Event.CLAIM:
        clock.advance(100_000)
        if name == "inbound":
            await claim(store, "w2")
        else:
            await claim_out(store, "w2")
    elif event is Event.EXPIRE_LEASE:
        await store.sweep(5)  # w1 has never beaten
    elif (name, event) in (("outbound", Event.YIELD), ("inbound", Event.RELEASE)):
        await store.leave("w1")
    elif event is Event.RETURN:
        if name == "inbound":
            return
        await accept(store, clock)
        [report] = await claim(store, "w3")
        await store.settle_inbound(report, Settlement(Event.SILENCE, "x", returned=Returned(item, event, "so")))
    elif event in (Event.RETRY, Event.DROP, Event.HOLD, Event.RELEASE, Event.EXPIRE):
        try:
            await store.act(item, event, "")
        except IllegalTransitionError:
            return
    else:
        await settle(store, name, item, event)


async def settle(store: SQLiteStore, name: str, item: str, event: Event) -> None:
    """As the worker that claimed it last, or, where nobody has, as one that thinks so."""
    query = f"SELECT claim, attempts FROM {name} WHERE id = ?"
    token, attempts = await store._writer.run(lambda c: c.execute(query, (item,)).fetchone())
    settlement = Settlement(event, "so")
    try:
        if name == "inbound":
            await store.settle_inbound(
                InboundItem(item, "", "", "", Claim(token, attempts), 0.0, "", "", "", "", b""), settlement
            )
        else:
            await store.settle_outbound(
                OutboundItem(item, "", "", "", "", "", "", "", "", 0.0, 0.0, claim=Claim(token, attempts), content=b""),
                settlement,
            )
    except IllegalTransitionError:
        return


# -- shown -------------------------------------------------------------------------------------------------------------


def test_documentation_shows_the_machines_as_they_are() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("\n## The life of a mail\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^```mermaid\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert shown == [diagram("inbound"), diagram("outbound")]
