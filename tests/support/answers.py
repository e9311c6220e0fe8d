"""What each answer has to look like (RFC 3834, RFC 5322), as its reader's mailbox has it."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Sequence
from email.message import EmailMessage, Message
from email.utils import getaddresses, parsedate_to_datetime

ALWAYS = frozenset({
    "date", "from", "to", "subject", "message-id", "auto-submitted", "x-auto-response-suppress", "x-responder-loop",
    "mime-version", "content-type", "content-transfer-encoding",
})  # fmt: skip
THREAD = frozenset({"in-reply-to", "references"})
ADDED = frozenset({"return-path", "x-original-to", "delivered-to", "received"})
"""What the hosts on the way write on top."""


def parse(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, policy=email.policy.default)


def names(mail: EmailMessage) -> list[str]:
    """The header fields of a mail, in lower case, without those of the hosts on its way."""
    return sorted(name.lower() for name in mail.keys() if name.lower() not in ADDED)  # noqa: SIM118 - a field may repeat


def check_answer(
    mail: EmailMessage,
    *,
    inbox: str,
    to: str,
    hostname: str,
    message_id: str = "",
    references: Sequence[str] = (),
    subject: str | None = None,
) -> None:
    """Each promise of an answer's header section. `references` are those of the original mail."""
    assert names(mail) == sorted(ALWAYS | (THREAD if message_id else frozenset())), names(mail)
    assert not mail.defects
    assert mail["Auto-Submitted"] == "auto-replied"
    assert mail["X-Auto-Response-Suppress"] == "All"
    assert mail["X-Responder-Loop"] == inbox
    assert [address for _, address in getaddresses([mail["From"]])] == [inbox]
    assert [address for _, address in getaddresses([mail["To"]])] == [to]
    if message_id:
        assert mail["In-Reply-To"] == message_id
        assert mail["References"].split() == [*references, message_id]
    if subject is not None:
        assert mail["Subject"] == f"Re: {subject}"
    assert re.fullmatch(rf"<auto\.[0-9a-z]{{18}}\.\d+\.0@{re.escape(hostname)}>", mail["Message-ID"])
    assert mail["MIME-Version"] == "1.0"
    assert parsedate_to_datetime(mail["Date"]).tzinfo is not None


def text_of(mail: EmailMessage) -> str:
    """The text of an answer that has one part, with LF line ends."""
    assert mail.get_content_type() == "text/plain"
    content: str = mail.get_content()
    return content.replace("\r\n", "\n")


def delivery_status(report: EmailMessage) -> tuple[Message, Message]:
    """The fields of a notification about one recipient: those of the message, those of the recipient (RFC 3464 2.1)."""
    assert report.get_content_type() == "multipart/report"
    [part] = [part for part in report.iter_parts() if part.get_content_type() == "message/delivery-status"]
    blocks = part.get_payload()
    assert isinstance(blocks, list)
    of_message, of_recipient = blocks
    assert isinstance(of_message, Message) and isinstance(of_recipient, Message)
    return of_message, of_recipient
