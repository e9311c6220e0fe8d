"""One SMTP session (RFC 5321): aiosmtpd's `SMTP` with a reading loop of our own.

aiosmtpd reads line by line, with a coroutine, a timer and a drain for each. Here `data_received` runs every command that has
arrived and answers them with one write (RFC 2920); only what really waits, the commit of a message, suspends the session.
From aiosmtpd come the session and envelope records, the `smtp_VERB` naming and the HELP texts (`@syntax`), so that what is
written for it finds its way here.

The session knows the protocol; whom mail is for and what becomes of it is the business of `Handler`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from aiosmtpd.smtp import SMTP, Envelope, syntax
from aiosmtpd.smtp import Session as SessionRecord

from responder.inbound import replies
from responder.inbound.data import DataReceiver, has_bare_line_end
from responder.inbound.replies import Reply
from responder.mail.address import Address
from responder.mail.envelope import EnvelopeError, Path, PathError, parse_path

if TYPE_CHECKING:
    from responder.inbound.listener import Service

log = logging.getLogger("responder.inbound")

MAX_LINE = 2048
"""Octets of a command line. RFC 5321 4.5.3.1.4 asks for 512, extensions add to it (RFC 6531 3.4, 1870 3, 4954 4)."""

MAX_HELLO = 255

READ_AHEAD = 262144  # octets of pipelined input kept while the session waits for a commit, before reading is paused


class Handler(Protocol):
    """Whom the session asks. Implemented by `responder.intake`."""

    def recipient(self, address: Address) -> tuple[Reply, str, str]:
        """Judge one recipient: the reply, and, where it is accepted, the mailbox as `local@domain` and its inbox."""
        ...

    async def message(self, session: Session, content: bytes) -> Reply:
        """Take the message of `session.envelope`; the reply comes after it is durable. Must not raise."""
        ...


class Session(SMTP):  # type: ignore[misc]  # aiosmtpd carries no types
    """One connection."""

    envelope: Envelope
    session: SessionRecord
    _verbs: ClassVar[dict[bytes, str]] = {}

    def __init__(self, service: Service) -> None:
        # Not `SMTP.__init__`: it inspects every attribute of the session and of the handler at each connection (0.15 ms),
        # and its reader and timer are replaced here.
        self.loop = asyncio.get_running_loop()
        self._service = service
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._data: DataReceiver | None = None
        self._waiting = False  # for a commit: no further command is run
        self._write_paused = False
        self._read_paused = False
        self._overlong = False  # the rest of a command line that was refused for its length is still to come
        self._closing = False
        self._errors = 0
        self._recipients: dict[str, tuple[str, str]] = {}
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.deadline = self.ends = 0.0

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        peername = transport.get_extra_info("peername")
        self.peer = peername[0] if isinstance(peername, tuple) else ""
        self.session = SessionRecord(self.loop)
        self.session.peer = peername
        self.envelope = Envelope()
        now = self._service.clock.monotonic()
        self.ends = now + self._service.limits.session
        self.touch(now)
        refusal = self._service.connected(self)
        if refusal is not None:
            self.hang_up(refusal)
            return
        transport.write(f"220 {self._service.hostname} ESMTP\r\n".encode())

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._data = None
        self._buffer.clear()
        self.transport = None
        self._service.disconnected(self)

    def eof_received(self) -> bool:
        """The client has said all: what it is owed is still written, then the connection closes."""
        if self._waiting:
            self._closing = True
            return True
        return False

    def pause_writing(self) -> None:
        """The client does not read: no further command is run until it does."""
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._advance()

    def touch(self, now: float) -> None:
        """The client has done something: it may be idle anew (RFC 5321 4.5.3.2.7)."""
        self.deadline = min(now + self._service.limits.idle, self.ends)

    def overdue(self, now: float) -> Reply | None:
        """The reply that ends the session where its time is over. A commit under way is waited for."""
        if self._waiting or now < self.deadline:
            return None
        return replies.SESSION_TOO_LONG if now >= self.ends else replies.IDLE

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that a shutdown should wait for: no message is being received or stored."""
        return not self._waiting and self._data is None

    def hang_up(self, reply: Reply) -> None:
        """Say why, then close."""
        self._out.append(reply.line)
        self._closing = True
        self._flush()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._waiting:
            self._advance()
        elif len(self._buffer) > READ_AHEAD and not self._read_paused and self.transport is not None:
            self._read_paused = True
            self.transport.pause_reading()

    def _advance(self) -> None:
        """Run all that has arrived, then write all replies at once."""
        while not (self._waiting or self._closing or self._write_paused):
            if self._data is not None:
                if not self._receive(self._data):
                    break
            else:
                line = self._take_line()
                if line is None:
                    break
                self._run(line)
        self.touch(self._service.clock.monotonic())
        self._flush()
        if self._read_paused and not self._waiting and self.transport is not None:
            self._read_paused = False
            self.transport.resume_reading()

    def _flush(self) -> None:
        if self.transport is None:
            return
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()
        if self._closing and not self._waiting:
            self.transport.close()

    def _take_line(self) -> bytes | None:
        """The next command line without its end; None where there is none yet."""
        while True:
            at = self._buffer.find(b"\n", 0, MAX_LINE)
            if at < 0:
                if len(self._buffer) < MAX_LINE:
                    return None
                self._overlong = True
                del self._buffer[: MAX_LINE - 1]
                continue
            line = bytes(self._buffer[:at])
            del self._buffer[: at + 1]
            if self._overlong:
                self._overlong = False
                self._refuse(replies.LINE_TOO_LONG)
                if self._closing:
                    return None
                continue
            return line[:-1] if line.endswith(b"\r") else line

    def _run(self, line: bytes) -> None:
        """One command."""
        verb, _, argument = line.partition(b" ")
        name = self._verbs.get(verb.upper())
        if name is None:
            self._refuse(replies.UNKNOWN_COMMAND)
            return
        try:
            text = argument.decode().strip()
        except UnicodeDecodeError:
            self._refuse(replies.BAD_LINE)
            return
        if not text.isprintable():  # controls and NUL have no place in a command (RFC 5321 4.1.2)
            self._refuse(replies.BAD_LINE)
            return
        reply = getattr(self, name)(text)
        if isinstance(reply, Reply):
            if reply.code >= 500:
                self._refuse(reply)
            else:
                self._out.append(reply.line)

    def _refuse(self, reply: Reply) -> None:
        """A 5xx reply to a command; too many of them end the session."""
        self._errors += 1
        self._out.append(reply.line)
        if self._errors >= self._service.limits.errors:
            self._out.append(replies.TOO_MANY_ERRORS.line)
            self._closing = True

    # -- the verbs: each returns its reply, or None where it has written its own -------------------------------------------

    @syntax("HELO hostname")
    def smtp_HELO(self, argument: str) -> Reply:
        if not _is_hello_name(argument):
            return replies.NEED_HELLO_NAME
        self._greeted(argument, extended=False)
        return Reply(250, "", self._service.hostname)

    @syntax("EHLO hostname")
    def smtp_EHLO(self, argument: str) -> Reply | None:
        if not _is_hello_name(argument):
            return replies.NEED_HELLO_NAME
        self._greeted(argument, extended=True)
        self._out.append(self._service.ehlo)
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
        if path.address is not None and not path.address.is_ascii and not self.envelope.smtp_utf8:
            return replies.NEED_SMTPUTF8
        self.envelope.mail_from = path.text
        return replies.SENDER_OK

    def _parameters(self, path: Path) -> Reply | None:
        """Take the parameters of MAIL in (RFC 1870, 6152, 6531)."""
        utf8 = False
        for name, value in path.parameters.items():
            if name == "SIZE" and value is not None and value.isascii() and value.isdigit() and len(value) <= 20:
                if int(value) > self._service.limits.message_size:
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
        if not path.address.is_ascii and not self.envelope.smtp_utf8:
            return replies.NEED_SMTPUTF8
        if len(self._recipients) >= self._service.limits.recipients:
            return replies.TOO_MANY_RECIPIENTS
        reply, mailbox, inbox = self._service.handler.recipient(path.address)
        if reply.accepted:
            # A mailbox that is named twice, in whatever spelling, gets the mail once.
            self._recipients.setdefault(mailbox.casefold(), (mailbox, inbox))
            self.envelope.rcpt_tos.append(mailbox)
            return reply
        if reply == replies.UNKNOWN_INBOX:
            end = self._service.gatekeeper.unknown_recipient(self.peer)
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
        self._data = DataReceiver(self._service.limits.message_size)
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

    def smtp_EXPN(self, argument: str) -> Reply:
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
        if data.too_big or len(content) > self._service.limits.message_size:
            self._end_transaction(replies.TOO_BIG)
        elif has_bare_line_end(content):
            self._end_transaction(replies.BARE_LINE_END)
        else:
            self._waiting = True
            task = self.loop.create_task(self._service.handler.message(self, content))
            self._service.busy.add(task)
            task.add_done_callback(self._answered)
        return True

    def _answered(self, task: asyncio.Task[Reply]) -> None:
        """The handler has decided: tell the client, and go on with what it sent meanwhile."""
        self._service.busy.discard(task)
        self._waiting = False
        if task.cancelled():
            reply = replies.STORE_UNAVAILABLE
        elif (error := task.exception()) is not None:  # our own mistake: nothing of it reaches the client
            log.error("message not taken peer=%s", self.peer, exc_info=error)
            reply = replies.STORE_UNAVAILABLE
        else:
            reply = task.result()
        self._end_transaction(reply)
        if self._service.draining and not self._closing:
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
    return {
        name.removeprefix("smtp_").encode(): name
        for name, method in vars(cls).items()
        if name.startswith("smtp_") and isinstance(method, Callable)  # type: ignore[arg-type]
    }


Session._verbs = _verbs(Session)
