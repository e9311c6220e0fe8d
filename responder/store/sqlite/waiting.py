"""One row that waits to leave, as a claim reads it. Inside the writer's transaction."""

from __future__ import annotations

from typing import NamedTuple

from responder.mail.envelope import NO_WISH, Wish
from responder.store.records import Claim, OutboundItem

WAITING = "o.state IN ('QUEUED', 'DEFERRED')"
"""In the words of the partial indexes, so that they are used."""


class Row(NamedTuple):
    """The columns, in their order, of what waits."""

    id: str
    kind: str
    cause: str
    inbox: str
    content: str
    reverse_path: str
    recipient: str
    domain: str
    return_to: str
    created_at: float
    expires_at: float
    route: str
    head: str
    attempts: int
    notify: str
    orcpt: str
    ret: str
    envid: str
    requiretls: int
    warned: int
    due_at: float
    rank: float

    @property
    def envelope(self) -> tuple[object, ...]:
        """What must be one for all that one transaction takes."""
        return self.kind, self.content, self.reverse_path, self.domain, self.route, self.head, *self[14:19]


COLUMNS = ", ".join([f"o.{name}" for name in Row._fields])


def item_of(row: Row, token: str, content: bytes | None, suppressed: str) -> OutboundItem:
    """What the worker `token` gets of a row that it has just been charged for."""
    return OutboundItem(
        id=row.id,
        kind=row.kind,
        cause=row.cause,
        inbox=row.inbox,
        content_id=row.content,
        reverse_path=row.reverse_path,
        recipient=row.recipient,
        domain=row.domain,
        return_to=row.return_to,
        created_at=row.created_at,
        expires_at=row.expires_at,
        route=row.route,
        head=row.head,
        wish=Wish(row.notify, row.orcpt) if row.notify or row.orcpt else NO_WISH,
        ret=row.ret,
        envid=row.envid,
        requiretls=bool(row.requiretls),
        claim=Claim(token, row.attempts + 1),
        content=content,
        suppressed=suppressed,
        warned=bool(row.warned),
    )
