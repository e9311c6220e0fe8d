"""One client's connection: from the first octet to the last, in plain text and under TLS, and when its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SessionRecord

from responder.inbound import replies
from responder.inbound.limits.budget import Place
from responder.inbound.listening.proxy import client_address
from responder.inbound.profile import Profile
from responder.inbound.replies import Reply
from responder.inbound.roles import Parameters, Receiver
from responder.inbound.sessions import Sessions
from responder.inbound.tls import start_tls
from responder.mail.envelope import NO_WISH, Wish
from responder.observe import event


class Connection(SMTP):
    """One client's connection. `Session` gives it its verbs."""

    envelope: Envelope
    session: SessionRecord
    _verbs: ClassVar[dict[bytes, str]] = {}
    said = b""  # the last command line, for the words of a reply to it

    def __init__(self, shared: Sessions, profile: Profile) -> None:
        # Not `SMTP.__init__`: it inspects every attribute of the session and of the handler at each connection (0.15 ms),
        # and its reader and timer are replaced here.
        self.loop = asyncio.get_running_loop()
        self._shared = shared
        self.profile = profile
        self._handler = profile.handler
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._data: Receiver | None = None
        self._answer_to: Callable[[bytes], Reply | Awaitable[Reply | None] | None] | None = None
        self._waiting = False  # for what a command asked for: no further command is run
        self._asked: asyncio.Task[Reply | None] | None = None  # what is waited for, where it ends with the client
        self._write_paused = False
        self._read_paused = False
        self._overlong = False  # the rest of a command line that was refused for its length is still to come
        self._closing = False
        self._eof = False  # the client has said all: what of it has not been run yet still is
        self._errors = 0
        self._junk = 0  # commands since the last mail that brought none nearer
        self._recipients: dict[str, tuple[str, str]] = {}
        self._wishes: dict[str, Wish] | None = None  # by mailbox, where a sender asks for something
        self.parameters = _NONE
        self.transport: asyncio.Transport | None = None
        self._id = ""
        self.peer = ""
        self.counted = ""  # the address that limits count; "": none
        self.tls = ""
        self.user = ""
        self.active = self.ends = self._began = 0.0  # by the clock's monotonic time
        self._received = 0  # octets of the transaction's message
        self._place: Place | None = None  # its share of what the process holds, from the first message on

    @property
    def id(self) -> str:
        """The connection's own, for logs and transcripts."""
        if not self._id:
            self._id = self._shared.clock.new_id()
        return self._id

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._begin(transport.get_extra_info("peername"))

    def arrive(self, transport: asyncio.Transport, peername: Any, early: bytes, counted: bool) -> None:
        """As `connection_made`, but for a client that a proxy speaks for. `early` has come behind its header. Without
        `counted` no limit of an address applies: the proxy means itself."""
        self.transport = transport
        self._begin(peername, counted)
        if early:
            self.data_received(early)

    def _begin(self, peername: Any, counted: bool = True) -> None:
        """The client is known by its address (what a proxy says of it counts): let it in or not."""
        self.peer = client_address(peername[0]) if isinstance(peername, tuple) else ""
        self.counted = self.peer if counted else ""
        self.session = SessionRecord(self.loop)
        self.session.peer = peername
        self.envelope = Envelope()
        now = self._shared.clock.monotonic()
        self.ends = now + self._shared.limits.session
        self.touch(now)
        refusal = self._shared.connected(self)
        if peername is None:  # gone already: nobody knows who it was, and "" would be a Unix socket's
            assert self.transport is not None
            self._closing = True
            self.transport.abort()
        elif refusal is not None:
            self.hang_up(refusal)
        elif self.profile.implicit_tls:
            self.suspend(self._encrypt(b""))  # RFC 8314 3: the greeting comes behind the handshake
        else:
            self._welcome()

    def _welcome(self) -> None:
        """Ask whether the client is wanted, then greet it."""
        found = self._handler.connected(self)
        if found is None:
            self._greet()
        elif isinstance(found, Reply):
            self.hang_up(found)
        else:
            self.suspend(self._welcome_later(found))

    async def _welcome_later(self, found: Awaitable[Reply | None]) -> None:
        refusal = await found
        if refusal is None:
            self._greet()
        else:
            self._say(refusal)
            self._closing = True

    def _greet(self) -> None:
        """Say the first line (RFC 5321 4.2)."""
        self._say(replies.greeting(self.profile.hostname, "LMTP" if self.profile.lmtp else "ESMTP"))
        self._flush()

    def _encrypt(self, ready: bytes) -> Awaitable[None]:
        """Say `ready`, then go on under TLS (RFC 3207 4.2): what came in before is forgotten, and what was said too."""
        assert self.transport is not None
        self.transport.pause_reading()  # at once: not an octet of the handshake may end here
        self._read_paused = False  # the TLS layer goes on reading
        self._write_paused = False  # and is who hears that there is room to write
        if ready:
            self._buffer.clear()  # what was sent behind STARTTLS in plain text must never be run as if it came encrypted
            self.transport.write(ready)
        return self._handshake(greet=not ready)

    async def _handshake(self, greet: bool) -> None:
        transport, certificate = self.transport, self.profile.certificate
        assert transport is not None
        assert certificate is not None
        try:
            secure = await start_tls(self.loop, transport, self, certificate.context, self._early)
        except (OSError, EOFError, asyncio.CancelledError) as error:  # ssl.SSLError and TimeoutError are OSErrors
            event("tls failed", peer=self.peer, reason=str(error) or "broken off")
            self._closing = True
            if self.transport is not None:
                self.transport.abort()
                self.loop.call_soon(self.connection_lost, None)  # the TLS layer tells of some failures only
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        if self.transport is None:  # the client left in this moment
            self._closing = True
            return
        self.transport = secure
        if self._read_paused:
            self._read_paused = False
            transport.resume_reading()
        self.session.ssl = secure.get_extra_info("ssl_object")
        self.session.host_name = None
        self.session.extended_smtp = False
        self.user = ""
        self.tls = f"{secure.get_extra_info('ssl_object').version()} {secure.get_extra_info('cipher')[0]}"
        if greet:
            self._welcome()

    def _early(self) -> bytes:
        """What came in before TLS took over: uvloop reads before it can be told not to, and a proxy's header may bring some."""
        early = bytes(self._buffer)
        self._buffer.clear()
        return early

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is None:  # a TLS handshake that has failed may tell of it twice
            return
        self._closing = True
        self._data = None
        self._buffer.clear()
        self.transport = None
        if self._place is not None and not self._place.complete:
            self._make_room()
        if self._asked is not None:
            self._asked.cancel(str(error) if error is not None else None)
        self._shared.disconnected(self)

    def eof_received(self) -> bool:
        """The client has said all: what it has sent is still run and answered, then the connection closes."""
        self._eof = True
        return (self._waiting or self._write_paused) and not self.tls  # under TLS neither loop can keep one half open

    def pause_writing(self) -> None:
        """The client does not read: no further command is run until it does."""
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._advance()

    def touch(self, now: float) -> None:
        """The client has brought something to its end: it may be idle anew (RFC 5321 4.5.3.2.7)."""
        self.active = now

    def overdue(self, now: float) -> Reply | None:
        """The reply that ends the session where its time is over. A commit under way is waited for, and so is room: `Budget`
        has a limit of its own for that.

        A line that comes octet by octet is no progress: only a whole command is, or a piece of a message. A transaction may
        outlast the session, and has the more time the more it brings. One that has the room others wait for must hurry.
        """
        limits = self._shared.limits
        if self._waiting:  # whatever a command asked for has limits of its own: this is for what forgot them
            return replies.COMMAND_FAILED if self._asked is not None and now - self.active >= limits.session else None
        place = self._place
        if place is not None and place.begun:
            if place.waiting:
                return None
            if place.going and self._shared.budget.crowded and place.dawdles(now, self.active, limits.slowest):
                return replies.TOO_SLOW
        if now - self.active >= limits.idle:
            return replies.IDLE
        if self._data is not None or self.envelope.mail_from is not None:
            earned = min(self._received, limits.message_size) / limits.slowest  # what is thrown away earns nothing
            return replies.TOO_SLOW if now - self._began >= limits.transaction + earned else None
        return replies.SESSION_TOO_LONG if now >= self.ends else None

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
        if self._waiting and self._asked is None:
            return  # a message is being judged or stored: nothing may come before its own reply
        self._say(reply)
        self._closing = True
        if self._asked is not None:
            self._asked.cancel()
        self._flush()

    # -- what is said --------------------------------------------------------------------------------------------------

    def _say(self, reply: Reply) -> None:
        """Put a reply among those that leave with the next write."""
        self._out.append(self.profile.words.line(reply, self))

    def _flush(self) -> None:
        if self.transport is None:
            return
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()
        if self._closing and not self._waiting:
            self.transport.close()

    @property
    def recipients(self) -> tuple[tuple[str, str], ...]:
        """(mailbox, inbox) of each recipient that was accepted, each once."""
        return tuple(self._recipients.values())

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """What the sender asks to be told of each of `recipients`, in their order; () where it asks for nothing."""
        asked = self._wishes
        return tuple([asked.get(mailbox, NO_WISH) for mailbox, _ in self.recipients]) if asked else ()

    @property
    def protocol(self) -> str:
        """How the mail comes (RFC 3848, 6531 4.3; the registry of mail transmission types)."""
        utf8 = "UTF8" if self.envelope.smtp_utf8 else ""
        if self.profile.lmtp:
            name = f"{utf8}LMTP"
        elif not self.session.extended_smtp:
            return "SMTP"
        else:
            name = f"{utf8}SMTP" if utf8 else "ESMTP"
        return f"{name}{'S' if self.tls else ''}{'A' if self.user else ''}"

    # -- what a session adds -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Octets have come."""
        raise NotImplementedError

    def suspend(self, work: Awaitable[Reply | None]) -> None:
        """Run no further command until `work` has ended, then say the reply that it came to. Cancelled when the client leaves."""
        raise NotImplementedError

    def _advance(self) -> None:
        raise NotImplementedError

    def _make_room(self) -> None:
        """Give back what the session holds of messages."""
        raise NotImplementedError


_NONE = Parameters()
