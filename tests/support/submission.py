"""Mail into a server, octet by octet as the test has it, and what then becomes of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.server import ServerProcess
from tests.support.waiting import until

WAITING = frozenset({"RECEIVED", "ANSWERING", "QUEUED", "SENDING", "DEFERRED"})
"""The states in which something will still happen."""


class Client:
    """One SMTP connection that changes nothing of what it is given; dots are stuffed, and that is all."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", hello: str = "EHLO client.test", timeout: float = 30.0):
        self._socket = socket.create_connection((host, port), timeout=timeout)
        self._file = self._socket.makefile("rb")
        self.banner = self.reply()
        self.hello = self.say(hello)

    def reply(self) -> tuple[int, str]:
        """The next reply, its lines joined; (0, "") where the server hung up."""
        lines: list[str] = []
        while True:
            line = self._file.readline().decode("utf-8", "replace").rstrip("\r\n")
            if not line:
                return 0, "\n".join(lines)
            lines.append(line[4:])
            if line[3:4] != "-":
                return int(line[:3]), "\n".join(lines)

    def say(self, line: str) -> tuple[int, str]:
        """One command and its reply."""
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def mail(self, sender: str, recipients: Sequence[str], content: bytes) -> tuple[int, str]:
        """One transaction: the reply to the final dot, or the first one that refuses. Ends with RSET where it is refused."""
        for command in (f"MAIL FROM:<{sender}>", *[f"RCPT TO:<{one}>" for one in recipients], "DATA"):
            reply = self.say(command)
            if reply[0] >= 400:
                self.say("RSET")
                return reply
        self.send(stuffed(content))
        return self.reply()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stuffed(content: bytes) -> bytes:
    """A message as it goes over the wire, the final dot included (RFC 5321 4.5.2)."""
    dotted = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    return dotted + (b"" if content.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def submit(port: int, sender: str, recipients: Sequence[str], content: bytes) -> tuple[int, str]:
    """One mail over a connection of its own."""
    with Client(port) as client:
        return client.mail(sender, recipients, content)


def message(sender: str, recipient: str, subject: str, text: str, *fields: str) -> bytes:
    """A simple mail; `fields` are further header lines."""
    lines = [f"From: {sender}", f"To: {recipient}", f"Subject: {subject}", *fields, "", *text.splitlines()]
    return "".join(f"{line}\r\n" for line in lines).encode()


def verb(server: ServerProcess, *arguments: str, status: int = 0) -> str:
    """Run a verb that ends with `status`: what it printed, on standard error where that is not 0."""
    done = server.command(*arguments, check=False)
    assert done.returncode == status, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr if status else done.stdout


def queue(server: ServerProcess, *arguments: str) -> Any:
    """`responder queue ... --json`."""
    return json.loads(verb(server, "queue", *arguments, "--json"))


def settled(server: ServerProcess, seconds: float, *, mails: int) -> dict[str, dict[str, int]]:
    """`queue stats`, once that many (mail, recipient) items are there and nothing waits or is under way."""

    def look() -> dict[str, dict[str, int]] | None:
        found: dict[str, dict[str, int]] = queue(server, "stats")
        if sum(found["inbound"].values()) < mails:
            return None
        return None if any(WAITING & set(states) for states in found.values()) else found

    return until(look, seconds, lambda: f"not settled: {queue(server, 'stats')}\n{server.log.read_text()[-4000:]}")


def queued_as(reply: tuple[int, str]) -> str:
    """The id of a mail that was accepted."""
    code, text = reply
    assert code == 250, reply
    return text.rpartition(" ")[2]


def ended(server: ServerProcess, mail_id: str, seconds: float = 30.0) -> list[dict[str, Any]]:
    """The items of a mail (received ones, answers, forwards, notifications), once none of them waits any more."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        [account] = json.loads(verb(server, "explain", mail_id, "--json"))
        found[:] = account["items"]
        return not any(item["state"] in WAITING for item in found)

    until(look, seconds, lambda: f"{mail_id} has not come to an end: {found}\n{server.log.read_text()[-4000:]}")
    return found


@dataclass
class Load:
    """Clients that write to one inbox until they are told to stop, or a mail is not taken."""

    port: int
    clients: int = 3
    recipient: str = "echo@test.example"
    accepted: list[str] = field(default_factory=list)
    refused: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(self.clients)]

    def _write(self, client: int) -> None:
        for number in range(2000):
            sender = f"load.{client}.{number}@away.example"
            try:
                with Client(self.port) as connection:
                    reply = connection.mail(sender, [self.recipient], message(sender, self.recipient, "Load", "x"))
            except OSError as error:
                reply = (0, str(error))
            if reply[0] != 250:
                self.refused.append(reply)
                return
            self.accepted.append(sender)
            if self._stop.is_set():
                return

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def goes_on(self) -> None:
        """Wait until ten more mails were taken."""
        wanted = len(self.accepted) + 10
        until(lambda: len(self.accepted) >= wanted, 30, lambda: f"the load stands still: {self.refused[-3:]}")
