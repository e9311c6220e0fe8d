"""MIME parts as bytes that any SMTP server takes: 7-bit, CRLF, no line of 998 octets or more (RFC 2045, 2046, 2183, 2231)."""

from __future__ import annotations

import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from urllib.parse import quote

from responder.mail.write import line_text, well_formed

MAX_LINE = 997
"""Octets of a line before CRLF: RFC 5322 2.1.1 allows 998, and some servers count one more."""

_MAX_FILENAME = 240  # octets; what file systems take is 255

_CONTENT_TYPE = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]{0,62}/[A-Za-z0-9][\w!#$&^.+-]{0,62}", re.ASCII)
# No path, no drive, nothing that a file system forbids or that turns the direction of reading (`exe.jpg` for `gpj.exe`).
_NOT_IN_FILENAME = re.compile(r'[<>:"|?*;\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]')


@dataclass(frozen=True, slots=True)
class Part:
    """One MIME entity: its Content-* fields, CRLF at the end of each, and its body as it is sent."""

    fields: str
    body: bytes

    def __bytes__(self) -> bytes:
        return self.fields.encode("ascii") + b"\r\n" + self.body


def text_part(text: str, kind: str = "text/plain") -> Part:
    """A text in UTF-8. Never fails.

    What changes on the way: every line end is CRLF, the last line has one too, lone surrogates are U+FFFD. ASCII goes as it
    is (not as format=flowed: the text is not known to be wrapped); what SMTP would not carry so, as quoted-printable or
    base64, whichever is shorter.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text and not text.endswith("\n"):
        text += "\n"
    fields = f"Content-Type: {kind}; charset=utf-8\r\nContent-Transfer-Encoding: "
    if text.isascii() and "\0" not in text and (len(text) <= MAX_LINE or max(map(len, text.split("\n"))) <= MAX_LINE):
        return Part(f"{fields}7bit\r\n", text.replace("\n", "\r\n").encode("ascii"))
    octets = well_formed(text).encode()
    quoted = b2a_qp(octets, istext=True).replace(b"\n", b"\r\n")
    if len(quoted) * 57 <= len(octets) * 78:  # base64 turns 57 octets into a line of 78
        return Part(f"{fields}quoted-printable\r\n", quoted)
    return Part(f"{fields}base64\r\n", _base64(octets.replace(b"\n", b"\r\n")))


def attachment_part(name: str, content_type: str, content: bytes) -> Part:
    """Octets under a file name (RFC 2183), as base64. Never fails.

    A type that is none, or that must not be base64 (`message/*`, `multipart/*`: RFC 2046 5), is application/octet-stream.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not _CONTENT_TYPE.fullmatch(kind) or kind.startswith(("message/", "multipart/")):
        kind = "application/octet-stream"
    name = filename(name)
    plain = name.encode("ascii", "replace").decode("ascii").replace("?", "_")
    # Two fields, so that the old reader finds a name in ASCII (RFC 2045) and the other one the true one (RFC 2231), and
    # no parameter is there twice.
    true = f'filename="{name}"' if name == plain else f"filename*=utf-8''{quote(name, safe='')}"
    fields = (
        f'Content-Type: {kind};\r\n name="{plain}"\r\n'
        f"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment;\r\n {true}\r\n"
    )
    return Part(fields, _base64(content))


def filename(name: str) -> str:
    """A name that is no path and that any file system takes; "attachment" where nothing is left. Never fails."""
    name = re.split(r"[/\\]", line_text(name[-4096:], 4096).rstrip("/\\ "))[-1]
    name = _NOT_IN_FILENAME.sub("_", name).strip(". \xa0")
    while len(name.encode()) > _MAX_FILENAME:
        stem, dot, extension = name.rpartition(".")
        if not dot or len(extension) > 16:
            stem, dot, extension = name, "", ""
        name = stem[: max(1, len(stem) - 1 - (len(name.encode()) - _MAX_FILENAME) // 4)] + dot + extension
    return name.strip() or "attachment"


def multipart(subtype: str, parts: Sequence[Part], seed: str, parameters: str = "") -> Part:
    """The parts in a multipart entity. The boundary comes from `seed` and `subtype`, and occurs in none of the parts."""
    for number in count():
        mark = blake2b(f"{seed}\n{subtype}\n{number}".encode("utf-8", "replace"), digest_size=15).hexdigest()
        boundary = f"=_{mark}".encode("ascii")  # `=_` occurs in no quoted-printable and no base64 (RFC 2045 6.7)
        if not any(boundary in part.body for part in parts):
            break
    body = b"".join([b"--%s\r\n%s\r\n" % (boundary, bytes(part)) for part in parts]) + b"--%s--\r\n" % boundary
    fields = (
        f'Content-Type: multipart/{subtype};{parameters}\r\n boundary="=_{mark}"\r\nContent-Transfer-Encoding: 7bit\r\n'
    )
    return Part(fields, body)


def _base64(octets: bytes) -> bytes:
    coded = b2a_base64(octets, newline=False)
    return b"".join([coded[at : at + 76] + b"\r\n" for at in range(0, len(coded), 76)])
