"""The answer to a mail, as the bytes that are sent (RFC 3834, RFC 5322, MIME).

No byte of a header field comes from the original mail except decoded, cleaned and written anew. The bytes depend on the
arguments only: an answer that is composed twice is the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from responder.mail.address import Address
from responder.mail.headers import Headers, decode_text
from responder.mail.part import attachment_part, multipart, text_part
from responder.mail.thread import base_subject, fold_references, message_ids, reply_references
from responder.mail.write import MAX_TEXT, format_date, line_text, mailbox_field, needs_smtputf8, text_field

__all__ = ["ALLOWED_EXTRA_HEADERS", "Attachment", "Body", "compose_answer", "needs_smtputf8"]

ALLOWED_EXTRA_HEADERS = frozenset({
    "comments", "feedback-id", "importance", "keywords", "organization", "precedence", "priority", "sensitivity",
    "x-entity-ref-id", "x-mailer", "x-priority",
})  # fmt: skip
"""What an agent may add, in lower case: words for people and for sorting. Nothing that sends mail elsewhere (Reply-To,
Disposition-Notification-To, List-*), claims an origin (Sender, Received) or says what the core says."""

_MAX_SUBJECT_FIELD = 8192  # characters of the original's Subject that are looked at


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that leaves with an answer."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """What an agent says: text, the same as HTML where it has that, and files."""

    text: str
    html: str = ""
    attachments: tuple[Attachment, ...] = ()


def compose_answer(
    *,
    body: Body,
    original: Headers,
    inbox: Address,
    to: Address,
    message_id: str,
    date: float,
    personal: bool,
    inbox_name: str = "",
    author: Address | None = None,
    subject: str | None = None,
    extra_headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """The whole message: header section, empty line, body; lines end with CRLF, dots are not stuffed.

    `date` is in unix seconds. From names `author`, the inbox's own mailbox where that is None. The Subject is the agent's own
    where it has one (and it is not blank), else `Auto: ` for a personal responder (RFC 5230 4.6) or `Re: ` in front of the
    original's base subject. A text body stands alone, or as an alternative to HTML; blank text beside HTML is left out. What
    `part.text_part` says of texts holds here.

    All is 7-bit except From, To and X-Responder-Loop where `needs_smtputf8(inbox, author, to)`.
    Raises `ValueError` where `message_id` is none, an extra header is not allowed or there twice, or an address has controls.
    """
    if message_ids(message_id) != [message_id]:
        raise ValueError("not a Message-ID")
    own = line_text(subject, MAX_TEXT) if subject else ""
    if not own:
        old = base_subject(decode_text(original.get("Subject")[:_MAX_SUBJECT_FIELD]))
        own = f"{'Auto' if personal else 'Re'}: {old}"
    in_reply_to, references = reply_references(original)
    fields = [
        f"Date: {format_date(date)}\r\n",
        mailbox_field("From", inbox_name, author or inbox),
        mailbox_field("To", "", to),
        text_field("Subject", own),
        f"Message-ID: {message_id}\r\n",
        f"In-Reply-To: {in_reply_to}\r\n" if in_reply_to else "",
        fold_references(references),
        "Auto-Submitted: auto-replied\r\n",  # RFC 3834 5
        "X-Auto-Response-Suppress: All\r\n",  # MS-OXCMAIL 2.1.3.2.18: Exchange then sends no answer of its own
        mailbox_field("X-Responder-Loop", "", inbox),
    ]
    seen: set[str] = set()
    for name, value in extra_headers:
        lower = name.lower()
        if lower not in ALLOWED_EXTRA_HEADERS:
            raise ValueError(f"an answer may not carry the header {name!r}")
        if lower in seen:
            raise ValueError(f"the header {name!r} is there twice")
        seen.add(lower)
        fields.append(text_field(name, value))
    fields.append("MIME-Version: 1.0\r\n")

    part = text_part(body.text)
    if body.html:
        html = text_part(body.html, "text/html")
        part = multipart("alternative", [part, html], message_id) if body.text.strip() else html
    if body.attachments:
        files = [attachment_part(file.name, file.content_type, file.data) for file in body.attachments]
        part = multipart("mixed", [part, *files], message_id)
    fields.append(part.fields)
    return "".join(fields).encode() + b"\r\n" + part.body
