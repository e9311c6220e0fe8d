"""What the sessions of one process share, and what each side of that knows of the other."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiosmtpd.smtp import Envelope
from aiosmtpd.smtp import Session as SessionRecord

from responder.clock import Clock
from responder.config import Limits
from responder.inbound.limits import Gatekeeper
from responder.inbound.replies import SHUTTING_DOWN, Reply
from responder.mail.address import Address
from responder.observe import event


class Transaction(Protocol):
    """What a handler may know of the session whose message it takes."""

    peer: str
    session: SessionRecord
    envelope: Envelope

    @property
    def recipients(self) -> tuple[tuple[str, str], ...]:
        """(mailbox, inbox) of each recipient that was accepted, each once."""
        ...


class Handler(Protocol):
    """Whom a session asks. Implemented by `responder.intake`."""

    def recipient(self, address: Address) -> tuple[Reply, str, str]:
        """Judge one recipient: the reply, and, where it is accepted, the mailbox as `local@domain` and its inbox."""
        ...

    async def message(self, session: Transaction, content: bytes) -> Reply:
        """Take the message of `session.envelope`; the reply comes after it is durable. Must not raise."""
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
        self.open: set[Client] = set()
        self.busy: set[asyncio.Task[Reply]] = set()
        self.draining = False
        self.ehlo = self._ehlo()

    def _ehlo(self) -> bytes:
        """The reply to EHLO, made once (RFC 5321 4.1.1.1)."""
        lines = (
            self.hostname,
            "PIPELINING",
            f"SIZE {self.limits.message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "HELP",
        )
        return b"".join(
            f"250{' ' if number == len(lines) else '-'}{line}\r\n".encode() for number, line in enumerate(lines, 1)
        )

    def follow(self, hostname: str, limits: Limits) -> None:
        """Take a new configuration; sessions that are open go on under it."""
        self.hostname = hostname
        self.limits = limits
        self.gatekeeper.follow(limits, self.clock)
        self.ehlo = self._ehlo()

    def connected(self, session: Client) -> Reply | None:
        """Register a session; the reply where it is refused."""
        self.open.add(session)
        refusal = self.gatekeeper.connect(session.peer)
        if refusal is not None:
            event("refused", peer=session.peer, code=refusal.code, reason=refusal.text)
        return SHUTTING_DOWN if self.draining else refusal

    def disconnected(self, session: Client) -> None:
        self.open.discard(session)
        self.gatekeeper.disconnect(session.peer)

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        now = self.clock.monotonic()
        for session in list(self.open):
            reply = session.overdue(now)
            if reply is not None:
                session.hang_up(reply)
