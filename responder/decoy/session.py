"""A session that is a trap: the verbs are those of any other, and every octet of both sides goes to the transcript."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from aiosmtpd.smtp import syntax

from responder.decoy.credentials import MECHANISMS, Dialog
from responder.decoy.transcript import stamp
from responder.inbound import replies
from responder.inbound.commands import MAX_LINE
from responder.inbound.profile import Profile
from responder.inbound.replies import Reply
from responder.inbound.roles import Receiver
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions
from responder.observe import event

if TYPE_CHECKING:
    from responder.decoy.trap import Trap

NOTHING: Mapping[str, Any] = MappingProxyType({})
PIECE = 16384  # octets of a message that wait for more before they are written down
SYNTAX = (replies.BAD_SENDER, replies.BAD_RECIPIENT, replies.BAD_ARGUMENT, replies.BAD_PARAMETER, replies.NEED_SMTPUTF8)
"""What a real listener says of an address that a decoy takes all the same."""


class Overheard(list[bytes]):
    """The replies that are about to leave; whoever puts one in is overheard."""

    def __init__(self, session: DecoySession) -> None:
        super().__init__()
        self._session = session

    def append(self, octets: bytes) -> None:
        super().append(octets)
        self._session.overhear(octets)


class DecoySession(Session):
    """One client in the trap."""

    def __init__(self, shared: Sessions, profile: Profile) -> None:
        super().__init__(shared, profile)
        self._trap = cast("Trap", profile.decoy)
        assert self._handler is profile.decoy, "a trap never hands mail to the inboxes"
        self._out = Overheard(self)
        self._held: list[bytes] | None = None  # what is said while it is not noted yet what it answers
        self._piece_of = bytearray()  # a message's octets that are not noted yet
        self._room: int | None = None  # octets of the message that the transcript still takes
        self._left_out = 0
        self._noted = False
        self._over = False
        self.mails = self.logins = 0

    # -- what is written down ------------------------------------------------------------------------------------------

    def note(self, kind: str, facts: Mapping[str, Any] = NOTHING, octets: bytes = b"") -> None:
        """Put something into the transcript."""
        if not self._noted:
            self._noted = True
            sock = self.transport.get_extra_info("sockname") if self.transport is not None else None
            own = f"{sock[0]}:{sock[1]}" if isinstance(sock, tuple) else str(sock or "")
            shown = {"hostname": self.profile.hostname, "dialect": self.profile.dialect.name}
            self.note("begin", {"listen": own, **shown})
        name = self.session.peer
        self._trap.transcript.put(
            {
                "time": stamp(self._shared.clock.now()),
                "session": self.id,
                "peer": self.peer,
                "port": name[1] if isinstance(name, tuple) else 0,
                "event": kind,
                **facts,
            },
            octets,
        )

    def overhear(self, octets: bytes) -> None:
        """Something was said to the client."""
        if self._held is not None:
            self._held.append(octets)
        else:
            self.note("server", octets=octets)

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for octets in held:
            self.note("server", octets=octets)

    def _take_line(self) -> bytes | None:
        at = self._buffer.find(b"\n", 0, MAX_LINE)
        plain = at >= 0 and not self._overlong
        before = bytes(self._buffer[: at + 1]) if plain else bytes(self._buffer)
        if not plain and at < 0 and len(before) < MAX_LINE:
            return super()._take_line()
        self._held = []
        known = len(self._buffer)
        line = super()._take_line()
        taken = known - len(self._buffer)
        if taken:
            self.note("client", octets=before[:taken])
        self._release()
        return line

    def _receive(self, data: Receiver) -> bool:
        before = bytes(self._buffer)
        if self._room is None:
            self._room = self._trap.settings.message
        self._held = []
        done = super()._receive(data)
        piece = before[: len(before) - len(self._buffer)]
        kept = piece[: self._room]
        self._room -= len(kept)
        self._left_out += len(piece) - len(kept)
        self._piece_of += kept
        if done or len(self._piece_of) >= PIECE:
            self._note_piece(done)
        self._release()
        return done

    def _note_piece(self, last: bool) -> None:
        """Note what has come of a message."""
        octets = bytes(self._piece_of)
        self._piece_of.clear()
        if last and self._left_out:
            self.note("client", {"cut": self._left_out}, octets)
        elif octets:
            self.note("client", octets=octets)
        if last:
            self._room, self._left_out = None, 0

    def connection_lost(self, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            self._note_piece(last=True)
            if self._buffer:
                self.note("client", octets=bytes(self._buffer))
            seconds = round(self._shared.clock.monotonic() - self._since, 3)
            self.note("end", {"seconds": seconds, "mails": self.mails, "logins": self.logins})
            if self.welcome:
                event(
                    "decoy left",
                    session=self.id,
                    peer=self.peer,
                    seconds=seconds,
                    mails=self.mails,
                    logins=self.logins,
                )
        super().connection_lost(error)

    def _begin(self, peername: Any, counted: bool = True) -> None:
        self._since = self._shared.clock.monotonic()
        self.welcome = False
        super()._begin(peername, counted)

    def _encrypt(self, ready: bytes) -> Awaitable[None]:
        if ready:
            if self._buffer:  # sent too early: it is never run
                self.note("client", octets=bytes(self._buffer))
            self.note("server", octets=ready)
        return super()._encrypt(ready)

    async def _handshake(self, greet: bool) -> None:
        await super()._handshake(greet)
        if self.tls:
            self.note("tls", {"protocol": self.tls})

    # -- the verbs that a trap has otherwise ---------------------------------------------------------------------------

    def smtp_MAIL(self, argument: str) -> Reply | Awaitable[Reply | None] | None:  # noqa: N802
        reply: Reply | Awaitable[Reply | None] | None = super().smtp_MAIL(argument)
        if reply not in SYNTAX or argument[:5].upper() != "FROM:" or not argument[5:].strip():
            return reply
        self._began = self._shared.clock.monotonic()
        self.envelope.mail_from = argument[5:].strip()
        return replies.SENDER_OK

    def smtp_RCPT(self, argument: str) -> Reply | Awaitable[Reply | None] | None:  # noqa: N802
        reply: Reply | Awaitable[Reply | None] | None = super().smtp_RCPT(argument)
        if reply not in SYNTAX or argument[:3].upper() != "TO:" or argument[3:].strip() in ("", "<>"):
            return reply
        if len(self._recipients) >= self._shared.limits.recipients:
            return replies.TOO_MANY_RECIPIENTS
        text = argument[3:].strip()
        self._recipients.setdefault(text, (text, ""))
        self.envelope.rcpt_tos.append(text)
        self._junk -= 1
        return replies.RECIPIENT_OK

    @syntax("AUTH mechanism [initial-response]")
    def smtp_AUTH(self, argument: str) -> Reply:  # noqa: N802
        """RFC 4954, and nobody is who they say: what was tried is written down."""
        self.said = b"AUTH"
        offered = self._trap.mechanisms(self.profile)
        name, _, initial = argument.partition(" ")
        name = name.upper()
        if not offered:
            return replies.NOT_IMPLEMENTED
        if self.user:
            return replies.LOGIN_ALREADY
        if self.envelope.mail_from is not None:
            return replies.LOGIN_IN_MAIL
        if not name:
            return replies.BAD_ARGUMENT
        if name not in offered:
            return replies.LOGIN_UNKNOWN
        clock = self._shared.clock
        dialog = MECHANISMS[name](self.profile.hostname, clock.new_id(), clock.now())
        challenge = next(dialog)
        if initial:
            return self._answer(name, dialog, b"" if initial == "=" else initial.encode())
        return self._challenge(name, dialog, challenge)

    def _challenge(self, name: str, dialog: Dialog, challenge: bytes) -> Reply:
        self._answer_to = partial(self._answer, name, dialog)
        return Reply(334, "", b64encode(challenge).decode())

    def _answer(self, name: str, dialog: Dialog, line: bytes) -> Reply:
        if line == b"*":
            return replies.LOGIN_ABORTED
        try:
            return self._challenge(name, dialog, dialog.send(b64decode(line, validate=True)))
        except StopIteration as end:
            found: dict[str, str] = end.value
        except (binascii.Error, ValueError):
            return replies.LOGIN_BAD
        self.logins += 1
        accepted = self._trap.settings.auth == "accept"
        self.note("login", {"mechanism": name, **found, "accepted": accepted})
        if not accepted:
            return replies.LOGIN_FAILED
        self.user = found["user"] or "?"
        return replies.LOGIN_OK


DecoySession._verbs = {**Session._verbs, b"AUTH": "smtp_AUTH"}
