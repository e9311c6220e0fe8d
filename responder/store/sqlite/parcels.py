"""What leaves next, as SQL: the claim of the delivery stage. Inside the writer's transaction.

    arrivals   rank 0: due, and not looked at yet. Where there is no crowd they are taken from here, and nothing else is written
    backlog    ranked: what a claim had to leave, each place's items by their rank; `destination.head` is the first one's

A rank is a turn (start-time fair queueing): an item's is that of the last one of its flow (inbox and kind) and one, or where all
have come to by now. So an inbox with 50,000 copies stands with one foot in the line, like all others. Reports and lists stand
some turns behind answers, and further attempts behind first ones; as turns pass, they all come first at last.

A claim walks the heads of places, never past the items of one that is full or rests: what it costs depends on how much it takes.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from itertools import count

from responder.mail.lifecycle import Event, State
from responder.mail.pacing import FURTHEST
from responder.store.records import Pacing, Parcel
from responder.store.sqlite.pace import (
    AHEAD,
    Paces,
    charge,
    named_by_operator,
    place_of,
)
from responder.store.sqlite.steps import tell
from responder.store.sqlite.suppression import among
from responder.store.sqlite.turns import behind, flow_of, flows, keep
from responder.store.sqlite.waiting import COLUMNS, WAITING, Row, item_of

INLINE = 65536  # octets up to which a claim brings the content along: some hundred deliveries may hang with theirs
PAGE = 1000  # arrivals that one claim looks at, where there is a crowd
NEWEST = 100  # and of the last ones to come, where there are more: an answer must not wait for a list's copies to be looked at
FEW = 32  # arrivals that any claim looks at
PATIENCE = 2.0  # seconds that they may wait where they are, for the next claim to look at
LATE = 100  # items of places that do not come back whose senders are told by one claim

_ARRIVED = f"SELECT {COLUMNS} FROM outbound o WHERE {WAITING} AND o.rank = 0 AND o.due_at <= ? ORDER BY o.due_at"


def claim_outbound(
    connection: sqlite3.Connection, token: str, limit: int, pacing: Pacing, now: float
) -> tuple[list[Parcel], float | None]:
    choice = _Choice(connection, token, limit, pacing, now)
    parcels = choice.make()
    (due,) = connection.execute(f"SELECT min(o.due_at) FROM outbound o WHERE {WAITING} AND o.rank = 0").fetchone()
    (rests,) = connection.execute("SELECT min(rests) FROM destination WHERE head > 0").fetchone()
    return parcels, min((time for time in (due, rests) if time is not None), default=None)


class _Choice:
    """One claim."""

    def __init__(self, connection: sqlite3.Connection, token: str, limit: int, pacing: Pacing, now: float) -> None:
        self._connection = connection
        self._token = token
        self._limit = limit
        self._pacing = pacing
        self._now = now
        self._paces = Paces(connection, token, pacing, now)
        self._turns = flows(connection)
        self._turn = self._turns[""]
        self._parcels: dict[str, list[Row]] = {}  # by the first one's id
        self._open: dict[tuple[object, ...], list[Row]] = {}  # the last parcel of an envelope
        self._late: dict[str, tuple[Row, str]] = {}
        self._closed: set[str] = set()  # places that take no more
        self._visited: list[str] = []  # places whose head may be another now
        self._serial = count()

    def make(self) -> list[Parcel]:
        few = max(FEW, 2 * self._limit)
        arrivals = self._arrivals(few)
        crowded = len(arrivals) == few and arrivals[0].due_at < self._now - PATIENCE
        if crowded:
            arrivals += self._arrivals(PAGE, {row.id for row in arrivals})
        heads = self._heads()
        try:
            left = self._choose(arrivals, heads)
        finally:
            heads.close()
        if len(arrivals) == few and len(self._parcels) < self._limit:  # there was room, but not for these
            left += self._choose(self._arrivals(PAGE, {row.id for row in arrivals}), iter(()))
            crowded = True
        if self._visited:
            self._siblings()
        self._take()
        self._leave(left, crowded)
        self._paces.store()
        return self._made()

    def _choose(self, arrivals: Sequence[Row], heads: Iterator[tuple[float, str]]) -> list[Row]:
        """Fill the claim, in the order of ranks. The arrivals that there is no room for."""
        left = []
        for row, arrived in self._merged(iter(self._ranked(arrivals)), heads):
            if self._joins(row):
                continue
            place = self._place(row)
            if len(self._parcels) < self._limit and place not in self._closed and self._paces.take(place):
                self._parcels[row.id] = self._open[row.envelope] = [row]
                self._turn = max(self._turn, row.rank - behind(row.kind, row.attempts))
            elif arrived:
                left.append(row)
            else:
                self._closed.add(place)
        return left

    def _place(self, row: Row) -> str:
        return place_of(row.route, row.domain, self._pacing.one_way)

    def _arrivals(self, number: int, seen: Collection[str] = ()) -> list[Row]:
        """The first ones that have come, but for those that were seen; of a whole page, some of the last ones, too."""
        rows = self._connection.execute(f"{_ARRIVED} LIMIT ?", (self._now, number)).fetchall()
        if len(rows) == number == PAGE:
            newest = self._connection.execute(f"{_ARRIVED} DESC LIMIT {NEWEST}", (self._now,)).fetchall()
            first = {row[0] for row in rows}
            rows += [row for row in reversed(newest) if row[0] not in first]
        found = [Row._make(row) for row in rows if row[0] not in seen]
        self._paces.learn({self._place(row) for row in found})
        return found

    def _ranked(self, rows: Sequence[Row]) -> list[Row]:
        """With a turn each, as if they were put into the backlog, and in that order."""
        ranked = []
        for row in rows:
            flow = flow_of(row.inbox, row.kind)
            turn = max(self._turn, self._turns.get(flow, 0.0))
            self._turns[flow] = turn + 1
            ranked.append(row._replace(rank=turn + behind(row.kind, row.attempts)))
        return sorted(ranked, key=lambda row: row.rank)

    def _heads(self) -> Generator[tuple[float, str], None, None]:
        """The places that have a backlog and may be spoken to, by the rank of what comes first there."""
        cursor = self._connection.execute(
            "SELECT head, place FROM destination WHERE head > 0 AND (rests <= ? OR rests > ?)"
            " AND provider NOT IN (SELECT value FROM json_each(?)) ORDER BY head",
            (self._now, self._now + FURTHEST, json.dumps(self._paces.full())),
        )
        try:
            while chunk := cursor.fetchmany(2 * self._limit):
                self._paces.learn([place for _, place in chunk])
                yield from chunk
        finally:
            cursor.close()

    def _merged(self, arrivals: Iterator[Row], heads: Iterator[tuple[float, str]]) -> Iterator[tuple[Row, bool]]:
        """Arrivals and backlog in the order of their ranks; all arrivals, of the backlog as long as there is room."""
        line: list[tuple[float, int, Row, Iterator[Row], bool]] = []

        def follow(rows: Iterator[Row], arrived: bool) -> None:
            row = next(rows, None)
            if row is not None:
                heapq.heappush(line, (row.rank, next(self._serial), row, rows, arrived))

        follow(arrivals, True)
        head = next(heads, None)
        while line or head:
            if len(self._parcels) >= self._limit:
                head = None
            while head and (not line or head[0] <= line[0][0]):
                follow(self._backlog(head[1]), False)
                head = next(heads, None)
            if line:
                _, _, row, rows, arrived = heapq.heappop(line)
                yield row, arrived
                if arrived or len(self._parcels) < self._limit:
                    follow(rows, arrived)

    def _backlog(self, place: str) -> Iterator[Row]:
        """What waits at one place, by rank, until it takes no more."""
        if self._pacing.one_way != (not place) and not (place and named_by_operator(place)):
            self._misplaced(place)
            return
        room = self._paces.share(place) * AHEAD
        if room <= 0 or self._paces.rests(place):
            return
        self._visited.append(place)
        trouble = self._paces.trouble(place)
        if trouble and not self._tell_late(place, trouble):
            self._closed.add(place)
            return
        waiting = (
            f"SELECT {COLUMNS} FROM outbound o WHERE o.place = ? AND {WAITING} AND o.rank > 0 ORDER BY o.rank LIMIT ?"
        )
        for row in self._connection.execute(waiting, (place, min(room, self._limit) + len(self._late))).fetchall():
            if place in self._closed:
                return
            if row[0] not in self._late:
                yield Row._make(row)

    def _misplaced(self, place: str) -> None:
        """The way out was another when this was put here: it is looked at anew."""
        self._visited.append(place)
        self._connection.execute(
            "UPDATE outbound SET rank = 0 WHERE id IN"
            f" (SELECT o.id FROM outbound o WHERE o.place = ? AND {WAITING} AND o.rank > 0 LIMIT {PAGE})",
            (place,),
        )

    def _tell_late(self, place: str, reason: str) -> bool:
        """One mail at a time is tried where nobody could be spoken to. Those whose time is over must end all the same. Whether
        that is all of them: before, none is tried, as the place would rest behind it. The next claim tells more."""
        left = LATE - len(self._late)
        warn_after = self._pacing.warn_after
        warned = "OR (o.warned = 0 AND o.created_at <= ?)" if warn_after else "OR ? > 0"
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM outbound o WHERE o.place = ? AND {WAITING} AND o.rank > 0"
            f" AND (o.expires_at <= ? {warned}) LIMIT ?",
            (place, self._now, self._now - warn_after if warn_after else 0, left),
        ).fetchall()
        for row in rows:
            self._late[row[0]] = Row._make(row), reason
        return len(rows) < left

    def _joins(self, row: Row) -> bool:
        """Whether the row goes along with one that was chosen."""
        parcel = self._open.get(row.envelope)
        if parcel is None or len(parcel) >= self._pacing.recipients:
            return False
        parcel.append(row)
        return True

    def _siblings(self) -> None:
        """What waits in the backlog and can go along."""
        chosen = {row.id for parcel in self._parcels.values() for row in parcel} | self._late.keys()
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM outbound o INDEXED BY outbound_content WHERE {WAITING} AND o.rank > 0"
            " AND o.content IN (SELECT value FROM json_each(?)) LIMIT ?",
            (json.dumps([rows[0].content for rows in self._parcels.values()]), self._pacing.recipients * self._limit),
        )
        for found in rows.fetchall():
            row = Row._make(found)
            if row.id not in chosen:
                self._joins(row)

    def _take(self) -> None:
        chosen = [row.id for parcel in self._parcels.values() for row in parcel] + list(self._late)
        if chosen:
            followers = [(row.id, parcel[0].id) for parcel in self._parcels.values() for row in parcel[1:]]
            # What is only told of takes no connection either.
            charge(self._connection, chosen, followers + [(item, item) for item in self._late], self._token, self._now)
            tell(self._connection, [(item, self._now, Event.CLAIM, State.SENDING, "") for item in chosen])
        if self._visited:
            self._connection.execute(
                "UPDATE destination SET head = coalesce((SELECT o.rank FROM outbound o WHERE o.place = destination.place"
                f" AND {WAITING} AND o.rank > 0 ORDER BY o.rank LIMIT 1), 0) WHERE place IN (SELECT value FROM json_each(?))",
                (json.dumps(self._visited),),
            )
            keep(self._connection, {"": self._turn}, self._turn)

    def _leave(self, rows: list[Row], crowded: bool) -> None:
        """Put what has to wait into the backlog. What has just come may stay: there may be room for it in a moment."""
        if not crowded:
            rows = [r for r in rows if r.due_at < self._now - PATIENCE or self._paces.rests(self._place(r))]
        if not rows:
            return
        placed = [(row.id, row.rank, self._place(row)) for row in rows]
        self._connection.execute(
            "UPDATE outbound SET rank = ranked.value ->> 1, place = ranked.value ->> 2 FROM json_each(?) AS ranked"
            " WHERE outbound.id = ranked.value ->> 0",
            (json.dumps(placed),),
        )
        heads: dict[str, float] = {}
        for _, rank, place in placed:
            heads[place] = min(rank, heads.get(place, rank))
        self._connection.executemany(
            "INSERT INTO destination (place, provider, head, changed_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (place) DO UPDATE SET head = iif(head > 0, min(head, excluded.head), excluded.head)",
            [(place, self._paces[place].provider, rank, self._now) for place, rank in heads.items()],
        )
        mine = {flow_of(row.inbox, row.kind) for row in rows}
        keep(self._connection, {"": self._turn, **{flow: self._turns[flow] for flow in mine}}, self._turn)

    def _made(self) -> list[Parcel]:
        rows = [*self._parcels.values(), *([row] for row, _ in self._late.values())]
        found = (
            self._connection.execute(
                "SELECT id, length(data), iif(length(data) <= ?, data, NULL) FROM content"
                " WHERE id IN (SELECT value FROM json_each(?))",
                (INLINE, json.dumps([parcel[0].content for parcel in rows])),
            ).fetchall()
            if rows
            else ()
        )
        contents = {name: (size, data) for name, size, data in found}
        # Where a mail is handed over, its recipient is an inbox of ours.
        written_to = [(row.recipient, row.inbox) for parcel in rows for row in parcel if row.kind != "proxy"]
        barred = among(self._connection, written_to, self._now)
        return [self._parcel(parcel, *contents.get(parcel[0].content, (0, None)), barred) for parcel in rows]

    def _parcel(
        self, rows: list[Row], size: int, content: bytes | None, barred: Mapping[tuple[str, str], str]
    ) -> Parcel:
        place = self._place(rows[0])
        known = self._paces[place]
        late = self._late.get(rows[0].id)
        return Parcel(
            items=tuple(
                [item_of(row, self._token, content, barred.get((row.recipient, row.inbox), "")) for row in rows]
            ),
            place=place,
            provider=known.provider,
            connections=max(1, self._paces.share(place)),
            limit=self._pacing.of(known.provider).connections,
            known=known.known,
            settled=self._paces.settled(place),
            late=late[1] if late else "",
            shared=self._paces.workers > 1,
            octets=0 if content is not None else size,
        )
