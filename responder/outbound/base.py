"""What leaves and what became of it: the interface between delivery and every way out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from responder.mail.envelope import NO_WISH, Wish
from responder.mail.replies import Reason
from responder.mail.status import Failure, Outcome, RemoteReply, Scope


class Berth(Protocol):
    """The connections of this process with one provider, one of which the mail may use. The numbers change while it does."""

    @property
    def name(self) -> str:
        """Whose they are."""
        ...

    @property
    def spare(self) -> int:
        """How many may stand idle when one is opened."""
        ...

    @property
    def kept(self) -> int:
        """How many may stand idle when the mail is done with its own, that one included."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message on its way. Addresses are `local@domain`, as `mail.address.parse` takes them."""

    reverse_path: str  # "" is the null reverse-path <>
    recipients: tuple[str, ...]
    content: bytes  # lines end with CRLF; dots are not stuffed yet
    smtputf8: bool = False  # a header carries raw UTF-8 (RFC 6532); addresses that need it are noticed anyway
    body8bit: bool = False  # the content has octets above 127 (RFC 6152)
    id: str = ""  # the queue's name for it, for logs and for what is kept of it; no host sees it
    route: str = ""  # "host:port" or "[v6]:port": this host, which the operator named, in place of all others
    probe: bool = False  # ask whether the recipients would be accepted, and send nothing
    wish: Wish = NO_WISH  # what the sender asks to be told of each recipient (RFC 3461), for hosts that offer DSN
    ret: str = ""
    envid: str = ""
    requiretls: bool = False  # no hop without TLS that holds (RFC 8689)
    tls_optional: bool = False  # better in plain text than not at all, whatever the destination asks for (RFC 8689 3)
    domain: str = ""  # whose mail it is: chooses the source address; "" is the reverse-path's domain
    berth: Berth | None = field(default=None, compare=False)  # among whose connections its own counts; None: nobody's
    provider: str = ""  # whose room it takes: no hosts but that one's may be asked (`Trouble.MOVED`); "": any may


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What became of one recipient, and where: all that history tells."""

    recipient: str
    outcome: Outcome
    enhanced: str  # RFC 3463
    code: int  # the remote host's last reply; 0 where there was none
    text: str
    scope: Scope = Scope.RECIPIENT
    host: str = ""  # name of the host that was spoken to
    address: str = ""  # its IP address
    tls: str = ""  # "TLSv1.3"; "" in plain text
    tls_failure: str = ""  # why there is no TLS although the host offers it
    after_dot: bool = False  # the mail was handed over whole and no reply came: it may have arrived
    tells: bool = False  # the host offers DSN and was told what the sender asks for: from here on that is its business
    pause: float = 0.0  # seconds for which nobody need ask this destination again: all of its hosts are dead

    @classmethod
    def success(cls, recipient: str, reply: RemoteReply) -> RecipientResult:
        """The host has taken the mail (or, for a probe, would take it)."""
        return cls(recipient, Outcome.SUCCESS, reply.enhanced, reply.code, reply.text)

    @classmethod
    def failed(cls, recipient: str, failure: Failure, *, host: str = "", address: str = "") -> RecipientResult:
        """The host has not taken it."""
        return cls(
            recipient,
            failure.outcome,
            failure.enhanced,
            failure.code,
            failure.text,
            failure.scope,
            host,
            address,
            after_dot=failure.after_dot,
        )

    @property
    def failure(self) -> Failure:
        """The failure in this result. Raises `ValueError` where there is none."""
        if self.outcome is Outcome.SUCCESS:
            raise ValueError("a success is no failure")
        return Failure(self.scope, self.outcome, self.enhanced, self.code, self.text, self.after_dot)

    @property
    def reason(self) -> Reason | None:
        """Why it has not been taken; None for a success."""
        return None if self.outcome is Outcome.SUCCESS else self.failure.reason


class Transport(Protocol):
    """A way out."""

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """Try to deliver now: one result per recipient, in their order. Raises nothing but `CancelledError`."""
        ...

    async def provider(self, domain: str) -> str:
        """Who takes mail for the domain: the registered domain of its MX hosts ("google.com"), by which a pace is kept for all
        the domains that are hosted there. The domain's own where they are not all of one provider, or that can't be known; ""
        where there is one way out. Raises nothing but `CancelledError`; asks name servers."""
        ...

    async def close(self) -> None:
        """Leave politely the hosts that are still connected."""
        ...
