"""Stores under test: every implementation behind one door, and what tests put into them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from responder.clock import Clock
from responder.mail.lifecycle import Event, State
from responder.store.base import Store
from responder.store.records import (
    Allowance,
    InboundItem,
    NewMail,
    NewOutbound,
    OutboundItem,
    Pacing,
    Settlement,
    Window,
)
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock

DAY = 86400.0
LEASE = 30.0


class Backend(Protocol):
    """One database, and as many stores on it as a test wants: each is what another process would be."""

    clock: ManualClock

    async def another(self, clock: Clock | None = None) -> Store:
        """A store on the database, open; it is closed when the test ends."""
        ...


class SQLiteBackend:
    """A file in a temporary folder."""

    def __init__(self, folder: Path, clock: ManualClock, stack: contextlib.AsyncExitStack) -> None:
        self.path = folder / "responder.db"
        self.clock = clock
        self._stack = stack

    async def another(self, clock: Clock | None = None) -> SQLiteStore:
        store = SQLiteStore(self.path, clock or self.clock)
        await store.open()
        self._stack.push_async_callback(store.close)
        return store


BACKENDS: dict[str, Callable[[Path, ManualClock, contextlib.AsyncExitStack], Backend]] = {"sqlite": SQLiteBackend}


@contextlib.asynccontextmanager
async def backend_of(name: str, folder: Path) -> AsyncIterator[Backend]:
    """A new database of that implementation, for the length of the block."""
    async with contextlib.AsyncExitStack() as stack:
        yield BACKENDS[name](folder, ManualClock(), stack)


def new_mail(
    clock: Clock, *recipients: str, message_id: str = "", content: bytes = b"Subject: x\r\n\r\nx\r\n"
) -> NewMail:
    """A mail from a@example.org, to inbox `echo` unless told otherwise."""
    pairs = tuple((recipient, recipient.partition("@")[0]) for recipient in recipients or ("echo@test.example",))
    return NewMail(
        id=clock.new_id(),
        received_at=clock.now(),
        reverse_path="a@example.org",
        peer="192.0.2.1",
        helo="client.example",
        message_id=message_id,
        content=content,
        recipients=pairs,
        note="from client.example",
    )


def outbound(
    clock: Clock, cause: str, to: str = "a@example.org", *, kind: str = "answer", content_id: str = ""
) -> NewOutbound:
    """A message that leaves."""
    identifier = clock.new_id()
    return NewOutbound(
        id=identifier,
        kind=kind,
        cause=cause,
        inbox="echo",
        content_id=content_id or identifier,
        reverse_path="",
        recipient=to,
        domain=to.rpartition("@")[2],
        return_to="",
        created_at=clock.now(),
        expires_at=clock.now() + 5 * DAY,
    )


def answer(clock: Clock, item: InboundItem, *targets: str, windows: tuple[Window, ...] = ()) -> Settlement:
    """The settlement of an answer to each of the targets; all carry one content."""
    first = outbound(clock, item.id, targets[0] if targets else "a@example.org")
    rest = [replace(outbound(clock, item.id, to), content_id=first.id) for to in targets[1:]]
    return Settlement(
        Event.ANSWER, "answered by echo", (first, *rest), ((first.id, b"Subject: Re: x\r\n\r\ny\r\n"),), windows
    )


async def accept(store: Store, clock: Clock, *recipients: str, message_id: str = "") -> list[str]:
    """Store a mail; the ids of its items."""
    mail = new_mail(clock, *recipients, message_id=message_id)
    await store.accept(mail)
    return [f"{mail.id}.{number}" for number in range(len(mail.recipients))]


async def claim(store: Store, token: str = "w1", limit: int = 100) -> list[InboundItem]:
    """Claim what is due."""
    items, _ = await store.claim_inbound(token, limit)
    return items


async def claim_out(store: Store, token: str = "w1", limit: int = 100, per_domain: int = 100) -> list[OutboundItem]:
    """Claim what is due to leave: its items, whatever parcel they are in."""
    parcels, _ = await store.claim_outbound(token, limit, bounds(per_domain))
    return [item for parcel in parcels for item in parcel.items]


def bounds(connections: int, **more: Any) -> Pacing:
    """A pace for tests: so many parcels of one provider at a time, from the first one on, and of one item each."""
    return Pacing(Allowance(connections), **{"start": connections, "recipients": 1, **more})


async def queue(store: Store, clock: Clock, *targets: str) -> list[str]:
    """Store a mail and its answer to each of the targets; the ids of the outbound items, in their order."""
    await accept(store, clock)
    [item] = await claim(store, "queue")
    settlement = answer(clock, item, *targets)
    await store.settle_inbound(item, settlement)
    return [message.id for message in settlement.outbound]


async def state_of(store: Store, item: str) -> State:
    """Where an item stands."""
    for view in await store.items(list(State)):
        if view.id == item:
            return view.state
    raise KeyError(item)


async def attempts_of(store: Store, item: str) -> int:
    """How many attempts an item was charged."""
    return next(view.attempts for view in await store.items(list(State)) if view.id == item)


async def history(store: Store, item: str) -> list[tuple[str, str, str]]:
    """The (event, state, reason) of each step of an item."""
    [account] = await store.account(item)
    return [(entry.event, entry.state, entry.reason) for entry in account.history if entry.item == item]


async def in_state(store: Store, clock: ManualClock, table: str, state: State) -> str:
    """The id of a new item in that state, brought there by the store's own verbs."""
    if table == "inbound":
        [identifier] = await accept(store, clock)
        if state is State.DROPPED:
            await store.act(identifier, Event.DROP, "")
        elif state is not State.RECEIVED:
            [item] = await claim(store)
            event = {State.ANSWERED: Event.ANSWER, State.SILENT: Event.SILENCE, State.FAILED: Event.FAIL}.get(state)
            if event is not None:
                await store.settle_inbound(item, Settlement(event, "so"))
        return identifier
    [identifier] = await queue(store, clock)
    if state in (State.HELD, State.DROPPED):
        await store.act(identifier, Event.HOLD if state is State.HELD else Event.DROP, "")
    elif state is not State.QUEUED:
        [leaving] = await claim_out(store)
        event = {
            State.DELIVERED: Event.DELIVER,
            State.DEFERRED: Event.DEFER,
            State.BOUNCED: Event.BOUNCE,
            State.FAILED: Event.FAIL,
        }.get(state)
        if event is not None:
            await store.settle_outbound(leaving, Settlement(event, "so", due_at=clock.now() + DAY))
    return identifier
