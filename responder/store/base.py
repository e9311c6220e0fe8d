"""The store: what the stages may ask of it, and what each verb promises.

Every verb is one transaction. A verb that changes something returns after the change is on disk (SQLite: WAL and
`synchronous=FULL`); when it raises, nothing of it happened, or, after a lost connection, all of it did. Every step between
states is a compare-and-set on (id, state, claim, attempts) and leaves a row of history in the same transaction.

Errors: `StoreFullError` where there is no room, `StoreUnavailableError` for anything else that may pass; both leave the
store usable, and the next call tries afresh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from responder.mail.lifecycle import Event, State
from responder.store.records import (
    Account,
    DestinationView,
    InboundItem,
    ItemView,
    Memory,
    NewMail,
    NewOutbound,
    Note,
    OutboundItem,
    Pacing,
    Parcel,
    Settlement,
    Window,
)
from responder.store.returns import Selection, Sent, Suppression


class StoreError(Exception):
    """The store could not do it now."""


class StoreFullError(StoreError):
    """No room: disk, quota or database size."""


class StoreUnavailableError(StoreError):
    """Anything else that may pass: I/O error, read-only file system, locked for too long."""


class StoreUnusableError(Exception):
    """The store can't be used at all (not ours, or of a newer version): the operator has to act. One line."""


class Store(Protocol):
    """What the stages may ask for. `wake_inbound` and `wake_outbound` are set when such work may have come."""

    wake_inbound: asyncio.Event
    wake_outbound: asyncio.Event

    async def open(self, *, create: bool = True) -> None:
        """Open the database, create it (unless `create` is false) or migrate it. Raises `StoreUnusableError`, `StoreError`."""
        ...

    async def close(self) -> None:
        """Finish what was asked for and let go of the database."""
        ...

    async def accept(self, mail: NewMail) -> None:
        """Take responsibility for a mail, and for what of it is sent on: durable on return."""
        ...

    async def enqueue(
        self, messages: Sequence[NewOutbound], contents: Sequence[tuple[str, bytes]], memory: Memory | None = None
    ) -> bool:
        """Queue messages that no item brings about, with their contents and, in the same transaction, what is remembered of it.
        False: what `memory` has seen was changed, and nothing was stored."""
        ...

    async def beat(self, token: str, lease: float) -> bool:
        """Keep a worker alive for `lease` seconds more. False: it had been given up and its claims are lost; it starts anew."""
        ...

    async def leave(self, token: str) -> None:
        """The worker ends: what it still claims is free at once, its attempt given back."""
        ...

    async def sweep(self, attempts: int) -> int:
        """Free what dead workers had claimed; an inbound item that has been tried `attempts` times fails instead.
        Returns how many items were touched."""
        ...

    async def claim_inbound(
        self,
        token: str,
        limit: int,
        running: Mapping[str, int] | None = None,
        rooms: Mapping[str, int] | None = None,
        per_inbox: int | None = None,
    ) -> tuple[list[InboundItem], float | None]:
        """Up to `limit` items that are due, charged an attempt each; and when the next one is due, if any waits.

        With `per_inbox`, no inbox gets more than that (or than `rooms` says of it), what this worker is `running` of it counted
        in, nor more than then stay free of `limit`: those whose agents are slow must not keep the others waiting.
        """
        ...

    async def claim_outbound(self, token: str, limit: int, pacing: Pacing) -> tuple[list[Parcel], float | None]:
        """Up to `limit` parcels of what is due to leave, each item charged an attempt; and when there may be more to claim.

        All workers together keep to `pacing`; nothing is claimed for a place that rests or has no room, and what waits for such
        keeps nobody else waiting. Answers come before lists and reports, first attempts before further ones, and the inboxes
        take turns. Past `limit`, parcels may come along whose senders are only to be told (`Parcel.late`).
        """
        ...

    async def settle_inbound(self, item: InboundItem, settlement: Settlement) -> tuple[State, str] | None:
        """End a turn: the state and reason it came to, or None where the claim is stale and nothing was stored."""
        ...

    async def settle_outbound(self, item: OutboundItem, settlement: Settlement) -> tuple[State, str] | None:
        """The same for one item that leaves."""
        ...

    async def settle_parcel(
        self, ends: Sequence[tuple[OutboundItem, Settlement]], note: Note | None = None
    ) -> tuple[list[tuple[State, str] | None], float]:
        """The same for all items of a parcel in one go, with what is learned of its place; and until when (Unix seconds) that
        rests because of it, 0.0 where it doesn't. `Event.YIELD` gives the attempt back."""
        ...

    async def destinations(self, limit: int = 1000) -> list[DestinationView]:
        """The places that have a backlog, rest or are throttled, the longest backlog first."""
        ...

    async def exceeded(self, windows: Sequence[Window]) -> Window | None:
        """The first window that has no room left. A look, no promise: `settle_inbound` decides."""
        ...

    async def values(self, inbox: str, keys: Collection[str]) -> dict[str, tuple[str, str, float]]:
        """An inbox's state: by key (JSON text, version, expires_at) of those keys that have a value."""
        ...

    async def values_below(self, inbox: str, prefix: str) -> dict[str, str]:
        """The JSON texts of all keys that begin with `prefix`, in their order."""
        ...

    async def remember(self, what: Memory) -> bool:
        """Store values at once. False: what `what` has seen was changed, and nothing was stored."""
        ...

    async def sent(self, item_id: str) -> Sent | None:
        """What has left (or is to leave) under that id; None where there is nothing (any more)."""
        ...

    async def suppress(self, entry: Suppression) -> None:
        """Write to that mailbox no more."""
        ...

    async def unsuppress(self, address: str, inbox: str | None) -> int:
        """Lift the suppressions of a mailbox (its `Address.key`), of one inbox or of all (None). How many there were."""
        ...

    async def suppressions(self, inbox: str | None = None, limit: int = 1000) -> list[Suppression]:
        """Who is not written to now, by address."""
        ...

    async def content(self, content_id: str) -> bytes:
        """The bytes of a mail or of a message that leaves. Raises `KeyError` where retention removed it."""
        ...

    async def content_of(self, item_id: str) -> str:
        """The content id of an item. Raises `KeyError`."""
        ...

    async def act(self, item_id: str, event: Event, reason: str) -> State:
        """An operator's hand. Raises `KeyError` (no such item) and `IllegalTransitionError`."""
        ...

    async def act_on(self, selection: Selection, event: Event, reason: str) -> dict[State, int]:
        """The same for all that are selected and may take that step, those that a worker has left out: how many came to which
        state. One transaction for every thousand: others' work goes in between, and what dies meanwhile has done a part."""
        ...

    async def count(self, selection: Selection, event: Event) -> dict[str, int]:
        """How many `act_on` would step, by state."""
        ...

    async def items(
        self, states: Collection[State] = (), limit: int = 1000, selection: Selection | None = None
    ) -> list[ItemView]:
        """Items in these states (none given: all that are not in a final state, and the failed ones), oldest first; with
        `selection`, those of its domain, inbox and kind."""
        ...

    async def crowds(self, column: Literal["domain", "inbox"], limit: int = 20) -> list[tuple[str, str, int]]:
        """(name, state, number) of what waits to leave or has failed, for the domains or inboxes that have the most of it."""
        ...

    async def stats(self) -> dict[str, dict[str, int]]:
        """How many items are in each state, by direction."""
        ...

    async def account(self, key: str) -> list[Account]:
        """All that is known of a mail id, an item id or a Message-ID; one account for each mail that bears it."""
        ...

    async def purge(self, done_before: float, failed_before: float, limit: int = 500) -> int:
        """Remove up to `limit` items that came to their end before these times, and what only they needed.
        Returns how many; call again until it is 0."""
        ...
