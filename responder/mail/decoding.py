"""Bodies as they came, back to octets and texts (RFC 2045 6, RFC 2046 4.1.2). Nothing here fails."""

from __future__ import annotations

import binascii
import re
from typing import Final

from responder.mail.headers import is_charset

MAX_SLOW = 2 << 20  # octets of a text that are read in any other charset: where none of them fits, that takes 0.2 s

_QUICK: Final = frozenset({"utf_8", "utf8", "iso_8859_1", "iso8859_1", "latin_1", "latin1"})
# Python's codecs that are no charset of mail: slow on long input, or made to yield what is no text.
_NO_CHARSETS: Final = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})
_CHARSET = re.compile(r"[a-z0-9_.:]{1,40}")
_NOT_BASE64 = bytes(sorted(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")))


def decode_body(body: bytes, encoding: str) -> bytes:
    """A body without its transfer encoding (RFC 2045 6). Never fails: what is broken is decoded as far as it goes."""
    if encoding == "quoted-printable":
        return binascii.a2b_qp(body)
    if encoding != "base64":
        return body
    try:
        return binascii.a2b_base64(body)
    except binascii.Error:  # bad padding
        digits = body.translate(None, _NOT_BASE64)
        if len(digits) % 4 == 1:
            digits = digits[:-1]
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def decode_charset(body: bytes, charset: str) -> str:
    """Octets as text. Never fails: an unknown charset reads as Latin-1, one that is missing or ASCII as UTF-8 if it is. Of a
    text in a charset that takes its time to read, `MAX_SLOW` octets are read."""
    name = charset.strip().lower().replace("-", "_").replace(" ", "_")
    if name in ("", "ascii", "us_ascii", "unknown_8bit", "8bit"):
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            return body.decode("latin-1")
    if name in _NO_CHARSETS or not _CHARSET.fullmatch(name) or not is_charset(name):
        return body.decode("latin-1")
    if name not in _QUICK:
        body = body[:MAX_SLOW]
    try:
        text = body.decode(name, "replace")
    except (LookupError, ValueError):  # no such charset, or a codec that is none for text
        return body.decode("latin-1")
    try:
        text.encode()
    except UnicodeEncodeError:  # UTF-7 can spell half a surrogate pair
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
