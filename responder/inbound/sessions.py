"""What the sessions of one process share, and what each side of that knows of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aiosmtpd.smtp import Envelope
from aiosmtpd.smtp import Session as SessionRecord

from responder.clock import Clock
from responder.config import Limits, Listen
from responder.inbound.dialect import GENERIC, Dialect
from responder.inbound.limits import Gatekeeper
from responder.inbound.profile import Profile
from responder.inbound.replies import SHUTTING_DOWN, Reply
from responder.inbound.tls import Certificate
from responder.mail.envelope import Path
from responder.observe import event


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


class Transaction(Protocol):
    """What a handler may know of the session that asks it."""

    peer: str  # the client's address; "" behind a Unix socket
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


class Login(Protocol):
    """Who lets users in (RFC 4954). Implemented by `responder.inbound.sasl`."""

    mechanisms: Sequence[str]


class Receiver(Protocol):
    """Takes in the octets of a message, or of a piece of one."""

    def feed(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """Take octets in. None: the end is not there yet; else what came behind it."""
        ...


class Client(Protocol):
    """What the whole asks of one session."""

    peer: str

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
        self.certificate: Certificate | None = None
        self.login: Login | None = None
        self.decoy: Handler | None = None
        self.dialects: dict[str, Dialect] = {"": GENERIC}
        self.open: set[Client] = set()
        self.busy: set[asyncio.Task[Reply | dict[str, Reply]]] = set()
        self.draining = False
        self._profiles: list[Profile] = []

    def profile(self, listen: Listen) -> Profile:
        """What a listener offers. It follows a reload."""
        handler = self.decoy if listen.decoy and self.decoy is not None else self.handler
        profile = Profile(listen, self.hostname, self.limits.message_size, handler)
        self._profiles.append(profile)
        self._tell(profile)
        return profile

    def follow(self, hostname: str, limits: Limits) -> None:
        """Take a new configuration; sessions that are open go on under it."""
        self.hostname = hostname
        self.limits = limits
        self.gatekeeper.follow(limits, self.clock)
        for profile in self._profiles:
            self._tell(profile)

    def _tell(self, profile: Profile) -> None:
        dialect = self.dialects.get(profile.listen.dialect, self.dialects[""])
        profile.follow(self.hostname, self.limits.message_size, dialect, self.certificate, self.login)

    def connected(self, session: Client) -> Reply | None:
        """Register a session; the reply where it is refused."""
        self.open.add(session)
        refusal = self.gatekeeper.connect(session.peer)
        if refusal is not None:
            event("refused", peer=session.peer, code=refusal.code, reason=refusal.text)
        return SHUTTING_DOWN if self.draining else refusal

    def disconnected(self, session: Client) -> None:
        """It is over."""
        self.open.discard(session)
        self.gatekeeper.disconnect(session.peer)

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        now = self.clock.monotonic()
        for session in list(self.open):
            reply = session.overdue(now)
            if reply is not None:
                session.hang_up(reply)
