"""Load generator and sink in one process: mails go in, answers come back, and the clock between them is one clock.

Prints one JSON object: answers a second, end to end, and the time from the final dot to the answer's final dot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from typing import cast

from tests.benchmarks.load import Load, run

_ORIGINAL = re.compile(rb"^In-Reply-To: <([^>]+)>", re.MULTILINE)


class Sink(asyncio.Protocol):
    """Takes every mail and notes when."""

    def __init__(self, arrived: dict[bytes, float], enough: asyncio.Event, wanted: int) -> None:
        self.arrived = arrived
        self.enough = enough
        self.wanted = wanted
        self.buffer = bytearray()
        self.in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"220 sink.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n.\r\n" if self.in_data else b"\r\n")
            if end < 0:
                return
            if self.in_data:
                self.took(bytes(self.buffer[:end]))
                del self.buffer[: end + 5]
            else:
                line = bytes(self.buffer[:end])
                del self.buffer[: end + 2]
                self.command(line[:4].upper())

    def command(self, verb: bytes) -> None:
        if verb == b"EHLO":
            self.transport.write(b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n")
        elif verb == b"DATA":
            self.in_data = True
            self.transport.write(b"354 go\r\n")
        elif verb == b"QUIT":
            self.transport.write(b"221 bye\r\n")
            self.transport.close()
        else:
            self.transport.write(b"250 ok\r\n")

    def took(self, content: bytes) -> None:
        self.in_data = False
        match = _ORIGINAL.search(content)
        assert match is not None, "an answer without In-Reply-To"
        self.arrived[match[1]] = time.perf_counter()
        self.transport.write(b"250 2.0.0 taken\r\n")
        if len(self.arrived) >= self.wanted:
            self.enough.set()


class NotingLoad(Load):
    """Remembers when each mail's final dot was written."""

    sent: dict[bytes, float]

    def content(self, number: int) -> bytes:
        content = super().content(number)
        identifier = content.partition(b"Message-ID: <")[2].partition(b">")[0]
        self.sent[identifier] = time.perf_counter()
        return content


async def measure(options: argparse.Namespace) -> dict[str, float]:
    """Send all mails, wait for all answers."""
    arrived: dict[bytes, float] = {}
    enough = asyncio.Event()
    NotingLoad.sent = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(arrived, enough, options.mails), "127.0.0.1", options.sink)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.readline)  # the server is up when a line comes
    result = await run(options, NotingLoad)
    await asyncio.wait_for(enough.wait(), 120)
    server.close()
    sent = NotingLoad.sent
    latencies = sorted(arrived[key] - sent[key] for key in arrived)
    seconds = max(arrived.values()) - min(sent.values())
    return {
        "mails": options.mails,
        "accept_rate": result["rate"],
        "answer_rate": options.mails / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sink", type=int, required=True)
    parser.add_argument("--mails", type=int, default=3000)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--to", default="echo@bench.example")
    parser.add_argument("--pipelined", action="store_true")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(measure(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
