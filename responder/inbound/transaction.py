"""Mail transactions: MAIL, RCPT, DATA, RSET (RFC 5321 3.3, 4.1.1.2 to 4.1.1.5), BDAT (RFC 3030) and what a message comes to.

The session knows the protocol; whom mail is for and what becomes of it is the business of `Handler`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from aiosmtpd.smtp import Envelope, syntax

from responder.inbound import replies
from responder.inbound.chunks import ChunkReceiver
from responder.inbound.commands import Commands
from responder.inbound.data import DataReceiver, has_bare_line_end
from responder.inbound.limits.budget import SMALL as ROOMY
from responder.inbound.parameters import PLAIN, mail_parameters
from responder.inbound.replies import Reply
from responder.inbound.roles import Receiver, Recipient
from responder.mail.address import parse
from responder.mail.binary import with_line_ends
from responder.mail.envelope import (
    NO_WISH,
    EnvelopeError,
    LongPathError,
    Path,
    PathError,
    Wish,
    parse_path,
    parse_wish,
)
from responder.observe import event


class Transactions(Commands):
    """The part of a session that takes mail. Each `smtp_VERB` returns its reply, something to wait for, or None where it
    has written its own."""

    _chunks: ChunkReceiver | None = None  # a message that has begun with BDAT

    @syntax("MAIL FROM: <address>", extended=" [SP <mail-parameters>]")
    def smtp_MAIL(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        if not self.session.host_name:
            return replies.HELLO_FIRST
        if self.profile.login_required and not self.user:
            return replies.LOGIN_FIRST if self.tls or self.profile.certificate is None else replies.TLS_FIRST
        if self.envelope.mail_from is not None:
            return replies.NESTED_MAIL
        try:
            path = parse_path("FROM", argument)
        except LongPathError:
            return replies.LONG_SENDER
        except PathError:
            return replies.BAD_SENDER
        except EnvelopeError:
            return replies.BAD_ARGUMENT
        refusal = self._parameters(path.parameters)
        if refusal is not None:
            return refusal
        if not argument.isascii() and not self.envelope.smtp_utf8:  # U-labels too: RFC 6531 3.3
            return replies.NEED_SMTPUTF8
        self._began = self._shared.clock.monotonic()
        if self._began >= self.ends:  # a client that is never between two mails must come to an end, too
            self._give_up(replies.SESSION_TOO_LONG)
            return None
        if self.parameters.size > ROOMY and self._shared.budget.overloaded:
            return replies.STORE_FULL
        found = self._handler.sender(self, path)
        return self._from(path, found) if isinstance(found, Reply) else self._from_later(path, found)

    async def _from_later(self, path: Path, found: Awaitable[Reply]) -> Reply:
        return self._from(path, await found)

    def _from(self, path: Path, reply: Reply) -> Reply:
        if reply.accepted:
            self.envelope.mail_from = path.text
        return reply

    def _parameters(self, given: dict[str, str | None]) -> Reply | None:
        """Take the parameters of MAIL in, or say why not."""
        self.parameters, self.envelope.smtp_utf8 = PLAIN, False
        if given:
            found = mail_parameters(
                given,
                self._shared.limits.message_size,
                login=self.profile.login is not None,
                secure=bool(self.tls) and not self.profile.lmtp,
            )
            if isinstance(found, Reply):
                return found
            self.parameters, self.envelope.smtp_utf8 = found
            self.envelope.mail_options = [name if value is None else f"{name}={value}" for name, value in given.items()]
        return None

    @syntax("RCPT TO: <address>", extended=" [SP <rcpt-parameters>]")
    def smtp_RCPT(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        if not self.session.host_name:
            return replies.HELLO_FIRST
        if self.envelope.mail_from is None:
            return replies.MAIL_FIRST
        if self._chunks is not None:
            return replies.CHUNKS_BEGUN
        try:
            path = parse_path("TO", argument)
        except LongPathError:
            return replies.LONG_RECIPIENT
        except PathError:
            return replies.BAD_RECIPIENT
        except EnvelopeError:
            return replies.BAD_ARGUMENT
        if path.address is None:
            return replies.BAD_RECIPIENT
        wish = NO_WISH
        if path.parameters:
            try:
                told = parse_wish(path.parameters, utf8=self.envelope.smtp_utf8)
            except EnvelopeError:
                return replies.BAD_ARGUMENT
            if told is None:
                return replies.BAD_PARAMETER
            wish = told
        if not argument.isascii() and not self.envelope.smtp_utf8:
            return replies.NEED_SMTPUTF8
        if len(self.envelope.rcpt_tos) >= self._shared.limits.recipients:  # one that is named again counts again
            return replies.TOO_MANY_RECIPIENTS
        found = self._handler.recipient(self, path)
        return self._to(found, wish) if isinstance(found, Recipient) else self._to_later(found, wish)

    async def _to_later(self, found: Awaitable[Recipient], wish: Wish) -> Reply | None:
        reply = self._to(await found, wish)
        return reply if reply is None or isinstance(reply, Reply) else await reply

    def _to(self, found: Recipient, wish: Wish) -> Reply | Awaitable[Reply | None] | None:
        reply = found.reply
        if reply.accepted:
            self._junk -= 1
            # A mailbox of ours that is named twice, in whatever spelling, gets the mail once; what another host makes of
            # spellings we do not know (RFC 5321 2.4).
            key = parse(found.mailbox).key if found.inbox else found.mailbox
            mailbox, _ = self._recipients.setdefault(key, (found.mailbox, found.inbox))
            if wish is not NO_WISH:
                self._wishes = self._wishes or {}
                self._wishes.setdefault(mailbox, wish)  # what was said first counts
            self.envelope.rcpt_tos.append(found.mailbox)
        elif reply is replies.UNKNOWN_INBOX:
            delay, end = self._shared.gatekeeper.unknown_recipient(self.counted)
            return self._unknown_later(reply, delay, end) if delay else self._unknown_now(reply, end)
        return reply

    async def _unknown_later(self, reply: Reply, delay: float, end: Reply | None) -> Reply | None:
        """Who tries name after name waits for each answer, and so does what was pipelined behind it."""
        await self._shared.clock.sleep(delay)
        return self._unknown_now(reply, end)

    def _unknown_now(self, reply: Reply, end: Reply | None) -> Reply | None:
        if end is None:
            return reply
        self._say(reply)
        self._give_up(end)
        return None

    @syntax("DATA")
    def smtp_DATA(self, argument: str) -> Reply | Awaitable[Reply | None]:
        if argument:
            return replies.NO_ARGUMENT
        if not self.session.host_name:
            return replies.HELLO_FIRST
        if self.envelope.mail_from is None:
            return replies.MAIL_FIRST
        if not self._recipients:
            return replies.RECIPIENT_FIRST
        if self._chunks is not None:  # RFC 3030 2
            return replies.CHUNKS_BEGUN
        if self.parameters.body == "BINARYMIME":  # RFC 3030 3
            return replies.NEED_CHUNKS
        self._data = DataReceiver(self._shared.limits.message_size)
        self._begin_message()
        return self._hope_for_room(replies.START_DATA) if self._shared.budget.crowded else replies.START_DATA

    @syntax("RSET")
    def smtp_RSET(self, argument: str) -> Reply:
        if argument:
            return replies.NO_ARGUMENT
        self._reset()
        return replies.RESET

    # -- the message ---------------------------------------------------------------------------------------------------

    def _lose_message(self) -> None:
        message = self._chunks or self._data
        if message is not None:
            message.discard()

    def _reset(self) -> None:
        self.envelope = Envelope()
        self._recipients = {}
        self._received = 0
        self._chunks = None
        self._wishes = None
        self.parameters = PLAIN
        if self._place is not None and self._place.begun:
            self._make_room()

    def _receive(self, data: Receiver) -> bool:
        """Take in what has arrived of a message; False where more has to come."""
        known = len(self._buffer)
        rest = data.feed(self._buffer)
        if rest is None:
            self._received += known
            self._buffer.clear()
            return False
        self._received += known - len(rest)
        if rest is not self._buffer:
            self._buffer[:] = rest
        self._data = None
        if isinstance(data, ChunkReceiver):
            self._end_chunk(data)
            return True
        assert isinstance(data, DataReceiver)
        if data.too_big:
            self._end_message(replies.STORE_FULL if data.discarded else replies.TOO_BIG)
        else:
            self._take(data.take(), data.limit)
        return True

    def _end_chunk(self, chunks: ChunkReceiver) -> None:
        """A chunk is whole: see `responder.inbound.bdat`."""
        raise NotImplementedError

    def _take(self, content: bytes, limit: int) -> None:
        """A message has come whole: hand it over, or say why not."""
        if len(content) <= limit and self.parameters.body != "BINARYMIME" and has_bare_line_end(content):
            if self._shared.limits.bare_line_ends == "refuse":
                self._end_message(replies.BARE_LINE_END)
                return
            content = with_line_ends(content)
        if len(content) > limit:
            self._end_message(replies.TOO_BIG)
        else:
            self._deliver(content)

    def _deliver(self, content: bytes) -> None:
        """Hand the message over. The client may leave meanwhile: what was decided about it stays."""
        if self._place is not None:
            self._shared.budget.settle(self._place, self._shared.clock.monotonic())
        self._waiting = True
        task = self.loop.create_task(self._handler.message(self, content))
        self._shared.busy.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[Reply | dict[str, Reply]]) -> None:
        """The handler has decided: tell the client, and go on with what it sent meanwhile."""
        self._shared.busy.discard(task)
        self._waiting = False
        if task.cancelled():
            found: Reply | dict[str, Reply] = replies.STORE_UNAVAILABLE
        elif (error := task.exception()) is not None:  # our own mistake: nothing of it reaches the client
            event("not accepted", level=logging.ERROR, peer=self.peer, error=error)
            found = replies.STORE_UNAVAILABLE
        else:
            found = task.result()
        self._end_message(found)
        if self._shared.draining and not self._closing:
            self.hang_up(replies.SHUTTING_DOWN)
        self._advance()

    def _end_message(self, found: Reply | dict[str, Reply]) -> None:
        """One reply in SMTP; in LMTP one for each RCPT that was accepted, in their order (RFC 2033 4.2)."""
        if isinstance(found, Reply) and not self.profile.lmtp:
            self._end_transaction(found)
            return
        each = [found if isinstance(found, Reply) else found[mailbox] for mailbox in self.envelope.rcpt_tos]
        for reply in each[:-1]:
            self._say(reply)
        self._end_transaction(each[-1])

    def _end_transaction(self, reply: Reply) -> None:
        if reply.code < 500:  # that we have no room for it, or no disk, is not its fault
            self._junk = 0
        self._reset()
        self._say(reply)
