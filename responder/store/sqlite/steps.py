"""What every step does: compare, set, and tell history. Runs inside the writer's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from responder.mail.lifecycle import TRANSITIONS, Event, IllegalTransitionError, State, step
from responder.store.base import Claim, Window

Entry = tuple[str, float, str, str, str]

INSERT_HISTORY = "INSERT INTO history (item, at, event, state, reason) VALUES (?, ?, ?, ?, ?)"


def tell(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Append to history: (item, at, event, state, reason)."""
    connection.executemany(INSERT_HISTORY, entries)


def settle(
    connection: sqlite3.Connection,
    table: str,
    item: str,
    claim: Claim,
    event: Event,
    reason: str,
    now: float,
    due_at: float = 0.0,
) -> State | None:
    """Step an item that a worker holds; None where the claim is stale, and then nothing has changed.

    Raises `IllegalTransitionError` for an event that no worker may cause.
    """
    held = State.ANSWERING if table == "inbound" else State.SENDING
    state = step(TRANSITIONS[table], held, event)
    touched = connection.execute(
        f"UPDATE {table} SET state = ?, claim = '', due_at = ?, changed_at = ?"
        " WHERE id = ? AND state = ? AND claim = ? AND attempts = ?",
        (state, due_at, now, item, held, claim.token, claim.attempts),
    ).rowcount
    if not touched:
        return None
    connection.execute(INSERT_HISTORY, (item, now, event, state, reason))
    return state


def act(connection: sqlite3.Connection, item: str, event: Event, reason: str, now: float) -> tuple[str, State]:
    """An operator's step: the table and the state behind it. Raises `KeyError`, `IllegalTransitionError`."""
    for table in TRANSITIONS:
        row = connection.execute(f"SELECT state FROM {table} WHERE id = ?", (item,)).fetchone()
        if row is None:
            continue
        if event in (Event.CLAIM, Event.EXPIRE_LEASE) or row[0] in (State.ANSWERING, State.SENDING):
            raise IllegalTransitionError(f"{item} is {row[0]}: a worker has it, try again when it is done")
        state = step(TRANSITIONS[table], State(row[0]), event)
        # An operator's retry is a fresh start: attempts are counted anew, and a message that had expired gets its time again.
        fresh = ", attempts = 0" if event is Event.RETRY else ""
        if event is Event.RETRY and table == "outbound":
            fresh += ", expires_at = :now + max(expires_at - created_at, 0), created_at = :now"
        connection.execute(
            f"UPDATE {table} SET state = :state, due_at = :now, changed_at = :now{fresh} WHERE id = :item",
            {"state": state, "now": now, "item": item},
        )
        tell(connection, [(item, now, event, state, reason)])
        return table, state
    raise KeyError(item)


def free(
    connection: sqlite3.Connection,
    table: str,
    event: Event,
    reason: str,
    now: float,
    where: str,
    values: tuple[object, ...],
) -> list[str]:
    """Step every claimed item that `where` finds by `event`; the ids that were touched."""
    held = State.ANSWERING if table == "inbound" else State.SENDING
    state = step(TRANSITIONS[table], held, event)
    rows = connection.execute(
        f"UPDATE {table} SET state = ?, claim = '', due_at = ?, changed_at = ?"
        f" WHERE state = ? AND {where} RETURNING id",
        (state, now, now, held, *values),
    ).fetchall()
    tell(connection, [(item, now, event, state, reason) for (item,) in rows])
    return [item for (item,) in rows]


def exceeded(connection: sqlite3.Connection, windows: Iterable[Window], now: float) -> Window | None:
    """The first window without room."""
    for window in windows:
        row = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM answered WHERE key = ? AND at > ? LIMIT ?)",
            (window.key, now - window.seconds, window.limit),
        ).fetchone()
        if row[0] >= window.limit:
            return window
    return None


def count(connection: sqlite3.Connection, windows: Iterable[Window], now: float) -> None:
    """Note one answer in each window."""
    connection.executemany(
        "INSERT INTO answered (key, at, expires_at) VALUES (?, ?, ?)",
        [(window.key, now, now + window.seconds) for window in windows],
    )
