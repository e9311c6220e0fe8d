"""The verbs of SMTP (RFC 5321 4.1) and what a message comes to.

The session knows the protocol; whom mail is for and what becomes of it is the business of `Handler`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiosmtpd.smtp import Envelope, syntax

from responder.inbound import replies
from responder.inbound.connection import Connection
from responder.inbound.data import DataReceiver, has_bare_line_end
from responder.inbound.replies import Reply
from responder.mail.address import parse
from responder.mail.envelope import EnvelopeError, Path, PathError, parse_path
from responder.observe import event

MAX_HELLO = 255  # characters behind EHLO: the length of a domain (RFC 5321 4.5.3.1.2)


class Session(Connection):
    """One SMTP session. Each `smtp_VERB` returns its reply, or None where it has written its own."""

    @syntax("HELO hostname")
    def smtp_HELO(self, argument: str) -> Reply:
        if not _is_hello_name(argument):
            return replies.NEED_HELLO_NAME
        self._greeted(argument, extended=False)
        return Reply(250, "", self._shared.hostname)

    @syntax("EHLO hostname")
    def smtp_EHLO(self, argument: str) -> Reply | None:
        if not _is_hello_name(argument):
            return replies.NEED_HELLO_NAME
        self._greeted(argument, extended=True)
        self._out.append(self._shared.ehlo)
        return None

    def _greeted(self, name: str, extended: bool) -> None:
        self.session.host_name = name
        self.session.extended_smtp = extended
        self._reset()  # RFC 5321 4.1.4: EHLO and HELO clear the transaction

    @syntax("MAIL FROM: <address>", extended=" [SP <mail-parameters>]")
    def smtp_MAIL(self, argument: str) -> Reply:
        if not self.session.host_name:
            return replies.HELLO_FIRST
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
        self.envelope.mail_from = path.text
        return replies.SENDER_OK

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
    def smtp_RCPT(self, argument: str) -> Reply | None:
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
        reply, mailbox, inbox = self._shared.handler.recipient(path.address)
        if reply.accepted:
            # A mailbox that is named twice, in whatever spelling, gets the mail once.
            self._recipients.setdefault(parse(mailbox).key, (mailbox, inbox))
            self.envelope.rcpt_tos.append(mailbox)
            return reply
        if reply == replies.UNKNOWN_INBOX:
            end = self._shared.gatekeeper.unknown_recipient(self.peer)
            if end is not None:
                self._out.append(reply.line)
                self._out.append(end.line)
                self._closing = True
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

    @syntax("NOOP [ignored]")
    def smtp_NOOP(self, argument: str) -> Reply:
        return replies.NOOP

    @syntax("VRFY <address>")
    def smtp_VRFY(self, argument: str) -> Reply:
        return replies.VERIFY if argument else replies.NO_ADDRESS  # RFC 5321 3.5.3, 7.3: names nobody

    @syntax("HELP [command]")
    def smtp_HELP(self, argument: str) -> Reply:
        name = self._verbs.get(argument.upper().encode()) if argument else None
        if name is not None:
            method = getattr(self, name)
            text = method.__smtp_syntax__ + ((self.session.extended_smtp and method.__smtp_syntax_extended__) or "")
            return Reply(214, "2.0.0", f"Syntax: {text}")
        if argument:
            return Reply(504, "5.5.4", "No help for that")
        return Reply(214, "2.0.0", "Commands: " + " ".join(verb.decode() for verb in sorted(self._verbs)))

    @syntax("QUIT")
    def smtp_QUIT(self, argument: str) -> Reply:
        if argument:
            return replies.NO_ARGUMENT
        self._closing = True
        return replies.BYE

    def smtp_EXPN(self, argument: str) -> Reply:  # type: ignore[override]  # aiosmtpd annotates this one alone
        return replies.NOT_IMPLEMENTED

    # -- the message ---------------------------------------------------------------------------------------------------

    @property
    def recipients(self) -> tuple[tuple[str, str], ...]:
        """(mailbox, inbox) of each recipient that was accepted, each once."""
        return tuple(self._recipients.values())

    def _reset(self) -> None:
        self.envelope = Envelope()
        self._recipients = {}

    def _receive(self, data: DataReceiver) -> bool:
        """Take in what has arrived of a message; False where more has to come."""
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
            self._waiting = True
            task = self.loop.create_task(self._shared.handler.message(self, content))
            self._shared.busy.add(task)
            task.add_done_callback(self._answered)
        return True

    def _answered(self, task: asyncio.Task[Reply]) -> None:
        """The handler has decided: tell the client, and go on with what it sent meanwhile."""
        self._shared.busy.discard(task)
        self._waiting = False
        if task.cancelled():
            reply = replies.STORE_UNAVAILABLE
        elif (error := task.exception()) is not None:  # our own mistake: nothing of it reaches the client
            event("not accepted", level=logging.ERROR, peer=self.peer, error=error)
            reply = replies.STORE_UNAVAILABLE
        else:
            reply = task.result()
        self._end_transaction(reply)
        if self._shared.draining and not self._closing:
            self.hang_up(replies.SHUTTING_DOWN)
        self._advance()

    def _end_transaction(self, reply: Reply) -> None:
        self._reset()
        self._out.append(reply.line)


def _is_hello_name(text: str) -> bool:
    """Something that may stand behind EHLO. RFC 5321 4.1.4: a name that is not the client's own is no reason to refuse."""
    return 0 < len(text) <= MAX_HELLO and text.isascii() and " " not in text


def _verbs(cls: type[Any]) -> dict[bytes, str]:
    """The commands of a session class, found once. Only those written here: aiosmtpd's own are coroutines of its loop."""
    return {name.removeprefix("smtp_").encode(): name for name in vars(cls) if name.startswith("smtp_")}


Session._verbs = _verbs(Session)
