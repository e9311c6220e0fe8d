"""What every step does: compare, set, and tell history. Runs inside the writer's transaction.

Each function takes as many items as a batch has and runs one statement for all of them. That is what makes group commit pay:
SQLite works without Python's lock while a statement runs, so the event loop goes on meanwhile, and a statement per item would
mean a fight for the lock per item (measured: 5,300 accepts a second that way, 9,600 this way).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache

from responder.mail.lifecycle import TRANSITIONS, Event, IllegalTransitionError, State, step
from responder.store.records import Window
from responder.store.returns import Returned

Entry = tuple[str, float, str, str, str]

ROWS = 64  # rows of one INSERT at the most: few statements to keep prepared, and few enough values for SQLite

_HISTORY = "INSERT INTO history (item, at, event, state, reason)"


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """`into` is `INSERT INTO table (columns)`. In portions of a power of two, so that each statement is prepared once."""
    at = 0
    while at < len(rows):
        size = min(ROWS, 1 << ((len(rows) - at).bit_length() - 1))
        portion = rows[at : at + size]
        connection.execute(_insert(into, len(portion[0]), size), [value for row in portion for value in row])
        at += size


@lru_cache(maxsize=128)
def _insert(into: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{into} VALUES {', '.join([row] * size)}"


def tell(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Append to history: (item, at, event, state, reason)."""
    insert(connection, _HISTORY, [(item, at, event, state, text(reason)) for item, at, event, state, reason in entries])


def text(value: str) -> str:
    """A text that SQLite takes, whatever an agent's exception or a remote host said: no lone surrogates, no NUL."""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")


def held(table: str) -> State:
    """The state of an item that a worker has."""
    return State.ANSWERING if table == "inbound" else State.SENDING


def current(connection: sqlite3.Connection, table: str, claims: Iterable[tuple[str, str, int]]) -> set[str]:
    """Which of the claimed items (id, token, attempts) are still the claimant's."""
    rows = connection.execute(
        f"SELECT i.id FROM json_each(?) AS claimed JOIN {table} AS i ON i.id = claimed.value ->> 0"
        " WHERE i.state = ? AND i.claim = claimed.value ->> 1 AND i.attempts = claimed.value ->> 2",
        (json.dumps(list(claims)), held(table)),
    )
    return {item for (item,) in rows}


def settle(
    connection: sqlite3.Connection, table: str, ends: Sequence[tuple[str, Event, str, float]], now: float
) -> list[State]:
    """Step items that a worker holds, each (id, event, reason, due_at); the states behind.

    Raises `IllegalTransitionError` for an event that no worker may cause.
    """
    states = [step(TRANSITIONS[table], held(table), event) for _, event, _, _ in ends]
    changes = [(item, state, due_at) for (item, _, _, due_at), state in zip(ends, states, strict=True)]
    connection.execute(
        f"UPDATE {table} SET state = change.value ->> 1, claim = '', due_at = change.value ->> 2, changed_at = ?"
        f" FROM json_each(?) AS change WHERE {table}.id = change.value ->> 0",
        (now, json.dumps(changes)),
    )
    tell(connection, [(i, now, event, s, reason) for (i, event, reason, _), s in zip(ends, states, strict=True)])
    return states


def charge(connection: sqlite3.Connection, table: str, items: Sequence[str], token: str, now: float) -> None:
    """Take items and charge the attempt before the work starts: a mail that kills its worker retires itself."""
    if not items:
        return
    connection.execute(
        f"UPDATE {table} SET state = ?, claim = ?, attempts = attempts + 1, changed_at = ?"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (held(table), token, now, json.dumps(items)),
    )
    tell(connection, [(item, now, Event.CLAIM, held(table), "") for item in items])


_FRESH = {
    # An operator's retry is a fresh start: attempts are counted anew, and what had expired gets its time again.
    ("inbound", Event.RETRY): ", attempts = 0",
    ("outbound", Event.RETRY): ", attempts = 0, expires_at = :now + max(expires_at - created_at, 0), created_at = :now",
    ("outbound", Event.EXPIRE): ", expires_at = :now",
}


def set_state(
    connection: sqlite3.Connection, table: str, items: list[str], state: State, event: Event, reason: str, now: float
) -> None:
    """Step items, all from states that allow it."""
    # What leaves and had its turn in a backlog has none any more: if it waits again, it is looked at anew.
    turn = ", rank = 0" if table == "outbound" else ""
    connection.execute(
        f"UPDATE {table} SET state = :state, due_at = :now, changed_at = :now{turn}{_FRESH.get((table, event), '')}"
        " WHERE id IN (SELECT value FROM json_each(:items))",
        {"state": state, "now": now, "items": json.dumps(items)},
    )
    tell(connection, [(item, now, event, state, reason) for item in items])


def act(connection: sqlite3.Connection, item: str, event: Event, reason: str, now: float) -> tuple[str, State]:
    """An operator's step: the table and the state behind it. Raises `KeyError`, `IllegalTransitionError`."""
    for table in TRANSITIONS:
        row = connection.execute(f"SELECT state FROM {table} WHERE id = ?", (item,)).fetchone()
        if row is None:
            continue
        if event in (Event.CLAIM, Event.EXPIRE_LEASE, Event.RETURN) or row[0] == held(table):
            raise IllegalTransitionError(f"{item} is {row[0]}: a worker has it, try again when it is done")
        state = step(TRANSITIONS[table], State(row[0]), event)
        set_state(connection, table, [item], state, event, reason, now)
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
    state = step(TRANSITIONS[table], held(table), event)
    rows = connection.execute(
        f"UPDATE {table} SET state = ?, claim = '', due_at = ?, changed_at = ? WHERE state = ? AND {where} RETURNING id",
        (state, now, now, held(table), *values),
    ).fetchall()
    tell(connection, [(item, now, event, state, reason) for (item,) in rows])
    return [item for (item,) in rows]


def come_back(connection: sqlite3.Connection, returned: Returned, now: float) -> None:
    """What came back of an outbound item: its step, where that may still be made; without an event a line of its history."""
    [state] = connection.execute("SELECT state FROM outbound WHERE id = ?", (returned.item,)).fetchone() or [""]
    after = state
    if returned.event is not None and state:
        after = TRANSITIONS["outbound"].get((State(state), returned.event), "")
        connection.execute(
            "UPDATE outbound SET state = ?, changed_at = ? WHERE id = ? AND ? <> ''", (after, now, returned.item, after)
        )
    if after:
        tell(connection, [(returned.item, now, returned.event or "report", after, returned.reason)])


class Counters:
    """The windows of a whole batch: what the store has counted, and what the batch itself adds."""

    def __init__(self, connection: sqlite3.Connection, windows: Iterable[Window], now: float) -> None:
        wanted = {(window.key, window.seconds) for window in windows}
        rows = connection.execute(
            "SELECT wanted.value ->> 0, wanted.value ->> 1,"
            " (SELECT count(*) FROM answered WHERE key = wanted.value ->> 0 AND at > ? - (wanted.value ->> 1))"
            " FROM json_each(?) AS wanted",
            (now, json.dumps(sorted(wanted))),
        )
        self._connection = connection
        self._now = now
        self._counts: dict[tuple[str, float], int] = {(key, float(seconds)): number for key, seconds, number in rows}
        self._added: list[tuple[str, float, float]] = []

    def full(self, windows: Iterable[Window]) -> Window | None:
        """The first window without room."""
        return next((w for w in windows if self._counts[w.key, float(w.seconds)] >= w.limit), None)

    def add(self, windows: Iterable[Window]) -> None:
        """Count one answer in each window."""
        for window in windows:
            self._counts[window.key, float(window.seconds)] += 1
            self._added.append((window.key, self._now, self._now + window.seconds))

    def store(self) -> None:
        """Write down what was added."""
        insert(self._connection, "INSERT INTO answered (key, at, expires_at)", self._added)
