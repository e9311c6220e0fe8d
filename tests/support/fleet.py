"""Thousands of real SMTP hosts on loopback addresses, in one process of their own; and the zone that names them.

    with FleetProcess(folder, Fleet(port=2525, live=["127.1.0.1"], silent=["127.2.0.1"], full=["127.3.0.1"]), expect=10) as fleet:
        taken = fleet.wait(60)

What is `live` takes all mail, `silent` accepts connections and says nothing, `full` answers no SYN: a socket that listens, whose
queue is filled, and from which nothing is ever taken. An address that is in no list refuses. A host keeps nothing of a mail but
its recipients, so that it costs little: this is about who sends.

    python -m tests.support.fleet FLEET.json EXPECT SEEN.json     (`done TIME` by CLOCK_MONOTONIC; SEEN is written at SIGTERM)
"""

from __future__ import annotations

import asyncio
import json
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from tests.support.crowd import raise_descriptors
from tests.support.server import ROOT

SPARE = 4096  # descriptors for connections


@dataclass
class Fleet:
    """Where hosts are. `delay`: seconds that a live one takes for a mail."""

    port: int
    live: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    delay: float = 0.0


@dataclass
class Seen:
    """What the hosts saw."""

    recipients: dict[str, int] = field(default_factory=dict)  # how often each got a mail
    connections: int = 0
    most: int = 0  # open at a time
    most_by_group: dict[str, int] = field(
        default_factory=dict
    )  # open at a time, by the first three numbers of the address


def address(group: int, number: int) -> str:
    """The address of the host of that number; groups up to 254."""
    return f"127.{group}.{number // 250}.{number % 250 + 1}"


class _Hosts:
    """What all live hosts have seen."""

    def __init__(self, expect: int, delay: float) -> None:
        self.delay = delay
        self.recipients: Counter[str] = Counter()
        self.connections = 0
        self.open: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._expect = expect

    def took(self, recipient: str) -> None:
        self.recipients[recipient] += 1
        if len(self.recipients) == self._expect and self.recipients[recipient] == 1:
            print(f"done {time.monotonic()}", flush=True)

    def opened(self, group: str, by: int) -> None:
        for name in ("", group):
            self.open[name] += by
            self.most[name] = max(self.most[name], self.open[name])


class _Live(asyncio.Protocol):
    """A host that takes everything, as fast as it can."""

    def __init__(self, hosts: _Hosts) -> None:
        self._hosts = hosts
        self._input = b""
        self._recipients: list[str] = []
        self._content = False
        self._group = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._group = self._transport.get_extra_info("sockname")[0].rpartition(".")[0]
        self._hosts.connections += 1
        self._hosts.opened(self._group, 1)
        self._transport.write(b"220 sink.test ESMTP\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._hosts.opened(self._group, -1)

    def data_received(self, data: bytes) -> None:
        self._input += data
        while True:
            end = b"\r\n.\r\n" if self._content else b"\r\n"
            before, found, rest = self._input.partition(end)
            if not found:
                return
            self._input = rest
            if self._content:
                self._content = False
                for recipient in self._recipients:
                    self._hosts.took(recipient)
                self._recipients.clear()
                if self._hosts.delay:
                    asyncio.get_running_loop().call_later(self._hosts.delay, self._say, b"250 2.0.0 ok\r\n")
                else:
                    self._say(b"250 2.0.0 ok\r\n")
            else:
                self._command(before)

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"EHLO":
            self._say(b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
        elif verb == b"RCPT":
            self._recipients.append(line.partition(b"<")[2].partition(b">")[0].decode())
            self._say(b"250 2.1.5 ok\r\n")
        elif verb == b"DATA":
            self._content = True
            self._say(b"354 go ahead\r\n")
        elif verb == b"QUIT":
            self._say(b"221 2.0.0 bye\r\n")
            self._transport.close()
        else:
            self._say(b"250 2.0.0 ok\r\n")

    def _say(self, reply: bytes) -> None:
        self._transport.write(reply)


class FleetProcess:
    """The program, for the length of a block."""

    def __init__(self, folder: Path, fleet: Fleet, expect: int) -> None:
        file = folder / "fleet.json"
        file.write_text(json.dumps(asdict(fleet)))
        self._seen = folder / "seen.json"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fleet", str(file), str(expect), str(self._seen)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,  # a line in a buffer is one that `select` knows nothing of
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def __enter__(self) -> FleetProcess:
        assert self._line(60.0) == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait(self, seconds: float) -> float | None:
        """When (`time.monotonic`) all recipients that are expected had their mail; None: not in that time."""
        line = self._line(seconds)
        return None if line is None else float(line.removeprefix("done "))

    def end(self) -> Seen:
        """What was seen to the end."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60.0)
        found: dict[str, Any] = json.loads(self._seen.read_text())
        return Seen(**found)

    def _line(self, seconds: float) -> str | None:
        assert self._process.stdout is not None
        if not self._selector.select(seconds):
            return None
        return self._process.stdout.readline().decode().strip()


def _fill(sockets: list[socket.socket], fleet: Fleet) -> None:
    """Listen where no SYN is answered any more, and fill the queues."""
    for name in fleet.full:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((name, fleet.port))
        sock.listen(0)
        sockets.append(sock)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((name, fleet.port))
            sockets.append(filler)


async def _main(fleet: Fleet, expect: int, file: Path) -> None:
    raise_descriptors(2 * len(fleet.live) + 4 * len(fleet.silent) + 3 * len(fleet.full) + SPARE)
    hosts = _Hosts(expect, fleet.delay)
    sockets: list[socket.socket] = []
    _fill(sockets, fleet)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    if fleet.live:
        await loop.create_server(lambda: _Live(hosts), fleet.live, fleet.port, backlog=100)
    if fleet.silent:
        await loop.create_server(asyncio.Protocol, fleet.silent, fleet.port, backlog=100)
    print("ready", flush=True)
    await done.wait()
    most = dict(hosts.most)
    seen = Seen(dict(hosts.recipients), hosts.connections, most.pop("", 0), most)
    file.write_text(json.dumps(asdict(seen)))
    for sock in sockets:
        sock.close()


if __name__ == "__main__":
    asyncio.run(_main(Fleet(**json.loads(Path(sys.argv[1]).read_text())), int(sys.argv[2]), Path(sys.argv[3])))
