"""Whose turn it is: the order in which what waits may leave (start-time fair queueing). Inside the writer's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

Flows = dict[str, float]

BEHIND: Final[Mapping[str, float]] = {"list": 200.0, "dsn": 1000.0, "report": 1000.0}
"""How many turns a kind stands behind answers and what people sent: later, not never."""
RETRIED: Final = 500.0  # turns that a further attempt stands behind a first one


def behind(kind: str, attempts: int) -> float:
    """How many turns an item stands behind a fresh answer."""
    return BEHIND.get(kind, 0.0) + (RETRIED if attempts else 0.0)


def flow_of(inbox: str, kind: str) -> str:
    """Which line an item's turn is counted in: no inbox's long list comes before another's short one, nor before its answers."""
    return f"{kind} {inbox}"


def flows(connection: sqlite3.Connection) -> Flows:
    """Whose turn it is: see the table."""
    return {"": 1.0, **dict(connection.execute("SELECT flow, rank FROM turn").fetchall())}


def keep(connection: sqlite3.Connection, changed: Flows, since: float) -> None:
    """Write down turns, and forget those that mean no more than the turn `since` which all is served."""
    connection.executemany(
        "INSERT INTO turn (flow, rank) VALUES (?, ?) ON CONFLICT (flow) DO UPDATE SET rank = max(rank, excluded.rank)",
        list(changed.items()),
    )
    connection.execute("DELETE FROM turn WHERE flow <> '' AND rank <= ?", (since,))
