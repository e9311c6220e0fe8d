"""Many clients of one server at once, in a process of its own: a test talks to it by lines.

`python -m tests.support.crowd --port P --count N idle` opens connections from several addresses of the loopback, reads their
greetings and holds them; `mails` sends one mail over each, all at the same time. It prints one JSON object for each stage that it
has reached, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import resource
import select
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.server import ROOT

PER_ADDRESS = 20000  # ephemeral ports of one address that are used
BLOCK = 1 << 18


class Client:
    """One connection: what it has still to say, and what it was told."""

    __slots__ = ("began", "left", "said", "sock", "step", "told")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.step = "greeting"
        self.said = b""
        self.told = ""
        self.left = memoryview(b"")
        self.began = time.monotonic()


class Crowd:
    """All of them, in one loop."""

    def __init__(self, port: int, count: int, size: int, declare: bool, enough: int) -> None:
        self.size = size
        self.enough = enough
        self.ends: Counter[str] = Counter()
        self.longest = 0.0
        body = b"Subject: big\r\n\r\n" + (b"x" * 70 + b"\r\n") * (max(size - 40, 0) // 72)
        self.message = body + b"y" * max(size - len(body) - 2, 0) + b"\r\n.\r\n"
        told = f" SIZE={size}" if declare else ""
        self.envelope = f"MAIL FROM:<a@client.example>{told}\r\nRCPT TO:<sink@test.example>\r\nDATA\r\n".encode()
        self.selector = selectors.DefaultSelector()
        self.clients = [self._connect(port, number) for number in range(count)]

    def _connect(self, port: int, number: int) -> Client:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((f"127.0.0.{1 + number % 200}", 0))
        sock.setblocking(False)
        code = sock.connect_ex(("127.0.0.1", port))
        assert code in (0, errno.EINPROGRESS), errno.errorcode[code]
        client = Client(sock)
        self.selector.register(sock, selectors.EVENT_READ, client)
        return client

    def greeted(self) -> None:
        """Until all have been greeted."""
        while any(client.step == "greeting" for client in self.clients):
            self.turn(greet_only=True)

    def deliver(self) -> None:
        """One mail each, until `enough` have been taken or none is left."""
        while self.ends["250"] < self.enough and any(client.step != "over" for client in self.clients):
            self.turn()

    def turn(self, greet_only: bool = False) -> None:
        """Do what can be done now."""
        for key, events in self.selector.select(1.0):
            client: Client = key.data
            try:
                if events & selectors.EVENT_READ:
                    self._read(client, greet_only)
                if client.step == "body" and events & selectors.EVENT_WRITE:
                    self._write(client)
            except OSError as error:
                self._over(client, type(error).__name__)

    def _read(self, client: Client, greet_only: bool) -> None:
        octets = client.sock.recv(65536)
        if not octets:
            self._over(client, client.told or "closed")
            return
        client.said += octets
        while b"\n" in client.said:
            line, _, client.said = client.said.partition(b"\n")
            if line[3:4] != b"-":
                self._told(client, line.decode().strip(), greet_only)

    def _told(self, client: Client, line: str, greet_only: bool) -> None:
        if line[:1] in "45":
            client.told = line[:9]
            self._over(client, line[:9])
        elif client.step == "greeting":
            client.step = "greeted"
            if not greet_only:
                self.begin(client)
        elif client.step == "ehlo":
            client.step = "mail"
            client.sock.send(self.envelope)
        elif line.startswith("354"):
            client.step = "body"
            client.left = memoryview(self.message)
            self.selector.modify(client.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        elif client.step == "sent":
            self.longest = max(self.longest, time.monotonic() - client.began)
            self._over(client, line[:3])

    def begin(self, client: Client) -> None:
        client.step = "ehlo"
        client.sock.send(b"EHLO client.example\r\n")

    def _write(self, client: Client) -> None:
        with contextlib.suppress(BlockingIOError):
            client.left = client.left[client.sock.send(client.left[:BLOCK]) :]
        if not client.left:
            client.step = "sent"
            self.selector.modify(client.sock, selectors.EVENT_READ, client)

    def _over(self, client: Client, end: str) -> None:
        if client.step != "over":
            client.step = "over"
            self.ends[end] += 1
            self.selector.unregister(client.sock)
            client.sock.close()

    def hold(self) -> None:
        """Until standard input ends, as nobody wants them any more."""
        select.select([sys.stdin], [], [])

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--enough", type=int, default=1 << 30)
    parser.add_argument("--declare", action="store_true")
    parser.add_argument("what", choices=["idle", "mails"])
    options = parser.parse_args()
    raise_descriptors(options.count + 100)
    crowd = Crowd(options.port, options.count, options.size, options.declare, options.enough)
    crowd.greeted()
    tell(stage="greeted", clients=len(crowd.clients))
    if options.what == "mails":
        began = time.monotonic()
        for client in crowd.clients:
            if client.step == "greeted":
                client.began = began
                crowd.begin(client)
        crowd.deliver()
        tell(stage="delivered", ends=crowd.ends, seconds=time.monotonic() - began, longest=crowd.longest)
    crowd.hold()
    crowd.close()


def tell(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def raise_descriptors(count: int) -> None:
    """Let this process, and what it starts, have so many descriptors. Raises `ValueError` where the system doesn't allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))


class CrowdProcess:
    """The program above, for the length of a block."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crowd", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stage(self) -> dict[str, Any]:
        """The next stage that it reaches."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the crowd broke off"
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> CrowdProcess:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Memory:
    """The largest of a process's resident memory, looked at every few milliseconds, in MB."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0.0

    def now(self) -> float:
        with contextlib.suppress(OSError):
            for line in self._status.read_text().splitlines():
                if line.startswith("VmRSS"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def _watch(self) -> None:
        while not self._stopping.wait(0.02):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


if __name__ == "__main__":
    main()
