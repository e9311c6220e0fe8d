"""What the sessions of one process share, and what each side of that knows of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aiosmtpd.smtp import Envelope
from aiosmtpd.smtp import Session as SessionRecord

from responder.aside import aside
from responder.clock import Clock
from responder.config import Limits, Listen
from responder.inbound.budget import Budget
from responder.inbound.dialect import GENERIC, Dialect
from responder.inbound.limits import Gatekeeper
from responder.inbound.profile import Profile
from responder.inbound.replies import SHUTTING_DOWN, Reply
from responder.inbound.sasl import Claim, Mechanism
from responder.inbound.tls import Certificate
from responder.mail.envelope import Path, Wish
from responder.observe import event

if TYPE_CHECKING:
    from responder.inbound.session import Session


class Recipient(NamedTuple):
    """What became of one RCPT: the reply, and, where it accepts, the mailbox as `local@domain` and its inbox."""

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
        """(mailbox, inbox) of each recipient that was accepted, each once."""
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
    """Who lets users in (RFC 4954). Implemented by `responder.inbound.login`."""

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


class Sessions:
    """The sessions that are open, and what they share."""

    def __init__(self, hostname: str, limits: Limits, gatekeeper: Gatekeeper, handler: Handler, clock: Clock) -> None:
        self.hostname = hostname
        self.limits = limits
        self.handler = handler
        self.clock = clock
        self.gatekeeper = gatekeeper
        self.budget = Budget(limits.in_flight, limits.message_size)
        self.certificate: Certificate | None = None
        self.login: Login | None = None
        self.decoy: Decoy | None = None
        self.dialects: dict[str, Dialect] = {"": GENERIC}
        self.open: set[Client] = set()
        self.busy: set[asyncio.Task[Reply | dict[str, Reply]]] = set()
        self.followed: list[Followed] = []
        self.draining = False
        self._looking: asyncio.Task[None] | None = None
        self._profiles: list[Profile] = []

    def profile(self, listen: Listen) -> Profile:
        """What a listener offers. It follows a reload."""
        if listen.decoy and self.decoy is None:  # never the real inboxes behind a trap
            raise ValueError(f"{listen.address}: no decoy was furnished")
        decoy = self.decoy if listen.decoy else None
        limit = self.limits.message_size
        profile = Profile(listen, self.hostname, limit, self.handler, now=self.clock.now, decoy=decoy)
        self._profiles.append(profile)
        self._tell(profile)
        return profile

    def follow(self, hostname: str, limits: Limits, listens: Sequence[Listen] = ()) -> None:
        """Take a new configuration; sessions that are open go on under it. A listener is known again by what lasts of it."""
        lasting = {listen.lasting: listen for listen in listens}
        for profile in self._profiles:
            profile.relist(lasting.get(profile.listen.lasting, profile.listen))
        self.hostname = hostname
        self.limits = limits
        self.gatekeeper.follow(limits, self.clock)
        self.budget.follow(limits.in_flight, limits.message_size, self.clock.monotonic())
        for profile in self._profiles:
            self._tell(profile)

    def _tell(self, profile: Profile) -> None:
        dialect = self.dialects.get(profile.listen.dialect, self.dialects[""])
        profile.follow(self.hostname, self.limits.message_size, dialect, self.certificate, self.login)

    def tell(self) -> None:
        """Have the listeners show what is furnished by now."""
        for profile in self._profiles:
            self._tell(profile)

    def connected(self, session: Client) -> Reply | None:
        """Register a session; the reply where it is refused."""
        self.open.add(session)
        refusal = self.gatekeeper.connect(session.counted)
        if refusal is not None:
            event("refused", peer=session.peer, code=refusal.code, reason=refusal.text)
        return SHUTTING_DOWN if self.draining else refusal

    def disconnected(self, session: Client) -> None:
        """It is over."""
        self.open.discard(session)
        self.gatekeeper.disconnect(session.counted)

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        now = self.clock.monotonic()
        self.budget.expire(now)
        for session in list(self.open):
            reply = session.overdue(now)
            if reply is not None:
                session.hang_up(reply)

    def look(self) -> None:
        """Read again, in a thread, what has changed of the files that are followed. One look at a time: a disk may hang."""
        if self.followed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        if await aside(_refresh, list(self.followed)):
            for profile in self._profiles:
                self._tell(profile)


def _refresh(followed: list[Followed]) -> bool:
    """Whether one of them has something new: each is looked at."""
    found = [one.refresh() for one in followed]
    return any(found)
