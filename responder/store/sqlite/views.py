"""What an operator sees and removes: lists, accounts, counts, retention."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from responder.mail.automatic import AUTO_ID
from responder.mail.envelope import Wish
from responder.mail.lifecycle import INBOUND, OUTBOUND, State, final_states
from responder.store.records import Account, HistoryEntry, ItemView
from responder.store.returns import Selection, Sent
from responder.store.sqlite import pace, suppression
from responder.store.sqlite.memory import forget_expired

_ITEMS = """
SELECT * FROM (
    SELECT 'inbound' AS direction, i.id AS id, i.state AS state, i.inbox AS kind, m.reverse_path AS sender, i.recipient,
           i.attempts, m.received_at AS created_at, i.due_at
      FROM inbound i JOIN mail m ON m.id = i.mail
    UNION ALL
    SELECT 'outbound', id, state, kind, reverse_path, recipient, attempts, created_at, due_at FROM outbound
)
"""
_REASON = "SELECT reason FROM history WHERE item = ? AND reason <> '' ORDER BY id DESC LIMIT 1"


def items(
    connection: sqlite3.Connection, states: Collection[State], limit: int, selection: Selection | None = None
) -> list[ItemView]:
    if not states:
        ended = {*final_states(INBOUND), *final_states(OUTBOUND)} - {State.FAILED}
        states = [state for state in State if state not in ended]
    marks = ", ".join("?" * len(states))
    wanted = {name: getattr(selection, name) for name in ("domain", "inbox", "kind") if getattr(selection, name, "")}
    narrowed = "".join(
        " AND id IN (SELECT id FROM outbound WHERE inbox = ? UNION ALL SELECT id FROM inbound WHERE inbox = ?)"
        if name == "inbox"
        else f" AND id IN (SELECT id FROM outbound WHERE {name} = ?)"
        for name in wanted
    )
    values = [value for name, value in wanted.items() for _ in range(2 if name == "inbox" else 1)]
    rows = connection.execute(
        f"{_ITEMS} WHERE state IN ({marks}){narrowed} ORDER BY created_at, id LIMIT ?", (*states, *values, limit)
    ).fetchall()
    return [_view(connection, row) for row in rows]


def sent(connection: sqlite3.Connection, item: str) -> Sent | None:
    row = connection.execute(
        "SELECT id, kind, inbox, content, head, reverse_path, recipient, return_to, state, created_at, changed_at,"
        " notify, orcpt, ret, envid FROM outbound WHERE id = ?",
        (item,),
    ).fetchone()
    if row is None:
        return None
    return Sent(
        id=row[0],
        kind=row[1],
        inbox=row[2],
        content_id=row[3],
        head=row[4],
        reverse_path=row[5],
        recipient=row[6],
        return_to=row[7],
        state=State(row[8]),
        created_at=row[9],
        changed_at=row[10],
        wish=Wish(row[11], row[12]),
        ret=row[13],
        envid=row[14],
    )


def stats(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    return {
        table: dict(connection.execute(f"SELECT state, count(*) FROM {table} GROUP BY state").fetchall())
        for table in ("inbound", "outbound")
    }


def account(connection: sqlite3.Connection, key: str) -> list[Account]:
    mails = _mails(connection, key)
    if mails:
        return [_account_of_mail(connection, mail) for mail in mails]
    rows = connection.execute(
        f"{_ITEMS} WHERE id = ?", (key,)
    ).fetchall()  # what no longer has a mail: a DSN, a sent one
    return (
        [Account(None, views := [_view(connection, row) for row in rows], _history(connection, views))] if rows else []
    )


def _mails(connection: sqlite3.Connection, key: str) -> list[str]:
    """The mails that a mail id, an item id or a Message-ID (with or without its angle brackets) speaks of; the Message-ID of
    an answer of ours speaks of what it answers."""
    identifier = f"<{key.strip('<> ')}>"
    own = AUTO_ID.fullmatch(identifier)
    cause = own[1] if own else key
    for _ in range(4):  # a DSN's cause is an outbound item, whose cause is an inbound one
        row = connection.execute("SELECT cause FROM outbound WHERE id = ?", (cause,)).fetchone()
        if row is None:
            break
        cause = row[0]
    return [
        mail
        for (mail,) in connection.execute(
            "SELECT id FROM mail WHERE id IN (?, ?) UNION SELECT id FROM mail WHERE message_id = ? AND message_id <> ''"
            " ORDER BY id",
            (cause, cause.partition(".")[0], identifier),
        )
    ]


def _account_of_mail(connection: sqlite3.Connection, mail: str) -> Account:
    cursor = connection.execute("SELECT * FROM mail WHERE id = ?", (mail,))
    facts = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
    found = connection.execute(
        f"{_ITEMS} WHERE id IN ("
        " WITH RECURSIVE caused(id) AS ("
        "  SELECT id FROM inbound WHERE mail = :mail AND id GLOB :mail || '.*'"
        # By the name of their cause: retention may have removed the item that they answer.
        "  UNION SELECT id FROM outbound WHERE cause > :mail || '.' AND cause < :mail || '/'"
        "  UNION SELECT o.id FROM outbound o JOIN caused ON o.cause = caused.id)"
        " SELECT id FROM caused) ORDER BY direction, id",
        {"mail": mail},
    ).fetchall()
    views = [_view(connection, row) for row in found]
    return Account(facts, views, _history(connection, views))


def _history(connection: sqlite3.Connection, views: list[ItemView]) -> list[HistoryEntry]:
    rows = [
        row
        for view in views
        for row in connection.execute(
            "SELECT id, item, at, event, state, reason FROM history WHERE item = ?", (view.id,)
        )
    ]
    return [HistoryEntry(*row[1:]) for row in sorted(rows)]


def _view(connection: sqlite3.Connection, row: tuple[str, ...]) -> ItemView:
    direction, item, state, kind, sender, recipient, attempts, created_at, due_at = row
    reason = connection.execute(_REASON, (item,)).fetchone()
    return ItemView(
        direction,
        item,
        State(state),
        kind,
        sender,
        recipient,
        int(attempts),
        float(created_at),
        float(due_at),
        reason[0] if reason else "",
    )


def purge(connection: sqlite3.Connection, done_before: float, failed_before: float, limit: int, now: float) -> int:
    """See `Store.purge`. A mail goes when all its items may go, a content when nothing that is left carries it."""
    ended = (
        "((state IN ('ANSWERED', 'SILENT', 'DROPPED', 'DELIVERED', 'BOUNCED') AND changed_at < :done)"
        " OR (state = 'FAILED' AND changed_at < :failed))"
    )
    # The same words as the partial indexes, so that they are used.
    among = "state IN ('DELIVERED', 'BOUNCED', 'FAILED', 'DROPPED')"
    values = {"done": done_before, "failed": failed_before, "limit": limit, "now": now}
    sent = connection.execute(
        f"DELETE FROM outbound WHERE id IN (SELECT id FROM outbound WHERE {among} AND {ended} LIMIT :limit)"
        " RETURNING id, content, kind = 'relay'",
        values,
    ).fetchall()
    among = "state IN ('ANSWERED', 'SILENT', 'FAILED', 'DROPPED')"
    received = connection.execute(
        f"DELETE FROM inbound WHERE id IN (SELECT id FROM inbound WHERE {among} AND {ended} LIMIT :limit)"
        " RETURNING id, mail",
        values,
    ).fetchall()
    connection.executemany("DELETE FROM history WHERE item = ?", [(row[0],) for row in sent + received])
    mails = {mail for _, mail in received} | {content for _, content, relayed in sent if relayed}
    connection.executemany(
        "DELETE FROM mail WHERE id = :id AND NOT EXISTS (SELECT 1 FROM inbound WHERE id GLOB :id || '.*')"
        " AND NOT EXISTS (SELECT 1 FROM outbound WHERE content = :id AND kind = 'relay')",
        [{"id": mail} for mail in mails],
    )
    connection.executemany(
        "DELETE FROM content WHERE id = :id AND NOT EXISTS (SELECT 1 FROM mail WHERE mail.id = :id)"
        " AND NOT EXISTS (SELECT 1 FROM outbound WHERE content = :id)",
        [{"id": content} for content in {content for _, content, _ in sent} | mails],
    )
    counted = connection.execute(
        "DELETE FROM answered WHERE rowid IN (SELECT rowid FROM answered WHERE expires_at < :now LIMIT :limit)", values
    ).rowcount
    return (
        len(sent)
        + len(received)
        + counted
        + forget_expired(connection, now, limit)
        + suppression.forget_expired(connection, now, limit)
        + pace.forget(connection, now, limit)
    )
