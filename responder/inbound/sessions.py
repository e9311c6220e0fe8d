"""The sessions of one process: what they share, and who looks after them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from responder.aside import aside
from responder.clock import Clock
from responder.config import Limits, Listen
from responder.inbound.dialects.dialect import GENERIC, Dialect
from responder.inbound.limits.budget import Budget
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.profile import Profile
from responder.inbound.replies import SHUTTING_DOWN, Reply
from responder.inbound.tls import Certificate
from responder.observe import event

if TYPE_CHECKING:
    pass
from responder.inbound.roles import Client, Decoy, Followed, Handler, Login


class Sessions:
    """The sessions that are open, and what they share."""

    def __init__(self, hostname: str, limits: Limits, gatekeeper: Gatekeeper, handler: Handler, clock: Clock) -> None:
        self.hostname = hostname
        self.limits = limits
        self.handler = handler
        self.clock = clock
        self.gatekeeper = gatekeeper
        self.budget = Budget(limits.in_flight, limits.message_size)
        self.certificate: Certificate | None = None
        self.login: Login | None = None
        self.decoy: Decoy | None = None
        self.dialects: dict[str, Dialect] = {"": GENERIC}
        self.open: set[Client] = set()
        self.busy: set[asyncio.Task[Reply | dict[str, Reply]]] = set()
        self.followed: list[Followed] = []
        self.draining = False
        self._looking: asyncio.Task[None] | None = None
        self._profiles: list[Profile] = []

    def profile(self, listen: Listen) -> Profile:
        """What a listener offers. It follows a reload."""
        if listen.decoy and self.decoy is None:  # never the real inboxes behind a trap
            raise ValueError(f"{listen.address}: no decoy was furnished")
        decoy = self.decoy if listen.decoy else None
        limit = self.limits.message_size
        profile = Profile(listen, self.hostname, limit, self.handler, now=self.clock.now, decoy=decoy)
        self._profiles.append(profile)
        self._tell(profile)
        return profile

    def follow(self, hostname: str, limits: Limits, listens: Sequence[Listen] = ()) -> None:
        """Take a new configuration; sessions that are open go on under it. A listener is known again by what lasts of it."""
        lasting = {listen.lasting: listen for listen in listens}
        for profile in self._profiles:
            profile.relist(lasting.get(profile.listen.lasting, profile.listen))
        self.hostname = hostname
        self.limits = limits
        self.gatekeeper.follow(limits, self.clock)
        self.budget.follow(limits.in_flight, limits.message_size, self.clock.monotonic())
        for profile in self._profiles:
            self._tell(profile)

    def _tell(self, profile: Profile) -> None:
        dialect = self.dialects.get(profile.listen.dialect, self.dialects[""])
        profile.follow(self.hostname, self.limits.message_size, dialect, self.certificate, self.login)

    def tell(self) -> None:
        """Have the listeners show what is furnished by now."""
        for profile in self._profiles:
            self._tell(profile)

    def connected(self, session: Client) -> Reply | None:
        """Register a session; the reply where it is refused."""
        self.open.add(session)
        refusal = self.gatekeeper.connect(session.counted)
        if refusal is not None:
            event("refused", peer=session.peer, code=refusal.code, reason=refusal.text)
        return SHUTTING_DOWN if self.draining else refusal

    def disconnected(self, session: Client) -> None:
        """It is over."""
        self.open.discard(session)
        self.gatekeeper.disconnect(session.counted)

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        now = self.clock.monotonic()
        self.budget.expire(now)
        for session in list(self.open):
            reply = session.overdue(now)
            if reply is not None:
                session.hang_up(reply)

    def look(self) -> None:
        """Read again, in a thread, what has changed of the files that are followed. One look at a time: a disk may hang."""
        if self.followed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        if await aside(_refresh, list(self.followed)):
            for profile in self._profiles:
                self._tell(profile)


def _refresh(followed: list[Followed]) -> bool:
    """Whether one of them has something new: each is looked at."""
    found = [one.refresh() for one in followed]
    return any(found)
