"""The header section of a message as its signers saw it: fields in their order, to the octet (RFC 6376 3.4).

`mail.headers.Headers` gives values for reading; a signature is about octets, folds and the order of equal names. Nothing here
takes more than linear time, whatever a mail's fields say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from dkim.canonicalization import Relaxed  # type: ignore[import-untyped]

from responder.mail.headers import MAX_LINES

MAX_SECTION: Final = 1 << 18
"""Octets of a header section that signatures are looked at in. Real ones stay under 64 KB."""
MAX_FIELD: Final = 16_384
"""Octets of a field that is taken for a signature. Real ones have some hundred, with many signed names two thousand."""

_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")


class Field(NamedTuple):
    """One field: its name as written (white space before the colon included), and all behind the colon, with the last CRLF."""

    name: bytes
    value: bytes

    @property
    def key(self) -> bytes:
        return self.name.rstrip(b" \t").lower()


class Section:
    """A message's fields, and where its body begins."""

    def __init__(self, content: bytes) -> None:
        end = _EMPTY_LINE.search(content, 0, MAX_SECTION)
        if content[:2] == b"\r\n" or content[:1] == b"\n":
            section, self.body = b"", content.index(b"\n") + 1
        elif end is not None:
            section, self.body = content[: end.start()], end.end()
        else:
            section, self.body = content[:MAX_SECTION], len(content)
        lines = section.split(b"\n", MAX_LINES)
        self.cut = len(section) >= MAX_SECTION or len(lines) > MAX_LINES
        """Whether there are fields that nobody has looked at. What a signature says of such a message is not known."""
        self.fields = list(_fields(lines[:MAX_LINES])) if section else []
        self._places: dict[bytes, list[int]] = {}
        for place, field in enumerate(self.fields):
            self._places.setdefault(field.key, []).append(place)
        self._canonical: dict[tuple[int, bool], bytes] = {}

    def all(self, key: bytes) -> list[Field]:
        """The fields of that name (lower case), from the top."""
        return [self.fields[place] for place in self._places.get(key, ())]

    def signed(self, keys: Iterable[bytes], relaxed: bool) -> Iterator[bytes]:
        """For each name the next field of it from the bottom, while there is one (RFC 6376 5.4.2), in its canonical form. That
        is made once, however many signatures there are."""
        left: dict[bytes, int] = {}
        for key in keys:
            places = self._places.get(key, [])
            number = left.get(key, len(places))
            if number:
                left[key] = number - 1
                place = places[number - 1]
                form = self._canonical.get((place, relaxed))
                if form is None:
                    form = self._canonical[place, relaxed] = canonical(self.fields[place], relaxed)
                yield form


def canonical(field: Field, relaxed: bool) -> bytes:
    """The field as it is signed, with its line end (RFC 6376 3.4.1, 3.4.2)."""
    if relaxed:
        (name, value), *_ = Relaxed.canonicalize_headers([field])
        return bytes(name + b":" + value)
    return field.name + b":" + field.value


def without_signature(field: Field) -> Field:
    """The field with nothing between `b=` and the next `;` (RFC 6376 3.7)."""
    tags = field.value.split(b";")
    for number, tag in enumerate(tags):
        name, equals, _ = tag.partition(b"=")
        if equals and name.strip() == b"b":
            tags[number] = name + equals
    return Field(field.name, b";".join(tags))


def _fields(lines: list[bytes]) -> Iterator[Field]:
    """A line that is no field has no name; what is folded behind it belongs to it."""
    name, pieces = b"", [b""]
    for line in lines:
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            pieces.append(line)
            continue
        if name:
            yield Field(name, b"\r\n".join([*pieces, b""]))
        match = _NAME.match(line)
        name, pieces = (match[0][:-1], [line[match.end() :]]) if match else (b"", [b""])
    if name:
        yield Field(name, b"\r\n".join([*pieces, b""]))
