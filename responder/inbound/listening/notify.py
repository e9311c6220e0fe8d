"""What systemd is told of the server's state (sd_notify(3)): one datagram each, nothing where nobody asked for it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from responder.clock import Clock


class Supervisor:
    """Who started the server, and wants to know. `address` is that of its socket, "" where there is none."""

    def __init__(self, address: str, clock: Clock) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._clock = clock

    def ready(self) -> None:
        """Mail is taken."""
        self._say("READY=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """A reload, from its begin to its end. The time is what `Type=notify-reload` wants."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.monotonic() * 1_000_000)}")
        try:
            yield
        finally:
            self._say("READY=1")

    def stopping(self) -> None:
        """A stop has begun."""
        self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        # Nothing of the server depends on it, so nothing may come of what goes wrong.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)
