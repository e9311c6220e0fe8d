"""A real server under load: ten thousand that say nothing, five hundred that bring 25 MB each, and some who mean no good.

The figures are printed: a run with `-s` tells them."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.crowd import CrowdProcess, Memory, raise_descriptors
from tests.support.server import ServerProcess, configuration, running
from tests.support.waiting import until

IDLE = 10_000
BIG = 25 << 20
IN_FLIGHT = 256 << 20
OPEN = {"connection_rate": "off", "unknown_recipients": "off", "connections": 20_000, "connections_per_ip": 20_000}


def served(**changes: Any) -> dict[str, Any]:
    """A server whose only inbox reads little of what it gets, one mail at a time: this is about what comes in."""
    limits = OPEN | changes.pop("limits", {})
    answering = {"concurrency": 1, "per_inbox": 1}
    return configuration(limits=limits, inboxes={"sink": {"agent": "current-time"}}, answering=answering, **changes)


def crowd(server: ServerProcess, what: str, count: int, *options: str) -> CrowdProcess:
    return CrowdProcess("--port", str(server.port), "--count", str(count), *options, what)


def pid(server: ServerProcess) -> int:
    assert server.process is not None
    return server.process.pid


def greeted_in(port: int) -> float:
    """Seconds from the connect to the greeting."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        assert sock.recv(100).startswith(b"220 ")
        return time.monotonic() - began


def deliver(port: int) -> bytes:
    """The reply to one small mail."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock, sock.makefile("rb") as replies:
        sock.sendall(b"HELO x\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<sink@test.example>\r\nDATA\r\n")
        for _ in range(5):
            replies.readline()
        sock.sendall(b"Subject: small\r\n\r\nhello\r\n.\r\n")
        return replies.readline()


def test_ten_thousand_idle_clients_are_held_and_the_next_is_greeted_at_once(tmp_path: Path) -> None:
    raise_descriptors(IDLE + 1000)  # the server's: it inherits them
    with running(tmp_path, served()) as server, Memory(pid(server)) as memory:
        before = memory.now()
        with crowd(server, "idle", IDLE) as clients:
            assert clients.stage() == {"stage": "greeted", "clients": IDLE}
            held = memory.now()
            times = sorted(greeted_in(server.port) for _ in range(50))
            reply = deliver(server.port)
        print(
            f"{IDLE} idle connections: {held:.0f} MB ({(held - before) * 1024 / IDLE:.1f} KB each);"
            f" greeting: median {times[25] * 1000:.2f} ms, longest {times[-1] * 1000:.1f} ms"
        )
        assert held < 200
        assert times[-1] < 0.2
        assert reply.startswith(b"250 ")


@pytest.mark.parametrize("declared", [True, False])
def test_five_hundred_big_mails_at_once_do_not_exhaust_memory(tmp_path: Path, declared: bool) -> None:
    """All are sent at the same time. Some are taken to the end, the others leave in the middle: the disk of a test is small."""
    options = ("--size", str(BIG), "--enough", "30", *(["--declare"] if declared else []))
    with running(tmp_path, served()) as server:
        with Memory(pid(server)) as memory:
            with crowd(server, "mails", 500, *options) as clients:
                clients.stage()
                small = deliver(server.port)
                result = clients.stage()
            # What the others held is free again: the next small mail and the next big one are taken.
            with crowd(server, "mails", 1, "--size", str(BIG)) as clients:
                clients.stage()
                after = clients.stage()
        print(
            f"500 mails of 25 MB, {'declared' if declared else 'undeclared'}: {memory.peak:.0f} MB at the most;"
            f" {result['ends']} in {result['seconds']:.1f} s"
        )
        assert result["ends"].get("250", 0) >= 30
        assert set(result["ends"]) == {"250"}
        assert small.startswith(b"250 ")
        assert after["ends"] == {"250": 1}
        assert memory.peak < 3 * IN_FLIGHT / (1 << 20) + 100


def test_slow_trickles_are_closed_by_their_deadlines(tmp_path: Path) -> None:
    """An octet now and then, in a command, in a message and in the commands of a session: each has its end."""
    limits = {"idle": "3s", "session": "6s", "transaction": "3s", "slowest": 1000}
    with running(tmp_path, served(limits=limits)) as server:
        socks = {}
        for kind in ("command", "message", "session"):
            socks[kind] = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            socks[kind].recv(1000)
        socks["message"].sendall(b"HELO x\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<sink@test.example>\r\nDATA\r\n")
        began = time.monotonic()
        said: dict[str, bytes] = dict.fromkeys(socks, b"")
        ends: dict[str, float] = {}

        def over() -> bool:
            for kind, sock in socks.items():
                if kind in ends:
                    continue
                sock.setblocking(False)
                try:
                    octets = sock.recv(1000)
                    said[kind] += octets
                    if not octets:
                        ends[kind] = time.monotonic() - began
                        continue
                except BlockingIOError:
                    pass
                except ConnectionResetError:
                    ends[kind] = time.monotonic() - began
                    continue
                try:
                    sock.send(
                        b"NOOP\r\n" if kind == "session" and not turn[0] % 20 else b"x" if kind != "session" else b""
                    )
                except OSError:
                    ends[kind] = time.monotonic() - began
            turn[0] += 1
            return len(ends) == 3

        turn = [0]
        until(over, 40.0, lambda: f"still open: {set(socks) - set(ends)}")
        for sock in socks.values():
            sock.close()
        print({kind: f"{seconds:.1f} s" for kind, seconds in ends.items()})
        assert (
            b"421 4.4.2 Session lasts too long" in said["session"] or b"421 4.7.0 Too many commands" in said["session"]
        )
        assert all(seconds < 20 for seconds in ends.values())


@pytest.mark.parametrize(
    "storm", [b"RSET\r\n", b"NOOP\r\n", b"EHLO x\r\n", b"VRFY x\r\n", b"MAIL FROM:<a@b.example>\r\nRSET\r\n"]
)
def test_storm_of_commands_that_bring_no_mail_is_closed(tmp_path: Path, storm: bytes) -> None:
    with running(tmp_path, served(limits={"junk_commands": 100})) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
            said = b""
            with contextlib.suppress(OSError):
                sock.sendall(b"EHLO x\r\n" + storm * 5000)
            with contextlib.suppress(ConnectionResetError):
                while octets := sock.recv(65536):
                    said += octets
        assert said.count(b"\r\n250 ") <= 102
        assert deliver(server.port).startswith(b"250 ")
        assert "Too many commands" in server.log.read_text()
