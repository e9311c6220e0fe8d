"""Receiving message data: in bulk, up to `<CRLF>.<CRLF>` and nothing else (RFC 5321 4.1.1.4, 4.5.2). Pure.

Lines are never looked at one by one: one search finds the end, one replacement takes the stuffed dots away.
"""

from __future__ import annotations

END = b"\r\n.\r\n"


class DataReceiver:
    """Collects one message. Past `limit` octets it keeps nothing but goes on looking for the end."""

    __slots__ = ("_buffer", "_scanned", "_stuffed", "discarded", "limit", "too_big")

    def __init__(self, limit: int) -> None:
        # The CRLF that ended the DATA command also begins the message: ".<CRLF>" at once is an empty one.
        self._buffer = bytearray(b"\r\n")
        self._scanned = 0
        self._stuffed = 0  # dots in the buffer that `take` will leave out: the limit is on what is left (RFC 1870 6.2)
        self.limit = limit
        self.too_big = False
        self.discarded = False  # for want of room, whatever its size

    def feed(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """Take octets in. None: the end is not there yet; else what came behind it."""
        known = len(self._buffer)
        self._buffer += data
        at = self._buffer.find(END, self._scanned)
        if at < 0:
            self._scanned = max(0, len(self._buffer) - len(END) + 1)
            if not self.too_big:
                # Only what is new is looked at; "\r\n" may have come before its dot.
                self._stuffed += self._buffer.count(b"\r\n.", max(0, known - 2))
                # 2: the CRLF in front. 1: behind "\r\n." a last "\r" may belong to the end.
                self.too_big = len(self._buffer) - 2 - self._stuffed - 1 > self.limit
            if self.too_big:
                del self._buffer[: self._scanned]
                self._scanned = 0
            return None
        rest = self._buffer[at + len(END) :]
        del self._buffer[at + 2 :]
        return rest

    def discard(self) -> None:
        """Let go of what is here, and keep nothing of what comes: there is no room."""
        self.too_big = self.discarded = True
        del self._buffer[: self._scanned]
        self._scanned = 0

    def take(self) -> bytes:
        """The message, without stuffed dots, ending with CRLF (empty where it had no line).

        At no moment are there more than two of it: it may be as large as all others together may be.
        """
        begin = 3 if self._buffer.startswith(b"\r\n.") else 2
        with memoryview(self._buffer) as whole:
            content = bytes(whole[begin:])
        self._buffer = bytearray()
        return content.replace(b"\r\n.", b"\r\n")  # the same object where there is none


def has_bare_line_end(content: bytes) -> bool:
    """Whether a CR or LF stands alone (RFC 5321 2.3.8): what another server might take for an end of line, and so for the
    end of the message, must not pass as text."""
    pairs = content.count(b"\r\n")
    return content.count(b"\n") != pairs or content.count(b"\r") != pairs
