"""How many octets of messages one process holds: those that are received, judged or stored, all sessions together. Pure.

The limit is one scale, and what is on it decides who may grow:

    0 .......... open .......................... promised ....... limit
    everybody    whoever was promised the rest   small ones only

Below the first mark nobody is asked. Past it a message waits in line for a promise: room for all that it may still become, so
that whoever has one comes to its end without waiting again. Addresses take turns, and of one address those that came first: who
opens many connections gets no more of it. As long as nobody holds a promise the next in line gets one whether or not it fits: so
there is always one that can end, and no deadlock. A message that is still small never waits as long as the whole limit isn't used
up, so big mails do not keep small ones out.

What is held may pass the limit by one message, and by what each session had read before it was told to wait.
"""

from __future__ import annotations

from collections.abc import Callable

SMALL = 65536
"""Octets of a message that waits for nobody."""

PATIENCE = 150.0
"""Seconds that a message may wait: its client gives up after three minutes (RFC 5321 4.5.3.2.5)."""

PATIENCE_BEFORE = 60.0
"""Seconds that DATA may wait for its 354: its client gives up after two minutes (RFC 5321 4.5.3.2.4)."""

HURRY = 30.0
"""Seconds that whoever holds a promise may stand still while others wait, or be slow beside what its octets earn it."""

FIRST_OCTET = 10.0
"""Seconds that it may bring nothing at all: TCP has held its octets back, so an honest client's are there at once."""

HASTE = 64
"""How much faster than `limits.slowest` it then has to be."""


class Place:
    """One session's share. `told` hears whether it may go on, or has waited for too long."""

    __slots__ = (
        "before",
        "begun",
        "claim",
        "complete",
        "going",
        "held",
        "held_then",
        "promise",
        "since",
        "told",
        "waited",
        "waiting",
        "who",
    )

    def __init__(self, told: Callable[[bool], None], who: str = "") -> None:
        """`who` its client is: an address, "" for all that have none."""
        self.told = told
        self.who = who
        self.begun = False  # a message is under way
        self.complete = False  # all of it is here
        self.before = False  # it waits for the word to begin
        self.waiting = False
        self.going = False  # it was promised the rest
        self.claim = 0  # octets that it may become
        self.held = 0
        self.promise = 0  # octets that it may still take without being asked
        self.held_then = 0  # octets at the promise
        self.since = 0.0  # when it began to wait, or was promised
        self.waited = 0.0  # seconds, the last time

    def dawdles(self, now: float, active: float, slowest: int) -> bool:
        """Whether its client should make way for others who wait: it stands still (`active`: when its last octets came), or is
        slower than `HASTE` times `slowest`, octets a second."""
        if self.held == self.held_then and now - self.since >= FIRST_OCTET:
            return True
        earned = (self.held - self.held_then) / (HASTE * slowest)
        return now - active >= HURRY or now - self.since >= HURRY + earned


class Budget:
    """The octets of one process. Times are the clock's monotonic seconds. Nothing here raises."""

    def __init__(self, limit: int, message_size: int) -> None:
        """`limit` octets in all, `message_size` of one message."""
        self._queue: dict[Place, None] = {}
        self._turn = 0
        self._turns: dict[str, int] = {}  # by client: when it was promised something last, while anybody waits
        self.used = 0
        self.promised = 0
        self._going = 0  # places that were promised the rest, until they have left
        self.overloaded = False  # the first in line has waited for long: who comes now would wait in vain
        self._set(limit, message_size)

    def _set(self, limit: int, message_size: int) -> None:
        self.limit = limit
        self._open = limit // 4
        self._most = limit - limit // 8
        self._whole = message_size + message_size // 8  # stuffed dots, and the first octets of what comes behind

    def follow(self, limit: int, message_size: int, now: float) -> None:
        """Take new limits; what is held already stays."""
        self._set(limit, message_size)
        self._serve(now)

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queue)

    def begin(self, place: Place, declared: int) -> None:
        """A message begins, of so many octets by its SIZE (RFC 1870); 0 where it didn't say. Pair it with `leave`."""
        place.begun = True
        place.claim = min(declared + declared // 8 + 4096, self._whole) if declared else self._whole

    def wait(self, place: Place, now: float) -> bool:
        """Stand in line before the first octet. False: it was promised its room at once."""
        place.before = True
        return not self._join(place, now)

    def take(self, place: Place, octets: int, now: float) -> bool:
        """So many more octets of it are here. False: it should bring no more until it is told."""
        self.used += octets
        place.held += octets
        if place.waiting:
            return False
        if place.going:
            left = place.promise - octets
            place.promise = max(left, 0)
            self.promised -= octets + min(left, 0)
            if left >= 0 or place.claim >= self._whole:  # its own limit ends it soon
                return True
            place.claim = self._whole  # it is more than it said
            self._stop(place)
        else:
            total = self.used + self.promised
            if (total <= self._open and not self._queue) or (place.held <= SMALL and total <= self.limit):
                return True
        return self._join(place, now)

    def settle(self, place: Place, now: float) -> None:
        """It is complete: it keeps what it holds, and needs no more."""
        place.complete = True
        if place.waiting:
            self._unqueue(place)
        self.promised -= place.promise
        place.promise = 0
        if self._queue:
            self._serve(now)

    def leave(self, place: Place, now: float) -> None:
        """It is stored, refused or given up."""
        self._stop(place)
        self.used -= place.held
        place.held = 0
        place.begun = place.complete = False
        if self._queue:
            self._serve(now)

    def expire(self, now: float) -> None:
        """Tell those who have waited for too long."""
        late = [p for p in self._queue if now - p.since >= (PATIENCE_BEFORE if p.before else PATIENCE)]
        for place in late:
            if place.waiting:  # a neighbour's end may have let it go on
                self._stop(place)
                place.waited = now - place.since
                place.told(False)
        first = next(iter(self._queue), None)
        self.overloaded = first is not None and now - first.since >= PATIENCE_BEFORE / 2
        self._serve(now)

    def _join(self, place: Place, now: float) -> bool:
        """Stand in line; whether its turn is now."""
        place.waiting = True
        place.since = now
        self._queue[place] = None
        self._serve(now, place)
        return not place.waiting

    def _serve(self, now: float, asking: Place | None = None) -> None:
        """Promise those that came first the room they need. `asking` sees it for itself."""
        while self._queue:
            place = self._next()
            need = max(place.claim - place.held, 1)
            if self._going and self.used + self.promised + need > self._most:
                return
            self._unqueue(place)
            place.going = True
            self._turn += 1
            if self._queue:
                self._turns[place.who] = self._turn
            self._going += 1
            place.promise = need
            self.promised += need
            place.waited = now - place.since
            place.since = now
            place.held_then = place.held
            if place is not asking:
                place.told(True)

    def _next(self) -> Place:
        """Of those that wait the one whose client has waited longest for its turn; of one client's, who came first."""
        return min(self._queue, key=lambda place: self._turns.get(place.who, 0))

    def _unqueue(self, place: Place) -> None:
        place.waiting = place.before = False
        del self._queue[place]
        if not self._queue:
            self._turns.clear()

    def _stop(self, place: Place) -> None:
        """Out of the line, and without a promise."""
        if place.waiting:
            self._unqueue(place)
        if place.going:
            place.going = False
            self._going -= 1
            self.promised -= place.promise
            place.promise = 0
