"""Mail transactions: MAIL, RCPT, DATA, RSET (RFC 5321 3.3, 4.1.1.2 to 4.1.1.5) and what a message comes to.

The session knows the protocol; whom mail is for and what becomes of it is the business of `Handler`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from aiosmtpd.smtp import Envelope, syntax

from responder.inbound import replies
from responder.inbound.commands import Commands
from responder.inbound.data import DataReceiver, has_bare_line_end
from responder.inbound.replies import Reply
from responder.inbound.sessions import Parameters, Receiver, Recipient
from responder.mail.address import parse
from responder.mail.envelope import EnvelopeError, Path, PathError, parse_path
from responder.observe import event


class Transactions(Commands):
    """The part of a session that takes mail. Each `smtp_VERB` returns its reply, something to wait for, or None where it
    has written its own."""

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
        except PathError:
            return replies.BAD_SENDER
        except EnvelopeError:
            return replies.BAD_ARGUMENT
        refusal = self._parameters(path)
        if refusal is not None:
            return refusal
        if not argument.isascii() and not self.envelope.smtp_utf8:  # U-labels too: RFC 6531 3.3
            return replies.NEED_SMTPUTF8
        self._began = self._shared.clock.monotonic()
        found = self._handler.sender(self, path)
        return self._from(path, found) if isinstance(found, Reply) else self._from_later(path, found)

    async def _from_later(self, path: Path, found: Awaitable[Reply]) -> Reply:
        return self._from(path, await found)

    def _from(self, path: Path, reply: Reply) -> Reply:
        if reply.accepted:
            self.envelope.mail_from = path.text
        return reply

    def _parameters(self, path: Path) -> Reply | None:
        """Take the parameters of MAIL in (RFC 1870, 6152, 6531)."""
        utf8 = False
        for name, value in path.parameters.items():
            if name == "SIZE" and value is not None and value.isascii() and value.isdigit() and len(value) <= 20:
                if int(value) > self._shared.limits.message_size:
                    return replies.TOO_BIG
            elif name == "SMTPUTF8" and value is None:
                utf8 = True
            elif name == "BODY" and value is not None:
                if value.upper() not in ("7BIT", "8BITMIME"):
                    return replies.BAD_ARGUMENT
            else:
                return replies.BAD_ARGUMENT if name in ("SIZE", "SMTPUTF8", "BODY") else replies.BAD_PARAMETER
        self.envelope.smtp_utf8 = utf8
        self.envelope.mail_options = [n if v is None else f"{n}={v}" for n, v in path.parameters.items()]
        return None

    @syntax("RCPT TO: <address>", extended=" [SP <rcpt-parameters>]")
    def smtp_RCPT(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        if not self.session.host_name:
            return replies.HELLO_FIRST
        if self.envelope.mail_from is None:
            return replies.MAIL_FIRST
        try:
            path = parse_path("TO", argument)
        except PathError:
            return replies.BAD_RECIPIENT
        except EnvelopeError:
            return replies.BAD_ARGUMENT
        if path.address is None:
            return replies.BAD_RECIPIENT
        if path.parameters:
            return replies.BAD_PARAMETER
        if not argument.isascii() and not self.envelope.smtp_utf8:
            return replies.NEED_SMTPUTF8
        if len(self._recipients) >= self._shared.limits.recipients:
            return replies.TOO_MANY_RECIPIENTS
        found = self._handler.recipient(self, path)
        return self._to(found) if isinstance(found, Recipient) else self._to_later(found)

    async def _to_later(self, found: Awaitable[Recipient]) -> Reply | None:
        return self._to(await found)

    def _to(self, found: Recipient) -> Reply | None:
        reply = found.reply
        if reply.accepted:
            self._junk -= 1
            # A mailbox that is named twice, in whatever spelling, gets the mail once.
            self._recipients.setdefault(parse(found.mailbox).key, (found.mailbox, found.inbox))
            self.envelope.rcpt_tos.append(found.mailbox)
        elif reply is replies.UNKNOWN_INBOX:
            end = self._shared.gatekeeper.unknown_recipient(self.peer)
            if end is not None:
                self._say(reply)
                self._give_up(end)
                return None
        return reply

    @syntax("DATA")
    def smtp_DATA(self, argument: str) -> Reply:
        if argument:
            return replies.NO_ARGUMENT
        if not self.session.host_name:
            return replies.HELLO_FIRST
        if self.envelope.mail_from is None:
            return replies.MAIL_FIRST
        if not self._recipients:
            return replies.RECIPIENT_FIRST
        self._data = DataReceiver(self._shared.limits.message_size)
        return replies.START_DATA

    @syntax("RSET")
    def smtp_RSET(self, argument: str) -> Reply:
        if argument:
            return replies.NO_ARGUMENT
        self._reset()
        return replies.RESET

    # -- the message ---------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self.envelope = Envelope()
        self._recipients = {}
        self._received = 0
        self.parameters = Parameters()

    def _receive(self, data: Receiver) -> bool:
        """Take in what has arrived of a message; False where more has to come."""
        assert isinstance(data, DataReceiver)
        self._received += len(self._buffer)
        rest = data.feed(self._buffer)
        self._buffer.clear()
        if rest is None:
            return False
        self._buffer += rest
        self._data = None
        content = b"" if data.too_big else data.take()
        if data.too_big or len(content) > data.limit:
            self._end_transaction(replies.TOO_BIG)
        elif has_bare_line_end(content):
            self._end_transaction(replies.BARE_LINE_END)
        else:
            self._deliver(content)
        return True

    def _deliver(self, content: bytes) -> None:
        """Hand the message over. The client may leave meanwhile: what was decided about it stays."""
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
        if reply.accepted:
            self._junk = 0
        self._reset()
        self._say(reply)
