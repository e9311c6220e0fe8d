"""A mail passed on as it is, under the inbox's own name: header fields are edited, the body is not touched.

What is changed, and why:

- From becomes the inbox, `"Alice via support" <support@example.org>`: under the sender's own domain the copy would fail its
  SPF and DKIM alignment, and its DMARC policy would have it refused.
- Reply-To leads to the sender: the mail's own Reply-To where it holds a mailbox, else its From, else the reverse-path.
- Subject gets a prefix in front, once; what stood there stays as it was sent, broken charsets included.
- `X-Responder-Loop: inbox` goes on top, so that the mail is known when it comes back. Older marks stay.
- What speaks of the mail as it was, or for its sender only, is removed: `REMOVED` says which and why.
- Message-ID, References, Date, To, Cc, List-*, Auto-Submitted and the Received lines stay: threads hold together at the
  target, the hops count on, and a reader sees whom the mail was for. A Date and a Message-ID that are missing are added.
- Auto-Submitted is not added: a person wrote this mail (RFC 3834 5), and the target's answer goes to them.
"""

from __future__ import annotations

from responder.mail.address import Address
from responder.mail.edit import REMOVED, SplitMail, missing_fields
from responder.mail.write import mailbox_field

__all__ = ["REMOVED", "compose_forward"]


def compose_forward(
    raw: bytes,
    *,
    inbox: Address,
    sender: Address | None,
    message_id: str,
    date: float,
    subject_prefix: str | None = None,
) -> bytes:
    """The mail `raw` as it goes on to a target. Never fails, whatever `raw` is.

    `sender` is the reverse-path, None for `<>`; `date` (unix seconds) and `message_id` serve a mail that has none itself.
    `subject_prefix` is `[local part of the inbox@]` where it is None, and "" for no prefix at all; a space divides it from
    the subject, and where the subject holds it already (`Re: [support@] ...`) nothing is added.

    The body comes out byte for byte if its lines end with CRLF; other line ends (LF, CR, CR CR LF) become CRLF, as bare ones
    are how mails are smuggled into SMTP. A header section ends at the first line that is no field, as it does for Postfix;
    that line is then the body's first. 8-bit octets of other fields stay as they are.
    """
    mail = SplitMail(raw)
    edited = {"from": mailbox_field("From", mail.author_name(inbox.local, sender), inbox).encode()}
    if not mail.mailboxes("reply-to"):
        target = mail.author(sender)
        edited["reply-to"] = mailbox_field("Reply-To", "", target).encode() if target else b""
    subject = mail.prefixed_subject(f"[{inbox.local}@]" if subject_prefix is None else subject_prefix)
    if subject is not None:
        edited["subject"] = subject
    edited |= missing_fields(mail, message_id, date)
    return mail.assemble([mailbox_field("X-Responder-Loop", "", inbox)], edited, REMOVED.__contains__)
