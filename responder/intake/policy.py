"""What an operator's policy says of a client and its envelope: blocklists, greylisting, the rate of mails.

Who has logged in, or comes from a trusted network or through a Unix socket, is neither looked up nor put off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from weakref import WeakKeyDictionary

from responder.config.names import Network
from responder.inbound import replies
from responder.inbound.limits.addresses import Networks
from responder.inbound.limits.blocklists import Blocklists
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.intake.greylist import Greylist
from responder.mail.address import parse
from responder.observe import event


class Policy:
    """The policy of one configuration. Sessions go on under the one that they meet."""

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        trusted: Sequence[Network],
        blocklists: Blocklists | None = None,
        greylist: Greylist | None = None,
    ) -> None:
        self._gatekeeper = gatekeeper
        self._trusted = Networks(trusted)
        self._blocklists = blocklists
        self._greylist = greylist
        self._asked: WeakKeyDictionary[Transaction, asyncio.Task[str]] = WeakKeyDictionary()

    def connected(self, session: Transaction) -> None:
        """A client has come: begin to ask about it."""
        if self._blocklists is not None and not self._knows(session):
            asked = self._blocklists.ask(session.peer)
            if asked is not None:
                self._asked[session] = asked

    def sender(self, session: Transaction) -> Reply | Awaitable[Reply | None] | None:
        """The refusal of MAIL, now or when it is known; None where there is none."""
        if self._gatekeeper.counts_messages:
            refusal = self._gatekeeper.message(session.counted)
            if refusal is not None:
                return _refused(session, refusal)
        asked = self._asked.get(session)
        if asked is None or session.user:
            return None
        return _judged(session, asked) if asked.done() else _judged_later(session, asked)

    def recipient(self, session: Transaction, found: Recipient) -> Recipient | Awaitable[Recipient]:
        """What becomes of a recipient that would be accepted."""
        if self._greylist is None or not found.reply.accepted or self._knows(session):
            return found
        return self._greylisted(self._greylist, session, found)

    async def _greylisted(self, greylist: Greylist, session: Transaction, found: Recipient) -> Recipient:
        mailbox = parse(found.mailbox).person
        if not await greylist.defers(session.peer, session.envelope.mail_from or "", mailbox):
            return found
        return Recipient(_refused(session, replies.GREYLISTED))

    def _knows(self, session: Transaction) -> bool:
        """Whether it is a client of ours."""
        return not session.peer or bool(session.user) or session.peer in self._trusted


def _judged(session: Transaction, asked: asyncio.Task[str]) -> Reply | None:
    zone = "" if asked.cancelled() else asked.result()
    return _refused(session, replies.listed(zone)) if zone else None


async def _judged_later(session: Transaction, asked: asyncio.Task[str]) -> Reply | None:
    await asyncio.wait([asked])  # others wait for it, too: who leaves does not cancel it
    return _judged(session, asked)


def _refused(session: Transaction, reply: Reply) -> Reply:
    event("refused", peer=session.peer, code=reply.code, reason=reply.text)
    return reply
