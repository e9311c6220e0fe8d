"""The load generator: one process, kept connections, as little work per mail as Python allows. Prints one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import cast

STEPS = (b"250", b"250", b"354", b"250")


class Client(asyncio.Protocol):
    """Sends its share of the mails over one connection, one command at a time or MAIL, RCPT and DATA in one write."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.step = -2  # banner, EHLO
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            if line[3:4] != b"-":
                self.replied(line)

    def replied(self, line: bytes) -> None:
        if self.step == -2:
            self.transport.write(b"EHLO load.example\r\n")
            self.step = -1
            return
        if self.step == -1:
            self.load.connected()
            return
        if not line.startswith(STEPS[self.step]):
            self.load.fail(line)
            return
        self.step += 1
        if self.step == 3:
            self.transport.write(self.load.content(self.number))
        elif self.step == 4:
            self.load.latencies.append(time.perf_counter() - self.began)
            self.next()
        elif not self.load.pipelined:
            self.transport.write((self.load.recipient, b"DATA\r\n")[self.step - 1])

    def next(self) -> None:
        """Begin the next mail, if there is one."""
        self.number = self.load.take()
        if self.number < 0:
            self.load.finished(self)
            return
        self.step = 0
        self.began = time.perf_counter()
        sender = b"MAIL FROM:<s%d@load.example>\r\n" % self.number
        self.transport.write(sender + self.load.recipient + b"DATA\r\n" if self.load.pipelined else sender)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)


class Load:
    """All connections together."""

    def __init__(self, mails: int, connections: int, size: int, pipelined: bool, to: str) -> None:
        self.mails = mails
        self.connections = connections
        self.pipelined = pipelined
        self.recipient = f"RCPT TO:<{to}>\r\n".encode()
        self.body = (b"x" * 70 + b"\r\n") * (max(0, size - 200) // 72)
        self.latencies: list[float] = []
        self.given = 0
        self.waiting = connections
        self.clients: list[Client] = []
        self.done = asyncio.get_running_loop().create_future()
        self.began = 0.0

    def content(self, number: int) -> bytes:
        return (
            b"From: s%d@load.example\r\nTo: echo@bench.example\r\nSubject: load\r\nMessage-ID: <%d.%d@load.example>\r\n"
            b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\n\r\n%s\r\n.\r\n" % (number, number, id(self), self.body)
        )

    def take(self) -> int:
        if self.given >= self.mails:
            return -1
        self.given += 1
        return self.given

    def connected(self) -> None:
        self.waiting -= 1
        if not self.waiting:  # all at once, so that connecting is not measured
            self.began = time.perf_counter()
            for client in self.clients:
                client.next()

    def finished(self, client: Client) -> None:
        client.step = 5
        client.transport.close()

    def lost(self, client: Client) -> None:
        if client.step != 5:
            self.fail(b"connection lost")
        elif len(self.latencies) == self.mails and not self.done.done():
            self.done.set_result(None)

    def fail(self, line: bytes) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(line.decode("utf-8", "replace")))


async def run(options: argparse.Namespace, kind: type[Load] | None = None) -> dict[str, float]:
    """Send all mails; what was measured."""
    load = (kind or Load)(options.mails, options.connections, options.size, options.pipelined, options.to)
    loop = asyncio.get_running_loop()
    for _ in range(options.connections):
        _, client = await loop.create_connection(lambda: Client(load), "127.0.0.1", options.port)
        load.clients.append(client)
    await asyncio.wait_for(load.done, 120)
    seconds = time.perf_counter() - load.began
    latencies = sorted(load.latencies)
    return {
        "mails": options.mails,
        "seconds": seconds,
        "rate": options.mails / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mails", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--to", default="echo@bench.example")
    parser.add_argument("--pipelined", action="store_true")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(run(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
