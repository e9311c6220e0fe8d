"""A hostile SMTP server for tests: records what it is given, and fails at any step in any way, by script.

A script maps a step to what happens there; a step that is not in it goes well. The steps are BANNER, EHLO, HELO, STARTTLS,
HANDSHAKE (in place of TLS), MAIL, RCPT, DATA, CONTENT (in the middle of it), DOT, RSET, NOOP, QUIT. NOBODY is DATA without a
recipient. Where "CHUNKING" is among the extensions there is BDAT: its octets are CONTENT, its reply is DOT's. What happens is a
text:

    "450 4.2.1 later"    this reply; 421 hangs up afterwards, and so does any other reply that ends in " !drop"
    "250-a\\n250 b"       a reply of several lines
    "drop"               hang up without a word       "garbage"        octets that are no SMTP
    "hang"               say nothing, for ever        "slow 0.5"       go well, half a second later
    "1mb"                go well, in a line of a megabyte    "endless"        lines that never come to an end
    "drip 0.5"           go well, octet by octet, half a second between them
    "multi"              go well, in two lines               "mixed"          in two lines with two codes
    "extra"              go well, and say a second reply at once
    "accept-drop"        at DOT: record the mail, then hang up without a reply ("accept-hang": say nothing)

or a list of such texts and None, one for each time (over all connections), after which all goes well; or the whole script is a
function `(step, argument) -> text | None`.

    python -m tests.support.smtp_sink --port 2525 --ledger FILE

The ledger gets one JSON line for each mail, on the disk before 250 is said.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType

import trustme

Action = str | None
Script = Mapping[str, Action | Sequence[Action]] | Callable[[str, str], Action]

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 52428800")

_WELL = ("1mb", "drip", "multi", "extra")
_PATH = re.compile(r"(?:FROM|TO):\s*<(.*)>\s*(.*)", re.IGNORECASE)
_REPLIES = {
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go ahead",
    "DOT": "250 2.0.0 stored",
    "QUIT": "221 2.0.0 bye",
    "NOBODY": "503 5.5.1 no RCPT",
    "STARTTLS": "220 2.0.0 ready",
}


@dataclass(slots=True)
class Transaction:
    """One mail that was accepted."""

    connection: int  # 1 is the first
    helo: str
    tls: str  # "TLSv1.3", "" in plain text
    reverse_path: str
    parameters: str  # of MAIL
    recipients: list[str]
    content: bytes  # dots unstuffed
    time: float  # seconds since 1970


@dataclass(slots=True)
class _Envelope:
    reverse_path: str | None = None
    parameters: str = ""
    recipients: list[str] = field(default_factory=list)
    content: bytes = b""  # that came in chunks


class _Gone(Exception):  # noqa: N818
    """The connection is over."""


class SMTPSink:
    """`async with SMTPSink({"RCPT": "450 4.2.1 later"}) as sink:` listens on `sink.address` and `sink.port`."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        hostname: str = "sink.test",
        extensions: Sequence[str] = EXTENSIONS,
        tls: bool | ssl.SSLContext = False,  # a context brings a certificate of its own
        ledger: Path | None = None,
        receive_buffer: int = 0,  # octets that the kernel takes for us; 0: as it likes
    ) -> None:
        self.receive_buffer = receive_buffer
        self.script: Script = script or {}
        self.address = address
        self.port = port
        self.hostname = hostname
        self.extensions = list(extensions)
        self.tls = tls
        self.ledger = ledger
        self.transactions: list[Transaction] = []
        self.commands: list[tuple[int, str]] = []  # (connection, line), DATA's content left out
        self.connections = 0
        self._calls: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SMTPSink:
        limit = self.receive_buffer or 1 << 16
        self._server = await asyncio.start_server(
            self._accept, self.address, self.port, limit=limit, start_serving=False
        )
        if self.receive_buffer:  # connections get it from the listening socket
            self._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        await self._server.start_serving()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._tasks)

    def verbs(self, connection: int | None = None) -> list[str]:
        """The commands that came, without their arguments."""
        return [line.split(" ")[0].upper() for number, line in self.commands if connection in (None, number)]

    def action(self, step: str, argument: str = "") -> Action:
        """What the script says for this step, this time."""
        if callable(self.script):
            return self.script(step, argument)
        planned = self.script.get(step)
        if planned is None or isinstance(planned, str):
            return planned
        call = self._calls.get(step, 0)
        self._calls[step] = call + 1
        return planned[call] if call < len(planned) else None

    def record(self, transaction: Transaction) -> None:
        """Keep the mail, on the disk too where there is a ledger."""
        self.transactions.append(transaction)
        if self.ledger is not None:
            line = asdict(transaction) | {"content": base64.b64encode(transaction.content).decode()}
            with self.ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await _Connection(self, self.connections, reader, writer).serve()
        except (_Gone, ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()


class _Connection:
    def __init__(self, sink: SMTPSink, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sink = sink
        self._number = number
        self._reader = reader
        self._writer = writer
        self._input = bytearray()
        self._helo = ""
        self._tls = ""
        self._envelope = _Envelope()

    async def serve(self) -> None:
        await self._step("BANNER", "", f"220 {self._sink.hostname} ESMTP sink")
        while True:
            line = (await self._until(b"\n")).decode("utf-8", "replace").strip("\r\n")
            self._sink.commands.append((self._number, line))
            verb, _, argument = line.partition(" ")
            verb = verb.upper()
            if verb in ("EHLO", "HELO"):
                await self._hello(verb, argument)
            elif verb == "STARTTLS" and self._sink.tls:
                await self._start_tls()
            elif verb == "MAIL":
                if await self._step(verb, argument):
                    match = _PATH.match(argument)
                    assert match is not None, line
                    self._envelope = _Envelope(match[1], match[2])
            elif verb == "RCPT":
                if self._envelope.reverse_path is None:
                    await self._say("503 5.5.1 no MAIL")
                elif await self._step(verb, argument):
                    match = _PATH.match(argument)
                    assert match is not None, line
                    self._envelope.recipients.append(match[1])
            elif verb == "DATA":
                if await self._step(verb if self._envelope.recipients else "NOBODY", argument):
                    await self._data()
            elif verb == "BDAT" and "CHUNKING" in self._sink.extensions:
                await self._chunk(argument)
            elif verb in ("RSET", "NOOP", "QUIT"):
                await self._step(verb, argument)
                if verb != "NOOP":
                    self._envelope = _Envelope()
                if verb == "QUIT":
                    return
            else:
                await self._say("500 5.5.1 unknown command")

    async def _hello(self, verb: str, argument: str) -> None:
        lines = [self._sink.hostname]
        if verb == "EHLO":
            lines += [*self._sink.extensions, *(["STARTTLS"] if self._sink.tls and not self._tls else [])]
        reply = "\n".join([f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"])
        if await self._step(verb, argument, reply):
            self._helo = argument
            self._envelope = _Envelope()

    async def _start_tls(self) -> None:
        if await self._step("STARTTLS", ""):
            planned = self._sink.action("HANDSHAKE")
            if planned is not None:
                await self._reader.read(1)  # the client's hello
                await self._perform(planned, "")
                raise _Gone
            await self._writer.start_tls(server_context() if isinstance(self._sink.tls, bool) else self._sink.tls)
            self._tls = self._writer.get_extra_info("ssl_object").version()
            self._helo = ""

    async def _chunk(self, argument: str) -> None:
        """BDAT (RFC 3030 2). What is not the last is kept."""
        size, _, last = argument.partition(" ")
        if self._envelope.recipients:
            await self._interrupt()
        while len(self._input) < int(size):
            await self._read()
        self._envelope.content += self._input[: int(size)]
        del self._input[: int(size)]
        if not self._envelope.recipients:
            await self._say("503 5.5.1 no RCPT")
        elif last.upper() == "LAST":
            await self._take(self._envelope.content)
        else:
            await self._say("250 2.0.0 ok")

    async def _interrupt(self) -> None:
        planned = self._sink.action("CONTENT")
        if planned is not None:
            if not self._input:
                self._input += await self._reader.read(1 << 16)
            await self._perform(planned, "")
            while await self._reader.read(1 << 16):  # deaf from here on
                pass
            raise _Gone

    async def _data(self) -> None:
        await self._interrupt()
        self._input[:0] = b"\r\n"
        content = (await self._until(b"\r\n.\r\n"))[2:-3].replace(b"\r\n..", b"\r\n.")
        if content.startswith(b".."):
            content = content[1:]
        await self._take(content)

    async def _take(self, content: bytes) -> None:
        """The mail is whole."""
        if not self._envelope.recipients:
            await self._say("554 5.5.1 no valid recipients")
            return
        envelope, self._envelope = self._envelope, _Envelope()
        planned = self._sink.action("DOT")
        transaction = Transaction(
            self._number,
            self._helo,
            self._tls,
            envelope.reverse_path or "",
            envelope.parameters,
            envelope.recipients,
            content,
            time.time(),
        )
        if planned is None or planned.startswith(("2", "slow", "accept-", *_WELL)):
            self._sink.record(transaction)
        if planned is not None:
            planned = planned.removeprefix("accept-")
        await self._perform(planned, _REPLIES["DOT"])

    async def _step(self, step: str, argument: str, reply: str | None = None) -> bool:
        """Does what the script says; whether the step went well."""
        return await self._perform(
            self._sink.action(step, argument), _REPLIES.get(step, "250 2.0.0 ok") if reply is None else reply
        )

    async def _perform(self, action: Action, reply: str) -> bool:
        if action == "drop":
            raise _Gone
        if action == "hang":
            while await self._reader.read(1 << 16):
                pass
            raise _Gone
        if action == "garbage":
            self._writer.write(b"\x00\xffwhat?\r\n")
            await self._writer.drain()
            return False
        if action is not None and action.startswith("slow"):
            await asyncio.sleep(float(action.split()[1]))
            action = None
        if action is not None and action.startswith((*_WELL, "mixed", "endless")):
            await self._say_oddly(action, reply or "250 2.0.0 ok")
            return reply[:1] in ("2", "3")
        text = reply if action is None else action.removesuffix(" !drop")
        if text:
            await self._say(text)
        if text.startswith("421") or (action or "").endswith(" !drop"):
            raise _Gone
        return not text or text[0] in "23"

    async def _say_oddly(self, how: str, text: str) -> None:
        last = text.rpartition("\n")[2]
        if how == "1mb":
            await self._say(last[:4] + "x" * (1 << 20))
        elif how == "endless":
            while True:
                await self._say(f"{last[:3]}-{'x' * 70}")
        elif how == "multi":
            await self._say("\n".join([f"{last[:3]}-what follows", text]))
        elif how == "mixed":
            await self._say(f"{last[:3]}-what follows\n{'550' if last[0] in '23' else '250'} {last[4:]}")
        elif how == "extra":
            await self._say(f"{text}\n{last[:3]} once more")
        else:
            for octet in text.replace("\n", "\r\n").encode() + b"\r\n":
                self._writer.write(bytes([octet]))
                await asyncio.sleep(float(how.split()[1]))

    async def _say(self, text: str) -> None:
        self._writer.write(text.replace("\n", "\r\n").encode() + b"\r\n")
        await self._writer.drain()

    async def _read(self) -> None:
        data = await self._reader.read(1 << 16)
        if not data:
            raise _Gone
        self._input += data

    async def _until(self, end: bytes) -> bytes:
        start = 0
        while (found := self._input.find(end, start)) < 0:
            start = max(len(self._input) - len(end) + 1, 0)
            await self._read()
        taken = bytes(self._input[: found + len(end)])
        del self._input[: found + len(end)]
        return taken


@cache
def server_context() -> ssl.SSLContext:
    """TLS with a certificate that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("sink.test").configure_cert(context)
    return context


async def _main(options: argparse.Namespace) -> None:
    script = json.loads(options.script)
    sink = SMTPSink(
        script,
        address=options.address,
        port=options.port,
        hostname=options.hostname,
        tls=options.tls,
        ledger=options.ledger,
    )
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    async with sink:
        print(f"ready {sink.address} {sink.port}", flush=True)
        await done.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A scripted SMTP server.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=2525)
    parser.add_argument("--hostname", default="sink.test")
    parser.add_argument("--script", default="{}", help="JSON: step to action or list of actions")
    parser.add_argument("--tls", action="store_true", help="offer STARTTLS")
    parser.add_argument("--ledger", type=Path)
    asyncio.run(_main(parser.parse_args()))
