"""Who may be spoken to now, for all processes that share the store: room, rate and pauses. Inside the writer's transaction.

Room is counted in connections, and a worker claims more than it has connections for, so that none stands idle while a claim is
under way. So that the workers together still keep to the room, a claim tells how many connections this worker may have: the
room less all that others hold of it, whether they use it or not. Whoever claims later gets what is left then; and a worker that
has more connections than it may have now opens none before others of its own have ended. And each takes no more than its part.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from responder.mail.pacing import START, Room, Sign, believed, pause
from responder.mail.suffix import organisational
from responder.store.records import DestinationView, Note, Pacing

AHEAD = 2  # parcels that are claimed for one connection of a provider that has proven itself
BURST = 1.0  # seconds whose share of a rate may leave at once: claims are not made for each message
REMEMBERED = 86400.0  # seconds that a place or provider is remembered of which there is nothing new


def place_of(route: str, domain: str, one_way: bool) -> str:
    """Whose line a message stands in."""
    return route or ("" if one_way else domain)


@lru_cache(maxsize=8192)  # each claim asks for all places that are spoken to
def _presumed(place: str) -> str:
    """The provider of a place that nobody has spoken to: who has a domain makes up as many below it as he likes."""
    return place if named_by_operator(place) or place[0] == "[" else organisational(place)


def named_by_operator(place: str) -> bool:
    """Whether the operator said where this goes: a route has a port, a domain has none, an address literal of IPv6 neither."""
    return not place or (":" in place and not place.endswith("]"))


@dataclass(slots=True)
class _Provider:
    room: Room
    rests: float
    next_at: float
    rated: bool = False


class Place(NamedTuple):
    """What is known of one place."""

    provider: str
    known: bool = True
    rests: float = 0.0
    failures: int = 0
    reason: str = ""


class Paces:
    """What one claim knows of places and providers, and what it takes of their room."""

    def __init__(self, connection: sqlite3.Connection, token: str, pacing: Pacing, now: float) -> None:
        self._connection = connection
        self._pacing = pacing
        self._now = now
        self._places: dict[str, Place] = {}
        self._providers: dict[str, _Provider] = {}
        self._sending: Counter[str] = Counter()  # parcels under way, whoever has them, by place
        self._mine: Counter[str] = Counter()  # by provider
        self._others: Counter[str] = Counter()
        (workers,) = connection.execute("SELECT count(*) FROM worker WHERE expires_at > ?", (now,)).fetchone()
        self.workers = max(1, int(workers))
        rows = connection.execute(
            "SELECT route, domain, claim = ?, count(*) FROM outbound WHERE state = 'SENDING' AND parcel = '' GROUP BY 1, 2, 3",
            (token,),
        ).fetchall()
        held = [(place_of(route, domain, pacing.one_way), mine, number) for route, domain, mine, number in rows]
        self.learn([place for place, _, _ in held])
        for place, mine, number in held:
            self._sending[place] += number
            (self._mine if mine else self._others)[self._places[place].provider] += number

    def learn(self, places: Iterable[str]) -> None:
        """Look up what is not known yet."""
        wanted = {place: _presumed(place) for place in places if place not in self._places}
        rows = self._connection.execute(
            "SELECT wanted.value ->> 0, coalesce(d.provider, wanted.value ->> 1), d.known, d.rests, d.failures, d.reason, p.room,"
            " p.threshold, p.proven, p.failures, p.rests, p.next_at FROM json_each(?) AS wanted"
            " LEFT JOIN destination d ON d.place = wanted.value ->> 0"
            " LEFT JOIN pace p ON p.provider = coalesce(d.provider, wanted.value ->> 1)",
            (json.dumps(list(wanted.items())),),
        )
        for place, provider, known, rests, failures, reason, *pace in rows:
            operators = named_by_operator(place)
            until = believed(rests or 0.0, self._now)
            self._places[place] = Place(provider, operators or bool(known), until, failures or 0, reason or "")
            if provider not in self._providers:
                self._providers[provider] = _provider(
                    pace, operators, self._pacing.of(provider).connections, self._now, self._pacing.start
                )

    def __getitem__(self, place: str) -> Place:
        return self._places[place]

    def share(self, place: str) -> int:
        """How many connections this worker may have to the place's provider."""
        return self._share(self._places[place].provider)

    def settled(self, place: str) -> bool:
        """Whether a success there would change nothing."""
        known = self._places[place]
        limit = self._pacing.of(known.provider).connections
        return not known.failures and self._providers[known.provider].room.settled(limit)

    def rests(self, place: str) -> bool:
        """Whether nothing is claimed for it before a certain time."""
        known = self._places[place]
        return max(known.rests, self._providers[known.provider].rests) > self._now

    def trouble(self, place: str) -> str:
        """Why one mail at a time finds out whether the place is back, or its provider; "" where that is not so."""
        known = self._places[place]
        if known.failures or not self._providers[known.provider].room.failures:
            return known.reason
        [reason] = self._connection.execute("SELECT reason FROM pace WHERE provider = ?", (known.provider,)).fetchone()
        return str(reason)

    def full(self) -> list[str]:
        """Providers that have no room left, or rest."""
        return [name for name in self._providers if not self._has_room(name)]

    def take(self, place: str) -> bool:
        """One parcel's room, if there is any."""
        known = self._places[place]
        if self.rests(place) or not self._has_room(known.provider) or (known.failures and self._sending[place]):
            return False
        provider = self._providers[known.provider]
        interval = self._pacing.of(known.provider).interval
        if interval:
            # One in the future would not have let it pass, so it is none of this rate's.
            due = min(provider.next_at, self._now)
            provider.next_at = max(due, self._now - (BURST if interval < BURST else 0.0)) + interval
            provider.rated = True
        self._mine[known.provider] += 1
        self._sending[place] += 1
        return True

    def _has_room(self, name: str) -> bool:
        provider = self._providers[name]
        allowance = self._pacing.of(name)
        if provider.rests > self._now:
            return False
        # What lies further ahead is another rate's, or another clock's.
        if allowance.interval and believed(provider.next_at, self._now, allowance.interval) > self._now:
            return False
        # Where others work beside, what is claimed ahead would be room that they don't get.
        ahead = AHEAD if provider.room.proven and not provider.room.failures and self.workers == 1 else 1
        return self._mine[name] < self._share(name) * ahead

    def _share(self, name: str) -> int:
        room = self._providers[name].room.places(self._pacing.of(name).connections)
        return min(room - self._others[name], max(1, room // self.workers))

    def store(self) -> None:
        """Write down what was taken of rates."""
        rated = [(name, provider) for name, provider in self._providers.items() if provider.rated]
        if rated:
            self._connection.executemany(
                _KEEP_PACE, [_row(name, p.room, p.rests, p.next_at, "", self._now) for name, p in rated]
            )


def _provider(pace: Sequence[float | None], operators: bool, limit: int, now: float, start: float = START) -> _Provider:
    room, threshold, proven, failures, rests, next_at = pace
    if room is None or threshold is None:
        return _Provider(Room(float(limit), proven=True) if operators else Room(start), 0.0, 0.0)
    known = Room(room, threshold, bool(proven), int(failures or 0))
    return _Provider(known, believed(rests or 0.0, now), next_at or 0.0)


_KEEP_PACE = (
    "INSERT INTO pace (provider, room, threshold, proven, failures, rests, next_at, reason, changed_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider) DO UPDATE SET room = excluded.room,"
    " threshold = excluded.threshold, proven = excluded.proven, failures = excluded.failures, rests = excluded.rests,"
    " next_at = excluded.next_at, reason = iif(excluded.reason = '', reason, excluded.reason),"
    " changed_at = excluded.changed_at"
)
_KEEP_PLACE = (
    "INSERT INTO destination (place, provider, known, rests, failures, reason, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (place) DO UPDATE SET provider = excluded.provider, known = excluded.known, rests = excluded.rests,"
    " failures = excluded.failures, reason = excluded.reason, changed_at = excluded.changed_at"
)


def _row(name: str, room: Room, rests: float, next_at: float, reason: str, now: float) -> tuple[object, ...]:
    return (name, room.size, room.threshold, room.proven, room.failures, rests, next_at, reason, now)


def note(connection: sqlite3.Connection, notes: Sequence[Note], now: float) -> list[float]:
    """Learn from what turns have found out. For each, until when its place or provider rests because of it (0.0: it doesn't)."""
    found: list[float] = []
    for one in notes:
        row = connection.execute(
            "SELECT provider, known, rests, failures, reason FROM destination WHERE place = ?", (one.place,)
        ).fetchone()
        provider, known = one.provider, one.known
        before, rests, failures, reason = (row[0], row[2], row[3], row[4]) if row else (None, 0.0, 0, "")
        new = 0.0
        if one.sign is Sign.GOOD:
            rests, failures, reason = 0.0, 0, ""
        elif one.sign is Sign.DOWN and believed(rests, now) <= now:  # not for those that had begun before it rested
            failures += 1
            rests = new = now + pause(failures, one.chance, one.first, one.longest)
            reason = one.reason
        if one.sign in (Sign.GOOD, Sign.DOWN) or provider != before:
            connection.execute(_KEEP_PLACE, (one.place, provider, known, rests, failures, reason, now))
        found.append(_pace(connection, one, now) or new)
    return found


def _pace(connection: sqlite3.Connection, one: Note, now: float) -> float:
    """What a turn means for the provider; until when that rests, if it does because of it."""
    if one.sign not in (Sign.GOOD, Sign.THROTTLED):
        return 0.0
    row = connection.execute(
        "SELECT room, threshold, proven, failures, rests, next_at FROM pace WHERE provider = ?", (one.provider,)
    ).fetchone()
    known = _provider(row or (None,) * 6, named_by_operator(one.place), one.limit, now)
    if known.rests > now:
        return 0.0
    room, needs_pause = known.room.after(one.sign, one.limit)
    rests = now + pause(room.failures, one.chance, one.first, one.longest) if needs_pause else 0.0
    if room != known.room:
        connection.execute(_KEEP_PACE, _row(one.provider, room, rests, known.next_at, one.reason, now))
    return rests


def forget(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """Let go of places and providers of which there has been nothing new for a day: strangers make up domains."""
    old = {"before": now - REMEMBERED, "limit": limit}
    return sum(
        connection.execute(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE changed_at < :before{idle} LIMIT :limit)",
            old,
        ).rowcount
        for table, key, idle in (("destination", "place", " AND head = 0"), ("pace", "provider", ""))
    )


def destinations(connection: sqlite3.Connection, limit: int) -> list[DestinationView]:
    """The places that have a backlog or rest, the longest backlog first."""
    rows = connection.execute(
        "SELECT d.place, d.provider, (SELECT count(*) FROM outbound WHERE place = d.place AND state IN ('QUEUED', 'DEFERRED')"
        " AND rank > 0) AS waiting, (SELECT count(*) FROM outbound o WHERE o.state = 'SENDING' AND o.parcel = ''"
        " AND (o.route = d.place OR (o.route = '' AND (o.domain = d.place OR d.place = '')))),"
        " coalesce(CAST(p.room AS INTEGER), 0), max(d.rests, coalesce(p.rests, 0)),"
        " iif(d.reason = '', coalesce(p.reason, ''), d.reason)"
        " FROM destination d LEFT JOIN pace p ON p.provider = d.provider"
        " WHERE d.head > 0 OR d.failures > 0 OR coalesce(p.failures, 0) > 0 ORDER BY waiting DESC, d.place LIMIT ?",
        (limit,),
    )
    return [DestinationView(*row) for row in rows]


def charge(
    connection: sqlite3.Connection, items: Collection[str], followers: Sequence[tuple[str, str]], token: str, now: float
) -> None:
    """Take items, each charged an attempt; of `followers` (item, the one it goes along with) none counts as a connection."""
    connection.execute(
        "UPDATE outbound SET state = 'SENDING', claim = ?, attempts = attempts + 1, changed_at = ?, rank = 0, parcel = ''"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (token, now, json.dumps(list(items))),
    )
    if followers:
        connection.execute(
            "UPDATE outbound SET parcel = follower.value ->> 1 FROM json_each(?) AS follower"
            " WHERE outbound.id = follower.value ->> 0",
            (json.dumps(followers),),
        )


def give_back(connection: sqlite3.Connection, items: Sequence[str]) -> None:
    """Items that were not tried get their attempt back."""
    if items:
        connection.execute(
            "UPDATE outbound SET attempts = attempts - 1 WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(items),),
        )


def mark_warned(connection: sqlite3.Connection, items: Sequence[str]) -> None:
    """Note that senders were told that these are late."""
    if items:
        connection.execute(
            "UPDATE outbound SET warned = 1 WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(items),)
        )
