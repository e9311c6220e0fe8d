"""Clients that take without giving: the server's memory and its places stay its own."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

from tests.support.server import ServerProcess, configuration, running

FLOOD = b"HELP\r\n" * 20000  # a reply takes twenty times the command
PATIENT = 64 << 20  # octets that a server without bounds would take in far less than a minute


def memory(server: ServerProcess) -> int:
    """Resident memory in MB."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) >> 10


def sockets(server: ServerProcess) -> int:
    assert server.process is not None
    found = 0
    for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += "socket:" in str(entry.readlink())
    return found


def flood(sock: socket.socket) -> int:
    """Send until the server takes no more, or `PATIENT` octets."""
    sent = 0
    sock.settimeout(1.0)
    with contextlib.suppress(TimeoutError):
        while sent < PATIENT:
            sent += sock.send(FLOOD)
    return sent


def test_a_client_reads_no_replies_then_nothing_more_is_read_from_it(tmp_path: Path) -> None:
    with running(tmp_path, configuration()) as server:
        before = memory(server)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            assert flood(sock) < PATIENT
            assert memory(server) - before < 40
            # It goes on as soon as the client reads: every command that was taken gets its reply.
            sock.settimeout(20.0)
            received = 0
            while received < 1 << 20:
                received += len(sock.recv(1 << 16))


def test_a_client_reads_no_replies_then_its_connection_ends_all_the_same(tmp_path: Path) -> None:
    limits = {"connection_rate": "off", "unknown_recipients": "off", "idle": "1s", "session": "2s"}
    with running(tmp_path, configuration(limits=limits)) as server:
        before = sockets(server)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            flood(sock)
            assert sockets(server) == before + 1
            ends = time.monotonic() + 20
            while sockets(server) > before and time.monotonic() < ends:
                time.sleep(0.1)
            assert sockets(server) == before
