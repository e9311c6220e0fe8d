"""Placeholder until the composer is there."""

from __future__ import annotations

from responder.mail.address import Address
from responder.mail.forward import compose_forward


def compose_distribution(
    raw: bytes, *, inbox: Address, name: str, author_sender: Address | None, message_id: str, date: float,
    subject_prefix: str | None, discussion: bool,
) -> bytes:
    return compose_forward(
        raw, inbox=inbox, sender=author_sender, message_id=message_id, date=date, subject_prefix=subject_prefix
    )


def member_head(inbox: Address, token: str, link: str) -> str:
    return ""
