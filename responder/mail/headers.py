"""The header fields of one message, found without parsing the message (RFC 5322 2.2).

A full MIME parse costs half a millisecond and more; the gate, the composer and the trace need a few fields of the header
section only. So the section is cut off, split once, and each field decoded when it is asked for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from email.errors import HeaderParseError
from email.header import decode_header
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache

MAX_SECTION = 1 << 20
"""Octets of a header section that are looked at: real ones stay under 64 KB, and a hostile one must not cost more."""

MAX_LINES = 10_000
"""Lines of a header section that are looked at: real ones have some hundred, and each costs half a microsecond for each
recipient."""

MAX_VALUE = 16384
"""Characters of one value that are decoded for people: decoding takes more than linear time."""

_END = re.compile(rb"\r?\n\r?\n")
_LINES = re.compile(rb"(?:[^\n]*\n){%d}" % MAX_LINES)
_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:[ \t]*([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.MULTILINE)
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


# fmt: off
_CHARSETS = frozenset({
    *aliases, *aliases.values(),
    # those that have no alias
    "cp720", "cp737", "cp856", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u", "utf_8_sig",
    "mac_arabic", "mac_croatian", "mac_farsi", "mac_romanian",
})
# fmt: on


class Headers:
    """Header fields in their order; names are compared without case, values are unfolded and otherwise as sent."""

    __slots__ = ("_fields", "cut")

    cut: bool
    """Whether the section is longer than `MAX_SECTION` or `MAX_LINES`: then there are fields that nobody has looked at."""

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self.cut = False
        self._collect([(name.encode("utf-8", "replace"), value.encode("utf-8", "replace")) for name, value in fields])

    def _collect(self, fields: list[tuple[bytes, bytes]]) -> None:
        self._fields: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            name = name.lower()
            if name in self._fields:
                self._fields[name].append(value)
            else:
                self._fields[name] = [value]

    @classmethod
    def parse(cls, content: bytes) -> Headers:
        """The fields of a message (headers, empty line, body). Never fails: what is no field is passed over."""
        headers = cls.__new__(cls)
        section = split_section(content)
        headers.cut = len(section) >= MAX_SECTION
        if section.count(b"\n") >= MAX_LINES and (first := _LINES.match(section)):
            section, headers.cut = first[0], True
        headers._collect(_FIELD.findall(section))
        return headers

    def get(self, name: str, default: str = "") -> str:
        """The first field of that name, as sent."""
        values = self._fields.get(_key(name))
        return _unfold(values[0]) if values else default

    def all(self, name: str) -> list[str]:
        """Every field of that name, in order."""
        return [_unfold(value) for value in self._fields.get(_key(name), ())]

    def written(self, name: str) -> list[bytes]:
        """Every field of that name to the octet, from the first that is no white space: folds and spaces behind included."""
        return list(self._fields.get(_key(name), ()))

    def count(self, name: str) -> int:
        """How many fields of that name there are."""
        return len(self._fields.get(_key(name), ()))

    def text(self, name: str) -> str:
        """The first field of that name for people: RFC 2047 words decoded, white space and controls made one space."""
        return decode_text(self.get(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._fields

    def __iter__(self) -> Iterator[str]:
        """The names there are, lower case, each once."""
        return iter([name.decode("ascii") for name in self._fields])

    def __len__(self) -> int:
        return sum(map(len, self._fields.values()))


@lru_cache(maxsize=512)
def _key(name: str) -> bytes:
    return name.lower().encode("utf-8", "replace")


def _unfold(raw: bytes) -> str:
    if b"\n" in raw:
        raw = _FOLD.sub(b"", raw)
    return raw.decode("utf-8", "replace").strip(" \t\r")


def split_section(content: bytes) -> bytes:
    """The header section of a message: all up to the first empty line, at most `MAX_SECTION` octets."""
    if content[:2] == b"\r\n" or content[:1] == b"\n":
        return b""
    end = _END.search(content, 0, MAX_SECTION)
    return content[: end.start()] if end else content[:MAX_SECTION]


def without_nul(content: bytes) -> bytes:
    """The message without NUL in its header section (RFC 5322 4: nobody may send it). It does not leave again with one, so a name
    that one hides here would be a field to whoever reads it next."""
    if b"\0" not in content:
        return content
    section = split_section(content)
    return section.replace(b"\0", b"") + content[len(section) :] if b"\0" in section else content


def decode_text(value: str) -> str:
    """RFC 2047 words decoded; every run of controls (CR, LF and NUL too) becomes one space. Never fails; a value is cut at
    `MAX_VALUE` characters.

    Python below 3.13 lets an encoded line break through (CVE-2024-6923), so what was decoded is cleaned, never trusted.
    """
    value = value[:MAX_VALUE]
    if "=?" in value:
        with contextlib.suppress(HeaderParseError, ValueError):
            value = "".join([_decode_word(word, charset) for word, charset in decode_header(value)])
    return clean(value)


def clean(value: str) -> str:
    """A text without controls and line breaks, fit for one header line; lone surrogates become U+FFFD."""
    if value.isprintable():
        return value.strip()
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub(" ", value)).strip()


def _decode_word(word: bytes | str, charset: str | None) -> str:
    if isinstance(word, str):
        return word
    if charset and not is_charset(charset):
        return word.decode("latin-1")
    try:
        return word.decode(charset or "ascii", "replace")
    except (LookupError, UnicodeError):  # a codec that is none for text, or has no "replace"
        return word.decode("latin-1")


def is_charset(name: str) -> bool:
    """Whether Python knows a charset of mail by that name. It keeps every other name that it is asked for in its memory, for
    ever, and mail may bring new ones each time."""
    return len(name) <= 40 and normalize_encoding(name).lower().replace(".", "_") in _CHARSETS
