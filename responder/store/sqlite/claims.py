"""Which mails an answering worker gets, as SQL: what is due, oldest first, and no inbox takes all places. Inside the writer's
transaction. What leaves is chosen in `parcels`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from responder.mail.envelope import NO_WISH, Wish
from responder.store.records import Claim, InboundItem
from responder.store.sqlite.steps import charge
from responder.store.sqlite.suppression import among

INLINE = 262144  # octets up to which a claim brings the content along; a larger one is fetched when its turn comes
PAGES = 8  # how many pages of due items one claim looks through at the most

_WAITING = "state = 'RECEIVED'"  # in the words of the partial index, so that it is used


def claim_inbound(
    connection: sqlite3.Connection,
    token: str,
    limit: int,
    running: Mapping[str, int],
    rooms: Mapping[str, int],
    per_inbox: int | None,
    now: float,
) -> tuple[list[InboundItem], float | None]:
    chosen = _choose(connection, limit, running, rooms, per_inbox or limit, now, fair=per_inbox is not None)
    rows = connection.execute(
        "SELECT i.id, i.mail, i.recipient, i.inbox, i.attempts, m.received_at, m.reverse_path, m.peer, m.helo, m.message_id,"
        " CASE WHEN m.size <= ? THEN (SELECT data FROM content WHERE id = i.mail) END, i.deaths,"
        " m.authentication, i.notify, i.orcpt, m.ret, m.envid, m.requiretls"
        " FROM json_each(?) AS chosen JOIN inbound i ON i.id = chosen.value JOIN mail m ON m.id = i.mail ORDER BY chosen.key",
        (INLINE, json.dumps(chosen)),
    ).fetchall()
    barred = among(connection, [(row[6], row[3]) for row in rows], now)
    items = [
        InboundItem(
            id=row[0],
            mail_id=row[1],
            recipient=row[2],
            inbox=row[3],
            claim=Claim(token, row[4] + 1),
            received_at=row[5],
            reverse_path=row[6],
            peer=row[7],
            helo=row[8],
            message_id=row[9],
            content=row[10],
            deaths=row[11],
            authentication=row[12],
            wish=_wish(row[13], row[14]),
            ret=row[15],
            envid=row[16],
            requiretls=bool(row[17]),
            suppressed=barred.get((row[6], row[3]), ""),
        )
        for row in rows
    ]
    charge(connection, "inbound", chosen, token, now)
    return items, _next_due(connection)


def _wish(notify: str, orcpt: str) -> Wish:
    return Wish(notify, orcpt) if notify or orcpt else NO_WISH


def _choose(
    connection: sqlite3.Connection,
    limit: int,
    held: Mapping[str, int],
    rooms: Mapping[str, int],
    room: int,
    now: float,
    *,
    fair: bool = False,
) -> list[str]:
    """The items that are due, oldest first, but of no inbox more than it has room for (`room` where `rooms` does not
    name it), what is `held` already counted in. `fair`: nor more than then stay free for the others; so however many hang, the
    next one finds a place. Where a page holds only full ones, the next page is asked for without them."""
    taken = dict(held)
    chosen: list[str] = []
    page = 4 * limit

    def full(name: str) -> bool:
        number = taken.get(name, 0)
        free = limit - len(chosen)
        return number >= rooms.get(name, room) or (fair and number > 0 and number >= free)

    for _ in range(PAGES):
        rows = connection.execute(
            f"SELECT id, inbox FROM inbound WHERE {_WAITING} AND due_at <= ?"
            " AND inbox NOT IN (SELECT value FROM json_each(?)) ORDER BY due_at, id LIMIT ?",
            (now, json.dumps([name for name in taken if full(name)]), page),
        ).fetchall()
        seen = set(chosen)
        for item, name in rows:
            if len(chosen) >= limit:
                break
            if item not in seen and not full(name):
                taken[name] = taken.get(name, 0) + 1
                chosen.append(item)
        if len(rows) < page or len(chosen) >= limit:
            break
    return chosen


def _next_due(connection: sqlite3.Connection) -> float | None:
    row = connection.execute(f"SELECT min(due_at) FROM inbound WHERE {_WAITING}").fetchone()
    due: float | None = row[0]
    return due
