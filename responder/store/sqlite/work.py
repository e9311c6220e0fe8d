"""The workers' verbs as SQL: accept, claim, settle, free. Runs inside the writer's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from responder.mail.envelope import NO_WISH
from responder.mail.lifecycle import Event, State
from responder.store.records import InboundItem, Memory, NewMail, NewOutbound, Note, OutboundItem, Settlement, Window
from responder.store.sqlite import suppression
from responder.store.sqlite.memory import unchanged, write
from responder.store.sqlite.pace import give_back, mark_warned, note
from responder.store.sqlite.steps import Counters, come_back, current, free, insert, settle, tell

End = tuple[State, str] | None


def accept(connection: sqlite3.Connection, mails: Sequence[NewMail]) -> list[None]:
    insert(
        connection,
        "INSERT INTO mail (id, received_at, reverse_path, peer, helo, message_id, size, authentication, ret, envid,"
        " requiretls)",
        [
            (
                m.id,
                m.received_at,
                m.reverse_path,
                m.peer,
                m.helo,
                m.message_id,
                len(m.content),
                m.authentication,
                m.ret,
                m.envid,
                m.requiretls,
            )
            for m in mails
        ],
    )
    insert(connection, "INSERT INTO content (id, data)", [(mail.id, mail.content) for mail in mails])
    items = [
        (f"{mail.id}.{number}", mail, recipient, inbox, *(mail.wishes[number] if mail.wishes else NO_WISH))
        for mail in mails
        for number, (recipient, inbox) in enumerate(mail.recipients)
    ]
    insert(
        connection,
        "INSERT INTO inbound (id, mail, recipient, inbox, state, attempts, due_at, claim, changed_at, notify, orcpt)",
        [
            (item, mail.id, recipient, inbox, State.RECEIVED, 0, mail.received_at, "", mail.received_at, notify, orcpt)
            for item, mail, recipient, inbox, notify, orcpt in items
        ],
    )
    tell(connection, [(item, mail.received_at, "accept", State.RECEIVED, mail.note) for item, mail, *_ in items])
    relayed = [(message, mail.note) for mail in mails for message in mail.relayed]
    if relayed:
        now = max(mail.received_at for mail in mails)
        queue(connection, [message for message, _ in relayed], now, [f"{m.kind}, {note}" for m, note in relayed])
    return [None] * len(mails)


class Request(NamedTuple):
    """Messages to be queued. `version` is what no other write to memory bears."""

    messages: tuple[NewOutbound, ...]
    contents: tuple[tuple[str, bytes], ...]
    memory: Memory | None
    version: str


def enqueue(connection: sqlite3.Connection, requests: Sequence[Request], now: float) -> list[bool]:
    """Each one whose memory is up to date; the second of two sees what the first has written."""
    outcomes = []
    for messages, contents, memory, version in requests:
        fresh = memory is None or unchanged(connection, memory, now)
        if fresh:
            insert(connection, "INSERT INTO content (id, data)", contents)
            queue(connection, messages, now, [message.kind for message in messages])
            if memory is not None:
                write(connection, memory, version)
        outcomes.append(fresh)
    return outcomes


def beat(connection: sqlite3.Connection, token: str, until: float) -> bool:
    touched = connection.execute("UPDATE worker SET expires_at = ? WHERE token = ?", (until, token)).rowcount
    if not touched:
        connection.execute("INSERT INTO worker (token, expires_at) VALUES (?, ?)", (token, until))
    return bool(touched)


def leave(connection: sqlite3.Connection, token: str, now: float) -> None:
    for table, event in (("inbound", Event.RELEASE), ("outbound", Event.YIELD)):
        freed = free(connection, table, event, "the server stopped", now, "claim = ?", (token,))
        connection.execute(
            f"UPDATE {table} SET attempts = attempts - 1 WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(freed),),
        )
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
    freed = free(connection, "inbound", Event.EXPIRE_LEASE, reason, now, gone, ())
    connection.execute(
        "UPDATE inbound SET deaths = deaths + 1 WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(freed),)
    )
    touched += freed
    touched += free(connection, "outbound", Event.EXPIRE_LEASE, reason, now, gone, ())
    return len(touched)


CHANGED = "state-changed: another mail changed what this run had read; it is done again"
UNREST = "state-changed: what this agent's runs read never stands still; does a task of its own write it?"
SOON = 50  # refused runs of a mail that are done again at once
REFUSALS = 1000  # refused runs of a mail before it is given up: somebody else than other mails changes what they read
SLOWEST = 10.0  # seconds between two of them at the most
RECEIVED = (Event.ANSWER, Event.SILENCE)  # the ends of a turn behind which a mail has arrived


def settle_inbound(
    connection: sqlite3.Connection, settlements: Sequence[tuple[InboundItem, Settlement]], now: float
) -> list[End]:
    mine = current(connection, "inbound", [(i.id, i.claim.token, i.claim.attempts) for i, _ in settlements])
    counters = Counters(connection, [window for _, settlement in settlements for window in _windows(settlement)], now)
    ends: dict[str, tuple[Event, str, float]] = {}
    stored: list[Settlement] = []
    again: list[str] = []
    for item, settlement in settlements:
        if item.id not in mine or item.id in ends:
            continue
        event, reason, due = settlement.event, settlement.reason, settlement.due_at
        full = counters.full(settlement.windows) if event is Event.ANSWER else None
        if full is not None:
            event, reason = Event.SILENCE, full.reason
        elif settlement.memory is not None and not unchanged(connection, settlement.memory, now):
            event, reason, due = _again(connection, item.id, now)
            again.append(item.id)
        else:
            counters.add(settlement.windows if event is Event.ANSWER else ())
            stored.append(settlement)
            if settlement.memory is not None:
                write(connection, settlement.memory, f"{item.id} {item.claim.attempts} {now}")
        receipt = settlement.receipt
        if receipt is not None and event in RECEIVED and counters.full(receipt.windows) is None:
            counters.add(receipt.windows)
            contents = ((receipt.message.content_id, receipt.content),)
            stored.append(Settlement(event, "", outbound=(receipt.message,), contents=contents))
        ends[item.id] = (event, reason, due)
    counters.store()
    _store_along(connection, stored, now)
    came_to = _end(connection, "inbound", [item.id for item, _ in settlements], ends, now)
    if again:  # it was no fault of theirs
        connection.execute(
            "UPDATE inbound SET attempts = attempts - 1 WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(again),),
        )
    return came_to


def _windows(settlement: Settlement) -> tuple[Window, ...]:
    receipt = settlement.receipt
    return settlement.windows if receipt is None else settlement.windows + receipt.windows


def _again(connection: sqlite3.Connection, item: str, now: float) -> tuple[Event, str, float]:
    """What becomes of a mail whose run was refused: where another mail's run has come to an end for it, this can't go on for
    ever; where a task of the agent's own writes what its runs read, it could."""
    # An operator's retry is a fresh start.
    count = (
        "SELECT count(*) FROM history WHERE item = :item AND reason = :reason"
        " AND id > (SELECT coalesce(max(id), 0) FROM history WHERE item = :item AND event = :retry)"
    )
    values = {"item": item, "reason": CHANGED, "retry": Event.RETRY}
    refusals = connection.execute(count, values).fetchone()[0] + 1
    if refusals >= REFUSALS:
        return Event.FAIL, UNREST, now
    return Event.DEFER, CHANGED, now + min(max(refusals - SOON, 0) / 10, SLOWEST)


class Turn(NamedTuple):
    """How a turn on a parcel ended: each item's end, and what it tells of the pace."""

    ends: tuple[tuple[OutboundItem, Settlement], ...]
    note: Note | None = None


def settle_outbound(connection: sqlite3.Connection, turns: Sequence[Turn], now: float) -> list[tuple[list[End], float]]:
    """For each turn what its items came to, and until when its place rests because of it (0.0: it doesn't)."""
    settlements = [end for turn in turns for end in turn.ends]
    mine = current(connection, "outbound", [(i.id, i.claim.token, i.claim.attempts) for i, _ in settlements])
    ends: dict[str, tuple[Event, str, float]] = {}
    stored: list[Settlement] = []
    untouched: list[str] = []
    warned: list[str] = []
    for item, settlement in settlements:
        if item.id in mine and item.id not in ends:
            ends[item.id] = (settlement.event, settlement.reason, settlement.due_at)
            stored.append(settlement)
            if settlement.event is Event.YIELD:
                untouched.append(item.id)
            if settlement.warned:
                warned.append(item.id)
    _store_along(connection, stored, now)
    came_to = iter(_end(connection, "outbound", [item.id for item, _ in settlements], ends, now))
    give_back(connection, untouched)
    mark_warned(connection, warned)
    notes = [turn.note for turn in turns if turn.note is not None]
    rests = iter(note(connection, notes, now) if notes else ())
    return [([next(came_to) for _ in turn.ends], next(rests) if turn.note is not None else 0.0) for turn in turns]


def _end(
    connection: sqlite3.Connection,
    table: str,
    items: Sequence[str],
    ends: dict[str, tuple[Event, str, float]],
    now: float,
) -> list[End]:
    """Step the items that have an end; for each item asked about, what it came to. The second of two on one item is stale."""
    states = settle(connection, table, [(item, *end) for item, end in ends.items()], now) if ends else []
    came_to: dict[str, End] = {
        item: (state, reason) for (item, (_, reason, _)), state in zip(ends.items(), states, strict=True)
    }
    return [came_to.pop(item, None) for item in items]


def _store_along(connection: sqlite3.Connection, settlements: Sequence[Settlement], now: float) -> None:
    """What settlements bring besides their ends: messages that leave, and mails to ourselves."""
    accept(connection, [mail for settlement in settlements for mail in settlement.arrivals])
    suppressions = [entry for settlement in settlements for entry in settlement.suppressions]
    if suppressions:
        suppression.add(connection, suppressions)
    for settlement in settlements:
        if settlement.returned is not None:
            come_back(connection, settlement.returned, now)
    insert(connection, "INSERT INTO content (id, data)", [content for s in settlements for content in s.contents])
    messages = [message for settlement in settlements for message in settlement.outbound]
    queue(connection, messages, now, [f"{message.kind} for {message.cause}" for message in messages])


def queue(connection: sqlite3.Connection, messages: Sequence[NewOutbound], now: float, reasons: Sequence[str]) -> None:
    """Messages that leave, due at once; for each what history says of it."""
    insert(
        connection,
        "INSERT INTO outbound (id, kind, cause, inbox, content, reverse_path, recipient, domain, return_to, state, attempts,"
        " created_at, due_at, expires_at, claim, changed_at, route, head, notify, orcpt, ret, envid, requiretls)",
        [
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
                0,
                message.created_at,
                now,
                message.expires_at,
                "",
                now,
                message.route,
                message.head,
                *message.wish,
                message.ret,
                message.envid,
                message.requiretls,
            )
            for message in messages
        ],
    )
    told = zip(messages, reasons, strict=True)
    tell(connection, [(message.id, now, "queue", State.QUEUED, reason) for message, reason in told])
