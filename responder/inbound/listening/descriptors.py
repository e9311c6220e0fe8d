"""File descriptors: as many as the system allows, some of them kept back for the store, DNS and delivery, and what happens when
there are none left.

A connection needs a descriptor before it can be refused with a reply. So connections are limited to less than there are
(`room`), and are told 421 past that. When all the same none is left (a burst, an agent that opens files), connections that wait
are taken and closed at once, as libuv does for uvloop: a client that is cut off comes again, and nothing spins. asyncio itself
would log each of them and count them anew, without end.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any

RESERVE = 192  # descriptors for all but clients and delivery: the store's files, the log, DNS, agents' pipes
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})


def raise_limit() -> int:
    """Let this process have as many descriptors as it may. How many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return _number(soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS has a limit below its own
        return _number(soft)
    return _number(hard)


def limit() -> int:
    """How many descriptors `raise_limit` can get."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def remark(connections: int, delivery: int) -> str | None:
    """What an operator should know whose `limits.connections` is more than there is room for."""
    there = room(limit(), delivery)
    if there >= connections:
        return None
    return f"the limit of open files ({limit()}) leaves room for {there}: raise it (ulimit -Hn, LimitNOFILE=)"


def room(descriptors: int, delivery: int) -> int:
    """How many clients there is room for among so many descriptors, beside `delivery` connections to other hosts: half of them
    at the least, where there are few."""
    return max(descriptors - RESERVE - 2 * delivery - questions(descriptors), descriptors // 2, 1)


def questions(descriptors: int) -> int:
    """How many questions to name servers may be open for mail that is judged: each is a socket."""
    return max(16, min(1000, descriptors // 8))


def _number(found: int) -> int:
    return 1 << 30 if found == resource.RLIM_INFINITY else found


class ListeningSocket(socket.socket):
    """A socket whose `accept` survives that there are no descriptors left: who waits then is taken and cut off, in place of a
    descriptor that is kept for this."""

    __slots__ = ()

    def accept(self) -> tuple[socket.socket, Any]:
        """As `socket.accept`. Raises `BlockingIOError` where it had to cut connections off, as if nobody waited."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _NONE_LEFT:
                raise
        _spare.cut_off(self)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class _Spare:
    """One descriptor that is kept back, for the whole process."""

    def __init__(self) -> None:
        self._held = -1

    def hold(self) -> None:
        """Keep one, if it is not kept yet and one is left."""
        if self._held < 0:
            try:
                self._held = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._held = -1

    def cut_off(self, listening: socket.socket) -> None:
        """Take all that wait, and close them."""
        self.hold()  # somebody may have taken it in between the last time
        while self._held >= 0:
            os.close(self._held)
            self._held = -1
            try:
                taken, _ = socket.socket.accept(listening)
                taken.close()
            except OSError:  # nobody waits any more, or somebody else was quicker
                self.hold()
                return
            self.hold()


_spare = _Spare()
hold_spare = _spare.hold
