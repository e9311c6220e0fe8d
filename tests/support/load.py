"""A client process that sends mails for as long as it is let, and knows which of them it may hold the server to.

Every mail has a Message-ID and a sender of its own. The ledger gets a line `{"offer": ...}` before a mail is sent and
`{"ack": ID, "at": ...}` when its 250 to the dot has been read; acknowledgements are on the disk before the next command. A mail
that got no reply to its dot may have arrived: every second one of these is sent again, as a queueing server would, until it
is acknowledged; the others are left alone. A mail that was refused with 4xx is always sent again.

    python -m tests.support.load --ports 8025,8026 --ledger FILE [--connections 8] [--mails N] [--rate N] [--seed S]

It ends at SIGTERM, once no reply is outstanding, or when all mails of `--mails` have been acknowledged or left alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

DOMAIN = "client.example"
INBOXES = "test.example"
REPLY = 30.0  # seconds that a server may take for a reply


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail that is offered. `recipients` all have an agent that answers."""

    number: int
    message_id: str
    sender: str
    recipients: tuple[str, ...]
    body: str

    @property
    def persistent(self) -> bool:
        """Whether it is sent again where nobody knows if it arrived."""
        return self.number // 10 % 2 == 0

    @property
    def content(self) -> bytes:
        """The message as it is sent, with its final dot. No line of it begins with one."""
        return (
            f"From: <{self.sender}>\r\nTo: {', '.join(self.recipients)}\r\nSubject: load\r\n"
            f"Message-ID: {self.message_id}\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n\r\n{self.body}\r\n.\r\n"
        ).encode()


class Refused(Exception):  # noqa: N818
    """The dot got a reply other than 250."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


def make_mail(run: str, number: int, chance: random.Random) -> Mail:
    """Most mails go to one recipient, some to two of one inbox, some to two inboxes."""
    recipients: tuple[str, ...] = (f"echo@{INBOXES}",)
    if number % 10 == 3:
        recipients = (f"echo+one@{INBOXES}", f"echo+two@{INBOXES}")
    elif number % 10 == 7:
        recipients = (f"echo@{INBOXES}", f"current-time@{INBOXES}")
    size = chance.choice((20, 200, 200, 200, 2000, 20000))
    words = " ".join(f"{chance.getrandbits(32):08x}" for _ in range(size // 9 + 1))
    body = "\r\n".join(words[at : at + 72] for at in range(0, len(words), 72))
    return Mail(number, f"<{run}.{number}@{DOMAIN}>", f"{run}-{number}@{DOMAIN}", recipients, body)


class Connection:
    """One SMTP connection, command by command."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, host: str = "127.0.0.1") -> Connection:
        """Connect and say EHLO. Raises `OSError`."""
        connection = cls(*await asyncio.open_connection(host, port))
        try:
            await connection.reply()
            await connection.command(f"EHLO {DOMAIN}")
        except BaseException:
            connection.close()
            raise
        return connection

    async def reply(self) -> str:
        """The next reply, its last line. Raises `ConnectionError`."""
        while True:
            async with asyncio.timeout(REPLY):
                line = (await self._reader.readline()).decode()
            if not line.endswith("\n"):
                raise ConnectionResetError("closed in the middle of a reply")
            if line[3:4] != "-":
                return line.rstrip("\r\n")

    async def command(self, line: str) -> str:
        self._writer.write(f"{line}\r\n".encode())
        return await self.reply()

    async def envelope(self, mail: Mail) -> None:
        """All up to DATA. Raises `Refused`, and then the transaction is over."""
        lines = [f"MAIL FROM:<{mail.sender}>", *[f"RCPT TO:<{to}>" for to in mail.recipients], "DATA"]
        for line in lines:
            reply = await self.command(line)
            if reply[:1] not in "23":
                await self.command("RSET")
                raise Refused(reply)

    async def dot(self, mail: Mail) -> str:
        """Send the message; the reply to its dot."""
        self._writer.write(mail.content)
        return await self.reply()

    async def send(self, mail: Mail) -> str:
        """One transaction; the reply to the dot. Raises `Refused` for any but 250."""
        await self.envelope(mail)
        reply = await self.dot(mail)
        if not reply.startswith("250 2.0.0 Queued as "):
            raise Refused(reply)
        return reply

    def close(self) -> None:
        self._writer.transport.abort()


class Ledger:
    """What was offered and what was acknowledged, on the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="ascii")

    def offer(self, mail: Mail) -> None:
        self._write({"offer": asdict(mail)}, durable=False)

    def acknowledged(self, mail: Mail, reply: str) -> None:
        self._write({"ack": mail.message_id, "reply": reply, "at": time.time()}, durable=True)

    def refused(self, mail: Mail, reply: str) -> None:
        self._write({"refused": mail.message_id, "reply": reply, "at": time.time()}, durable=False)

    def _write(self, entry: object, *, durable: bool) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())


class Load:
    """The whole client."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.ports = [int(port) for port in options.ports.split(",")]
        self.connections: int = options.connections
        self.mails: int | None = options.mails
        self.rate: float = options.rate
        self.chance = random.Random(options.seed)
        self.run_name = f"load{options.seed}"
        self.ledger = Ledger(options.ledger)
        self.stopping = asyncio.Event()
        self.again: deque[Mail] = deque()
        self.made = 0

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        async with asyncio.TaskGroup() as group:
            for number in range(self.connections):
                group.create_task(self._connection(self.ports[number % len(self.ports)]))

    async def _connection(self, port: int) -> None:
        """One place: connected while the server is there, connecting again while it is not."""
        connection: Connection | None = None
        while not self.stopping.is_set():
            mail = self._next()
            if mail is None:
                break
            try:
                if connection is None:
                    connection = await self._open(port)
                self.ledger.offer(mail)
                await connection.envelope(mail)
            except Refused as refusal:
                self.ledger.refused(mail, refusal.reply)
                self.again.append(mail)
            except OSError:
                connection = self._lost(connection)
                self.again.append(mail)
                await self._pause(0.02)
                continue
            else:
                try:
                    await self._finish(connection, mail)
                except OSError:
                    connection = self._lost(connection)
                    if mail.persistent:
                        self.again.append(mail)
            await self._pause(self.chance.expovariate(self.rate / self.connections) if self.rate else 0.0)
        self._lost(connection)

    async def _finish(self, connection: Connection, mail: Mail) -> None:
        reply = await connection.dot(mail)
        if reply.startswith("250 "):
            self.ledger.acknowledged(mail, reply)
        else:
            self.ledger.refused(mail, reply)
            self.again.append(mail)
            await self._pause(0.05)

    def _next(self) -> Mail | None:
        if self.again:
            return self.again.popleft()
        if self.mails is not None and self.made >= self.mails:
            return None
        self.made += 1
        return self._make()

    async def _open(self, port: int) -> Connection:
        return await Connection.open(port)

    def _make(self) -> Mail:
        return make_mail(self.run_name, self.made, self.chance)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            pass

    @staticmethod
    def _lost(connection: Connection | None) -> None:
        if connection is not None:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="An SMTP client that keeps account.")
    parser.add_argument("--ports", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--mails", type=int)
    parser.add_argument("--rate", type=float, default=0.0, help="mails a second, all connections together; 0: no limit")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    async def run() -> None:
        load = Load(options)
        print("ready", flush=True)
        await load.run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
