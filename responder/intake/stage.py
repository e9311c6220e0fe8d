"""What is decided of a client and its mail, in the order of a session, and the durable accept.

`250` to the final dot is given after the store's commit, never before (RFC 5321 6.1). What fails before that leaves nothing
behind, and the client keeps the mail.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from responder.agents.router import Router
from responder.aside import aside
from responder.authentication import Authenticator, Judgement, strip_forged
from responder.clock import Clock
from responder.inbound import replies
from responder.inbound.data import has_bare_line_end
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.intake.checking import Checking, Passed
from responder.intake.policy import Policy
from responder.intake.relay import Relay, leaves, staying
from responder.mail.automatic import count_received
from responder.mail.binary import MIMEError, with_line_ends, without_binary
from responder.mail.envelope import Path
from responder.mail.headers import Headers, without_nul
from responder.mail.thread import base_subject, message_id
from responder.mail.trace import received
from responder.observe import event
from responder.sealing import Sealer, SealingError
from responder.store.base import Store, StoreFullError, StoreUnavailableError
from responder.store.records import NewMail, NewOutbound


class Intake:
    """Whom sessions ask. All but `store` and `clock` follows a reload."""

    def __init__(
        self,
        hostname: str,
        hops: int,
        router: Router,
        gatekeeper: Gatekeeper,
        store: Store,
        clock: Clock,
        authenticator: Authenticator | None = None,
        checks: Checking | None = None,
        policy: Policy | None = None,
        relay: Relay | None = None,
    ) -> None:
        self.hostname = hostname
        self.hops = hops
        self.router = router
        self.authenticator = authenticator
        self.checks = checks
        self.policy = policy
        self.relay = relay
        self.sealer: Sealer | None = None  # signs what is sent on as one of our domains
        self._gatekeeper = gatekeeper
        self._store = store
        self._clock = clock

    def connected(self, session: Transaction) -> Reply | Awaitable[Reply | None] | None:
        """A client has come."""
        if self.policy is not None:
            self.policy.connected(session)
        return None if self.checks is None else self.checks.connect(session)

    def hello(self, session: Transaction, name: str) -> Reply | Awaitable[Reply | None] | None:
        """It says who it is."""
        return None if self.checks is None else self.checks.hello(session, name)

    def sender(self, session: Transaction, path: Path) -> Reply | Awaitable[Reply]:
        """The reply to MAIL."""
        refusal = None if self.policy is None else self.policy.sender(session)
        if refusal is None:
            return self._wanted(session, path)
        return refusal if isinstance(refusal, Reply) else self._wanted_later(refusal, session, path)

    def _wanted(self, session: Transaction, path: Path) -> Reply | Awaitable[Reply]:
        return replies.SENDER_OK if self.checks is None else self.checks.sender(session, path, replies.SENDER_OK)

    async def _wanted_later(self, refusal: Awaitable[Reply | None], session: Transaction, path: Path) -> Reply:
        found = await refusal or self._wanted(session, path)
        return found if isinstance(found, Reply) else await found

    def recipient(self, session: Transaction, path: Path) -> Recipient | Awaitable[Recipient]:
        """The reply to RCPT; where it accepts, the mailbox in our spelling and the name of its inbox."""
        address = path.address
        assert address is not None, "refused by the session"
        if address.domain and not self.router.serves(address.domain):
            if self.relay is None:
                return _NOT_OURS
            found = self.relay.recipient(session, address)
            if not found.reply.accepted:
                return found
        else:
            route = self.router.find(address)
            if route is None:
                return _UNKNOWN
            found = Recipient(replies.RECIPIENT_OK, str(route.mailbox), route.inbox)
        if self.checks is not None:
            checked = self.checks.recipient(session, found)
            if not isinstance(checked, Recipient):
                return self._put_off_later(session, checked)
            found = checked
        return found if self.policy is None else self.policy.recipient(session, found)

    async def _put_off_later(self, session: Transaction, checked: Awaitable[Recipient]) -> Recipient:
        """Who is refused for good is not put off."""
        found = await checked
        last = found if self.policy is None else self.policy.recipient(session, found)
        return last if isinstance(last, Recipient) else await last

    async def message(self, session: Transaction, content: bytes) -> Reply | dict[str, Reply]:
        """Store a message for all its recipients; the reply to the final dot."""
        content = without_nul(content)
        headers = Headers.parse(content)
        if count_received(headers) > self.hops:  # RFC 5321 6.3
            return _refused(session, replies.TOO_MANY_HOPS)
        if self._gatekeeper.counts_subjects:
            refusal = self._gatekeeper.subject(base_subject(headers.text("subject")))
            if refusal is not None:
                return refusal
        judgement = None
        if self.authenticator is not None:
            judgement = await self.authenticator.judge(
                peer=session.peer,
                helo=session.session.host_name or "",
                reverse_path=session.envelope.mail_from or "",
                headers=headers,
                content=content,
                user=session.user,
            )
            if judgement.refusal is not None:
                return _refused(session, replies.unauthentic(judgement.refusal))
            if judgement.deferral:
                return _refused(session, replies.UNASKED)
            content = judgement.cleaned(content)
        else:
            content = strip_forged(content, self.hostname)  # who reads the mail later may believe our name
        if session.parameters.body == "BINARYMIME":  # behind the signatures, which are over what came
            fitted = await aside(self._fit, content)
            if isinstance(fitted, Reply):
                return _refused(session, fitted)
            content = fitted
        signer = identifier = ""
        if leaves(session):
            identifier = self._clock.new_id()
            found = self._sent_on(session, content, identifier)
            if isinstance(found, Reply):
                return _refused(session, found)
            content, headers, signer = found
            del found
        passed: Passed | Reply
        if self.checks is None:
            passed = Passed(content, id=identifier)
        else:
            verdicts = judgement.verdicts if judgement else None
            passed = await self.checks.message(session, content, identifier or self._clock.new_id(), verdicts)
        if isinstance(passed, Reply):
            return passed
        if signer and self.sealer is not None:
            try:
                signature = await self.sealer.sign(passed.fields + passed.content, signer)
            except SealingError as error:
                event("not accepted", level=logging.ERROR, peer=session.peer, reason=str(error))
                return replies.STORE_UNAVAILABLE
            passed = passed._replace(fields=signature + passed.fields)
        mail = self._mail(session, headers, passed, judgement)
        size = len(passed.content)
        del content, passed, headers, judgement  # what waits for the store is the copy with our fields, and no other
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
                size=size,
                message_id=mail.message_id or None,
                from_=f"<{mail.reverse_path}>",
            )
        for item in mail.relayed:
            event(
                "accepted",
                id=item.id,
                kind=item.kind,
                to=item.recipient,
                peer=session.peer,
                user=session.user or None,
                size=size,
                message_id=mail.message_id or None,
                from_=f"<{mail.reverse_path}>",
            )
        return replies.queued(mail.id, size)

    def _sent_on(self, session: Transaction, content: bytes, identifier: str) -> tuple[bytes, Headers, str] | Reply:
        """A message that goes to other domains too: its octets, its fields, and which domain of ours signs it; or why not."""
        headers = Headers.parse(content)  # anew: its line ends may have been mended since
        refusal = replies.NOT_OUR_DOMAIN if self.relay is None else self.relay.refusal(session, headers)
        if refusal is not None or self.relay is None:
            return refusal or replies.NOT_OUR_DOMAIN
        missing = self.relay.missing(headers, identifier)
        if missing:
            content = missing + content
            headers = Headers.parse(content)
        return content, headers, self.relay.signer(session, headers)

    def _fit(self, content: bytes) -> bytes | Reply:
        """What came with BODY=BINARYMIME, so that it can be read and passed on by all; or why it can't be. Takes its time."""
        try:
            content = without_binary(content)
        except MIMEError:
            return replies.BAD_MIME
        if not has_bare_line_end(content):
            return content
        normalise = self._gatekeeper.limits.bare_line_ends == "normalise"
        return with_line_ends(content) if normalise else replies.BARE_LINE_END

    def _mail(self, session: Transaction, headers: Headers, passed: Passed, judgement: Judgement | None) -> NewMail:
        now = self._clock.now()
        identifier = passed.id or self._clock.new_id()
        recipients = session.recipients
        helo = session.session.host_name or ""
        protocol = session.protocol
        trace = received(
            helo=helo,
            peer=session.peer,
            hostname=self.hostname,
            protocol=protocol,
            mail_id=identifier,
            recipient=recipients[0][0] if len(recipients) == 1 else "",
            date=now,
            tls=session.tls,
        )
        size = len(passed.content)
        notes = (judgement.note if judgement else "") + passed.note
        ours = tuple([recipient for recipient in recipients if recipient[1]])
        relayed: tuple[NewOutbound, ...] = ()
        if len(ours) < len(recipients) and self.relay is not None:
            relayed = self.relay.outbound(session, identifier, len(ours))
            notes += f", user {session.user}" if session.user else ""
        # What we found out about a sender of ours, their name among it, is nobody else's business.
        fields = b"" if relayed or judgement is None else judgement.fields
        return NewMail(
            id=identifier,
            received_at=now,
            reverse_path=session.envelope.mail_from or "",
            peer=session.peer,
            helo=helo,
            message_id=message_id(headers),
            content=b"".join([trace, fields, passed.fields, passed.content]),
            recipients=ours,
            note=f"from {helo} [{session.peer}] by {protocol}, {size} octets{notes}",
            authentication=judgement.verdicts.to_json() if judgement else "",
            ret=session.parameters.ret,
            envid=session.parameters.envid,
            wishes=staying(recipients, session.wishes) if relayed else session.wishes,
            requiretls=session.parameters.requiretls,
            relayed=relayed,
        )


def _refused(session: Transaction, reply: Reply) -> Reply:
    event("refused", peer=session.peer, code=reply.code, reason=reply.text, from_=f"<{session.envelope.mail_from}>")
    return reply


_NOT_OURS = Recipient(replies.NOT_OUR_DOMAIN)
_UNKNOWN = Recipient(replies.UNKNOWN_INBOX)
