"""What goes into the store and comes out of it: the records that stages and store share. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from responder.mail.envelope import NO_WISH, Wish
from responder.mail.lifecycle import Event, State


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
