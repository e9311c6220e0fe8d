"""Limits of a whole server.

    clients, more than there are descriptors ──> responder serve, under a low `ulimit -n`, on uvloop and on asyncio

Then: who is inside is served, who comes past that is told 421 or cut off, nothing spins, and there is room again when they leave.
And what a policy says at the door: a deny list in a file that changes, blocklists, greylisting.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dns_server import DNSServer
from tests.support.server import ROOT, ServerProcess, configuration, environment, to_toml
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client
from tests.support.waiting import Background, until

WAIT = 30.0
LOOPS = ("asyncio", "uvloop")


@contextlib.contextmanager
def started(folder: Path, config: dict[str, Any], descriptors: int, loop: str = "uvloop") -> Iterator[ServerProcess]:
    """A server that may have so many descriptors; none is left behind."""
    server = ServerProcess(folder, config)
    env = {}
    if loop == "asyncio":
        (folder / "none").mkdir()
        (folder / "none" / "uvloop.py").write_text('raise ImportError("not here")\n')
        env = {"PYTHONPATH": f"{folder / 'none'}{os.pathsep}{ROOT}"}
    server.start(prefix=("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"), env=env)
    try:
        yield server
        assert server.stop() == 0, server.log.read_text()[-4000:]
    finally:
        if server.process is not None:
            server.kill()


def knock(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    sock.settimeout(WAIT)
    return sock


def heard(sock: socket.socket) -> str:
    """The code of the first line; "" where the connection was cut."""
    with contextlib.suppress(ConnectionError):
        return sock.recv(3).decode()
    return ""


def seconds_of_work(server: ServerProcess) -> float:
    """Processor time that the server has had."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def greeted(port: int) -> bool:
    with knock(port) as sock:
        return heard(sock) == "220"


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_fill_what_room_there_is_and_store_and_delivery_go_on(tmp_path: Path, loop: str) -> None:
    with Background() as background, contextlib.ExitStack() as stack:
        sink = background.enter(SMTPSink())
        zone = {"example.org": {"MX": [[10, "mx.example.org"]]}, "mx.example.org": {"A": ["127.0.0.1"]}}
        names = background.enter(DNSServer(zone))
        delivery = {
            "transport": "mx",
            "port": sink.port,
            "nameservers": [names.nameserver],
            "allow_private_addresses": True,
            "concurrency": 4,
        }
        server = stack.enter_context(started(tmp_path, configuration(delivery=delivery), 80, loop))
        inside = [stack.enter_context(knock(server.port)) for _ in range(40)]  # half of 80
        assert [heard(sock) for sock in inside] == ["220"] * 40
        with knock(server.port) as late:
            assert late.makefile().readline() == "421 4.7.0 Too many connections, try again later\n"
        burst = [stack.enter_context(knock(server.port)) for _ in range(300)]
        said = [heard(sock) for sock in burst]
        assert set(said) <= {"421", ""}
        inside[7].sendall(
            b"HELO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo@test.example>\r\nDATA\r\n"
            b"From: a@example.org\r\nSubject: still here\r\n\r\nx\r\n.\r\nQUIT\r\n"
        )
        with inside[7].makefile() as file:
            assert " Queued as " in file.read()
        until(lambda: sink.transactions, WAIT, "the answer did not leave")
        assert greeted(server.port)  # in the place of the one that has left


@pytest.mark.parametrize("loop", LOOPS)
def test_no_descriptor_is_left_then_the_server_lives_and_does_not_spin(tmp_path: Path, loop: str) -> None:
    """So few that they are used up before there are as many clients as there is said to be room for."""
    with started(tmp_path, configuration(), 30, loop) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(knock(server.port)) for _ in range(100)]
        said = [heard(sock) for sock in clients]
        inside = [sock for sock, code in zip(clients, said, strict=True) if code == "220"]
        assert inside
        assert "" in said
        before = seconds_of_work(server)
        for _ in range(50):
            with knock(server.port) as sock:
                assert heard(sock) in ("", "421")
            time.sleep(0.02)
        assert seconds_of_work(server) - before < 0.7  # of more than a second
        for sock in inside:
            sock.sendall(b"NOOP\r\nQUIT\r\n")
            with sock.makefile() as file:
                assert file.read().endswith("250 2.0.0 Ok\n221 2.0.0 Bye\n")
        for sock in clients:
            sock.close()
        until(lambda: greeted(server.port), WAIT, "nobody is let in any more")
        log = server.log.read_text()
        assert "Traceback" not in log
        assert log.count("\n") < 400


def test_limit_of_descriptors_is_raised_and_what_it_leaves_is_said(tmp_path: Path) -> None:
    with started(tmp_path, configuration(), 300) as server:  # soft and hard
        log = server.log.read_text()
        assert "notice key=limits.connections" in log
        assert "leaves room for 150" in log
    soft = tmp_path / "soft"
    server = ServerProcess(soft, configuration())
    server.start(prefix=("sh", "-c", 'ulimit -S -n 60; exec "$@"', "sh"))
    try:
        assert server.process is not None
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3] == line.split()[4] != "60"
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()


def test_check_says_how_many_clients_there_is_room_for(tmp_path: Path) -> None:
    (tmp_path / "responder.toml").write_text(to_toml(configuration()))
    command = [sys.executable, "-m", "responder", "check", "--config", "responder.toml"]
    found = subprocess.run(
        ["sh", "-c", 'ulimit -n 300; exec "$@"', "sh", *command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "notice: limits.connections: the limit of open files (300) leaves room for 150" in found.stdout


# -- at the door -------------------------------------------------------------------------------------------------------


def first_line(port: int) -> str:
    with knock(port) as sock, sock.makefile() as file:
        return file.readline().strip()


def test_deny_file_is_read_at_start_followed_and_at_sighup(tmp_path: Path) -> None:
    path = tmp_path / "deny.txt"
    path.write_text("192.0.2.0/24\n")
    limits = {"deny_file": str(path)}
    with started(tmp_path / "server", configuration(limits=limits), 1000) as server:
        assert first_line(server.port).startswith("220 ")
        path.write_text("127.0.0.0/8\n")
        until(lambda: first_line(server.port).startswith("554 5.7.1 "), WAIT, "the file is not followed")
        offset = server.log.stat().st_size
        path.write_text("127.0.0.0/8\nnobody\n")
        server.wait_for_log("not read again", offset)
        assert f"limits.deny_file: {path}: line 2: " in server.log.read_text()
        assert first_line(server.port).startswith("554 5.7.1 ")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload refused", offset)
        path.write_text("")
        offset = server.log.stat().st_size
        server.signal(signal.SIGHUP)
        server.wait_for_log(" reloaded ", offset)
        assert first_line(server.port).startswith("220 ")
        path.write_text("not this\n")
        found = server.command("check", check=False)
        assert found.returncode == 2 or found.returncode == 1
        assert found.stderr.count("\n") == 1
        assert f"limits.deny_file: {path}: line 1: " in found.stderr
        path.write_text("")


def test_blocklist_and_greylist_work_as_configured_and_follow_a_reload(tmp_path: Path) -> None:
    with Background() as background:
        names = background.enter(DNSServer({"1.0.0.127.bl.example": {"A": ["127.0.0.2"], "TTL": 1}}))
        config = configuration(
            blocklists={"zones": ["bl.example=127.0.0.2-4"]},
            authentication={"mode": "off", "trusted_networks": []},
            delivery={"transport": "print", "nameservers": [names.nameserver]},
        )
        with started(tmp_path, config, 1000) as server:
            client = Client(server.port)
            assert client.say("MAIL FROM:<a@example.org>") == (554, "5.7.1 Your address is listed by bl.example")
            server.write({**config, "blocklists": {}, "greylist": {"enabled": True, "delay": "1s"}})
            offset = server.log.stat().st_size
            server.signal(signal.SIGHUP)
            server.wait_for_log(" reloaded ", offset)

            def sends() -> int:
                sender = Client(server.port)
                assert sender.say("MAIL FROM:<a@example.org>")[0] == 250
                return sender.say("RCPT TO:<echo@test.example>")[0]

            assert sends() == 451
            until(lambda: sends() == 250, WAIT, "who comes again is never let in")
