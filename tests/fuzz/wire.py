"""A session without a network: octets go in as its transport would bring them, and what it says is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from itertools import pairwise
from typing import Any

from responder.config import Limits, Listen
from responder.inbound import replies
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions
from responder.mail.envelope import Path
from tests.support.clock import ManualClock

REPLY = re.compile(rb"(?:[2-5]\d\d-[^\r\n\x00]*\r\n)*[2-5]\d\d [^\r\n\x00]*\r\n")
PATIENCE = 1000  # turns of the event loop that one answer may take


class Wire(asyncio.Transport):
    """The server's end of a connection that a test holds in its hand."""

    def __init__(self, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer})
        self.said = bytearray()
        self.closed = False
        self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closed, "it writes behind the end"
        self.said += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert not self.paused, "it pauses twice"
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused, "it resumes what was not paused"
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0


class Judge:
    """Takes what a good handler would: local parts that begin with "unknown" are nobody's. `late`: it answers later."""

    def __init__(self) -> None:
        self.late = False
        self.mails: list[tuple[str, tuple[tuple[str, str], ...], bytes]] = []

    def connected(self, session: Transaction) -> Reply | Awaitable[Reply | None] | None:
        return _later(None) if self.late else None

    def hello(self, session: Transaction, name: str) -> Reply | Awaitable[Reply | None] | None:
        return _later(None) if self.late else None

    def sender(self, session: Transaction, path: Path) -> Reply | Awaitable[Reply]:
        return _later(replies.SENDER_OK) if self.late else replies.SENDER_OK

    def recipient(self, session: Transaction, path: Path) -> Recipient | Awaitable[Recipient]:
        address = path.address
        assert address is not None
        mailbox = str(address) if address.domain else f"{address.local}@test.example"
        found = Recipient(replies.RECIPIENT_OK, mailbox, "inbox")
        if address.local.startswith("unknown"):
            found = Recipient(replies.UNKNOWN_INBOX)
        return _later(found) if self.late else found

    async def message(self, session: Transaction, content: bytes) -> Reply | dict[str, Reply]:
        if self.late:
            await asyncio.sleep(0)
        self.mails.append((session.envelope.mail_from or "", session.recipients, content))
        return replies.queued("0" * 18)


async def _later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


class Talk:
    """One session, its judge, and the other end of its wire."""

    def __init__(self, limits: Limits, listen: Listen | None = None, *, late: bool = False) -> None:
        """Within an event loop."""
        self.judge = Judge()
        self.judge.late = late
        self.clock = ManualClock()
        self.shared = Sessions("mx.test.example", limits, Gatekeeper(limits, self.clock), self.judge, self.clock)
        self.wire = Wire(("192.0.2.1", 2525))
        self.session = Session(self.shared, self.shared.profile(listen or Listen()))
        self.session.connection_made(self.wire)

    async def bring(self, octets: bytes) -> None:
        """One segment; returns when the session has done with it all that it can."""
        await self.settle()
        if not self.wire.closed:
            self.session.data_received(octets)
        await self.settle()

    async def settle(self) -> None:
        for turn in range(PATIENCE):
            if not self.session._waiting:
                return
            await asyncio.sleep(0)
            if turn % 10 == 9:
                self.clock.advance(1.0)  # some replies are delayed
        raise AssertionError("it waits for ever")

    async def leave(self, *, politely: bool = True) -> None:
        """The client goes. Nothing of it may stay."""
        if politely and not self.wire.closed:
            self.session.eof_received()
        await self.settle()
        self.session.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        budget = self.shared.budget
        assert (budget.used, budget.promised, budget._going, budget.crowded) == (0, 0, 0, False), "it holds octets"
        assert not self.shared.open
        assert not self.shared.busy

    def replies(self) -> list[bytes]:
        """What was said, reply by reply; anything that is none fails."""
        said, found, at = bytes(self.wire.said), [], 0
        while at < len(said):
            match = REPLY.match(said, at)
            assert match is not None, said[at : at + 100]
            lines = match[0].split(b"\r\n")[:-1]
            assert len({line[:3] for line in lines}) == 1, "one reply with two codes"
            found.append(match[0])
            at = match.end()
        return found


def pieces(octets: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Octets, cut at these places."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(octets)}), len(octets)]
    return [octets[begin:end] for begin, end in pairwise(places)]
