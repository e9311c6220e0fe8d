"""Which items a worker gets, as SQL: what is due, oldest first, and nobody takes all places. Inside the writer's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from responder.mail.envelope import NO_WISH, Wish
from responder.store.records import Claim, InboundItem, OutboundItem
from responder.store.sqlite.steps import charge

INLINE = 262144  # octets up to which a claim brings the content along; a larger one is fetched when its turn comes
PAGES = 8  # how many pages of due items one claim looks through at the most

# What waits in each table, in the words of its partial index, and whom a place is counted for.
WAITING = {"inbound": "state = 'RECEIVED'", "outbound": "state IN ('QUEUED', 'DEFERRED')"}
COUNTED = {"inbound": "inbox", "outbound": "domain"}
ORDER = {"inbound": "due_at, id", "outbound": "due_at"}


def claim_inbound(
    connection: sqlite3.Connection,
    token: str,
    limit: int,
    running: Mapping[str, int],
    rooms: Mapping[str, int],
    per_inbox: int | None,
    now: float,
) -> tuple[list[InboundItem], float | None]:
    chosen = _choose(connection, "inbound", limit, running, rooms, per_inbox or limit, now, fair=per_inbox is not None)
    rows = connection.execute(
        "SELECT i.id, i.mail, i.recipient, i.inbox, i.attempts, m.received_at, m.reverse_path, m.peer, m.helo, m.message_id,"
        " CASE WHEN m.size <= ? THEN (SELECT data FROM content WHERE id = i.mail) END, i.deaths,"
        " m.authentication, i.notify, i.orcpt, m.ret, m.envid"
        " FROM json_each(?) AS chosen JOIN inbound i ON i.id = chosen.value JOIN mail m ON m.id = i.mail ORDER BY chosen.key",
        (INLINE, json.dumps(chosen)),
    ).fetchall()
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
        )
        for row in rows
    ]
    charge(connection, "inbound", chosen, token, now)
    return items, _next_due(connection, "inbound")


def claim_outbound(
    connection: sqlite3.Connection, token: str, limit: int, sending: Mapping[str, int], per_domain: int, now: float
) -> tuple[list[OutboundItem], float | None]:
    chosen = _choose(connection, "outbound", limit, sending, {}, per_domain, now)
    charge(connection, "outbound", chosen, token, now)
    rows = connection.execute(
        "SELECT o.id, o.kind, o.cause, o.inbox, o.content, o.reverse_path, o.recipient, o.domain, o.return_to,"
        " o.created_at, o.expires_at, o.route, o.head, o.attempts, o.notify, o.orcpt, o.ret, o.envid,"
        " (SELECT data FROM content c WHERE c.id = o.content AND length(c.data) <= ?)"
        " FROM json_each(?) AS chosen JOIN outbound o ON o.id = chosen.value ORDER BY chosen.key",
        (INLINE, json.dumps(chosen)),
    ).fetchall()
    items = [
        OutboundItem(
            id=row[0],
            kind=row[1],
            cause=row[2],
            inbox=row[3],
            content_id=row[4],
            reverse_path=row[5],
            recipient=row[6],
            domain=row[7],
            return_to=row[8],
            created_at=row[9],
            expires_at=row[10],
            route=row[11],
            head=row[12],
            claim=Claim(token, row[13]),
            wish=_wish(row[14], row[15]),
            ret=row[16],
            envid=row[17],
            content=row[18],
        )
        for row in rows
    ]
    return items, _next_due(connection, "outbound")


def _wish(notify: str, orcpt: str) -> Wish:
    return Wish(notify, orcpt) if notify or orcpt else NO_WISH


def _choose(
    connection: sqlite3.Connection,
    table: str,
    limit: int,
    held: Mapping[str, int],
    rooms: Mapping[str, int],
    room: int,
    now: float,
    *,
    fair: bool = False,
) -> list[str]:
    """The items that are due, oldest first, but of no inbox or domain more than it has room for (`room` where `rooms` does not
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
            f"SELECT id, {COUNTED[table]} FROM {table} WHERE {WAITING[table]} AND due_at <= ?"
            f" AND {COUNTED[table]} NOT IN (SELECT value FROM json_each(?)) ORDER BY {ORDER[table]} LIMIT ?",
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


def _next_due(connection: sqlite3.Connection, table: str) -> float | None:
    row = connection.execute(f"SELECT min(due_at) FROM {table} WHERE {WAITING[table]}").fetchone()
    due: float | None = row[0]
    return due
