"""Authentication-Results that claim to be ours, and were in the mail before we had looked at it (RFC 8601 5)."""

from __future__ import annotations

import re
from typing import Final

from responder.mail import headers

MAX_SECTION: Final = headers.MAX_SECTION + 2  # octets: no more are ever read as fields here
NAME: Final = b"authentication-results"

# A bare CR ends a line too: some readers of mail see one there.
_FIELD = re.compile(rb"(?:(?<=[\r\n])|\A)authentication-results[ \t]*:", re.IGNORECASE)
_END = re.compile(rb"\n(?![ \t])|\Z")
_END_OF_BARE = re.compile(rb"(?:\r(?!\n)|\n)(?![ \t])|\Z")  # as those see it for whom a bare CR ends a line
_SKIPPED = re.compile(rb"[\x00-\x20\x7f]+")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_TOKEN = re.compile(rb"[^\x00-\x20\x7f;()\"]+")
_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_COMMENT = re.compile(rb"[^()\\]+|\\.|[()]", re.DOTALL)


def strip_forged(content: bytes, hostname: str) -> bytes:
    """The message without the `Authentication-Results` fields whose authserv-id is `hostname`, however they are written.

    A field goes with all of its lines: what stands behind a bare CR in it must not become a field of its own, and what stands
    behind it must not be drawn into the line before.
    Those of other hosts stay: nobody here believes them. A message without any comes back as it is.
    """
    end = _section_end(content)
    section = content[:end]
    if NAME not in section.lower():
        return content
    ours = hostname.encode("utf-8", "replace").lower().rstrip(b".")
    kept: list[bytes] = []
    position = until = 0
    for match in _FIELD.finditer(section):
        if match.start() < position:
            continue
        if match.start() < until:  # within the one before: no octet is looked at once for each of any number of those
            value = section[match.end() : _end(_END_OF_BARE, section, match.end())]
        else:
            until = _end(_END, section, match.end())
            value = section[match.end() : until]
        if _claims(value, ours):
            before = section[position : match.start()].rstrip(b"\r")
            kept.append(before)
            if before[-1:] not in (b"", b"\n"):  # it began behind a bare CR
                kept.append(b"\r\n")
            position = until
    if not position:
        return content
    return b"".join([*kept, section[position:], content[end:]])


def _end(pattern: re.Pattern[bytes], section: bytes, position: int) -> int:
    found = pattern.search(section, position)
    return found.end() if found else len(section)


def _section_end(content: bytes) -> int:
    """Where the body begins, at the latest: the first empty line by any reading, as far as anybody here looks."""
    end = min(len(content), MAX_SECTION)
    for empty in (b"\r\n\r\n", b"\n\n"):
        place = content.find(empty, 0, end + len(empty))
        if place >= 0:
            end = min(end, place + 2)
    return end


def _claims(value: bytes, ours: bytes) -> bool:
    """Whether a field's authserv-id is ours (RFC 8601 2.2: behind white space and comments, perhaps in quotes)."""
    position = 0
    while True:
        if space := _SKIPPED.match(value, position):
            position = space.end()
        elif value[position : position + 1] == b"(":
            position = _behind_comment(value, position)
            if position < 0:
                return ours in value.lower()  # a comment without an end: whatever reads it may read our name
        else:
            break
    if quoted := _QUOTED.match(value, position):
        return _PAIR.sub(rb"\1", quoted[1]).strip().lower().rstrip(b".") == ours
    if token := _TOKEN.match(value, position):
        # No host is named by an encoded word (RFC 2047), but a reader that decodes all fields finds anything in it.
        return token[0].startswith(b"=?") or token[0].lower().rstrip(b".") == ours
    return ours in value.lower()


def _behind_comment(value: bytes, position: int) -> int:
    """Where the comment that begins there has ended; -1 where it never does. Comments nest (RFC 5322 3.2.2)."""
    depth = 0
    for match in _COMMENT.finditer(value, position):
        depth += (match[0] == b"(") - (match[0] == b")")
        if depth == 0:
            return match.end()
    return -1
