"""What goes into the store and comes out of it: the records that stages and store share. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from responder.mail.envelope import NO_WISH, Wish
from responder.mail.lifecycle import Event, State
from responder.mail.pacing import LONGEST, PAUSE, START, Sign
from responder.store.returns import Returned, Suppression


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
    requiretls: bool = False  # its sender asks for TLS that holds, all the way (RFC 8689)
    relayed: tuple[NewOutbound, ...] = ()  # what of it leaves, with this content: for recipients at other domains


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
    suppressed: str = ""  # why its reverse-path is not written to; "" where it may be
    authentication: str = ""
    wish: Wish = NO_WISH
    ret: str = ""
    envid: str = ""
    requiretls: bool = False


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
    requiretls: bool = False  # never but by TLS that holds (RFC 8689)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundItem(NewOutbound):
    """One that a worker has claimed. `content` is None for a large message: see `Store.content`."""

    claim: Claim
    content: bytes | None
    suppressed: str = ""  # why its recipient is not written to; "" where it may be
    warned: bool = False  # its sender was told that it is late


@dataclass(frozen=True, slots=True)
class Parcel:
    """What one transaction takes: items of one message, envelope and place. And what is known of that place."""

    items: tuple[OutboundItem, ...]
    place: str  # a route, a domain, or "" for the one way out
    provider: str  # whose pace it keeps
    connections: int  # how many of them this worker may have open with that provider now
    limit: int  # how many anybody may, at the best
    known: bool = True  # whether its provider was asked for
    settled: bool = False  # whether a success would change nothing of the pace
    late: str = ""  # it is not to be tried but to be told of: why its place rests
    shared: bool = False  # whether other workers may have connections with that provider, too
    octets: int = 0  # of a large content, which the claim does not bring along

    @property
    def id(self) -> str:
        """The first item's."""
        return self.items[0].id


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one provider gets: connections, and seconds between two messages (0.0: no bound)."""

    connections: int
    interval: float = 0.0


@dataclass(frozen=True, slots=True)
class Pacing:
    """The bounds that a claim keeps. `named` are the providers that have bounds of their own."""

    allowance: Allowance
    named: Mapping[str, Allowance] = field(default_factory=dict)
    one_way: bool = False  # all that has no route takes one way, whatever its domain
    recipients: int = 100  # of one parcel
    start: float = START  # connections to one that was never spoken to
    warn_after: float = 0.0  # seconds after which who sent an item is told that it is late; 0.0: never

    def of(self, provider: str) -> Allowance:
        """What a provider gets."""
        return self.named.get(provider, self.allowance)


@dataclass(frozen=True, slots=True)
class Note:
    """What a turn has found out of its place."""

    place: str
    provider: str
    limit: int
    sign: Sign
    reason: str = ""
    chance: float = 0.5  # from 0 up to 1, for the length of a pause
    known: bool = True
    first: float = PAUSE  # seconds of a first pause
    longest: float = LONGEST  # and of the longest one


@dataclass(frozen=True, slots=True)
class DestinationView:
    """One place as an operator sees it. Times are Unix seconds, 0.0: it does not rest."""

    place: str
    provider: str
    waiting: int
    sending: int
    room: int
    rests_until: float
    reason: str


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
    `suppressions` are mailboxes not to be written to from now on, `returned` is what an inbound item says of an outbound one.
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
    suppressions: tuple[Suppression, ...] = ()
    returned: Returned | None = None
    warned: bool = False  # `outbound` tells the sender that the item is late


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
