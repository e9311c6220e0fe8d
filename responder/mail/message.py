"""A message read for agents: its text, HTML, attachments and date (RFC 2045, 2046, 2047, 2183, 2231).

Nothing is read before it is asked for. The parts are found by searching the bytes for boundaries, not by the standard
library's parser: that one visits each line in Python and asks it of every open level, so a mail of a few MB holds the
process for minutes, and a few hundred levels end in a `RecursionError`. Here a part costs one search per level, levels and
parts are bounded, and each header is decoded by the standard library, on values of bounded length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message as Fields
from email.utils import collapse_rfc2231_value, parsedate_to_datetime
from functools import cached_property
from typing import Final

from responder.mail.decoding import decode_body, decode_charset
from responder.mail.headers import Headers, decode_text
from responder.mail.html import to_text

MAX_PARTS: Final = 500
"""Parts that are told apart; what follows the last of them belongs to it. Real mail has a few dozen at most."""

MAX_DEPTH: Final = 10
"""Levels of multipart that are opened; a deeper one is an attachment as it is."""

MAX_NAME: Final = 200
"""Octets of an attachment's name in UTF-8; file systems take 255."""

MAX_VALUE = 4096  # characters of a header value that are read
MAX_STRUCTURED = 1500  # characters of a value with parameters, and the parameters in it: the standard library takes
MAX_PARAMETERS = 60  # quadratic time for both
MAX_BOUNDARY = 200  # RFC 2046 5.1.1 allows 70
MAX_ENCODED_NAME = 500  # characters of a name before RFC 2047 words are decoded, which takes quadratic time too
MAX_PART_HEADER = 8192  # octets of a part's header section that are read: 500 parts of more cost seconds

UNNAMED: Final = "unnamed"

_SECTION = re.compile(rb"(?:(?:[!-9;-~]++[ \t]*+:|[ \t])[^\n]*+(?:\n|\Z))*+")
_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,127}/[!#$%&'*+.^_`|~0-9a-z-]{1,127}")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,990}>")
_BARE_ID = re.compile(r"[!-;=?A-~]{1,400}@[!-;=?A-~]{1,400}")
_DOTS = re.compile(r"\.{2,}")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is not the mail's text. `name` is fit for a file's name as it is: never empty, never a path."""

    name: str
    content_type: str
    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Octets of `data`."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that is no multipart, or one that is left closed: what its header says, and where its body stands."""

    content_type: str
    charset: str
    encoding: str
    name: str  # "" without one
    attached: bool  # Content-Disposition says so
    begin: int
    end: int


class Message:
    """One message as it was received. No property fails, whatever the octets; each is computed once."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @cached_property
    def headers(self) -> Headers:
        """The header fields."""
        return Headers.parse(self.raw)

    @cached_property
    def subject(self) -> str:
        """The subject on one line, RFC 2047 decoded."""
        return decode_text(self.headers.get("Subject")[:MAX_VALUE])

    @cached_property
    def message_id(self) -> str:
        """The Message-ID as `<...>`, printable ASCII without blanks; "" where there is none of that form."""
        value = self.headers.get("Message-ID")[:MAX_VALUE].strip()
        if match := _MESSAGE_ID.search(value):
            return match[0]
        return f"<{value}>" if _BARE_ID.fullmatch(value) else ""

    @cached_property
    def date(self) -> datetime | None:
        """The Date field, with a time zone (UTC where it names none); None where it is no date."""
        try:
            date = parsedate_to_datetime(self.headers.get("Date")[:200])
            return date if date.tzinfo else date.replace(tzinfo=UTC)
        except Exception:  # the parser raises half a dozen types on odd dates
            return None

    @cached_property
    def text(self) -> str:
        """What the mail says, with `\\n` line ends: its first plain text, else its HTML as text, else ""."""
        plain = self._decode(self._plain) if self._plain else ""
        if self._html and not plain.strip():
            return to_text(self.html)
        return plain

    @cached_property
    def html(self) -> str:
        """The first HTML text, with `\\n` line ends; "" where there is none. It is the sender's: never show it unescaped."""
        return self._decode(self._html) if self._html else ""

    @cached_property
    def attachments(self) -> list[Attachment]:
        """Every part that is neither `text` nor `html`, in order. A message inside the message is one attachment."""
        return [
            Attachment(clean_name(part.name), part.content_type, self._body(part))
            for part in self._parts
            if part is not self._plain and part is not self._html
        ]

    @cached_property
    def _plain(self) -> _Part | None:
        return self._first("text/plain")

    @cached_property
    def _html(self) -> _Part | None:
        return self._first("text/html")

    def _first(self, content_type: str) -> _Part | None:
        """The first part of that type that is to be read with the mail; a name makes a part below the top a file."""
        for part in self._parts:
            if part.content_type == content_type and not part.attached and (not part.name or len(self._parts) == 1):
                return part
        return None

    @cached_property
    def _parts(self) -> list[_Part]:
        """The parts in their order. The stack replaces recursion: its entries are spans of `raw` still to be looked at."""
        raw = self.raw
        found: list[_Part] = []
        stack = [(0, len(raw), 0, "text/plain")]
        spans = 1
        while stack:
            begin, end, depth, default = stack.pop()
            headers, body = _split(raw, begin, end)
            if not depth:
                headers = self.headers
            content_type, parameters = _parameters(headers, "Content-Type")
            if not _TYPE.fullmatch(content_type):
                content_type = "text/plain" if content_type else default  # RFC 2045 5.2
            if content_type.startswith("multipart/") and depth < MAX_DEPTH:
                boundary = parameters.get("boundary", "").rstrip()[:MAX_BOUNDARY].encode("utf-8", "replace")
                inner = _cut(raw, body, end, boundary, MAX_PARTS - spans) if boundary else []
                if inner:
                    spans += len(inner)
                    default = "message/rfc822" if content_type == "multipart/digest" else "text/plain"
                    stack += [(*span, depth + 1, default) for span in reversed(inner)]
                    continue
                content_type = "text/plain"  # a text that lost its frame
            found.append(_leaf(headers, content_type, parameters, body, end))
        return found

    def _body(self, part: _Part) -> bytes:
        return decode_body(self.raw[part.begin : part.end], part.encoding)

    def _decode(self, part: _Part) -> str:
        text = decode_charset(self._body(part), part.charset)
        return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def clean_name(name: str) -> str:
    """A file's name out of a sender's text: one path component without controls, leading or double dots, and short."""
    name = name.replace("\\", "/").replace(":", "_").rstrip("/ ").rpartition("/")[2]
    name = "".join([char for char in " ".join(name.split()) if char.isprintable()])
    name = _DOTS.sub(".", name).strip(". ")
    stem, dot, ending = name.rpartition(".")
    if not dot or not stem or len(ending) > 20:
        stem, ending = name, ""
    ending = dot + ending if ending else ""
    room = MAX_NAME - len(ending.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + ending or UNNAMED


def _split(raw: bytes, begin: int, end: int) -> tuple[Headers, int]:
    """The header fields of the part in `raw[begin:end]`, and where its body begins: behind the empty line, or at the first
    line that is no field where that is missing."""
    section = _SECTION.match(raw, begin, end)
    at = section.end() if section else begin
    headers = Headers.parse(raw[begin : min(at, begin + MAX_PART_HEADER)])
    if raw.startswith(b"\r\n", at, end):
        return headers, at + 2
    return headers, at + 1 if raw.startswith(b"\n", at, end) else at


def _cut(raw: bytes, begin: int, end: int, boundary: bytes, most: int) -> list[tuple[int, int]]:
    """The spans between the boundary lines of a multipart's body (RFC 2046 5.1.1), at most `most`.

    An end that is missing is the end of the body. A boundary may stand on the body's first line: the line break that ends
    the header section counts as the one before it.
    """
    spans: list[tuple[int, int]] = []
    opened = -1
    line = re.compile(rb"\n--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r?\n|\Z)")
    at = max(begin - 1, 0)
    for _ in range(2 * MAX_PARTS):
        match = line.search(raw, at, end)
        if not match:
            break
        if opened >= 0:
            close = match.start() - (
                raw[match.start() - 1] == 13
            )  # the line break before a boundary belongs to it, CR too
            if close > opened:  # boundary lines that follow each other have no part between them
                spans.append((opened, close))
            if match[1]:
                return spans
        opened = match.end()
        if len(spans) >= most:
            break
        at = opened - 1  # one line break may end this boundary line and begin the next one
    if opened >= 0:
        spans.append((opened, end))
    return spans


def _parameters(headers: Headers, name: str) -> tuple[str, dict[str, str]]:
    """A structured field's value and its parameters (RFC 2045 5.1, RFC 2231), both lower case where case does not count."""
    value = headers.get(name)[:MAX_STRUCTURED]
    found: dict[str, str] = {}
    if 0 < value.count(";") <= MAX_PARAMETERS:
        fields = Fields()
        fields[name] = value
        try:
            pairs = fields.get_params([], name)[1:]
            found = {key.lower(): collapse_rfc2231_value(text) for key, text in reversed(pairs)}
        except Exception:  # the parser raises on some broken continuations and charsets
            found = {}
    return value.partition(";")[0].partition("(")[0].strip().lower(), found


def _leaf(headers: Headers, content_type: str, parameters: dict[str, str], begin: int, end: int) -> _Part:
    disposition, described = _parameters(headers, "Content-Disposition")
    name = described.get("filename") or parameters.get("name") or ""
    return _Part(
        content_type=content_type,
        charset=parameters.get("charset", ""),
        encoding=headers.get("Content-Transfer-Encoding")[:100].partition("(")[0].partition(";")[0].strip().lower(),
        name=decode_text(name[:MAX_ENCODED_NAME]),
        attached=disposition == "attachment",
        begin=begin,
        end=end,
    )
