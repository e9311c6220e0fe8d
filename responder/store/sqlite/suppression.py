"""Who is not written to, as SQL. Inside the writer's transaction, or a reader's. A table that is empty costs one look a batch."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from responder.mail.address import AddressError, parse
from responder.store.returns import Suppression
from responder.store.sqlite.steps import text

MAX_ROWS = 500_000
"""Entries that may stand: who makes up addresses that bounce must not fill the disk. The soonest to expire go first."""

OPERATOR = "operator"

_COLUMNS = "address, inbox, reason, detail, created_at, expires_at"
_HOLDS = "(expires_at = 0 OR expires_at > ?)"


def add(connection: sqlite3.Connection, entries: Sequence[Suppression]) -> None:
    """Note these. What an operator has set stands; of two others the later word counts, for the longer of their times."""
    connection.executemany(
        f"INSERT INTO suppression ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (address, inbox) DO UPDATE SET"
        " reason = excluded.reason, detail = excluded.detail, created_at = excluded.created_at, expires_at ="
        " CASE WHEN excluded.reason = :operator OR excluded.expires_at = 0 THEN excluded.expires_at"
        " WHEN suppression.expires_at = 0 THEN 0 ELSE max(suppression.expires_at, excluded.expires_at) END"
        " WHERE excluded.reason = :operator OR suppression.reason <> :operator".replace(":operator", f"'{OPERATOR}'"),
        [(e.address, e.inbox, e.reason, text(e.detail), e.created_at, e.expires_at) for e in entries],
    )


def remove(connection: sqlite3.Connection, address: str, inbox: str | None) -> int:
    """Lift those of a mailbox: of that inbox, or (None) all. How many there were."""
    return connection.execute(
        "DELETE FROM suppression WHERE address = ? AND (? IS NULL OR inbox = ?)", (address, inbox, inbox)
    ).rowcount


def entries(connection: sqlite3.Connection, inbox: str | None, limit: int, now: float) -> list[Suppression]:
    """What holds now, of that inbox or (None) of all, by address."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM suppression WHERE {_HOLDS} AND (? IS NULL OR inbox = ?) ORDER BY address, inbox LIMIT ?",
        (now, inbox, inbox, limit),
    )
    return [Suppression(*row) for row in rows]


def among(connection: sqlite3.Connection, pairs: Iterable[tuple[str, str]], now: float) -> dict[tuple[str, str], str]:
    """Of pairs (address as written, inbox) those that are not written to, and why."""
    if connection.execute("SELECT 1 FROM suppression LIMIT 1").fetchone() is None:
        return {}
    keys = {pair: key for pair in pairs if (key := key_of(pair[0]))}
    rows = connection.execute(
        f"SELECT address, inbox, reason, detail FROM suppression"
        f" WHERE address IN (SELECT value FROM json_each(?)) AND {_HOLDS}",
        (json.dumps(sorted(set(keys.values()))), now),
    ).fetchall()
    found = {(address, inbox): f"{reason}, {detail}" if detail else reason for address, inbox, reason, detail in rows}
    why = {pair: found.get((key, pair[1])) or found.get((key, "")) for pair, key in keys.items()}
    return {pair: reason for pair, reason in why.items() if reason}


def key_of(address: str) -> str:
    """What is stored for an address; "" for what is none."""
    try:
        return parse(address).key
    except AddressError:
        return ""


def forget_expired(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """Remove up to `limit` entries whose time is over, or that are too many."""
    gone = connection.execute(
        "DELETE FROM suppression WHERE (address, inbox) IN"
        " (SELECT address, inbox FROM suppression WHERE expires_at > 0 AND expires_at <= ? LIMIT ?)",
        (now, limit),
    ).rowcount
    [number] = connection.execute("SELECT count(*) FROM suppression").fetchone()
    if number > MAX_ROWS:
        gone += connection.execute(
            "DELETE FROM suppression WHERE (address, inbox) IN"
            " (SELECT address, inbox FROM suppression WHERE expires_at > 0 ORDER BY expires_at LIMIT ?)",
            (min(limit, number - MAX_ROWS),),
        ).rowcount
    return gone
