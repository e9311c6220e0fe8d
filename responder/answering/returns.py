"""What comes back of what has left: a mail to a bounce address is tied to the delivery that it speaks of, and weighed.

A report counts where it comes from nobody (`<>`) or a mailer daemon, to the very reverse-path of something that another host has
taken and of which nothing has come back yet, and names its recipient or shows its header. Then the delivery is BOUNCED, which
history tells; a mailbox that does not exist is suppressed; who wrote what was forwarded is told; a list's agent is. All of it is
one commit. What does not count is kept, and says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from responder.agents.base import Bounce
from responder.agents.host import Host
from responder.answering.memory import Turn
from responder.answering.setup import Setup
from responder.clock import Clock
from responder.mail import verp
from responder.mail.address import Address, AddressError, parse, split_tag
from responder.mail.automatic import Verdicts
from responder.mail.dsn import ReportedRecipient, compose_dsn
from responder.mail.headers import Headers
from responder.mail.lifecycle import Event, State
from responder.mail.replies import BLAMES_RECIPIENT, Reason, classify
from responder.mail.report import bounce_of, complaint_of, names, shows
from responder.store.base import Store
from responder.store.notification import notification
from responder.store.records import InboundItem, Receipt, Settlement, Window
from responder.store.returns import PASSED_ON, Returned, Sent, Suppression, hard_bounce

MAX_AGE = 30 * 86400.0
"""Seconds behind a delivery in which a report of it is believed; queues give up in 5 days, and some hold on for longer."""

EARLY = 10.0
"""Seconds until a report is looked at again that came before its delivery was noted."""

_DAEMONS = frozenset({"mailer-daemon", "postmaster", "mail-daemon", "mailerdaemon"})
_CODE = re.compile(r"(?<![\d.])([45]\d\d)(?![\d.])")


@dataclass(frozen=True, slots=True)
class Returns:
    """The weighing of what comes back."""

    store: Store
    host: Host
    clock: Clock

    async def judge(self, setup: Setup, item: InboundItem, recipient: Address, content: bytes) -> Settlement | None:
        """What a mail to a bounce address comes to; None where nothing of ours has that address."""
        sent = await self.store.sent(verp.parse(recipient))
        if sent is None:
            return None
        if item.message_id == f"<auto.{item.mail_id}@{setup.config.hostname}>":  # our own word (`delivery.telling`)
            return await self._tell_agent(setup, sent, bounce_of(content, sent.recipient), None)
        complaint = complaint_of(content)
        doubt = self._doubt(item, recipient, sent, complaint)
        if doubt:
            return Settlement(Event.SILENCE, f"bounce-doubted: {doubt}")
        if sent.state is State.SENDING:
            due = self.clock.now() + EARLY
            return Settlement(Event.DEFER, "bounce-early: its delivery is not noted yet", due_at=due)
        named = names(content, sent.recipient)
        if not named and not await self._shows(sent, content):
            return Settlement(Event.SILENCE, "bounce-doubted: it shows nothing of what was sent")
        if complaint:
            return self._complained(setup, sent, complaint)
        if sent.state is not State.DELIVERED:
            return Settlement(Event.SILENCE, f"bounce-known: what it speaks of is {sent.state} already")
        said = bounce_of(content, sent.recipient)
        if said is None or sent.kind == "list":
            return await self._tell_agent(setup, sent, said, _returned(sent, said))
        return await self._came_back(setup, sent, said, named)

    def _doubt(self, item: InboundItem, recipient: Address, sent: Sent, complaint: str) -> str:
        """Why a mail is not believed to speak of what it came back to; "" where it may be."""
        local = split_tag(item.reverse_path.rpartition("@")[0].lower())[0]
        if local and local not in _DAEMONS and not complaint:  # RFC 3464 2; those who complain have a name (RFC 6650 5)
            return "no report comes from such a sender"
        try:
            if parse(sent.reverse_path).key != recipient.key:
                return "what has that id left with another reverse-path"
        except AddressError:
            return "what has that id left without a reverse-path"
        if self.clock.now() - sent.changed_at > MAX_AGE:
            return "what it speaks of left too long ago"
        if sent.state not in (State.DELIVERED, State.SENDING, State.BOUNCED):
            return f"no host has taken what it speaks of: it is {sent.state}"
        verdicts = Verdicts.from_json(item.authentication)
        if "fail" in (verdicts.spf, verdicts.dmarc):
            return "its sender is forged"
        return ""

    async def _shows(self, sent: Sent, content: bytes) -> bool:
        """Whether a report shows the header of what was sent: its Message-ID, or the reverse-path that it left with."""
        if shows(content, sent.reverse_path):
            return True
        message_id = Headers.parse(await self._original(sent)).get("Message-ID").strip()
        return bool(message_id) and shows(content, message_id)

    async def _original(self, sent: Sent) -> bytes:
        """What was sent; its own header fields alone where retention has removed the rest."""
        try:
            return sent.head.encode() + await self.store.content(sent.content_id)
        except KeyError:
            return sent.head.encode()

    async def _tell_agent(
        self, setup: Setup, sent: Sent, said: tuple[bool, str, str] | None, returned: Returned | None
    ) -> Settlement:
        """What came back of a list's copy is its agent's to judge."""
        if said is None:
            return Settlement(Event.SILENCE, "bounce-unread: it does not say what became of the message")
        inbox = setup.inboxes.get(sent.inbox)
        if inbox is None or sent.kind != "list":
            return Settlement(Event.SILENCE, f"bounce-counted: {sent.inbox} is no longer there", returned=returned)
        turn = Turn(inbox.name)
        with turn:
            await self.host.bounced(inbox, Bounce(sent.recipient, *said))
        told = f"{inbox.name} was told of {sent.recipient}"
        return Settlement(Event.SILENCE, f"bounce-counted: {told}", memory=turn.memory, returned=returned)

    def _complained(self, setup: Setup, sent: Sent, complaint: str) -> Settlement:
        """The recipient calls it abuse (RFC 5965): nothing more for them, unless it was somebody else's mail."""
        reason = f"complaint: {complaint}"
        keep = setup.config.suppression.complaint
        suppressed: tuple[Suppression, ...] = ()
        if keep and sent.kind not in PASSED_ON:
            now = self.clock.now()
            key = parse(sent.recipient).key
            suppressed = (Suppression(key, sent.inbox, "complaint", reason, now, now + keep),)
        return Settlement(
            Event.SILENCE,
            f"bounce-complaint: {sent.recipient} calls {sent.id} {complaint}",
            suppressions=suppressed,
            returned=Returned(sent.id, None, reason),
        )

    async def _came_back(self, setup: Setup, sent: Sent, said: tuple[bool, str, str], named: bool) -> Settlement:
        permanent, status, text = said
        counted = f"bounce-counted: {sent.id} came back from {sent.recipient}"
        if not permanent:
            return Settlement(Event.SILENCE, counted, returned=_returned(sent, said))
        reason = reason_of(status, text)
        suppressed: tuple[Suppression, ...] = ()
        if named and reason in BLAMES_RECIPIENT:
            keep = setup.config.suppression.hard_bounce
            suppressed = hard_bounce(sent.kind, sent.recipient, sent.inbox, text, self.clock.now(), keep)
        return Settlement(
            Event.SILENCE,
            counted,
            returned=_returned(sent, said),
            suppressions=suppressed,
            receipt=await self._notification(setup, sent, status, text, reason),
        )

    async def _notification(self, setup: Setup, sent: Sent, status: str, text: str, reason: Reason) -> Receipt | None:
        """Who wrote what was forwarded learns that it did not arrive: its envelope was ours, so the report came to us."""
        try:
            to = parse(sent.return_to)
        except AddressError:
            return None
        if sent.kind != "forward" or not sent.wish.failure:
            return None
        config, now, identifier = setup.config, self.clock.now(), self.clock.new_id()
        recipient = ReportedRecipient(
            parse(sent.recipient), status=status, diagnostic=text, orcpt=sent.wish.orcpt, reason=reason
        )
        message = compose_dsn(
            reporting_mta=config.hostname,
            postmaster=Address("postmaster", config.domains[0]),
            to=to,
            recipients=[recipient],
            original=await self._original(sent),
            arrival=sent.created_at,
            now=now,
            message_id=f"<auto.{identifier}@{config.hostname}>",
            envid=sent.envid,
            ret=sent.ret,
        )
        outbound = notification(
            id=identifier, cause=sent.id, inbox=sent.inbox, to=to, now=now, expires_at=now + config.delivery.expire
        )
        windows = [Window(f"returned {sent.id}", 1, MAX_AGE, "told-already: its sender was told before")]
        if rate := config.reply.per_sender:
            windows.append(
                Window(f"told {to.person}", rate.count, rate.seconds, "told-enough: its sender was told often")
            )
        return Receipt(outbound, message, tuple(windows))


def reason_of(status: str, text: str) -> Reason:
    """Why, by what a report says: its status, and the reply in its text."""
    code = _CODE.search(text[:500])
    return classify(int(code[1]) if code else 0, status, text)


def _returned(sent: Sent, said: tuple[bool, str, str] | None) -> Returned | None:
    """The step of the delivery that a report tells of."""
    if said is None:
        return None
    permanent, status, text = said
    reason = f"[{reason_of(status, text)}] " if permanent else ""
    return Returned(sent.id, Event.RETURN if permanent else None, f"{reason}reported: {status} {text}".strip())
