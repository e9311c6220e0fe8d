"""Header fields that are put on top of a mail as it comes in, and those in it that pretend to be such."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from responder.mail.headers import MAX_SECTION
from responder.mail.write import plain_field, text_field

_END = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?![ \t])|\Z")


def stamp(fields: Mapping[str, str]) -> bytes:
    """The fields, each on lines of its own with CRLF at its end. Names are valid; of a value one line is left, and what is not
    ASCII becomes RFC 2047 words."""
    lines = [plain_field(name, text) if text.isascii() else text_field(name, text) for name, text in fields.items()]
    return "".join(lines).encode("ascii", "replace")


def without_fields(content: bytes, names: Iterable[str]) -> bytes:
    """The message without header fields of these names, in whatever case and however folded. Where it has none it comes back as
    it is. Fields that nobody looks at (behind `MAX_SECTION` octets) stay."""
    wanted = frozenset(name.lower() for name in names)
    section = content[: _section_end(content)]
    there = section.lower()
    if not any(name.encode("ascii", "replace") in there for name in wanted):
        return content
    kept: list[bytes] = []
    position = 0
    for match in _pattern(wanted).finditer(section):
        if match.start() < position:  # within a field that is gone already
            continue
        stop = _END.search(section, match.end())
        kept.append(section[position : match.start()])
        position = stop.end() if stop else len(section)
    return b"".join([*kept, content[position:]])


@lru_cache(maxsize=64)
def _pattern(names: frozenset[str]) -> re.Pattern[bytes]:
    """A field of these names. A bare CR ends a line too: some readers of mail see one there."""
    choice = b"|".join(sorted(re.escape(name.encode("ascii", "replace")) for name in names))
    return re.compile(rb"(?:(?<=[\r\n])|\A)(?:" + choice + rb")[ \t]*:", re.IGNORECASE)


def _section_end(content: bytes) -> int:
    """Where the body begins, at the latest: the first empty line by any reading."""
    if content[:2] == b"\r\n" or content[:1] == b"\n":
        return 0
    found = [content.find(empty, 0, MAX_SECTION) for empty in (b"\r\n\r\n", b"\n\n")]
    return min([at + 2 for at in found if at >= 0], default=min(len(content), MAX_SECTION))
