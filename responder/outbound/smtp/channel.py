"""The replies of one host, in the order of the commands that they answer. Built on aiosmtplib's protocol: flow control and
STARTTLS are its; reading is ours, because it keeps one reply at a time and drops what nobody waits for, and pipelined
commands need all.

What a host says is bounded in octets (`MAX_LINE`, `MAX_REPLY`, `MAX_UNREAD`), and each reply in time as a whole, however it
drips. The syntax is that of RFC 5321 4.2, and nothing else is believed: codes from 200 to 599, one code for all lines of a
reply. A host that says more than it was asked breaks the connection, for nobody can tell any more which reply belongs to
what.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from dataclasses import replace
from typing import Any, Final, cast

from aiosmtplib import SMTPResponse
from aiosmtplib.protocol import SMTPProtocol

from responder.mail.status import Failure, FailureError, RemoteReply, Trouble, Verb, judge

MAX_LINE: Final = 1 << 13
"""Octets of one line of a reply. RFC 5321 4.5.3.1.5 says 512; real hosts list their extensions in longer ones."""

MAX_REPLY: Final = 1 << 15
"""Octets of a reply with all its lines."""

MAX_UNREAD: Final = 1 << 18
"""Octets of replies that wait to be read: those of a group of commands."""

_UNASKED: Final = "the host spoke unasked"
_LINE: Final = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?", re.DOTALL)


class Channel(SMTPProtocol):
    """Commands out, replies in. Used by one task at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._replies: deque[SMTPResponse] = deque()
        self._unread = 0  # octets in them
        self._owed = 1  # replies that the host has still to give: the banner first
        self._code = b""  # of the reply that is coming in, once a line of it is here
        self._lines: list[bytes] = []
        self._size = 0
        self.unasked: RemoteReply | None = None  # what the host said without being asked, which broke the connection
        self._failed: Failure | None = None  # why nothing more can be read here, but what is in already
        self._securing = False
        self._draining = False
        self._waiter: asyncio.Future[None] | None = None

    # -- what the session does

    @property
    def quiet(self) -> bool:
        """Whether it is connected, and everything that was asked is answered, and nothing more was said."""
        return (
            self._failed is None
            and self.is_connected
            and not (self._owed or self._replies or self._buffer or self._code)
        )

    @property
    def answered(self) -> bool:
        """Whether a reply waits to be read, or none will ever come."""
        return bool(self._replies) or self._failed is not None

    def trouble(self, verb: Verb) -> Failure | None:
        """Why nothing more can be asked behind the reply to `verb`; None where all is `quiet`."""
        if self.quiet:
            return None
        if self._failed is None and self.is_connected:
            return Trouble.GARBAGE.failure(_UNASKED)
        return self._reason(verb)

    def send(self, data: bytes, replies: int) -> bool:
        """Write commands that are owed so many replies. False where the connection is gone; reading the replies says why."""
        if not self._owed and (self._buffer or self._code):
            self._fail(Trouble.GARBAGE.failure(_UNASKED))
        self._owed += replies
        if self._failed is not None or not self.is_connected:
            return False
        cast(asyncio.WriteTransport, self.transport).write(data)
        return True

    async def reply(self, verb: Verb, limit: float) -> RemoteReply:
        """The next reply, which is the one to `verb`. Raises `FailureError` where none comes, or none that is SMTP."""
        found = await self._next(verb, limit)
        return RemoteReply(found.code, found.message)

    async def expect(self, verb: Verb, limit: float, code: int) -> SMTPResponse:
        """The next reply, which must have this code; its text is whole. Raises `FailureError`."""
        found = await self._next(verb, limit)
        if found.code != code:
            reply = RemoteReply(*found)
            raise FailureError(judge(verb, reply) or Trouble.GARBAGE.failure(f"{reply.code} {reply.text} to {verb}"))
        return found

    async def drain(self, limit: float) -> None:
        """Wait until the host has taken enough of what was written, or has answered, or is gone. Raises `TimeoutError`."""
        self._draining = True
        try:
            while self._paused and not self.answered:
                await self._wake(limit)
        finally:
            self._draining = False

    async def secure(self, context: ssl.SSLContext, name: str | None, limit: float) -> ssl.SSLObject:
        """STARTTLS and the handshake. Raises `aiosmtplib.SMTPResponseException` where the host refuses, and what aiosmtplib and
        `ssl` raise. What came in plain text behind the 220 is never heard (RFC 3207 4.2)."""
        self._owed += 1
        self._securing = True
        try:
            await self.start_tls(context, server_hostname=name, timeout=limit)
        finally:
            self._securing = False
            self._lines.clear()
            self._code = b""
        return cast(ssl.SSLObject, self.known("ssl_object"))

    def known(self, key: str) -> Any:
        """What the transport knows of the connection: "peername", "sockname", "ssl_object"."""
        return None if self.transport is None else self.transport.get_extra_info(key)

    def expire(self) -> None:
        """The session has had its time, whatever it waits for."""
        self._fail(Trouble.TIMED_OUT.failure("the host took too long over one mail"))

    def leave(self) -> None:
        """Hang up when what was written is out, and TLS has said goodbye."""
        if self.transport is not None:
            cast(asyncio.Transport, self.transport).close()

    def abort(self) -> None:
        """Hang up at once, whatever the host has not taken."""
        if self.transport is not None:
            cast(asyncio.Transport, self.transport).abort()

    # -- what the event loop does

    def data_received(self, data: bytes) -> None:
        """Take apart what came in."""
        if self._failed is not None or (self._securing and not self._owed):
            return
        buffer = self._buffer
        buffer += data
        start = 0
        while (end := buffer.find(b"\n", start)) >= 0:
            self._take(bytes(buffer[start:end]).removesuffix(b"\r"))
            start = end + 1
            if self._failed is not None or (self._securing and not self._owed):
                buffer.clear()
                return
        del buffer[:start]
        if len(buffer) > MAX_LINE:
            self._garbage("a line of a reply is too long")

    def eof_received(self) -> bool:
        """The host has hung up: what it said before can still be read."""
        self._lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        self._lost()

    def resume_writing(self) -> None:
        """The host has taken enough."""
        super().resume_writing()
        if self._draining:
            self._rouse()

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:
        """What `start_tls` reads the reply to STARTTLS by."""
        return await self._next(Verb.STARTTLS, timeout or 0.0)

    async def _next(self, verb: Verb, limit: float) -> SMTPResponse:
        """The next reply as it came: one time limit for all of it."""
        if not self.answered:
            try:
                await self._wake(limit)
            except TimeoutError:
                raise FailureError(Trouble.TIMED_OUT.failure(f"timed out at {verb}")) from None
        if self._replies:
            found = self._replies.popleft()
            if not self._replies:
                self._unread = 0
            return found
        raise FailureError(self._reason(verb))

    async def _wake(self, limit: float) -> None:
        """Wait for the event loop to bring something. Raises `TimeoutError`."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(limit, _expire, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            timer.cancel()

    def _reason(self, verb: Verb) -> Failure:
        failure = self._failed or Trouble.DROPPED.failure()
        return failure if failure.code else replace(failure, text=f"{failure.text} at {verb}")

    def _rouse(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self, line: bytes) -> None:
        """One line of a reply, without its end."""
        self._size += len(line)
        match = _LINE.fullmatch(line)
        if match is None or (self._code and match[1] != self._code):
            return self._garbage(line[:80].decode(errors="replace"))
        if len(line) > MAX_LINE or self._size > MAX_REPLY or self._unread > MAX_UNREAD:
            return self._garbage("the reply is too long")
        self._lines.append((match[3] or b"").strip(b" \t\r"))
        if match[2] == b"-":
            self._code = match[1]
            return None
        found = SMTPResponse(int(match[1]), b"\n".join(self._lines).decode(errors="replace"))
        self._unread += self._size
        self._lines.clear()
        self._code, self._size = b"", 0
        if not self._owed:
            # 421 comes unasked where a host shuts down (RFC 5321 3.8). Anything else belongs to nothing that we know.
            self.unasked = RemoteReply(*found)
            failure = judge(Verb.MAIL, self.unasked) if found.code == 421 else None
            return self._fail(failure or Trouble.GARBAGE.failure(f"{_UNASKED}: {found.code} {self.unasked.text}"))
        self._owed -= 1
        self._replies.append(found)
        self._rouse()
        return None

    def _garbage(self, text: str) -> None:
        self._fail(Trouble.GARBAGE.failure(f"reply is not SMTP: {text}"))

    def _lost(self) -> None:
        self._fail(Trouble.DROPPED.failure())

    def _fail(self, failure: Failure) -> None:
        """Nothing is read here any more: the first reason stands, and a flood is cut off."""
        if self._failed is None:
            self._failed = failure
            self._buffer.clear()
            self._lines.clear()
            self.abort()
        self._rouse()


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
