"""The hash of a body, in pieces: 25 MB must keep neither the event loop nor Python's lock (RFC 6376 3.4.3, 3.4.4, 3.7).

One pass for each canonicalisation serves all signatures: those that cover the first `l=` octets only take their digest when the
pass comes to that place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

PIECE: Final = 1 << 16  # octets: 0.2 ms at the most, and hashing one lets go of Python's lock


class BodyHash:
    """SHA-256 of a canonical body. `limits` are the lengths that digests are wanted at, besides that of the whole."""

    def __init__(self, relaxed: bool, limits: Iterable[int] = ()) -> None:
        self._relaxed = relaxed
        self.asked = set(limits)
        self._limits = sorted(self.asked, reverse=True)
        self._hash = hashlib.sha256()
        self._kept = b""  # the end of the last piece: what follows decides what becomes of it
        self._line_ends = 0  # CRLFs that count only where something follows
        self.length = 0
        """Octets of the canonical body, once it is finished."""
        self.digests: dict[int | None, bytes] = {}
        """By length; None is the whole. A length beyond the end is not there."""

    def run(self, content: bytes, start: int, piece: int = PIECE) -> BodyHash:
        """The body that begins there, to its end."""
        for place in range(start, len(content), piece):
            self._feed(content[place : place + piece])
        self._finish()
        return self

    def _feed(self, piece: bytes) -> None:
        data = self._kept + piece
        self._kept = b"\r" if data[-1:] == b"\r" else b""
        data = data.removesuffix(self._kept)
        if self._relaxed:
            data = data.replace(b"\t", b" ")
            if data[-1:] == b" ":
                data = data.rstrip(b" ")
                self._kept = b" " + self._kept
            while b"  " in data:  # each turn halves the longest run
                data = data.replace(b"  ", b" ")
            data = data.replace(b" \r\n", b"\r\n")
        self._take(data)

    def _take(self, data: bytes) -> None:
        """Canonical octets; CRLFs at their end wait for what follows."""
        end = len(data.rstrip(b"\r\n"))
        tail = data[end:]
        count = len(tail) // 2
        if tail != b"\r\n" * count:  # a bare CR or LF among them is no empty line
            count = 0
            while tail.endswith(b"\r\n", 0, len(tail) - 2 * count):
                count += 1
            end = len(data) - 2 * count
        if end:
            while self._line_ends:
                some = min(self._line_ends, PIECE // 2)
                self._write(b"\r\n" * some)
                self._line_ends -= some
            self._write(data[:end])
        self._line_ends += count

    def _finish(self) -> None:
        self._take(self._kept)
        if self.length or not self._relaxed:  # RFC 6376 3.4.3: one CRLF, even of nothing; 3.4.4: nothing of nothing
            self._write(b"\r\n")
        self._pass(self.length)
        self.digests[None] = self._hash.digest()

    def _write(self, data: bytes) -> None:
        while self._limits and self._limits[-1] < self.length + len(data):
            limit = self._limits.pop()
            first = self._hash.copy()
            first.update(data[: limit - self.length])
            self.digests[limit] = first.digest()
        self._hash.update(data)
        self.length += len(data)

    def _pass(self, length: int) -> None:
        if self._limits and self._limits[-1] == length:
            self.digests[self._limits.pop()] = self._hash.digest()
