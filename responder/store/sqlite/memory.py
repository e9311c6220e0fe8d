"""What agents remember, as SQL: values by inbox and key, with a version each and perhaps an end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence

from responder.store.records import Memory

_HOLDS = "(expires_at = 0 OR expires_at > ?)"
_LAST = "\U0010ffff"  # no text begins with it: it is no character (Unicode 23.7)


def values(
    connection: sqlite3.Connection, inbox: str, keys: Collection[str], now: float
) -> dict[str, tuple[str, str, float]]:
    rows = connection.execute(
        "SELECT key, json, version, expires_at FROM memory"
        f" WHERE inbox = ? AND key IN (SELECT value FROM json_each(?)) AND {_HOLDS}",
        (inbox, json.dumps(sorted(keys)), now),
    )
    return {key: (text, version, until) for key, text, version, until in rows}


def values_below(connection: sqlite3.Connection, inbox: str, prefix: str, now: float) -> dict[str, str]:
    rows = connection.execute(
        f"SELECT key, json FROM memory WHERE inbox = ? AND key >= ? AND key < ? AND {_HOLDS} ORDER BY key",
        (inbox, prefix, prefix + _LAST, now),
    )
    return dict(rows.fetchall())


def unchanged(connection: sqlite3.Connection, memory: Memory, now: float) -> bool:
    """Whether all that a run has read is as it saw it."""
    if not memory.seen:
        return True
    found = values(connection, memory.inbox, memory.seen, now)
    return all(found.get(key, ("", "", 0.0))[1] == version for key, version in memory.seen.items())


def write(connection: sqlite3.Connection, memory: Memory, version: str) -> None:
    """Store the values of one run. `version` is what no other write bears."""
    gone = [value.key for value in memory.values if value.json is None]
    if gone:
        connection.execute(
            "DELETE FROM memory WHERE inbox = ? AND key IN (SELECT value FROM json_each(?))",
            (memory.inbox, json.dumps(gone)),
        )
    connection.executemany(
        "INSERT INTO memory (inbox, key, json, version, expires_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (inbox, key) DO UPDATE SET"
        " json = excluded.json, version = excluded.version, expires_at = excluded.expires_at",
        [(memory.inbox, v.key, v.json, version, v.expires_at) for v in memory.values if v.json is not None],
    )


def remember(connection: sqlite3.Connection, requests: Sequence[tuple[Memory, str]], now: float) -> list[bool]:
    """Each (memory, version) that is up to date, one after the other: the second of two sees what the first has written."""
    outcomes = []
    for memory, version in requests:
        fresh = unchanged(connection, memory, now)
        if fresh:
            write(connection, memory, version)
        outcomes.append(fresh)
    return outcomes


def forget_expired(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """Remove up to `limit` values whose time is over."""
    return connection.execute(
        "DELETE FROM memory WHERE rowid IN (SELECT rowid FROM memory WHERE expires_at > 0 AND expires_at <= ? LIMIT ?)",
        (now, limit),
    ).rowcount
