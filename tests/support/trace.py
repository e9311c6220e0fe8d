"""A server's system calls, as strace saw them: what was read from whom, written where, and what was on the disk by then."""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.crash import wait_for
from tests.support.server import ServerProcess

READS: Final = frozenset({"read", "readv", "recvfrom", "recvmsg"})
WRITES: Final = frozenset({"write", "writev", "sendto", "sendmsg"})
FILE_WRITES: Final = frozenset({"pwrite64", "pwritev", "write", "writev"})
SYNCS: Final = frozenset({"fdatasync", "fsync"})
OTHERS: Final = frozenset({"ftruncate", "openat", "mkdir", "mkdirat", "unlink", "unlinkat", "lseek"})

_LINE = re.compile(rb"(\d+) +(?:<\.\.\. )?(\w+)")
_TARGET = re.compile(rb"(?:\w+)<((?:TCP|UNIX)[^\[]*\[[^\]]*\]|[^>]*)>")
_STRING = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_UNFINISHED: Final = b" <unfinished ...>\n"
_RESUMED: Final = b" resumed>"


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that returned. `begun` and `done` are places in the trace: what has the lower one was before."""

    name: str
    arguments: bytes
    result: int
    begun: int
    done: int

    @property
    def target(self) -> str:
        """What the descriptor is: a path, or `TCP:[own address->peer's address]`."""
        found = _TARGET.match(self.arguments)
        return found[1].decode() if found else ""

    @property
    def peer(self) -> str:
        """The address at the other end of a connection, "" where the descriptor is none."""
        target = self.target
        return target.rpartition("->")[2].rstrip("]") if target.startswith("TCP") else ""

    @property
    def octets(self) -> bytes:
        """What was read or written."""
        texts = [codecs.escape_decode(text)[0] for text in _STRING.findall(self.arguments)]
        octets = b"".join(texts)
        assert self.result < 0 or len(octets) >= self.result, "strace cut it short"
        return octets[: max(self.result, 0)]

    @property
    def number(self) -> int:
        """The last argument: an offset or a length."""
        return int(self.arguments.rpartition(b", ")[2])


def start_traced(server: ServerProcess, trace: Path, env: dict[str, str] | None = None) -> None:
    """Start a server under strace. The tracer is a grandchild in a group of its own: a signal to the server's group does not
    reach it, and it ends with the server, its file complete."""
    names = ",".join(sorted(READS | WRITES | FILE_WRITES | SYNCS | OTHERS))
    options = ("-DD", "-f", "--seccomp-bpf", "-yy", "-s", "1048576", "-o", str(trace), "-e", f"trace={names}")
    server.start(prefix=("strace", *options), env=env)


def wait_for_end(trace: Path, pid: int) -> None:
    """Until the tracer has written all."""

    def over() -> bool:
        with trace.open("rb") as file:
            file.seek(max(trace.stat().st_size - 4096, 0))
            return re.search(rb"^%d +\+\+\+ " % pid, file.read(), re.MULTILINE) is not None

    wait_for(over, "the end of the trace")


def calls(trace: Path) -> Iterator[Call]:
    """Every call of a trace that returned, in the order in which they did. A call that others overlapped stands in two lines."""
    unfinished: dict[bytes, tuple[int, bytes]] = {}
    with trace.open("rb") as file:
        for place, line in enumerate(file):
            match = _LINE.match(line)
            if match is None:  # a signal, the end of a thread
                continue
            thread, name = match[1], match[2].decode()
            if line.endswith(_UNFINISHED):
                unfinished[thread] = (place, line[match.end() + 1 : -len(_UNFINISHED)])
                continue
            begun, head = place, line[match.end() + 1 :]
            if line.startswith(b"<... ", match.start(2) - 5):
                begun, first = unfinished.pop(thread)
                head = first + line[line.index(_RESUMED) + len(_RESUMED) :]
            arguments, _, result = head.rpartition(b" = ")
            value = result.split()[0].partition(b"<")[0]
            if value != b"?":
                yield Call(name, arguments.rstrip()[:-1], int(value, 0), begun, place)


class Dialogue:
    """What one client and the server said to each other, and when: `feed` it the calls on that connection, in their order."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._sent = b""
        self.dots: list[int] = []  # where the read returned that brought the end of a message
        self.replies: list[tuple[int, bytes]] = []  # where the write of a reply to a dot began, and its line

    def feed(self, call: Call) -> None:
        if call.name in READS:
            self._received += call.octets
            while (at := self._received.find(b"\r\n.\r\n")) >= 0:
                del self._received[: at + 5]
                self.dots.append(call.done)
        else:
            lines = (self._sent + call.octets).split(b"\r\n")
            self._sent = lines.pop()
            self.replies += [(call.begun, line) for line in lines if line.startswith(b"250 2.0.0 Queued as ")]


def dialogues(spoken: list[Call]) -> list[Dialogue]:
    """The conversations that these calls were. One thread has all sockets, so its calls don't overlap."""
    by_peer: dict[str, Dialogue] = defaultdict(Dialogue)
    for call in spoken:
        by_peer[call.peer].feed(call)
    return list(by_peer.values())
