"""Our session in the service of an old channel: it reads, guards and closes; the channel has the verbs and the texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from responder.inbound import replies
from responder.inbound.data import DataReceiver
from responder.inbound.profile import Profile
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions
from responder.mail.envelope import Path

if TYPE_CHECKING:
    from responder.compat.network import Network

MANY = 1 << 62  # octets: no limit
DONE = Reply(250, "", "OK")
"""What a handler says when the channel itself has answered. Never written."""

OLD_TEXTS = {replies.TOO_BIG: "552 Error: Too much mail data", replies.LINE_TOO_LONG: "500 Error: line too long"}


class ExitNow(Exception):  # noqa: N818 - the old name
    """Raised by a program's own code, ends the loop that called it."""


BREAKING = (ExitNow, KeyboardInterrupt, SystemExit)
"""What a program's own code may raise to leave the loop; anything else is the channel's `handle_error`."""


class OldSession(Session):
    """One client of an old program."""

    def __init__(self, shared: Sessions, profile: Profile, server: Any, network: Network) -> None:
        super().__init__(shared, profile)
        self.server = server
        self.network = network
        self.channel: Any = None
        self._direct = bool(server.is_stock)

    # -- what the channel asks for, from whatever thread ----------------------------------------------------------------

    def say(self, octets: bytes) -> None:
        """Send octets, in the order of asking."""
        if self.network.here:
            self._out.append(octets)
        else:
            self.network.soon(partial(self._write, octets))

    def finish(self) -> None:
        """Close the connection behind what was said."""
        if self.network.here:
            self._closing = True
        else:
            self.network.soon(self._finish)

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def _write(self, octets: bytes) -> None:
        self._out.append(octets)
        self._flush()

    def _finish(self) -> None:
        self._closing = True
        self._flush()

    # -- the connection ------------------------------------------------------------------------------------------------

    def _welcome(self) -> None:
        connection = Connected(self)
        self._have(partial(self.server.handle_accepted, connection, self.session.peer))
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self.channel is not None:
            if self._direct:
                self.channel.connection_is_over()
            else:
                self.network.submit(partial(self.guarded, self.channel.connection_is_over))

    def _run(self, line: bytes) -> None:
        try:
            fair = line.decode().isprintable()  # controls and NUL have no place in a command (RFC 5321 4.1.2)
        except UnicodeDecodeError:
            fair = False
        self._have(partial(self.channel.command, line if fair else b""))

    def _refuse(self, reply: Reply) -> None:
        self._have(partial(self.channel.push, OLD_TEXTS.get(reply, f"{reply.code} {reply.text}")))

    def _end_transaction(self, reply: Reply) -> None:
        if reply is DONE:
            self._take_state()
        elif reply is replies.STORE_UNAVAILABLE:  # the program's code was not run, or broke off
            self._out.append(reply.line)
            self._closing = True
        else:
            text = OLD_TEXTS.get(reply, f"{reply.code} {reply.text}")
            self._have(partial(self.channel.refuse_message, text))

    # -- the program's code --------------------------------------------------------------------------------------------

    def guarded(self, call: Callable[[], object]) -> None:
        """Run code of the program. What it raises is the channel's to handle, but for what ends the loop."""
        try:
            call()
        except BREAKING:
            raise
        except Exception:
            if self.channel is not None:
                self.channel.handle_error()
            else:  # the program's own `handle_accepted` failed: the server goes on
                self.server.log_info(f"uncaptured python exception in handle_accepted of {self.server!r}", "error")
                self.finish()

    def _have(self, call: Callable[[], object]) -> None:
        """Have the channel do something: at once where it is a stock one, else by the thread that serves."""
        if self._direct:
            self.guarded(call)
            self._take_state()
        else:
            self._waiting = True
            self.network.submit(partial(self.guarded, call)).add_done_callback(self._replied)

    def _replied(self, done: asyncio.Future[None]) -> None:
        self._waiting = False
        if done.cancelled():
            self._out.append(replies.STORE_UNAVAILABLE.line)
            self._closing = True
        else:
            self._take_state()
        self._advance()

    def _take_state(self) -> None:
        """Follow the channel: it says where a message begins, and a program's own may say so too."""
        if self.channel is None:
            self._closing = True  # the program took no interest
        elif self.channel.smtp_state == self.channel.DATA and self._data is None:
            limit = self.channel.data_size_limit
            self._data = DataReceiver(limit + 2 if limit else MANY)  # 2: the last line's CRLF, which was never counted


class Messages:
    """The handler of sessions whose channels judge recipients themselves."""

    def connected(self, session: Transaction) -> None:
        """Never asked, as the others are: the channel has the verbs."""

    def hello(self, session: Transaction, name: str) -> None:
        """Never asked."""

    def sender(self, session: Transaction, path: Path) -> Reply:
        """Never asked."""
        return replies.NOT_IMPLEMENTED

    def recipient(self, session: Transaction, path: Path) -> Recipient:
        """Never asked."""
        return Recipient(replies.NOT_IMPLEMENTED)

    async def message(self, session: Transaction, content: bytes) -> Reply:
        """Have the program take the message; the channel answers."""
        old = cast(OldSession, session)
        await old.network.submit(partial(old.guarded, partial(old.channel.message, content)))
        return DONE


class Connected:
    """What a channel gets as `conn`: it names both ends, and is what the channel speaks through."""

    def __init__(self, session: OldSession) -> None:
        assert session.transport is not None
        self._session = session
        self._socket = session.transport.get_extra_info("socket")
        self._fileno: int = self._socket.fileno()
        self._peer = session.session.peer
        self.say = session.say
        self.finish = session.finish

    def attach(self, channel: Any) -> None:
        """Make a channel the one that this connection's commands go to."""
        self._session.channel = channel

    def fileno(self) -> int:
        return self._fileno

    def getpeername(self) -> Any:
        return self._peer

    def close(self) -> None:
        """Close it behind what was said."""
        self._session.finish()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)  # getsockname, getsockopt ...: what asyncio shows of a socket
