"""The wire between the server and an agent's process: frames of a JSON header and octets, bounded in size.

    4 octets: length of the header | 8 octets: length of all blobs | header, in UTF-8 | blobs, as long as header["sizes"] says

JSON and octets can't do more than be wrong. What unpickles could do anything, and what comes out of an agent's process is not
trusted. The server reads with a `Parser`, in whatever pieces come; the other side, which may block, with `read`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

PREFIX = struct.Struct("!IQ")
MAX_HEADER = 16 << 20  # octets: a value of an agent's state has up to 1 MiB, an answer's addresses up to 10 MiB
MAX_MAIL = (512 << 20) + 4096  # octets of blobs towards an agent: `limits.message_size` ends there
MAX_ANSWER = 48 << 20  # octets of blobs from an agent: four for each character that an answer may have, and some


class FrameError(Exception):
    """What came is no frame, or too large."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`header` says what it is, and holds all that is text; `blobs` are the large things."""

    header: dict[str, Any]
    blobs: Sequence[bytes] = field(default=())


def encode(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> list[bytes]:
    """A frame in pieces to be written one after the other: large ones are not copied. Raises `TypeError` or `ValueError` for
    what is no JSON (dates are, here: TOML has them)."""
    told = {**header, "sizes": [len(blob) for blob in blobs]} if blobs else header
    text = json.dumps(told, ensure_ascii=False, default=_tagged).encode("utf-8", "surrogatepass")
    return [PREFIX.pack(len(text), sum(map(len, blobs))) + text, *blobs]


def decode(header: bytes, body: bytes) -> Frame:
    """A frame from its two parts. Raises `FrameError`."""
    try:
        told = json.loads(header.decode("utf-8", "surrogatepass"), object_hook=_untagged)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise FrameError(f"its header is no JSON: {type(error).__name__}") from None
    if not isinstance(told, dict):
        raise FrameError("its header is no object")
    sizes = told.pop("sizes", [])
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise FrameError("its sizes are none")
    if sum(sizes) != len(body):
        raise FrameError("its sizes are not those of its blobs")
    if len(sizes) == 1:
        return Frame(told, (body,))
    blobs, at = [], 0
    for size in sizes:
        blobs.append(body[at : at + size])
        at += size
    return Frame(told, blobs)


def lengths(prefix: bytes, most: int) -> tuple[int, int]:
    """The lengths of header and blobs. Raises `FrameError` for more than `most` octets of blobs, and for a header too large."""
    header, body = PREFIX.unpack(prefix)
    if header > MAX_HEADER or body > most:
        raise FrameError(f"it is too large: {header} and {body} octets")
    return header, body


class Parser:
    """Frames out of octets that come in pieces."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffer = bytearray()
        self._need: tuple[int, int] | None = None

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these octets complete. Raises `FrameError`, and then is of no further use."""
        self._buffer += data
        while True:
            if self._need is None:
                if len(self._buffer) < PREFIX.size:
                    return
                self._need = lengths(bytes(self._buffer[: PREFIX.size]), self._most)
            middle = PREFIX.size + self._need[0]
            end = middle + self._need[1]
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                header, body = bytes(view[PREFIX.size : middle]), bytes(view[middle:end])
            del self._buffer[:end]
            self._need = None
            yield decode(header, body)


def read(receive: Callable[[int], bytes], most: int) -> Frame | None:
    """The next frame from a call that returns up to that many octets, or None at the end. Raises `FrameError`, `OSError`."""
    prefix = _exactly(receive, PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    header, body = lengths(prefix, most)
    text = _exactly(receive, header)
    blobs = _exactly(receive, body)
    return decode(text, blobs) if len(text) == header and len(blobs) == body else None


def _exactly(receive: Callable[[int], bytes], size: int) -> bytes:
    """Up to `size` octets, fewer at the end only."""
    data = receive(size) if size else b""
    if len(data) in (0, size):
        return data
    pieces, missing = [data], size - len(data)
    while missing and (data := receive(missing)):
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)


_DATES: dict[str, type[datetime] | type[date] | type[time]] = {"datetime": datetime, "date": date, "time": time}
_TAG = "\0date"


def _tagged(value: object) -> dict[str, list[str]]:
    name = type(value).__name__
    if name not in _DATES or not isinstance(value, date | time):
        raise TypeError(f"{name} is no JSON")
    return {_TAG: [name, value.isoformat()]}


def _untagged(value: dict[str, Any]) -> Any:
    if _TAG in value:
        name, text = value[_TAG]
        return _DATES[name].fromisoformat(text)
    return value
