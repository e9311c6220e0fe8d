"""The loop beneath a session: what arrives, and in which order it is run.

aiosmtpd reads line by line, with a coroutine, a timer and a drain for each. Here `data_received` runs every command that has
arrived and answers them with one write (RFC 2920); only what really waits, the commit of a message, suspends the session.
From aiosmtpd come the session and envelope records, the `smtp_VERB` naming and the HELP texts (`@syntax`), so that what is
written for it finds its way here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from responder.inbound import replies
from responder.inbound.chunks import ChunkReceiver
from responder.inbound.connection import Connection
from responder.inbound.limits.addresses import client_key
from responder.inbound.limits.budget import SMALL, Place
from responder.inbound.replies import Reply
from responder.inbound.roles import Receiver
from responder.observe import event

MAX_LINE = 2048
"""Octets of a command line. RFC 5321 4.5.3.1.4 asks for 512, extensions add to it (RFC 6531 3.4, 1870 3, 4954 4)."""

LOGIN_LINE = 12288
"""Octets of a line of a login (RFC 4954 4)."""

MANY_REPLIES = 500
"""Replies that are put together into one write."""

READ_AHEAD = 262144
"""Octets of pipelined input that are kept while the session waits, for a commit or for a client that reads no replies."""


NOT_SMTP = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH", b"TRACE", b"PRI"})
"""What a web client says. A browser can be made to send a whole mail dialog behind it: nothing of that is run."""


class Commands(Connection):
    """A connection whose octets are commands, answers to them, or a message."""

    _overlong_verb = b""  # what a line that was too long began with

    _hopes: asyncio.Future[bool] | None = None  # it waits for room before the first octet of a message

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
                if not self._piece(self._data):
                    break
            else:
                line = self._take_line()
                if line is None:
                    break
                self._run(line)
                ran = True
                if len(self._out) > MANY_REPLIES:  # else they pile up before anybody sees that the client does not read
                    self._flush()
        if self._eof and not (self._waiting or self._write_paused):
            self._closing = True
        if ran:
            self.touch(self._shared.clock.monotonic())
        self._flush()
        if self._read_paused:
            self._read_on()

    def _read_on(self) -> None:
        """Go on reading, unless something still speaks against it."""
        full = self._place is not None and self._place.waiting
        if not (full or self._waiting or self._write_paused or self._closing) and self.transport is not None:
            self._read_paused = False
            self.transport.resume_reading()

    # -- room for messages ---------------------------------------------------------------------------------------------

    def _begin_message(self) -> None:
        """A message begins: what is here of it counts from now on, until `_make_room`."""
        if self._place is None:
            self._place = Place(self._told_of_room, client_key(self.counted))
        self._shared.budget.begin(self._place, self.parameters.size)

    def _piece(self, data: Receiver) -> bool:
        """Take in what has arrived of a message, and read no more of it while there is no room; whether all of it is here."""
        now = self._shared.clock.monotonic()
        place = self._place
        if place is not None and place.begun:
            octets = len(self._buffer)  # what is pipelined behind a chunk is not of it, and may be many more of them
            self._shared.budget.take(place, min(octets, data.left) if isinstance(data, ChunkReceiver) else octets, now)
        done = self._receive(data)
        self.touch(now)
        if place is not None and place.begun:
            if data.too_big:  # it keeps nothing
                self._make_room()
            elif place.waiting and not self._read_paused and self.transport is not None:
                self._read_paused = True
                self.transport.pause_reading()
        return done

    def _hope_for_room(self, begin: Reply) -> Awaitable[Reply] | Reply:
        """Where others wait, one that has said how big its mail is waits for the word to begin: no octet of it comes before."""
        budget = self._shared.budget
        if self.parameters.size <= SMALL or not budget.crowded:
            return begin
        assert self._place is not None
        if not budget.wait(self._place, self._shared.clock.monotonic()):
            return begin
        self._hopes = self.loop.create_future()
        return self._hope(self._hopes, begin)

    async def _hope(self, room: asyncio.Future[bool], begin: Reply) -> Reply:
        if await room:
            return begin
        self._data = None
        self._make_room()
        return replies.STORE_FULL

    def _told_of_room(self, room: bool) -> None:
        """Whether to go on with the message, which waited. Where it can't, it is let go of: its octets are read, and refused at
        the end."""
        place = self._place
        assert place is not None
        self._began += place.waited  # it was not the client's fault
        self.active = self._shared.clock.monotonic()
        if self._hopes is not None:
            if not self._hopes.done():
                self._hopes.set_result(room)
            self._hopes = None
            return
        if not room:
            event("no room", peer=self.peer, held=place.held, seconds=round(place.waited))
            self._lose_message()
            self._make_room()
        if self._read_paused:
            self._read_on()

    def _make_room(self) -> None:
        place = self._place
        if place is not None:
            self._shared.budget.leave(place, self._shared.clock.monotonic())
            if self.transport is None:
                self._place = None  # it knows the session: nothing of that should wait for the collector

    def _lose_message(self) -> None:
        """Keep nothing of the message under way."""
        raise NotImplementedError

    # -- commands ------------------------------------------------------------------------------------------------------

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
            most = MAX_LINE
            at = self._buffer.find(b"\n", 0, most)
            if at < 0 and len(self._buffer) >= most and not self._overlong and self._logs_in():
                most = LOGIN_LINE
                at = self._buffer.find(b"\n", 0, most)
            if at < 0:
                if len(self._buffer) < most:
                    return None
                if not self._overlong:
                    self._overlong = True
                    self._overlong_verb = bytes(self._buffer[:4])
                del self._buffer[: most - 1]
                continue
            line = bytes(self._buffer[:at])
            del self._buffer[: at + 1]
            if self._overlong:
                self._overlong = False
                login, self._answer_to = self._answer_to, None
                self._malformed(self._overlong_verb, replies.LOGIN_TOO_LONG if login else replies.LINE_TOO_LONG)
                if self._closing or self._waiting:
                    return None
                continue
            return line[:-1] if line.endswith(b"\r") else line

    def _logs_in(self) -> bool:
        """Whether the line that is coming belongs to a login, which may be longer than others."""
        return bool(self.tls) and (self._answer_to is not None or self._buffer[:5].upper() == b"AUTH ")

    def _run(self, line: bytes) -> None:
        """One command, or the answer that one has asked for."""
        if self._answer_to is not None:
            asker, self._answer_to = self._answer_to, None
            self._call(asker, line)
            return
        self.said = line
        verb, _, argument = line.partition(b" ")
        self._junk += 1
        name = self._verbs.get(verb.upper())
        if name is None:
            self._unknown(verb)
            return
        try:
            text = argument.decode().strip(" \t")
        except UnicodeDecodeError:
            self._malformed(verb)
            return
        if not text.isprintable():  # controls and NUL have no place in a command (RFC 5321 4.1.2)
            self._malformed(verb)
            return
        if self._junk > self._shared.limits.junk_commands:
            self._give_up(replies.TOO_MANY_COMMANDS)
            return
        self._call(getattr(self, name), text)

    def _call(self, verb: Callable[[Any], Reply | Awaitable[Reply | None] | None], argument: str | bytes) -> None:
        try:
            self._end(verb(argument))
        except Exception as error:  # our own mistake: nothing of it reaches the client
            event("command failed", level=logging.ERROR, peer=self.peer, error=error)
            self._refuse(replies.COMMAND_FAILED)

    def _end(self, reply: Reply | Awaitable[Reply | None] | None) -> None:
        """Say what a command came to, now or later. None: it has spoken for itself."""
        if isinstance(reply, Reply):
            self._reply(reply)
        elif reply is not None:
            self.suspend(reply)

    def _malformed(self, verb: bytes, reply: Reply = replies.BAD_LINE) -> None:
        """A line that can't be read. `Transactions` knows a verb behind which the session can't go on."""
        self._refuse(reply)

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
