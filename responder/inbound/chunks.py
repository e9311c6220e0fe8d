"""Receiving a message in chunks of a known size (BDAT, RFC 3030 2). Pure.

No octet of a chunk is looked at: nothing in it can end it. A chunk that is refused is taken in all the same, else its octets
would be run as commands.
"""

from __future__ import annotations

import re

from responder.inbound.replies import STORE_FULL, TOO_BIG, Reply

MAX_DIGITS = 12
"""Digits of a chunk size: more than any message has, leading zeros included."""

SMALL = 256
"""Octets of a chunk that brings a mail nearer; a shorter one is a command like any other, of which there may not be too many."""

_CHUNK = re.compile(rf"([0-9]{{1,{MAX_DIGITS}}})(?:[ \t]+(LAST))?", re.IGNORECASE | re.ASCII)


def parse_chunk(argument: str) -> tuple[int, bool] | None:
    """What stands behind BDAT: octets, and whether it is the last chunk. None where it is malformed: then nobody knows where
    the chunk ends."""
    found = _CHUNK.fullmatch(argument)
    return None if found is None else (int(found[1]), found[2] is not None)


class ChunkReceiver:
    """Collects one message, chunk by chunk. Each begins with `begin`, or with `refuse`: then it is thrown away as it comes."""

    __slots__ = ("_content", "_left", "last", "limit", "refusal", "size")

    def __init__(self, limit: int) -> None:
        self._content = bytearray()
        self._left = 0
        self.limit = limit  # octets of the message
        self.size = 0  # octets of the chunk
        self.last = False
        self.refusal: Reply | None = None  # of the chunk that comes

    @property
    def too_big(self) -> bool:
        """Whether it keeps nothing any more, and only looks for the end."""
        return self.refusal is not None

    @property
    def left(self) -> int:
        """Octets of the chunk that are still to come."""
        return self._left

    @property
    def lost(self) -> bool:
        """Whether the message can't be taken any more, whatever chunks follow."""
        return self.refusal in (TOO_BIG, STORE_FULL)

    def discard(self) -> None:
        """Let go of what is here, and keep nothing of what comes: there is no room."""
        self.refusal = self.refusal or STORE_FULL
        self._content.clear()

    def fits(self, size: int) -> bool:
        """Whether a chunk of that size may be added (RFC 1870 6.1 over all of them)."""
        return len(self._content) + size <= self.limit

    def begin(self, size: int, *, last: bool) -> None:
        """`size` octets come, to be kept."""
        self.size = self._left = size
        self.last = last

    def refuse(self, size: int, *, last: bool, refusal: Reply) -> None:
        """`size` octets come that nobody wants (RFC 3030 2: they are read before the refusal is said). What there was is gone."""
        self.begin(size, last=last)
        self.refusal = refusal
        self._content.clear()

    def feed(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """Take octets in. None: the chunk is not whole yet; else what came behind it, a bytearray in place."""
        count = len(data)
        if self.refusal is None:
            self._content += data if count <= self._left else memoryview(data)[: self._left]
        if count < self._left:
            self._left -= count
            return None
        left, self._left = self._left, 0
        if isinstance(data, bytearray):
            del data[:left]  # no copy of the rest: a hundred small chunks may have come with one read
            return data
        return data[left:]

    def take(self) -> bytes:
        """The message, with a line end at its end (empty where it has none)."""
        content, self._content = bytes(self._content), bytearray()
        return content if not content or content.endswith(b"\r\n") else content + b"\r\n"
