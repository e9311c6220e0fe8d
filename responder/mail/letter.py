"""A mail of our own that answers nobody: what a person or a script at this machine sends. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from responder.mail.address import Address
from responder.mail.compose import Attachment
from responder.mail.part import attachment_part, multipart, text_part
from responder.mail.write import MAX_TEXT, format_date, line_text, mailbox_field, text_field


def compose_letter(
    *,
    author: Address,
    to: Sequence[Address],
    subject: str,
    text: str,
    message_id: str,
    date: float,
    name: str = "",
    attachments: Sequence[Attachment] = (),
) -> bytes:
    """The whole message: header section, empty line, body; lines end with CRLF. `date` is in Unix seconds, `name` stands before
    the author's address. All is 7-bit, but for addresses that are not.

    Raises `ValueError` where an address has controls.
    """
    fields = [
        f"Date: {format_date(date)}\r\n",
        mailbox_field("From", name, author),
        *_recipients(to),
        text_field("Subject", line_text(subject, MAX_TEXT)),
        f"Message-ID: {message_id}\r\n",
        "MIME-Version: 1.0\r\n",
    ]
    part = text_part(text)
    if attachments:
        files = [attachment_part(file.name, file.content_type, file.data) for file in attachments]
        part = multipart("mixed", [part, *files], message_id)
    fields.append(part.fields)
    return "".join(fields).encode() + b"\r\n" + part.body


def _recipients(to: Sequence[Address]) -> list[str]:
    """One field (RFC 5322 3.6), an address a line."""
    lines = [mailbox_field("To", "", address).removeprefix("To: ").removesuffix("\r\n") for address in to]
    return ["To: ", ",\r\n ".join(lines), "\r\n"] if lines else []
