"""What a notification is to the store: the same whichever stage tells of something."""

from __future__ import annotations

from responder.mail.address import Address
from responder.store.records import NewOutbound


def notification(
    *,
    id: str,  # noqa: A002
    cause: str,
    inbox: str,
    to: Address,
    now: float,
    expires_at: float,
    requiretls: bool = False,
) -> NewOutbound:
    """A notification (RFC 3464) about `cause`, an item, to its sender: from nobody, and nobody learns of its failure. Its id
    names its content, too."""
    return NewOutbound(
        id=id,
        kind="dsn",
        cause=cause,
        inbox=inbox,
        content_id=id,
        reverse_path="",
        recipient=str(to),
        domain=to.domain,
        return_to="",
        created_at=now,
        expires_at=expires_at,
        requiretls=requiretls,  # RFC 8689 5: it tells of its cause, so it is guarded as that is
    )
