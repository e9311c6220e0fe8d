"""What systemd hands to a service in its environment: sockets that are open (sd_listen_fds(3)), and where it listens for the
service's state (sd_notify(3)).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import MutableMapping
from dataclasses import dataclass

FIRST = 3  # SD_LISTEN_FDS_START
MOST = 4096  # sockets of one service


@dataclass(frozen=True, slots=True)
class Inherited:
    """`names` are those of the descriptors from 3 on; `supervisor` is the address of the socket that wants to know the state."""

    names: tuple[str, ...] = ()
    supervisor: str = ""

    def find(self, name: str) -> list[int]:
        """The descriptors of a name, or the one of a number that counts from 0."""
        if name.isdigit():
            return [FIRST + int(name)] if int(name) < len(self.names) else []
        return [FIRST + number for number, one in enumerate(self.names) if one == name]


def inherit(environ: MutableMapping[str, str], pid: int) -> Inherited:
    """Take it out of the environment, so that no program that is started from here takes it for its own."""
    meant_for, count, names, supervisor = [
        environ.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET")
    ]
    supervisor = supervisor if supervisor[:1] in ("/", "@") else ""
    if meant_for != str(pid) or not (count.isascii() and count.isdigit()) or int(count) > MOST:
        return Inherited(supervisor=supervisor)
    named = names.split(":") if names else []
    for number in range(FIRST, FIRST + int(count)):
        with contextlib.suppress(OSError):  # whoever uses it will say that it is none
            os.set_inheritable(number, False)
    padded = [*named, *["unknown"] * int(count)][: int(count)]
    return Inherited(tuple(padded), supervisor)
