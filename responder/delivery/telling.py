"""Who is told what became of a message: notifications (RFC 3464), stored with the step that they tell of.

Who has no return address (`<>`, and every answer of ours) is told nothing (RFC 5321 6.1). What goes to one of our own mailboxes,
or to the bounce address of a list's copy, comes to ourselves: it is stored as a mail that has arrived there.
"""

from __future__ import annotations

from dataclasses import replace

from responder.agents.router import Route, Router
from responder.clock import Clock
from responder.config import Config
from responder.inbound.limits.gatekeeper import RateCounter
from responder.mail.address import Address, AddressError, parse
from responder.mail.dsn import ReportedRecipient, compose_dsn
from responder.mail.lifecycle import Event
from responder.mail.replies import Reason
from responder.mail.status import Outcome
from responder.outbound.base import RecipientResult
from responder.store.notification import notification
from responder.store.records import NewMail, OutboundItem, Settlement
from responder.store.returns import hard_bounce

EXPIRED = "4.4.7"  # RFC 3463 3.5: delivery time expired
SUPPRESSED = "5.7.1"  # RFC 3463 3.8: delivery not authorized


class Telling:
    """The notifications of one process."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.follow(config)
        self._clock = clock
        self._rate = config.reply.per_sender
        self._told = RateCounter(self._rate, clock)  # by whom they go to

    def follow(self, config: Config) -> None:
        """Take a new configuration."""
        self.config = config
        self._router = Router(config.inboxes, config.domains)

    def give_up(self, item: OutboundItem, result: RecipientResult, content: bytes) -> Settlement:
        """A final failure: a DSN to who sent the mail, if anybody; a mailbox that does not exist is not written to again."""
        settlement = self._given_up(item, result, content)
        if result.outcome is not Outcome.PERMANENT or not result.failure.blames_recipient:
            return settlement
        keep, now = self.config.suppression.hard_bounce, self._clock.now()
        said = f"{result.code} {result.text}"
        return replace(settlement, suppressions=hard_bounce(item.kind, item.recipient, item.inbox, said, now, keep))

    def suppressed(self, item: OutboundItem, content: bytes) -> Settlement:
        """Its recipient is not written to: given up without a connection. Who sent a mail through us is told; a list's agent is
        not, as nothing has come back."""
        text = f"not sent: {item.suppressed}"
        if item.kind == "list":
            return Settlement(Event.FAIL, f"[{Reason.SUPPRESSED}] {text}")
        result = RecipientResult(item.recipient, Outcome.PERMANENT, SUPPRESSED, 0, text)
        return self._given_up(item, result, content, Reason.SUPPRESSED)

    def _given_up(
        self, item: OutboundItem, result: RecipientResult, content: bytes, why: Reason | None = None
    ) -> Settlement:
        expired = result.outcome is Outcome.TRANSIENT
        reason = describe(result, why) + (f"; given up after {item.claim.attempts} attempts" if expired else "")
        try:
            to = parse(item.return_to)
        except AddressError:  # "" too: a null reverse-path never earns a DSN
            return Settlement(Event.FAIL, reason)
        if not item.wish.failure:  # RFC 3461 4.1
            return Settlement(Event.FAIL, f"{reason}; its sender asked not to be told")
        if self._router.serves(to.domain) and self._router.find(to) is None:
            return Settlement(Event.FAIL, f"{reason}; its sender has no inbox here")
        if not self._may_tell(item, to):
            return Settlement(Event.FAIL, f"{reason}; not told to its sender: {self._rate} notifications reached")
        now = self._clock.now()
        identifier = self._clock.new_id()
        message_id = f"<auto.{identifier}@{self.config.hostname}>"
        failed = replace(_reported(item, result, now), reason=why or result.reason or Reason.UNKNOWN)
        if expired:
            failed = replace(failed, status=EXPIRED)
        message = self._compose(item, to, failed, content, message_id)
        return self._with(Settlement(Event.BOUNCE, reason), item, to, identifier, message)

    def delayed(self, item: OutboundItem, result: RecipientResult, content: bytes) -> Settlement:
        """It waits, and its sender may like to know (RFC 3461 4.1, RFC 3464 2.3.8): a settlement with what is told, if anything,
        in `outbound` and `contents`; who calls it sets `event`, `reason` and `due_at` (`replace`), and calls it once an item."""
        nothing = Settlement(Event.DEFER, "")
        try:
            to = parse(item.return_to)
        except AddressError:
            return nothing
        if item.kind == "list" or not item.wish.delay or not self._may_tell(item, to):
            return nothing
        identifier = self._clock.new_id()
        delayed = replace(_reported(item, result, self._clock.now()), action="delayed", retry_until=item.expires_at)
        message = self._compose(item, to, delayed, content, f"<auto.{identifier}@{self.config.hostname}>")
        return self._with(nothing, item, to, identifier, message)

    def relayed(self, item: OutboundItem, result: RecipientResult, content: bytes) -> Settlement:
        """It has left, and its sender wants to know (RFC 3461 5.2.2). The notification is stored with the step that it tells
        of, so whatever dies there is one for each, or, as the mail itself, one more."""
        settlement = Settlement(Event.DELIVER, describe(result))
        try:
            to = parse(item.return_to)
        except AddressError:
            return settlement
        if not self._may_tell(item, to):
            return replace(settlement, reason=f"{settlement.reason}; not told to its sender: {self._rate} reached")
        identifier = self._clock.new_id()
        relayed = replace(_reported(item, result, self._clock.now()), action="relayed")
        message = self._compose(item, to, relayed, content, f"<auto.{identifier}@{self.config.hostname}>")
        return self._with(settlement, item, to, identifier, message)

    def _compose(
        self, item: OutboundItem, to: Address, recipient: ReportedRecipient, content: bytes, message_id: str
    ) -> bytes:
        return compose_dsn(
            reporting_mta=self.config.hostname,
            postmaster=Address("postmaster", self.config.domains[0]),
            to=to,
            recipients=[recipient],
            original=content,
            arrival=item.created_at,
            now=self._clock.now(),
            message_id=message_id,
            envid=item.envid,
            ret="HDRS" if item.requiretls else item.ret,  # RFC 8689 5
        )

    def _with(
        self, settlement: Settlement, item: OutboundItem, to: Address, identifier: str, message: bytes
    ) -> Settlement:
        """A settlement and the notification that tells of it: for one of our own mailboxes a mail that has arrived."""
        now = self._clock.now()
        if self._router.serves(to.domain):
            route = self._router.find(to)
            return (
                settlement
                if route is None
                else replace(settlement, arrivals=(self._arrival(item, route, identifier, message),))
            )
        outbound = notification(
            id=identifier,
            cause=item.id,
            inbox=item.inbox,
            to=to,
            now=now,
            expires_at=now + self.config.delivery.expire,
            requiretls=item.requiretls,
        )
        return replace(settlement, outbound=(outbound,), contents=((identifier, message),))

    def _arrival(self, item: OutboundItem, route: Route, identifier: str, message: bytes) -> NewMail:
        """The DSN as a mail that has come to us: to ourselves it needs no SMTP, no trace field, and no luck with our own MX."""
        return NewMail(
            id=identifier,
            received_at=self._clock.now(),
            reverse_path="",  # RFC 5321 6.1
            peer="",
            helo="",
            message_id=f"<auto.{identifier}@{self.config.hostname}>",
            content=message,
            recipients=((str(route.mailbox), route.inbox),),
            note=f"from ourselves, about {item.id}",
        )

    def _may_tell(self, item: OutboundItem, to: Address) -> bool:
        """Whether somebody gets one more notification, and count it. Senders are forged: who writes many mails in another's name,
        to where they are refused, must not flood that one by us. What is not told is FAILED, where an operator sees it. A list's
        reports come to ourselves, and whom `[relay]` lets in is no stranger: one application may send thousands.
        """
        if item.kind in ("list", "relay"):
            return True
        if self._rate != self.config.reply.per_sender:  # a reload
            self._rate = self.config.reply.per_sender
            self._told = RateCounter(self._rate, self._clock)
        if self._told.full(to.person):
            return False
        self._told.add(to.person)
        return True


def _reported(item: OutboundItem, result: RecipientResult, now: float) -> ReportedRecipient:
    return ReportedRecipient(
        address=parse(item.recipient),
        status=result.enhanced,
        diagnostic=f"{result.code} {result.text}" if result.code else result.text,
        remote_mta=result.host if result.code else "",
        last_attempt=now,
        orcpt=item.wish.orcpt,
        reason=result.reason or Reason.UNKNOWN,
    )


def describe(result: RecipientResult, why: Reason | None = None) -> str:
    """What history tells of an attempt: of a failure the reason (`why`, else its own); the reply, and who gave it."""
    reason = why or result.reason
    mark = f"[{reason}] " if reason else ""
    said = f"{result.code} {result.text}" if result.code else f"{result.enhanced} {result.text}"
    place = " ".join(
        part
        for part in (result.host, f"[{result.address}]" if result.address else "", result.tls)
        if part and part != f"[{result.host}]"
    )
    notes = [place] if place else []
    if result.tls_failure:
        notes.append(f"no TLS: {result.tls_failure}")
    if result.after_dot:
        notes.append("it may have arrived")
    return f"{mark}{said} ({'; '.join(notes)})" if notes else f"{mark}{said}"
