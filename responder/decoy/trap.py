"""Whom the sessions of decoys ask: everybody is wanted, every address is known, every message is taken, and nothing comes of it.

It knows no inbox, no store and no way out, so what it takes can't be answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from responder.aside import aside
from responder.clock import Clock
from responder.config import Config, Decoy
from responder.decoy.credentials import MECHANISMS
from responder.decoy.session import DecoySession
from responder.decoy.transcript import Transcript, place
from responder.inbound import replies
from responder.inbound.dialects.dialect import QueueId
from responder.inbound.profile import Profile
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions
from responder.mail.envelope import Path
from responder.observe import event

MANY = 100  # recipients that the record of a message names; the lines have all of them
BIG = 1 << 20  # octets whose digest takes longer than the event loop should wait
PLAIN_OFFER = ("PIPELINING", "SIZE {limit}", "8BITMIME", "STARTTLS", "AUTH PLAIN LOGIN")
"""What a persona shows whose file says nothing of that."""

_BASE60 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwx"


class Trap:
    """The handler of listeners with `decoy = true`."""

    def __init__(self, settings: Decoy, transcript: Transcript, clock: Clock) -> None:
        self.settings = settings
        self.transcript = transcript
        self._clock = clock
        self.session: Callable[[Sessions, Profile], Session] = DecoySession

    def follow(self, config: Config) -> None:
        """Take a new configuration."""
        self.settings = config.decoy
        self.transcript.follow(place(config), config.decoy.rotate, config.decoy.keep)

    # -- what it shows -------------------------------------------------------------------------------------------------

    def offer(self, profile: Profile, secure: bool, known: bool) -> list[str]:
        """What EHLO shows, beside the name: what the persona does, as far as the configuration lets it."""
        found = []
        for one in profile.dialect.capabilities or PLAIN_OFFER:
            word = one.replace("=", " ").split(" ")[0].upper()
            if word in ("STARTTLS", "X-ANONYMOUSTLS") and (secure or profile.certificate is None):
                continue
            if word in ("AUTH", "X-EXPS") and (known or not self.mechanisms(profile)):
                continue
            found.append(one.replace("{limit}", str(profile.message_size)))
        return found

    def mechanisms(self, profile: Profile) -> list[str]:
        """The mechanisms that the persona offers, as far as they are known here."""
        if self.settings.auth == "off":
            return []
        lines = [one.replace("=", " ").upper().split() for one in profile.dialect.capabilities or PLAIN_OFFER]
        return [word for line in lines if line[0] == "AUTH" for word in line[1:] if word in MECHANISMS]

    # -- what it is asked ----------------------------------------------------------------------------------------------

    def connected(self, session: Transaction) -> None:
        """A client has come."""
        cast(DecoySession, session).welcome = True
        event("decoy connected", session=session.id, peer=session.peer)

    def hello(self, session: Transaction, name: str) -> None:
        """It says who it is."""

    def sender(self, session: Transaction, path: Path) -> Reply:
        """Whoever it is."""
        return replies.SENDER_OK

    def recipient(self, session: Transaction, path: Path) -> Recipient:
        """Whoever it is for."""
        return Recipient(replies.RECIPIENT_OK, path.text)

    async def message(self, session: Transaction, content: bytes) -> Reply:
        """Take note of a message, and let go of it."""
        digest = hashlib.sha256(content) if len(content) < BIG else await aside(hashlib.sha256, content)
        told = queue_id(session.profile.dialect.queue_id, self._clock.new_id(), self._clock.now())
        decoy = cast(DecoySession, session)
        decoy.mails += 1
        facts = {"id": told, "size": len(content), "sha256": digest.hexdigest()}
        ends = {"from": session.envelope.mail_from, "to": session.envelope.rcpt_tos[:MANY]}
        decoy.note("message", {**facts, **ends})
        return replies.queued(told, len(content))


def make_trap(config: Config, clock: Clock) -> Trap | None:
    """The trap of a configuration that has a decoy."""
    if not any(listen.decoy for listen in config.listen):
        return None
    transcript = Transcript(place(config), config.decoy.rotate, config.decoy.keep)
    return Trap(config.decoy, transcript, clock)


def queue_id(style: QueueId, identifier: str, now: float) -> str:
    """An id of ours as another server would have made it. Nothing is stored by it."""
    digest = hashlib.sha256(identifier.encode()).digest()
    number = int.from_bytes(digest[:8])
    match style:
        case "hex":  # Postfix: microseconds, inode
            return f"{number % 1_000_000:05X}{0x40000 + (number >> 32) % 0x80000:X}"
        case (
            "sendmail"
        ):  # year, month, day, hour, minute, second in one character each, two that count on, a process id
            at = datetime.fromtimestamp(now, UTC)
            parts = (at.year - 1900, at.month - 1, at.day, at.hour, at.minute, at.second, number >> 40, number >> 32)
            return "".join([_BASE60[part % 60] for part in parts]) + f"{1000 + number % 31000:06d}"
        case "guid":
            return digest[:16].hex()
        case _:
            return identifier
