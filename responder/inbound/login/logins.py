"""Who lets users in: counts who fails, keeps the costly work few at a time, and says the same to all who are not let in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from responder.aside import aside
from responder.clock import Clock
from responder.config import Rate
from responder.inbound import replies
from responder.inbound.limits.addresses import client_key
from responder.inbound.limits.gatekeeper import RateCounter
from responder.inbound.login.passwords import Verifier, noise
from responder.inbound.login.sasl import Claim, Login, Mechanism, Plain, Scram
from responder.inbound.login.users import User, Users
from responder.inbound.replies import Reply
from responder.inbound.roles import Client
from responder.observe import event

AT_A_TIME = 2  # hashes that are worked on: each takes some 32 to 64 MiB and a processor
OF_AN_ADDRESS = 4  # of those that wait: one address must not fill the queue
QUEUE = 100  # logins that wait for their turn


class Logins:
    """Those who log in to one process, whatever listener they come by."""

    def __init__(self, users: Users, failures: Rate | None, clock: Clock) -> None:
        self.users = users
        self._clock = clock
        self._failures = RateCounter(failures, clock)
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._waiting: Counter[str] = Counter()

    def follow(self, users: Users, failures: Rate | None) -> None:
        """Take a new configuration. Who has failed stays known."""
        self.users = users
        self._failures.follow(failures)

    @property
    def mechanisms(self) -> Sequence[str]:
        """What is offered, the best first."""
        return ("SCRAM-SHA-256", "PLAIN", "LOGIN") if self.users.know_scram else ("PLAIN", "LOGIN")

    def begin(self, session: Client, mechanism: str) -> Mechanism | Reply:
        """A dialog by a mechanism (its name in capitals), or why there is none."""
        if (refusal := self.refusal(session)) is not None:
            return refusal
        match mechanism:
            case "PLAIN":
                return Plain()
            case "LOGIN":
                return Login()
            case "SCRAM-SHA-256" if self.users.know_scram:
                return Scram(self._verifier, noise(self._clock).hex())
        return replies.LOGIN_UNKNOWN

    def refusal(self, session: Client) -> Reply | None:
        """The reply that ends the session of an address that has failed too often."""
        key = client_key(session.counted)
        return replies.TOO_MANY_LOGINS if key and self._failures.full(key) else None

    async def judge(self, session: Client, mechanism: str, claim: Claim | None) -> Reply:
        """What a dialog came to: `LOGIN_OK`, `LOGIN_FAILED`, or that there is no time for it. None: it went wrong."""
        user = self.users.find(claim.name) if claim is not None else None
        if claim is None or user is None:
            return self._failed(session, mechanism, None)
        right = claim.proved
        if claim.password is not None:
            found = await self._look(session, user, claim.password)
            if isinstance(found, Reply):
                return found
            right = found
        if not (right and user.known):
            return self._failed(session, mechanism, user)
        event("login", peer=session.peer, user=user.name, mechanism=mechanism)
        return replies.LOGIN_OK

    async def _look(self, session: Client, user: User, password: str) -> bool | Reply:
        """Whether it is the user's password: in a thread, when its turn has come."""
        address = client_key(session.counted)
        if self._waiting.total() >= QUEUE or (address and self._waiting[address] >= OF_AN_ADDRESS):
            return replies.LOGIN_NOT_NOW
        self._waiting[address] += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]
        if self.refusal(session) is not None:  # others of its address have failed meanwhile
            self._places.release()
            return replies.LOGIN_FAILED
        # Who leaves gives no place free: the thread works on, and a flood of those would have any number of them.
        work = asyncio.ensure_future(aside(user.hash.matches, password))
        kept = asyncio.shield(work)
        # Behind the one who waits: a failure is counted before the next has its turn.
        work.add_done_callback(self._done)
        return await kept

    def _done(self, work: asyncio.Future[bool]) -> None:
        self._places.release()
        if not work.cancelled():
            work.exception()  # looked at, should nobody be there any more

    def _failed(self, session: Client, mechanism: str, user: User | None) -> Reply:
        """Count it. A name that is no user's is not logged: it may be a password, typed a line too early."""
        if key := client_key(session.counted):
            self._failures.add(key)
        known = user is not None and user.known
        reason = "malformed" if user is None else "wrong password" if known else "unknown user"
        name = user.name if user is not None and known else None
        event("login failed", peer=session.peer, user=name, mechanism=mechanism, reason=reason)
        return replies.LOGIN_FAILED

    def _verifier(self, name: str) -> Verifier:
        verifier = self.users.find(name).verifier
        assert verifier is not None, "SCRAM is offered where everybody has one, or a stand-in for it"
        return verifier
