"""The connection beneath a session: what arrives, in which order it is run, and when it is over.

aiosmtpd reads line by line, with a coroutine, a timer and a drain for each. Here `data_received` runs every command that has
arrived and answers them with one write (RFC 2920); only what really waits, the commit of a message, suspends the session.
From aiosmtpd come the session and envelope records, the `smtp_VERB` naming and the HELP texts (`@syntax`), so that what is
written for it finds its way here.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SessionRecord

from responder.inbound import replies
from responder.inbound.data import DataReceiver
from responder.inbound.replies import Reply
from responder.inbound.sessions import Sessions

MAX_LINE = 2048
"""Octets of a command line. RFC 5321 4.5.3.1.4 asks for 512, extensions add to it (RFC 6531 3.4, 1870 3, 4954 4)."""

READ_AHEAD = 262144
"""Octets of pipelined input that are kept while the session waits, for a commit or for a client that reads no replies."""


class Connection(SMTP):
    """One client's connection. `Session` gives it its verbs."""

    envelope: Envelope
    session: SessionRecord
    _verbs: ClassVar[dict[bytes, str]] = {}

    def __init__(self, shared: Sessions) -> None:
        # Not `SMTP.__init__`: it inspects every attribute of the session and of the handler at each connection (0.15 ms),
        # and its reader and timer are replaced here.
        self.loop = asyncio.get_running_loop()
        self._shared = shared
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._data: DataReceiver | None = None
        self._waiting = False  # for a commit: no further command is run
        self._write_paused = False
        self._read_paused = False
        self._overlong = False  # the rest of a command line that was refused for its length is still to come
        self._closing = False
        self._eof = False  # the client has said all: what of it has not been run yet still is
        self._errors = 0
        self._recipients: dict[str, tuple[str, str]] = {}
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.active = self.ends = 0.0  # by the clock's monotonic time

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        self.peer = peername[0] if isinstance(peername, tuple) else ""
        self.session = SessionRecord(self.loop)
        self.session.peer = peername
        self.envelope = Envelope()
        now = self._shared.clock.monotonic()
        self.ends = now + self._shared.limits.session
        self.touch(now)
        refusal = self._shared.connected(self)
        if refusal is not None:
            self.hang_up(refusal)
            return
        self._greet()

    def _greet(self) -> None:
        """Say the first line (RFC 5321 4.2)."""
        assert self.transport is not None
        self.transport.write(f"220 {self._shared.hostname} ESMTP\r\n".encode())

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._data = None
        self._buffer.clear()
        self.transport = None
        self._shared.disconnected(self)

    def eof_received(self) -> bool:
        """The client has said all: what it has sent is still run and answered, then the connection closes."""
        self._eof = True
        return self._waiting or self._write_paused

    def pause_writing(self) -> None:
        """The client does not read: no further command is run until it does."""
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._advance()

    def touch(self, now: float) -> None:
        """The client has done something: it may be idle anew (RFC 5321 4.5.3.2.7)."""
        self.active = now

    def overdue(self, now: float) -> Reply | None:
        """The reply that ends the session where its time is over. A commit under way is waited for."""
        if self._waiting:
            return None
        if now >= self.ends:
            return replies.SESSION_TOO_LONG
        return replies.IDLE if now - self.active >= self._shared.limits.idle else None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that a shutdown should wait for: no message is being received or stored, no last reply
        is on its way."""
        return not (self._waiting or self._closing) and self._data is None

    def hang_up(self, reply: Reply) -> None:
        """Say why, then close. Asked again, cut the connection: its client does not read what it was told."""
        if self._closing and self.transport is not None and self.transport.is_closing():
            self.transport.abort()
            return
        self._out.append(reply.line)
        self._closing = True
        self._flush()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._waiting:
            self._advance()
        if (
            len(self._buffer) > READ_AHEAD
            and not self._read_paused
            and self.transport is not None
            and not self._closing
        ):
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
        if self._eof and not (self._waiting or self._write_paused):
            self._closing = True
        self.touch(self._shared.clock.monotonic())
        self._flush()
        if (
            self._read_paused
            and not (self._waiting or self._write_paused or self._closing)
            and self.transport is not None
        ):
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
                if self._closing or self._waiting:
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
            text = argument.decode().strip(" \t")
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
        if self._errors >= self._shared.limits.errors:
            self._out.append(replies.TOO_MANY_ERRORS.line)
            self._closing = True

    def _receive(self, data: DataReceiver) -> bool:
        """Take in what has arrived of a message; False where more has to come."""
        raise NotImplementedError
