"""An operator's hand on many items, as SQL: some thousand rows a transaction, so that nobody waits for the writer for long."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter

from responder.mail.lifecycle import TRANSITIONS, Event, State, step
from responder.store.returns import Selection
from responder.store.sqlite.steps import held, set_state

ROWS = 1000  # of one transaction

# What an event touches only where its state is named: who was told of a failure must not be told again by a slip of the hand.
_NAMED = {Event.RETRY: (State.BOUNCED, State.SILENT), Event.DROP: (State.FAILED,)}


def tables(selection: Selection, event: Event) -> list[str]:
    """Where the selected items may be."""
    return [
        table
        for table, machine in TRANSITIONS.items()
        if any(of is event for _, of in machine)
        and not (table == "inbound" and (selection.domain or selection.kind))
        and not (table == "inbound" and event is Event.RELEASE)  # that one is a worker's
    ]


def act_on(
    connection: sqlite3.Connection,
    table: str,
    selection: Selection,
    event: Event,
    reason: str,
    after: str,
    now: float,
) -> tuple[list[State], str | None]:
    """Step up to `ROWS` items of a table whose ids come behind `after`: the states that they came to, and the id to go on
    behind (None: there are no more)."""
    rows = connection.execute(
        f"SELECT id, state FROM {table} WHERE {_where(selection)} AND id > :after ORDER BY id LIMIT :limit",
        {**_values(table, selection, event), "after": after, "limit": ROWS},
    ).fetchall()
    changed: dict[State, list[str]] = {}
    for item, state in rows:
        changed.setdefault(step(TRANSITIONS[table], State(state), event), []).append(item)
    for state, items in changed.items():
        set_state(connection, table, items, state, event, reason, now)
    return [state for state, items in changed.items() for _ in items], rows[-1][0] if len(rows) == ROWS else None


def count(connection: sqlite3.Connection, selection: Selection, event: Event) -> dict[str, int]:
    """How many items `act_on` would step, by state."""
    found: Counter[str] = Counter()
    for table in tables(selection, event):
        rows = connection.execute(
            f"SELECT state, count(*) FROM {table} WHERE {_where(selection)} GROUP BY state",
            _values(table, selection, event),
        )
        found.update(dict(rows.fetchall()))
    return dict(found)


def crowds(connection: sqlite3.Connection, column: str, limit: int) -> list[tuple[str, str, int]]:
    """(name, state, number) of what waits to leave or has failed, for the `limit` domains or inboxes with the most of it."""
    if column not in ("domain", "inbox"):
        raise ValueError(column)
    waiting = "state IN ('QUEUED', 'DEFERRED', 'SENDING', 'HELD', 'FAILED')"
    return connection.execute(
        f"SELECT {column}, state, count(*) FROM outbound WHERE {waiting} AND {column} IN"
        f" (SELECT {column} FROM outbound WHERE {waiting} GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT ?)"
        f" GROUP BY {column}, state ORDER BY sum(count(*)) OVER (PARTITION BY {column}) DESC, {column}, state",
        (limit,),
    ).fetchall()


def _where(selection: Selection) -> str:
    parts = ["state IN (SELECT value FROM json_each(:states))"]
    parts += [f"{name} = :{name}" for name in ("domain", "inbox", "kind") if getattr(selection, name)]
    return " AND ".join(parts)


def _values(table: str, selection: Selection, event: Event) -> dict[str, object]:
    allowed = [state for state, of in TRANSITIONS[table] if of is event and state != held(table)]
    wanted = selection.states or [state for state in allowed if state not in _NAMED.get(event, ())]
    states = [state for state in allowed if state in wanted]
    return {
        "states": json.dumps(states),
        "domain": selection.domain,
        "inbox": selection.inbox,
        "kind": selection.kind,
    }
