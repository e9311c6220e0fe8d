"""What servers and channels of old programs have in common: a place in a map, a socket, and what they say when a call fails."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from responder.compat.network import nudge

Map = dict[int, Any]
"""Who is open, by file descriptor. A loop serves one map, and is over when that is empty."""

socket_map: Map = {}
"""The map of all who name no other."""


class Dispatcher:
    """The part of `asyncore.dispatcher` that `smtpd` programs see."""

    debug = False
    connected = False
    accepting = False
    addr: Any = None
    ignore_log_types = frozenset({"warning"})

    def __init__(self, sock: Any = None, map: Map | None = None) -> None:  # noqa: A002 - the old name
        self._map = socket_map if map is None else map
        self._fileno: int | None = None
        self.socket: Any = None
        if sock is not None:
            self.set_socket(sock)

    def set_socket(self, sock: Any, map: Map | None = None) -> None:  # noqa: A002
        """Take a socket, and a place in the map."""
        self.socket = sock
        self._fileno = sock.fileno()
        self.add_channel(map)

    def add_channel(self, map: Map | None = None) -> None:  # noqa: A002
        """Take the place in the map."""
        assert self._fileno is not None
        (self._map if map is None else map)[self._fileno] = self

    def del_channel(self, map: Map | None = None) -> None:  # noqa: A002
        """Leave the map. The loop that serves it looks whether it is over."""
        places = self._map if map is None else map
        if self._fileno is not None and places.get(self._fileno) is self:
            places.pop(self._fileno, None)
        self._fileno = None
        nudge(self._map)

    def close(self) -> None:
        """Close it, from whatever thread."""
        self.connected = self.accepting = False
        self.del_channel()
        if self.socket is not None:
            self.socket.close()

    def handle_close(self) -> None:
        """The other side has closed."""
        self.close()

    def handle_error(self) -> None:
        """Called while an exception of the program's own code is handled: says what it was, then closes."""
        self.log_info(f"uncaptured python exception, closing channel {self!r} ({compact_traceback()})", "error")
        self.handle_close()

    def log(self, message: object) -> None:
        """A line about what goes on."""
        sys.stderr.write(f"log: {message}\n")

    def log_info(self, message: object, type: str = "info") -> None:  # noqa: A002 - the old name
        """A line about what went wrong; on standard output, as ever."""
        if type not in self.ignore_log_types:
            print(f"{type}: {message}")

    def __repr__(self) -> str:
        words = [f"{type(self).__module__}.{type(self).__qualname__}"]
        if self.accepting and self.addr:
            words.append("listening")
        elif self.connected:
            words.append("connected")
        if self.addr is not None:
            try:
                words.append("{}:{:d}".format(*self.addr))
            except (TypeError, ValueError, IndexError):
                words.append(repr(self.addr))
        return f"<{' '.join(words)} at {id(self):#x}>"


def compact_traceback() -> str:
    """The exception that is being handled, on one line."""
    kind, error, trace = sys.exc_info()
    steps = " ".join(f"[{step.filename}|{step.name}|{step.lineno}]" for step in traceback.extract_tb(trace))
    return f"{kind}:{error} {steps}"
