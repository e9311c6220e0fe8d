"""Mails as people's programs write them, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from responder.mail.compose import Attachment

File = Attachment | tuple[str, str, bytes]


def write_letter(
    text: str,
    *,
    sender: str,
    to: str,
    subject: str,
    date: datetime,
    message_id: str,
    html: str = "",
    attachments: Sequence[File] = (),
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A mail as octets. `headers` are added to its own, and replace those of the same name; "" leaves one out."""
    message = EmailMessage(SMTP)
    given = {name.lower() for name in headers or ()}
    own = {"From": sender, "To": to, "Subject": subject, "Date": format_datetime(date), "Message-ID": message_id}
    for name, value in [*own.items(), *(headers or {}).items()]:
        if value and not (name in own and name.lower() in given and value is own[name]):
            message[name] = value
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    for file in attachments:
        name, content_type, data = (file.name, file.content_type, file.data) if isinstance(file, Attachment) else file
        kind, _, subtype = content_type.partition("/")
        message.add_attachment(data, maintype=kind, subtype=subtype or "octet-stream", filename=name)
    return message.as_bytes()
