"""The workers' verbs as SQL: accept, claim, settle, free. Runs inside the writer's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from responder.mail.lifecycle import Event, State
from responder.store.base import (
    Claim,
    InboundItem,
    NewMail,
    NewOutbound,
    OutboundItem,
    Settlement,
)
from responder.store.sqlite.steps import count, exceeded, free, settle, tell

INLINE = 262144  # octets up to which a claim brings the content along; a larger one is fetched when its turn comes
PAGES = 8  # how many pages of due items one claim looks through at the most


def accept(connection: sqlite3.Connection, mail: NewMail) -> None:
    at = mail.received_at
    connection.execute(
        "INSERT INTO mail (id, received_at, reverse_path, peer, helo, message_id, size) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (mail.id, at, mail.reverse_path, mail.peer, mail.helo, mail.message_id, len(mail.content)),
    )
    connection.execute("INSERT INTO content (id, data) VALUES (?, ?)", (mail.id, mail.content))
    for number, (recipient, inbox) in enumerate(mail.recipients):
        item = f"{mail.id}.{number}"
        connection.execute(
            "INSERT INTO inbound (id, mail, recipient, inbox, state, attempts, due_at, claim, changed_at)"
            " VALUES (?, ?, ?, ?, ?, 0, ?, '', ?)",
            (item, mail.id, recipient, inbox, State.RECEIVED, at, at),
        )
        tell(connection, [(item, at, "accept", State.RECEIVED, mail.note)])


def beat(connection: sqlite3.Connection, token: str, until: float) -> bool:
    touched = connection.execute("UPDATE worker SET expires_at = ? WHERE token = ?", (until, token)).rowcount
    if not touched:
        connection.execute("INSERT INTO worker (token, expires_at) VALUES (?, ?)", (token, until))
    return bool(touched)


def leave(connection: sqlite3.Connection, token: str, now: float) -> None:
    for table, event in (("inbound", Event.RELEASE), ("outbound", Event.YIELD)):
        for item in free(connection, table, event, "server stopped", now, "claim = ?", (token,)):
            connection.execute(f"UPDATE {table} SET attempts = attempts - 1 WHERE id = ?", (item,))
    connection.execute("DELETE FROM worker WHERE token = ?", (token,))


def sweep(connection: sqlite3.Connection, attempts: int, now: float) -> int:
    connection.execute("DELETE FROM worker WHERE expires_at < ?", (now,))
    gone = "claim NOT IN (SELECT token FROM worker)"
    reason = "the worker that had it died"
    touched = free(
        connection,
        "inbound",
        Event.FAIL,
        f"{reason}, attempt {attempts} of {attempts}",
        now,
        f"{gone} AND attempts >= ?",
        (attempts,),
    )
    touched += free(connection, "inbound", Event.EXPIRE_LEASE, reason, now, gone, ())
    touched += free(connection, "outbound", Event.EXPIRE_LEASE, reason, now, gone, ())
    return len(touched)


def claim_inbound(
    connection: sqlite3.Connection, token: str, limit: int, now: float
) -> tuple[list[InboundItem], float | None]:
    rows = connection.execute(
        "SELECT i.id, i.mail, i.recipient, i.inbox, i.attempts, m.received_at, m.reverse_path, m.peer, m.helo, m.message_id,"
        " CASE WHEN m.size <= ? THEN (SELECT data FROM content WHERE id = i.mail) END"
        " FROM inbound i JOIN mail m ON m.id = i.mail"
        " WHERE i.state = 'RECEIVED' AND i.due_at <= ? ORDER BY i.due_at LIMIT ?",
        (INLINE, now, limit),
    ).fetchall()
    items = [
        InboundItem(item, mail, recipient, inbox, Claim(token, attempts + 1), at, path, peer, helo, message_id, content)
        for item, mail, recipient, inbox, attempts, at, path, peer, helo, message_id, content in rows
    ]
    _charge(connection, "inbound", State.ANSWERING, [item.id for item in items], token, now)
    return items, _next_due(connection, "inbound", "state = 'RECEIVED'")


def claim_outbound(
    connection: sqlite3.Connection, token: str, limit: int, sending: Mapping[str, int], per_domain: int, now: float
) -> tuple[list[OutboundItem], float | None]:
    chosen = _choose(connection, limit, sending, per_domain, now)
    _charge(connection, "outbound", State.SENDING, chosen, token, now)
    rows = connection.execute(
        "SELECT o.id, o.kind, o.cause, o.inbox, o.content, o.reverse_path, o.recipient, o.domain, o.return_to,"
        " o.created_at, o.expires_at, o.attempts, (SELECT data FROM content c WHERE c.id = o.content AND length(c.data) <= ?)"
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
            claim=Claim(token, row[11]),
            content=row[12],
        )
        for row in rows
    ]
    return items, _next_due(connection, "outbound", "state IN ('QUEUED', 'DEFERRED')")


def _choose(
    connection: sqlite3.Connection, limit: int, sending: Mapping[str, int], per_domain: int, now: float
) -> list[str]:
    """The items that are due, oldest first, but of no domain more than it has room for. Where a page holds only domains
    that are full, the next page is asked for without them."""
    taken = dict(sending)
    chosen: list[str] = []
    page = 4 * limit
    for _ in range(PAGES):
        full = [domain for domain, number in taken.items() if number >= per_domain]
        rows = connection.execute(
            "SELECT id, domain FROM outbound WHERE state IN ('QUEUED', 'DEFERRED') AND due_at <= ?"
            " AND domain NOT IN (SELECT value FROM json_each(?)) ORDER BY due_at LIMIT ?",
            (now, json.dumps(full), page),
        ).fetchall()
        seen = set(chosen)
        for item, domain in rows:
            if item not in seen and taken.get(domain, 0) < per_domain and len(chosen) < limit:
                taken[domain] = taken.get(domain, 0) + 1
                chosen.append(item)
        if len(rows) < page or len(chosen) >= limit:
            break
    return chosen


def settle_inbound(
    connection: sqlite3.Connection, item: InboundItem, settlement: Settlement, now: float
) -> tuple[State, str] | None:
    event, reason = settlement.event, settlement.reason
    full = exceeded(connection, settlement.windows, now) if event is Event.ANSWER else None
    if full is not None:
        event, reason = Event.SILENCE, full.reason
    state = settle(connection, "inbound", item.id, item.claim, event, reason, now, settlement.due_at)
    if state is None:
        return None
    if event is Event.ANSWER:
        count(connection, settlement.windows, now)
        _store_outbound(connection, settlement, now)
    return state, reason


def settle_outbound(
    connection: sqlite3.Connection, item: OutboundItem, settlement: Settlement, now: float
) -> tuple[State, str] | None:
    state = settle(
        connection, "outbound", item.id, item.claim, settlement.event, settlement.reason, now, settlement.due_at
    )
    if state is None:
        return None
    _store_outbound(connection, settlement, now)
    return state, settlement.reason


def _store_outbound(connection: sqlite3.Connection, settlement: Settlement, now: float) -> None:
    connection.executemany("INSERT INTO content (id, data) VALUES (?, ?)", settlement.contents)
    for message in settlement.outbound:
        _insert_outbound(connection, message, now)


def _insert_outbound(connection: sqlite3.Connection, message: NewOutbound, now: float) -> None:
    connection.execute(
        "INSERT INTO outbound (id, kind, cause, inbox, content, reverse_path, recipient, domain, return_to, state, attempts,"
        " created_at, due_at, expires_at, claim, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, '', ?)",
        (
            message.id,
            message.kind,
            message.cause,
            message.inbox,
            message.content_id,
            message.reverse_path,
            message.recipient,
            message.domain,
            message.return_to,
            State.QUEUED,
            message.created_at,
            now,
            message.expires_at,
            now,
        ),
    )
    tell(connection, [(message.id, now, "queue", State.QUEUED, f"{message.kind} for {message.cause}")])


def _charge(connection: sqlite3.Connection, table: str, state: State, items: list[str], token: str, now: float) -> None:
    """Take the items and charge the attempt before the work starts: a mail that kills its worker retires itself."""
    connection.executemany(
        f"UPDATE {table} SET state = ?, claim = ?, attempts = attempts + 1, changed_at = ? WHERE id = ?",
        [(state, token, now, item) for item in items],
    )
    tell(connection, [(item, now, Event.CLAIM, state, "") for item in items])


def _next_due(connection: sqlite3.Connection, table: str, waiting: str) -> float | None:
    row = connection.execute(f"SELECT min(due_at) FROM {table} WHERE {waiting}").fetchone()
    due: float | None = row[0]
    return due
