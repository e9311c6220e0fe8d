"""What is asked and what is known so far, by domain: who is to be asked now, who again later, who waits for the random address.

The random address of a domain is asked where the host has taken a real one, once; until that is known, those that were taken
wait. What a host puts off is asked again when `Plan.wait` seconds have passed, at the best host first, `Plan.tries` times in all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from responder.clock import Clock
from responder.outbound.dial import Timeouts
from responder.outbound.mx import Host
from responder.outbound.verifying.verification import Finding, Result

Tell = Callable[[str, Finding, int, bool | None], Awaitable[None]]
"""Takes an address, the final word, how often it was asked, and what a random address came to."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to ask. Times are seconds."""

    hostname: str
    sender: str = ""
    source_address: str = ""
    port: int = 25
    allow_private: bool = False
    max_recipients: int = 100  # RCPT commands of one session
    wait: float = 300.0
    tries: int = 3
    catch_all: bool = True
    pause: float = 1.0  # between two sessions with one address
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(slots=True, eq=False)
class Domain:
    """The addresses of one domain, and how far they are."""

    name: str
    fresh: deque[str] = field(default_factory=deque)  # to be asked now
    later: list[str] = field(default_factory=list)  # to be asked again
    later_since: float = 0.0  # when the last of them was put off, by clock.monotonic()
    tries: dict[str, int] = field(default_factory=dict)  # of those without a final word that were asked
    breaks: dict[str, int] = field(default_factory=dict)  # sessions that broke at an address
    accepted: list[tuple[str, Finding]] = field(default_factory=list)  # until it is known what the random one comes to
    random: str = ""
    decided: bool = False  # what the random one comes to is known, or never will be
    catch_all: bool | None = None
    hosts: list[Host] | None = None  # None: not looked up yet
    host: str = ""  # the name of the host that it waits for
    next_host: int = 0
    addresses: deque[str] = field(default_factory=deque)  # of that host, still to be tried
    tried: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)  # of hosts that could not be asked
    placed: bool = True  # it waits at a station, or to be led to one

    @property
    def wants_random(self) -> bool:
        """Whether the random address is to be asked next."""
        return bool(self.accepted) and not self.decided and self.random not in self.later

    @property
    def has_work(self) -> bool:
        """Whether anybody is to be asked now."""
        return bool(self.fresh) or self.wants_random

    def back(self, addresses: list[str]) -> None:
        """These were not asked after all: they are first. The random one comes again by itself."""
        self.fresh.extendleft(reversed([address for address in addresses if address != self.random]))

    def begin_anew(self) -> None:
        """Those that were put off are to be asked now; where nobody waits at a host, at the best one first."""
        self.fresh.extend([address for address in self.later if address != self.random])
        self.later = []
        if not self.placed:
            self.host, self.next_host = "", 0
            self.addresses.clear()
            self.tried.clear()
            self.findings.clear()


class Ledger:
    """Takes every finding, and tells the final ones."""

    def __init__(self, plan: Plan, clock: Clock, tell: Tell, deferred: Callable[[Domain], None]) -> None:
        self._plan = plan
        self._clock = clock
        self._tell = tell
        self._deferred = deferred

    def random_of(self, domain: Domain) -> str:
        """An address that nobody has: not to be known beforehand, and of no odd length or letters."""
        if not domain.random:
            noise = self._clock.new_id()[-8:]
            domain.random = f"m{noise[:4]}.{noise[4:]}@{domain.name}"
        return domain.random

    async def note(self, domain: Domain, address: str, finding: Finding) -> None:
        """A word about one address: the last one, or it is asked again later."""
        tries = domain.tries.pop(address, 0) + 1
        if finding.transient and tries < self._plan.tries and self._plan.wait > 0:
            domain.tries[address] = tries
            domain.later.append(address)
            domain.later_since = self._clock.monotonic()
            self._deferred(domain)
            return
        domain.breaks.pop(address, None)
        taken = finding.result is Result.EXISTS and finding.code // 100 == 2
        if address == domain.random:
            refused = finding.result in (Result.UNKNOWN, Result.REFUSED)
            await self._decide(domain, True if taken else False if refused else None)
        elif taken and self._plan.catch_all and not domain.decided:
            domain.tries[address] = tries
            domain.accepted.append((address, finding))
        else:
            await self._tell(address, finding, tries, domain.catch_all if taken else None)

    async def finish(self, domain: Domain, finding: Finding) -> None:
        """There is nobody (left) to ask: that is the word about all who wait."""
        rest, domain.fresh = domain.fresh, deque()
        if domain.wants_random:
            await self.note(domain, self.random_of(domain), finding)
        for address in rest:
            await self.note(domain, address, finding)

    async def _decide(self, domain: Domain, catch_all: bool | None) -> None:
        domain.decided, domain.catch_all = True, catch_all
        waiting, domain.accepted = domain.accepted, []
        for address, finding in waiting:
            await self._tell(address, finding, domain.tries.pop(address, 1), catch_all)
