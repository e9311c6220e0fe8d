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

import re
from typing import Final

from responder.mail.address import Address, from_header
from responder.mail.headers import MAX_SECTION, decode_text
from responder.mail.write import encoded_words, format_date, line_text, mailbox_field, text_field

REMOVED: Final = frozenset({
    "return-path",  # the last host's note of the envelope (RFC 5321 4.4); the next one writes its own
    *("bcc", "resent-bcc"),  # RFC 5322 3.6.3: not for others' eyes
    # signatures of what was edited, and verdicts about it
    *("dkim-signature", "x-google-dkim-signature", "domainkey-signature"),
    *("arc-seal", "arc-message-signature", "arc-authentication-results"),
    *("authentication-results", "received-spf"),
    "sender",  # would stand against the new From (RFC 5322 3.6.2)
    # asks for mail to whom the target does not know: receipts and errors go to no one behind the sender's back
    *("disposition-notification-to", "disposition-notification-options", "return-receipt-to", "errors-to"),
    *("x-confirm-reading-to", "generate-delivery-report"),
})  # fmt: skip
"""Fields that a forwarded mail loses, in lower case."""

_ONCE = frozenset({"from", "reply-to", "subject"})  # of several only the first is what people see
_MAX_VALUE = 4096  # octets of From, Reply-To and Subject that are looked at
_MAX_PREFIX = 100
_MAX_NAME = 150  # leaves room for " via inbox"

_EMPTY_LINE = re.compile(rb"(?:\A|\n)\r{0,2}\n")
_MBOX = re.compile(rb"(?:>?From [^\n]*\n)+")
# RFC 5322 4.5: white space before the colon is obsolete; it is dropped, as many parsers take such a line for text.
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*\n(?:[ \t][^\n]*\n)*)")


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
    fields, body = _split(raw)
    values: dict[str, bytes] = {}
    for name, value in fields:
        values.setdefault(name.lower(), value)
    authors = _mailboxes(values.get("from", b""))
    prefix = line_text(f"[{inbox.local}@]" if subject_prefix is None else subject_prefix, _MAX_PREFIX)

    edited = {
        "from": mailbox_field("From", _display_name(values.get("from", b""), authors, inbox, sender), inbox).encode()
    }
    if not _mailboxes(values.get("reply-to", b"")):
        target = authors[0][1] if authors else sender
        edited["reply-to"] = mailbox_field("Reply-To", "", target).encode() if target else b""
    if prefix.casefold() not in decode_text(_unfold(values.get("subject", b""))).casefold():
        edited["subject"] = _prefixed(prefix, values.get("subject", b""))
    if not values.get("date", b"").strip():
        edited["date"] = f"Date: {format_date(date)}\r\n".encode("ascii")
    if not values.get("message-id", b"").strip():
        edited["message-id"] = f"Message-ID: {message_id}\r\n".encode("ascii")

    out = [mailbox_field("X-Responder-Loop", "", inbox).encode()]
    done: set[str] = set()
    for name, value in fields:
        lower = name.lower()
        if lower in REMOVED or lower in done:
            continue
        if lower in _ONCE or lower in edited:
            done.add(lower)
        out.append(edited[lower] if lower in edited else b"%s:%s" % (name.encode("ascii"), value))
    out += [field for name, field in edited.items() if name not in done]
    return b"".join([*out, b"\r\n", body])


def _split(raw: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """The fields (name, the rest of the field as it was, with CRLF) and the body."""
    empty = _EMPTY_LINE.search(raw, 0, MAX_SECTION)
    # Without one all is header, or more of it than anyone means: then the rest is body.
    start = empty.end() if empty else raw.rfind(b"\n", 0, MAX_SECTION) + 1 if len(raw) > MAX_SECTION else len(raw)
    lines = _lf(raw[:start])
    if not lines.endswith(b"\n"):
        lines += b"\n"
    # A bare CR must not become a line end here: it would make a field of a field's text.
    section = lines.replace(b"\r", b" ").replace(b"\0", b" ")
    mbox = _MBOX.match(section)
    at = mbox.end() if mbox else 0
    fields = []
    while match := _FIELD.match(section, at):
        fields.append((match[1].decode("ascii"), match[2].replace(b"\n", b"\r\n")))
        at = match.end()
    body = raw[start:]
    if lines[at:].strip():
        body = lines[at:] + body
    if not body.count(b"\r\n") == body.count(b"\n") == body.count(b"\r"):
        body = _lf(body).replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return fields, body


def _lf(text: bytes) -> bytes:
    """The text with LF for CR LF and for CR CR LF, which some programs make of it."""
    return text.replace(b"\r\n", b"\n").replace(b"\r\n", b"\n")


def _unfold(value: bytes) -> str:
    """The beginning of a field's value as text: UTF-8, else Latin-1, which takes any octet."""
    value = value[:_MAX_VALUE].replace(b"\r\n", b"")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _mailboxes(value: bytes) -> list[tuple[str, Address]]:
    try:
        return from_header(_unfold(value))
    except RecursionError:  # the standard library's parser climbs down each "(" of a comment
        return []


def _display_name(value: bytes, authors: list[tuple[str, Address]], inbox: Address, sender: Address | None) -> str:
    """Whom the mail is from, for people: `Alice via support`."""
    if authors:
        name = decode_text(authors[0][0]) or str(authors[0][1])
    else:
        name = decode_text(_unfold(value)) or (str(sender) if sender else "Unknown sender")
    return f"{line_text(name, _MAX_NAME)} via {inbox.local}"


def _prefixed(prefix: str, value: bytes) -> bytes:
    """The Subject field with the prefix in front of what stood there, which keeps its octets and its folds."""
    rest = value.lstrip(b" \t\r\n")
    if rest.startswith(b"=?") and not prefix.isascii():
        # White space between two encoded words is not shown (RFC 2047 6.2): the dividing space goes into the first one.
        head = ("Subject: " + "\r\n ".join(encoded_words(f"{prefix} ", 60))).encode("ascii")
    else:
        head = text_field("Subject", prefix).encode("ascii").removesuffix(b"\r\n")
    if not rest:
        return head + b"\r\n"
    column = len(head) - head.rfind(b"\n") + rest.index(b"\r\n")
    return head + (b" " if column <= 78 else b"\r\n ") + rest
