"""What this process remembers of hosts: how long each takes to be connected, which are busy, and which addresses are dead.

Preference is never broken (RFC 5321 5.1). Among hosts of one preference those that answer about as fast as the fastest take
turns by chance, as that section asks for; being slower is the clear reason it wants for favouring another. What was never
measured is measured soon, by one mail at a time; what is slower is measured again now and then: a host may recover.

An address that can't be connected rests: nobody waits for it, and mail that has no other way is put off at once with what was
found out before. When the rest is over, one mail asks; a failure makes the next rest twice as long. Nothing here is ever final.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple, TypeVar

from responder.clock import Clock
from responder.mail.status import Failure
from responder.outbound.mx import Host

MAX_ENTRIES: Final = 10_000
"""Names, and addresses, that are remembered: some megabytes. Others' DNS says which they are, so what is oldest is forgotten."""

HALF_LIFE: Final = 300.0  # seconds in which what was measured loses half of its weight
MEMORY: Final = 3.0  # how many measurements' worth the past counts at the most
CLOSE: Final = 1.25  # up to this multiple of the best time, and
NEAR: Final = 0.01  # so many seconds, a host is as good as the best
EXPLORE: Final = 10  # one in so many mails may measure a slower host again
PATIENCE: Final = 30.0  # seconds between two mails that measure one host for that reason
BUSY: Final = 30.0  # seconds for which a host that greets with 421 or another refusal comes behind its equals
OUTRUN: Final = 600.0  # seconds for which an address that lost a race is begun with last
ALIVE: Final = 60.0  # seconds for which an address that has answered is no dead one for a failure or two:
STRIKES: Final = 3  # hosts under load drop some connections and take others
PROBE: Final = 60.0  # seconds that the one who asks a dead address again is given before another may


class Rests(NamedTuple):
    """Seconds that a dead address is left alone: at first, and at the most; each failure doubles it."""

    first: float = 60.0
    longest: float = 600.0


RESTS: Final = Rests()


class Place(NamedTuple):
    """An address as it is reached from here. A source that can't reach it says nothing about the others."""

    address: str
    port: int
    source: str = ""
    named: bool = False  # by the operator: it rests for less


@dataclass(slots=True)
class _Times:
    """How long one host takes."""

    mean: float = 0.0
    last: float = 0.0
    weight: float = 0.0  # of the mean, in measurements; 0: there was none
    measured: float = -inf  # all times by clock.monotonic()
    asked: float = -inf  # when a mail was last sent there to measure it
    passed: int = 0  # mails that preferred another one since
    busy: float = -inf  # until then

    @property
    def score(self) -> float:
        """What is compared. The last measurement alone counts where it is better: who has recovered is believed at once."""
        return min(self.mean, self.last)


@dataclass(slots=True)
class _Life:
    """One address: when it answered, and that it did not."""

    failure: Failure | None = None
    failures: int = 0  # in a row
    until: float = -inf  # it rests
    probe: float = -inf  # somebody is asking it, until then
    outrun: float = -inf  # until then others are begun with
    answered: float = -inf
    strikes: int = 0  # failures since


K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class HostMemory:
    """Belongs to one event loop. `max_entries` bounds each of its two tables."""

    def __init__(self, clock: Clock, *, max_entries: int = MAX_ENTRIES) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._times: OrderedDict[tuple[str, int], _Times] = OrderedDict()
        self._lives: OrderedDict[Place, _Life] = OrderedDict()

    def __len__(self) -> int:
        """How many hosts and addresses are remembered."""
        return len(self._times) + len(self._lives)

    # Hosts, by name.

    def rank(self, hosts: Sequence[Host], port: int) -> list[Host]:
        """The hosts in the order they are to be tried. They come by preference, those of one preference shuffled."""
        if len(hosts) < 2:
            return list(hosts)
        ranked: list[Host] = []
        for _, group in groupby(hosts, attrgetter("preference")):
            equals = list(group)
            ranked += equals if len(equals) == 1 else self._among(equals, port)
        return ranked

    def connected(self, name: str, port: int, seconds: float) -> None:
        """The host took so long from the first packet until it was greeted."""
        times = self._recall(self._times, (name, port), _Times)
        now = self._clock.monotonic()
        weight = times.weight
        if weight:
            weight = min(weight * 0.5 ** ((now - times.measured) / HALF_LIFE), MEMORY)
        times.mean = (times.mean * weight + seconds) / (weight + 1)
        times.weight = weight + 1
        times.last = seconds
        times.measured = now
        times.passed = 0
        times.busy = -inf

    def refused(self, name: str, port: int) -> None:
        """The host is there, and does not want us now: it is no dead one, but its equals may be less busy."""
        self._recall(self._times, (name, port), _Times).busy = self._clock.monotonic() + BUSY

    def _among(self, equals: list[Host], port: int) -> list[Host]:
        now = self._clock.monotonic()
        known = [(host, self._recall(self._times, (host.name, port), _Times)) for host in equals]
        explored = self._due(known, now)
        best = min([times.score for _, times in known if times.weight and times.busy <= now], default=0.0)

        def order(one: tuple[Host, _Times]) -> tuple[bool, bool, bool, float]:
            times = one[1]
            slow = times.score > best * CLOSE + NEAR
            return one is not explored, times.busy > now, not times.weight, times.score if slow else 0.0

        known.sort(key=order)
        for _, times in known[1:]:
            times.passed += 1
        return [host for host, _ in known]

    def _due(self, known: list[tuple[Host, _Times]], now: float) -> tuple[Host, _Times] | None:
        """The host that this mail shall measure, if any: one that never was, else one that has been passed over for long."""
        enough = EXPLORE * (len(known) - 1) * self._clock.jitter(0.5, 1.5)
        due = [one for one in known if one[1].busy <= now and now - one[1].asked >= PATIENCE]
        for one in due:
            if not one[1].weight:
                one[1].asked = now
                return one
        for one in due:
            if one[1].passed >= enough and now - one[1].measured >= PATIENCE:
                one[1].asked = now
                one[1].passed = 0
                return one
        return None

    # Addresses.

    def admit(self, place: Place) -> Failure | None:
        """None where the address may be asked; else why not, as it was found out before. Who is let through after a rest is the
        only one for a while: it should ask."""
        life = self._lives.get(place)
        if life is None or not life.failures:
            return None
        now = self._clock.monotonic()
        if now < max(life.until, life.probe):
            return life.failure
        life.probe = now + PROBE
        return None

    def rest(self, place: Place) -> float:
        """Seconds until the address may be asked again."""
        life = self._lives.get(place)
        return 0.0 if life is None else max(life.until - self._clock.monotonic(), 0.0)

    def failed(self, place: Place, failure: Failure, rests: Rests) -> None:
        """The address did not answer. Those who began before its rest make it no longer."""
        life = self._recall(self._lives, place, _Life)
        now = self._clock.monotonic()
        life.failure = failure
        life.strikes += 1
        if now < life.until or (now - life.answered < ALIVE and life.strikes < STRIKES):
            return
        if now - life.until > rests.longest:  # so long ago that it says nothing about today
            life.failures = 0
        life.until = now + min(rests.first * 2**life.failures, rests.longest)
        life.probe = -inf
        life.failures = min(life.failures + 1, 16)

    def answered(self, place: Place) -> None:
        """The address is alive, whatever it said."""
        life = self._recall(self._lives, place, _Life)
        life.answered = self._clock.monotonic()
        life.failures = life.strikes = 0
        life.until = life.probe = life.outrun = -inf

    def outrun(self, place: Place) -> None:
        """Another address of the host was connected, though this one had been begun with."""
        self._recall(self._lives, place, _Life).outrun = self._clock.monotonic() + OUTRUN

    def is_slow(self, place: Place) -> bool:
        """Whether the address lost a race lately."""
        life = self._lives.get(place)
        return life is not None and life.outrun > self._clock.monotonic()

    def _recall(self, table: OrderedDict[K, R], key: K, new: Callable[[], R]) -> R:
        found = table.get(key)
        if found is None:
            found = table[key] = new()
            if len(table) > self._max_entries:
                table.popitem(last=False)
        else:
            table.move_to_end(key)
        return found
