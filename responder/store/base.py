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
from dataclasses import dataclass
from typing import Protocol

from responder.mail.envelope import NO_WISH, Wish
from responder.mail.lifecycle import Event, State


class StoreError(Exception):
    """The store could not do it now."""


class StoreFullError(StoreError):
    """No room: disk, quota or database size."""


class StoreUnavailableError(StoreError):
    """Anything else that may pass: I/O error, read-only file system, locked for too long."""


class StoreUnusableError(Exception):
    """The store can't be used at all (not ours, or of a newer version): the operator has to act. One line."""


@dataclass(frozen=True, slots=True)
class NewMail:
    """What one DATA brought, before it is stored. `recipients` are (address, inbox) pairs, each mailbox once."""

    id: str
    received_at: float
    reverse_path: str
    peer: str
    helo: str
    message_id: str
    content: bytes
    recipients: tuple[tuple[str, str], ...]
    note: str = ""
    authentication: str = ""  # JSON of `Verdicts`
    ret: str = ""  # RET and ENVID of RFC 3461, as MAIL said them
    envid: str = ""
    wishes: tuple[Wish, ...] = ()  # one for each recipient, or none at all


@dataclass(frozen=True, slots=True)
class Claim:
    """Proof that a worker may settle an item: its token and the attempt it was charged."""

    token: str
    attempts: int


@dataclass(frozen=True, slots=True)
class InboundItem:
    """One (mail, recipient) that a worker has claimed. `content` is None for a large mail: see `Store.content`."""

    id: str
    mail_id: str
    recipient: str
    inbox: str
    claim: Claim
    received_at: float
    reverse_path: str
    peer: str
    helo: str
    message_id: str
    content: bytes | None
    deaths: int = 0  # workers that died while they had it
    authentication: str = ""
    wish: Wish = NO_WISH
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True)
class NewOutbound:
    """A message that shall leave, to one recipient. `return_to` is who learns of a final failure ("" for nobody);
    `content_id` names a content stored in the same transaction."""

    id: str
    kind: str
    cause: str
    inbox: str
    content_id: str
    reverse_path: str
    recipient: str
    domain: str
    return_to: str
    created_at: float
    expires_at: float
    route: str = ""  # "host:port" in place of the recipient's MX hosts
    head: str = ""  # header fields for this recipient alone, which stand before the content
    wish: Wish = NO_WISH  # what its sender asks to be told of it (RFC 3461)
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundItem(NewOutbound):
    """One that a worker has claimed. `content` is None for a large message: see `Store.content`."""

    claim: Claim
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` entries of `key` in `seconds`. `reason` is the code that history shows where it is exceeded."""

    key: str
    limit: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an inbox's state: JSON text (None: deleted), valid until `expires_at` (Unix seconds, 0.0: for ever)."""

    key: str
    json: str | None
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What an agent's run read of its inbox's state, by key the version it saw ("" where there was none), and what it writes."""

    inbox: str
    seen: Mapping[str, str]
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A notification that a mail has arrived (RFC 3461 5.2.3), stored only where `windows` have room."""

    message: NewOutbound
    content: bytes
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a worker's turn on an item ended: the event, why, and what is stored along with it.

    `receipt` goes along with `ANSWER` and `SILENCE` alike, whatever becomes of `windows`: it has its own.

    `windows` hold for `ANSWER` alone: where one is exceeded, the event becomes `SILENCE` with its reason and nothing leaves, nor
    is `memory` stored. Where another run has changed what `memory` has seen, the event becomes `DEFER`, due at once, the attempt
    given back, and nothing is stored. `arrivals` are mails to ourselves (a DSN to one of our inboxes), accepted on the way.
    """

    event: Event
    reason: str
    outbound: tuple[NewOutbound, ...] = ()
    contents: tuple[tuple[str, bytes], ...] = ()
    windows: tuple[Window, ...] = ()
    due_at: float = 0.0
    memory: Memory | None = None
    arrivals: tuple[NewMail, ...] = ()
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step of an item: when (Unix seconds), what happened, the state behind it, and why."""

    item: str
    at: float
    event: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item as an operator sees it. `direction` is "inbound" or "outbound"."""

    direction: str
    id: str
    state: State
    kind: str
    sender: str
    recipient: str
    attempts: int
    created_at: float
    due_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Account:
    """All that is known of one mail: `explain` prints it."""

    mail: dict[str, object] | None
    items: list[ItemView]
    history: list[HistoryEntry]


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
        """Take responsibility for a mail: durable on return."""
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

    async def claim_outbound(
        self, token: str, limit: int, sending: Mapping[str, int], per_domain: int
    ) -> tuple[list[OutboundItem], float | None]:
        """The same for what leaves. No domain gets more than `per_domain` at a time, what this worker is `sending` already
        counted in: a slow domain with a long queue must not keep the others waiting."""
        ...

    async def settle_inbound(self, item: InboundItem, settlement: Settlement) -> tuple[State, str] | None:
        """End a turn: the state and reason it came to, or None where the claim is stale and nothing was stored."""
        ...

    async def settle_outbound(self, item: OutboundItem, settlement: Settlement) -> tuple[State, str] | None:
        """The same for what leaves."""
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

    async def sent(self, item_id: str) -> tuple[str, str] | None:
        """(inbox, recipient) of an outbound item of kind "list", None where there is none (any more)."""
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

    async def items(self, states: Collection[State] = (), limit: int = 1000) -> list[ItemView]:
        """Items in these states (none given: all that are not in a final state, and the failed ones), oldest first."""
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
