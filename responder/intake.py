"""The first stage: whom mail is for, and the durable accept that makes us answerable for it.

`250` to the final dot is given after the store's commit, never before (RFC 5321 6.1). What fails before that leaves nothing
behind, and the client keeps the mail.
"""

from __future__ import annotations

import logging

from responder.agents.router import Router
from responder.clock import Clock
from responder.inbound import replies
from responder.inbound.limits import Gatekeeper
from responder.inbound.replies import Reply
from responder.inbound.sessions import Transaction
from responder.mail.address import Address
from responder.mail.automatic import count_received
from responder.mail.headers import Headers
from responder.mail.thread import base_subject, message_id
from responder.mail.trace import received
from responder.observe import event
from responder.store.base import NewMail, Store, StoreFullError, StoreUnavailableError


class Intake:
    """Decides at RCPT, and takes messages over at the final dot. `router`, `hostname` and `hops` follow a reload."""

    def __init__(
        self, hostname: str, hops: int, router: Router, gatekeeper: Gatekeeper, store: Store, clock: Clock
    ) -> None:
        self.hostname = hostname
        self.hops = hops
        self.router = router
        self._gatekeeper = gatekeeper
        self._store = store
        self._clock = clock

    def recipient(self, address: Address) -> tuple[Reply, str, str]:
        """The reply to RCPT; where it accepts, the mailbox in our spelling and the name of its inbox."""
        if address.domain and not self.router.serves(address.domain):
            return replies.NOT_OUR_DOMAIN, "", ""
        route = self.router.find(address)
        if route is None:
            return replies.UNKNOWN_INBOX, "", ""
        return replies.RECIPIENT_OK, str(route.mailbox), route.inbox

    async def message(self, session: Transaction, content: bytes) -> Reply:
        """Store a message for all its recipients; the reply to the final dot."""
        headers = Headers.parse(content)
        if count_received(headers) > self.hops:  # RFC 5321 6.3
            event(
                "refused", peer=session.peer, code=554, reason="too many hops", from_=f"<{session.envelope.mail_from}>"
            )
            return replies.TOO_MANY_HOPS
        if self._gatekeeper.counts_subjects:
            refusal = self._gatekeeper.subject(base_subject(headers.text("subject")))
            if refusal is not None:
                return refusal
        mail = self._mail(session, headers, content)
        try:
            await self._store.accept(mail)
        except StoreFullError as error:
            event("not accepted", level=logging.ERROR, peer=session.peer, reason="no room", cause=str(error))
            return replies.STORE_FULL
        except StoreUnavailableError as error:
            event("not accepted", level=logging.ERROR, peer=session.peer, reason="store", cause=str(error))
            return replies.STORE_UNAVAILABLE
        for number, (recipient, inbox) in enumerate(mail.recipients):
            event(
                "accepted",
                id=f"{mail.id}.{number}",
                inbox=inbox,
                to=recipient,
                peer=session.peer,
                size=len(content),
                message_id=mail.message_id or None,
                from_=f"<{mail.reverse_path}>",
            )
        return replies.queued(mail.id)

    def _mail(self, session: Transaction, headers: Headers, content: bytes) -> NewMail:
        now = self._clock.now()
        identifier = self._clock.new_id()
        recipients = session.recipients
        helo = session.session.host_name or ""
        extended = session.session.extended_smtp
        # RFC 6531 4.3 and RFC 3848 name the protocol
        protocol = "UTF8SMTP" if session.envelope.smtp_utf8 else "ESMTP" if extended else "SMTP"
        trace = received(
            helo=helo,
            peer=session.peer,
            hostname=self.hostname,
            protocol=protocol,
            mail_id=identifier,
            recipient=recipients[0][0] if len(recipients) == 1 else "",
            date=now,
        )
        return NewMail(
            id=identifier,
            received_at=now,
            reverse_path=session.envelope.mail_from or "",
            peer=session.peer,
            helo=helo,
            message_id=message_id(headers),
            content=trace + content,
            recipients=recipients,
            note=f"from {helo} [{session.peer}] by {protocol}, {len(content)} octets",
        )
