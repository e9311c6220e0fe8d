"""What the parts of a session ask of each other: whom it asks, who asks it, and what they tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aiosmtpd.smtp import Envelope
from aiosmtpd.smtp import Session as SessionRecord

from responder.inbound.login.sasl import Claim, Mechanism
from responder.inbound.profile import Profile
from responder.inbound.replies import Reply
from responder.mail.envelope import Path, Wish

if TYPE_CHECKING:
    from responder.inbound.session import Session
    from responder.inbound.sessions import Sessions


class Recipient(NamedTuple):
    """What became of one RCPT: the reply, and, where it accepts, the mailbox as `local@domain` and its inbox; without one it is
    somebody's at another domain, whom the mail is sent on to."""

    reply: Reply
    mailbox: str = ""
    inbox: str = ""


@dataclass(slots=True)
class Parameters:
    """What MAIL said beside its path (RFC 6152, 3030, 3461). `body` is "7BIT", "8BITMIME" or "BINARYMIME"."""

    body: str = "7BIT"
    ret: str = ""  # "FULL" or "HDRS"
    envid: str = ""  # as written, in xtext
    size: int = 0  # octets, by SIZE; 0 where it didn't say
    requiretls: bool = False  # it goes on by TLS that holds, or not at all (RFC 8689)


class Transaction(Protocol):
    """What a handler may know of the session that asks it."""

    peer: str  # the client's address; "" behind a Unix socket
    counted: str  # the address that limits count; "": none
    session: SessionRecord  # host_name: what it said behind EHLO; extended_smtp
    envelope: Envelope  # mail_from, smtp_utf8
    parameters: Parameters
    profile: Profile
    tls: str  # "TLSv1.3 TLS_AES_256_GCM_SHA384", "" where the connection is not encrypted
    user: str  # who has logged in, "" where nobody has

    @property
    def id(self) -> str:
        """The connection's own, for logs and transcripts."""
        ...

    @property
    def recipients(self) -> tuple[tuple[str, str], ...]:
        """(mailbox, inbox) of each recipient that was accepted, each once; inbox is "" where the mail is sent on."""
        ...

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """What the sender asks to be told of each of `recipients`, in their order; () where it asks for nothing."""
        ...

    @property
    def protocol(self) -> str:
        """How the mail came, as `Received` says it (RFC 3848, 6531 4.3)."""
        ...


class Handler(Protocol):
    """Whom a session asks. Implemented by `responder.intake` and by decoys.

    Each answers at once, or with something to wait for: then the session runs no further command meanwhile. What is waited
    for is cancelled when the client leaves, but for `message`. None of them may raise.
    """

    def connected(self, session: Transaction) -> Reply | Awaitable[Reply | None] | None:
        """A client has come: a reply that refuses it (4xx or 5xx; the connection ends behind it), or None."""
        ...

    def hello(self, session: Transaction, name: str) -> Reply | Awaitable[Reply | None] | None:
        """It says who it is: a refusal, or None."""
        ...

    def sender(self, session: Transaction, path: Path) -> Reply | Awaitable[Reply]:
        """Judge the reverse-path."""
        ...

    def recipient(self, session: Transaction, path: Path) -> Recipient | Awaitable[Recipient]:
        """Judge one recipient."""
        ...

    async def message(self, session: Transaction, content: bytes) -> Reply | dict[str, Reply]:
        """Take the message; the reply, or where it differs one for each mailbox, comes after it is durable."""
        ...


class Decoy(Handler, Protocol):
    """The handler of listeners that are decoys: it has sessions of its own kind. Implemented by `responder.decoy`."""

    session: Callable[[Sessions, Profile], Session]

    def offer(self, profile: Profile, secure: bool, known: bool) -> list[str]:
        """What EHLO shows, beside the name."""
        ...


class Login(Protocol):
    """Who lets users in (RFC 4954). Implemented by `responder.inbound.login.logins`."""

    @property
    def mechanisms(self) -> Sequence[str]:
        """What is offered, the best first."""
        ...

    def begin(self, session: Client, mechanism: str) -> Mechanism | Reply:
        """A dialog by a mechanism (its name in capitals), or why there is none."""
        ...

    async def judge(self, session: Client, mechanism: str, claim: Claim | None) -> Reply:
        """What a dialog came to: `LOGIN_OK`, `LOGIN_FAILED`, or that there is no time for it. None: it went wrong."""
        ...

    def refusal(self, session: Client) -> Reply | None:
        """The reply that ends the session of an address that has failed too often."""
        ...


class Followed(Protocol):
    """Something that was read from files, and is read again when they change."""

    def refresh(self) -> bool:
        """Look at them, and read them where they have changed: whether something new is in use. It may block, and never
        raises: what can't be used leaves the old one in place, and is logged once."""
        ...


class Receiver(Protocol):
    """Takes in the octets of a message, or of a piece of one."""

    @property
    def too_big(self) -> bool:
        """Whether it keeps nothing any more, and only looks for the end."""
        ...

    def discard(self) -> None:
        """Let go of what is here, and keep nothing of what comes: there is no room."""
        ...

    def feed(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """Take octets in. None: the end is not there yet; else what came behind it."""
        ...


class Client(Protocol):
    """What the whole asks of one session."""

    peer: str
    counted: str  # the address that limits count; "": none

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that a shutdown should wait for."""
        ...

    def overdue(self, now: float) -> Reply | None:
        """The reply that ends the session where its time is over."""
        ...

    def hang_up(self, reply: Reply) -> None:
        """Say why, then close."""
        ...
