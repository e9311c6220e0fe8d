"""A mail taken apart so that its header fields can be edited and its body stays as it is: what forwards and lists share.

What is not edited keeps its octets, broken charsets and odd folds included. Nothing here fails, whatever the mail is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from responder.mail.address import Address, from_header
from responder.mail.headers import MAX_SECTION, decode_text
from responder.mail.write import encoded_words, format_date, line_text, text_field

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
_MAX_VALUE = 4096  # octets of an address field or a Subject that are looked at
_MAX_PREFIX = 100
_MAX_NAME = 150  # leaves room for " via inbox"

_EMPTY_LINE = re.compile(rb"(?:\A|\n)\r{0,2}\n")
_MBOX = re.compile(rb"(?:>?From [^\n]*\n)+")
# RFC 5322 4.5: white space before the colon is obsolete; it is dropped, as many parsers take such a line for text.
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*\n(?:[ \t][^\n]*\n)*)")


class SplitMail:
    """A mail as fields and body.

    The body is the mail's own if its lines end with CRLF; other line ends (LF, CR, CR CR LF) become CRLF, as bare ones are how
    mails are smuggled into SMTP. A header section ends at the first line that is no field, as it does for Postfix; that line
    is then the body's first.
    """

    def __init__(self, raw: bytes) -> None:
        self._fields, self._body = _split(raw)
        self._values: dict[str, list[bytes]] = {}
        for name, value in self._fields:
            self._values.setdefault(name.lower(), []).append(value)

    def values(self, name: str) -> list[bytes]:
        """What stands behind the colon of each field of that name (lower case): octets as sent, folds and CRLF included."""
        return self._values.get(name, [])

    def value(self, name: str) -> bytes:
        """The first of them, b"" where there is none."""
        return next(iter(self.values(name)), b"")

    def mailboxes(self, name: str) -> list[tuple[str, Address]]:
        """The (display name, mailbox) pairs of the first field of that name."""
        return mailboxes(self.value(name))

    def author_name(self, via: str, sender: Address | None) -> str:
        """Whom the mail is from, for people: `Alice via support`. `sender` is the reverse-path."""
        authors = self.mailboxes("from")
        if authors:
            name = decode_text(authors[0][0]) or str(authors[0][1])
        else:
            name = decode_text(_unfold(self.value("from"))) or (str(sender) if sender else "Unknown sender")
        return f"{line_text(name, _MAX_NAME)} via {via}"

    def author(self, sender: Address | None) -> Address | None:
        """Whom a reply is to reach: the first author, else the reverse-path."""
        authors = self.mailboxes("from")
        return authors[0][1] if authors else sender

    def prefixed_subject(self, prefix: str) -> bytes | None:
        """The Subject field with a prefix in front; None where the subject holds it already (`Re: [support@] ...`)."""
        prefix = line_text(prefix, _MAX_PREFIX)
        value = self.value("subject")
        if prefix.casefold() in decode_text(_unfold(value)).casefold():
            return None
        return _prefixed(prefix, value)

    def assemble(self, top: Sequence[str], edited: Mapping[str, bytes], removed: Callable[[str], bool]) -> bytes:
        """The mail again: `top` fields first, `edited` ones (by lower-case name, CRLF at their ends) in the place of the first of
        their name, else behind all others; without those of which `removed` (lower-case name) is true."""
        out = [field.encode() for field in top]
        done: set[str] = set()
        for name, value in self._fields:
            lower = name.lower()
            if removed(lower) or lower in done:
                continue
            if lower in _ONCE or lower in edited:
                done.add(lower)
            out.append(edited[lower] if lower in edited else b"%s:%s" % (name.encode("ascii"), value))
        out += [field for name, field in edited.items() if name not in done]
        return b"".join([*out, b"\r\n", self._body])


def mailboxes(value: bytes) -> list[tuple[str, Address]]:
    """The (display name, mailbox) pairs of an address field's value; what is no address is left out."""
    try:
        return from_header(_unfold(value))
    except RecursionError:  # the standard library's parser climbs down each "(" of a comment
        return []


def missing_fields(mail: SplitMail, message_id: str, date: float) -> dict[str, bytes]:
    """Date (unix seconds) and Message-ID for a mail that has none itself, as `SplitMail.assemble` takes them."""
    found = {}
    if not mail.value("date").strip():
        found["date"] = f"Date: {format_date(date)}\r\n".encode("ascii")
    if not mail.value("message-id").strip():
        found["message-id"] = f"Message-ID: {message_id}\r\n".encode("ascii")
    return found


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
