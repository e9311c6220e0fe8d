"""The loop beneath a session: what arrives, and in which order it is run.

aiosmtpd reads line by line, with a coroutine, a timer and a drain for each. Here `data_received` runs every command that has
arrived and answers them with one write (RFC 2920); only what really waits, the commit of a message, suspends the session.
From aiosmtpd come the session and envelope records, the `smtp_VERB` naming and the HELP texts (`@syntax`), so that what is
written for it finds its way here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from responder.inbound import replies
from responder.inbound.connection import Connection
from responder.inbound.replies import Reply
from responder.inbound.sessions import Receiver
from responder.observe import event

MAX_LINE = 2048
"""Octets of a command line. RFC 5321 4.5.3.1.4 asks for 512, extensions add to it (RFC 6531 3.4, 1870 3, 4954 4)."""

READ_AHEAD = 262144
"""Octets of pipelined input that are kept while the session waits, for a commit or for a client that reads no replies."""


NOT_SMTP = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH", b"TRACE", b"PRI"})
"""What a web client says. A browser can be made to send a whole mail dialog behind it: nothing of that is run."""


class Commands(Connection):
    """A connection whose octets are commands, answers to them, or a message."""

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
        ran = False
        while not (self._waiting or self._closing or self._write_paused):
            if self._data is not None:
                done = self._receive(self._data)
                self.touch(self._shared.clock.monotonic())
                if not done:
                    break
            else:
                line = self._take_line()
                if line is None:
                    break
                self._run(line)
                ran = True
        if self._eof and not (self._waiting or self._write_paused):
            self._closing = True
        if ran:
            self.touch(self._shared.clock.monotonic())
        self._flush()
        if (
            self._read_paused
            and not (self._waiting or self._write_paused or self._closing)
            and self.transport is not None
        ):
            self._read_paused = False
            self.transport.resume_reading()

    def suspend(self, work: Awaitable[Reply | None]) -> None:
        """Run no further command until `work` has ended, then say the reply that it came to. Cancelled when the client leaves."""
        self._waiting = True
        task = asyncio.ensure_future(work)
        self._asked = task
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[Reply | None]) -> None:
        if self._asked is not task:  # one has asked for the next
            return
        self._asked = None
        self._waiting = False
        if task.cancelled():
            self._closing = True
        elif (error := task.exception()) is not None:  # our own mistake: nothing of it reaches the client
            event("command failed", level=logging.ERROR, peer=self.peer, error=error)
            self._refuse(replies.COMMAND_FAILED)
        elif (reply := task.result()) is not None:
            self._reply(reply)
        if self._shared.draining and self.idle:
            self.hang_up(replies.SHUTTING_DOWN)
        self._advance()

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
        """One command, or the answer that one has asked for."""
        if self._answer_to is not None:
            asker, self._answer_to = self._answer_to, None
            self._end(asker(line))
            return
        verb, _, argument = line.partition(b" ")
        self._junk += 1
        name = self._verbs.get(verb.upper())
        if name is None:
            self._unknown(verb)
            return
        try:
            text = argument.decode().strip(" \t")
        except UnicodeDecodeError:
            self._refuse(replies.BAD_LINE)
            return
        if not text.isprintable():  # controls and NUL have no place in a command (RFC 5321 4.1.2)
            self._refuse(replies.BAD_LINE)
            return
        if self._junk > self._shared.limits.junk_commands:
            self._give_up(replies.TOO_MANY_COMMANDS)
            return
        self._end(getattr(self, name)(text))

    def _end(self, reply: Reply | Awaitable[Reply | None] | None) -> None:
        """Say what a command came to, now or later. None: it has spoken for itself."""
        if isinstance(reply, Reply):
            self._reply(reply)
        elif reply is not None:
            self.suspend(reply)

    def _unknown(self, verb: bytes) -> None:
        if verb.upper() in NOT_SMTP or verb[:2] == b"\x16\x03":  # or a TLS handshake where none was asked for
            self._give_up(replies.NOT_SMTP)
        else:
            self._refuse(replies.UNKNOWN_COMMAND)

    def _reply(self, reply: Reply) -> None:
        if reply.code >= 500:
            self._refuse(reply)
        else:
            self._say(reply)
            if reply.code == 421:  # RFC 5321 3.8: it announces the end
                self._closing = True

    def _refuse(self, reply: Reply) -> None:
        """A 5xx reply to a command; too many of them end the session."""
        self._errors += 1
        self._say(reply)
        if self._errors >= self._shared.limits.errors:
            self._give_up(replies.TOO_MANY_ERRORS)

    def _give_up(self, reply: Reply) -> None:
        """Enough of this client."""
        event("gave up", peer=self.peer, code=reply.code, reason=reply.text)
        self._say(reply)
        self._closing = True

    def _receive(self, data: Receiver) -> bool:
        """Take in what has arrived of a message; False where more has to come."""
        raise NotImplementedError
