"""What came by BDAT made fit for DATA: binary parts coded, line ends made whole (RFC 3030 3, RFC 2045 6, RFC 2046 5). Pure.

A mail with BODY=BINARYMIME may hold anything. It is stored so that it can be passed on to any host and read by any parser:
each leaf that is binary comes out as base64, its fields say so, and everything else stays as it was, octet for octet. Parts
are found by CRLF and the boundary, never by a CR or LF that stands alone. A signature over such a part (RFC 1847) does not
survive; RFC 3030 3 leaves a host that converts no choice.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterator
from typing import Final

MAX_DEPTH: Final = 50
"""Entities within entities. What is deeper is nobody's mail."""

MAX_PARTS: Final = 10_000
"""Entities of one mail."""

MAX_SECTION: Final = 1 << 20
"""Octets of one entity's header section."""

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:((?:[^\r\n]|\r\n[ \t]|\r(?!\n)|(?<!\r)\n)*)(?:\r\n|\Z)")
_TOKEN = re.compile(r"[ \t\r\n]*([!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+)")
_TYPE = re.compile(r"[ \t\r\n]*([!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+)[ \t]*/[ \t]*([!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+)")
_BOUNDARY = re.compile(r';[ \t\r\n]*boundary[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t;"]+))', re.IGNORECASE)
_MAX_LINE = 998  # RFC 5321 4.5.3.1.6
_LONG_LINE = re.compile(rb"[^\n]{%d}" % _MAX_LINE)  # the CR counted in
_IDENTITY = ("7bit", "8bit", "binary", "")
_CODED = ("base64", "quoted-printable")


class MIMEError(ValueError):
    """A structure that can't be walked through; the message says why, without repeating the mail."""


def with_line_ends(content: bytes) -> bytes:
    """Each CR and LF that stands alone made CRLF (RFC 5321 2.3.8). The end of the message must have been found before."""
    # A regular expression takes ten times as long: two seconds of the event loop for a mail of nothing else.
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def without_binary(content: bytes) -> bytes:
    """A whole mail whose leaves need no BINARYMIME any more; the mail itself where none did. Takes time by the mail's length.

    Raises `MIMEError`: a multipart without its boundary, without parts or without an end, coded as a whole, or too deep.
    """
    return _Walk().entity(content, 0)


class _Walk:
    def __init__(self) -> None:
        self._parts = 0

    def entity(self, content: bytes, depth: int) -> bytes:
        """One entity: fields, empty line, body."""
        self._parts += 1
        if depth > MAX_DEPTH or self._parts > MAX_PARTS:
            raise MIMEError("too many parts, or too deep")
        section, gap, body = _split(content)
        kind, boundary, encoding = _described(section)
        if kind.startswith("multipart/"):
            changed = self._multipart(body, boundary, encoding, depth)
        elif kind in ("message/rfc822", "message/global") and encoding in _IDENTITY:
            changed = self.entity(body, depth + 1)
        elif encoding not in _IDENTITY or not (encoding == "binary" or _is_binary(body)):
            return content
        elif kind.startswith("message/") and not _is_binary(body):  # RFC 2046 5.2: not to be coded
            changed = body
        else:
            return _encoded(section, b"base64") + (gap or b"\r\n") + _base64(body)
        if changed == body and encoding != "binary":
            return content
        if encoding == "binary":
            section = _encoded(section, b"7bit" if changed.isascii() and section.isascii() else b"8bit")
        return section + gap + changed

    def _multipart(self, body: bytes, boundary: bytes, encoding: str, depth: int) -> bytes:
        if encoding in _CODED:  # RFC 2045 6.4
            raise MIMEError("a multipart that is coded as a whole")
        if not boundary:
            raise MIMEError("a multipart without a boundary")
        made = []
        at = 0
        for start, end in _parts(body, boundary):
            made += [body[at:start], self.entity(body[start:end], depth + 1)]
            at = end
        if not made:
            raise MIMEError("a multipart without parts")
        return b"".join([*made, body[at:]])


def _split(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Header section with the line end of its last field, the empty line, and the body."""
    if content.startswith(b"\r\n"):
        return b"", b"\r\n", content[2:]
    end = content.find(b"\r\n\r\n", 0, MAX_SECTION)
    if end >= 0:
        return content[: end + 2], b"\r\n", content[end + 4 :]
    if len(content) > MAX_SECTION:
        raise MIMEError("a header section without an end")
    return content, b"", b""


def _described(section: bytes) -> tuple[str, bytes, str]:
    """Type, boundary and transfer encoding of an entity (RFC 2045 5.2, 6.1), in lower case but for the boundary."""
    kind, boundary, encoding = "text/plain", b"", ""
    seen = set()
    for field in _fields(section):
        name = field[1].lower()
        if name not in (b"content-type", b"content-transfer-encoding"):
            continue
        if name in seen:
            raise MIMEError("two fields that say what a part is")
        seen.add(name)
        value = field[2].decode("latin-1")
        if name == b"content-type":
            found = _TYPE.match(value)
            kind = f"{found[1]}/{found[2]}".lower() if found else "text/plain"
            marked = _BOUNDARY.search(value)
            if marked:
                text = marked[2] if marked[1] is None else re.sub(r"\\(.)", r"\1", marked[1])
                boundary = text.rstrip(" ").encode("latin-1")
        else:
            token = _TOKEN.match(value)
            encoding = token[1].lower() if token else ""
    return kind, boundary, encoding


def _fields(section: bytes) -> Iterator[re.Match[bytes]]:
    """The fields of a header section; what is no field is passed over."""
    at = 0
    while at < len(section):
        field = _FIELD.match(section, at)
        if field:
            yield field
            at = field.end()
        else:
            end = section.find(b"\r\n", at)
            at = len(section) if end < 0 else end + 2


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[int, int]]:
    """Where each part of a multipart begins and ends (RFC 2046 5.1.1): the CRLF before a delimiter belongs to it.

    Raises `MIMEError` where the closing delimiter is missing.
    """
    delimiter = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    start = -1
    at = 0
    while (found := delimiter.search(body, at)) is not None:
        if start >= 0:
            yield start, max(found.start(), start)
        if found[1]:
            return
        start = found.end() + 2
        at = found.end()  # its own line end may begin the next delimiter: an empty part
    raise MIMEError("a multipart without its end")


def _is_binary(body: bytes) -> bool:
    """Whether octets can't go as lines: NUL, a CR or LF alone, or a line that is too long."""
    pairs = body.count(b"\r\n")
    return (
        body.count(b"\n") != pairs
        or body.count(b"\r") != pairs
        or b"\0" in body
        or _LONG_LINE.search(body.replace(b"\r\n", b"\n")) is not None
    )


def _encoded(section: bytes, encoding: bytes) -> bytes:
    """A header section whose Content-Transfer-Encoding is this one."""
    line = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    for field in _fields(section):
        if field[1].lower() == b"content-transfer-encoding":
            return section[: field.start()] + line + section[field.end() :]
    return section + line


def _base64(octets: bytes) -> bytes:
    coded = b2a_base64(octets, newline=False)
    return b"\r\n".join([coded[at : at + 76] for at in range(0, len(coded), 76)])
