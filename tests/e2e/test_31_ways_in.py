"""Scenario 31: the ways in, each with a program that uses it.

client ──TCP──> haproxy ──PROXY header, TCP or Unix──> responder         (smtp and smtps)
Postfix ──LMTP, TCP or Unix──> responder                                 swaks ──LMTP──> responder
a parent that opens the sockets, as systemd does ──descriptors──> responder
"""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.conftest import find_peer
from tests.support.haproxy import HAProxy, Route
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.submission import Client, message, queued_as, submit, verb
from tests.support.waiting import until

ECHO = "echo@test.example"
MAIL = message("Ann <ann@client.example>", ECHO, "Hello", "How are you?")


@contextmanager
def folder_of_sockets() -> Iterator[Path]:
    """A path that is short enough for a socket, and that other users get into."""
    with tempfile.TemporaryDirectory(prefix="ways-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def trace_of(server: ServerProcess, reply: tuple[int, str]) -> str:
    """The trace field of a mail that was accepted, unfolded, up to the id."""
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as database:
        [[content]] = database.execute("SELECT data FROM content WHERE id = ?", (queued_as(reply),)).fetchall()
    field = re.match(rb"(?:[^\r]|\r\n[ \t])+", content)
    assert field is not None
    return field.group().decode().replace("\r\n\t", " ").partition(" id ")[0]


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A chain with its key in one file, and what trusts it."""
    authority = trustme.CA()
    authority.issue_cert("mx.test.example").private_key_and_cert_chain_pem.write_to_path(folder / "chain.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return folder / "chain.pem", context


def submit_from(source: str, port: int, tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    """One mail from an address of ours; the reply to the dot."""
    with (
        socket.create_connection(("::1" if ":" in source else "127.0.0.1", port), 30, (source, 0)) as plain,
        ExitStack() as stack,
    ):
        sock = stack.enter_context(tls.wrap_socket(plain, server_hostname="mx.test.example")) if tls else plain
        client = smtplib.SMTP(local_hostname="client.test")
        client.sock = sock
        assert client.getreply()[0] == 220
        client.ehlo()
        client.mail("ann@client.example")
        client.rcpt(ECHO)
        code, text = client.data(MAIL)
        client.quit()
        return code, text.decode()


# -- proxies -----------------------------------------------------------------------------------------------------------

WAYS = ("send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,cert-cn")


@pytest.mark.peer("haproxy")
def test_haproxy_when_it_passes_clients_on_then_their_addresses_are_noted(tmp_path: Path) -> None:
    chain, trusting = certificate(tmp_path)
    plain, encrypted = free_port(), free_port()
    fronts = [free_port() for _ in WAYS]
    tls_fronts = [free_port() for _ in WAYS]
    ended, six = free_port(), free_port("::1")
    with folder_of_sockets() as sockets:
        config = configuration(
            limits={"connections_per_ip": 1, "connection_rate": "30/1m"},
            listen=[
                {"address": f"127.0.0.1:{plain}", "proxy_protocol": True},
                {"address": f"127.0.0.1:{encrypted}", "proxy_protocol": True, "protocol": "smtps"},
                {"address": f"unix:{sockets}/s", "proxy_protocol": True, "mode": "0666"},
            ],
            tls={"certificate": str(chain), "key": str(chain)},
        )
        unique = "unique-id-format %[uuid()]"
        routes = [
            *[
                Route(f"127.0.0.1:{front}", f"127.0.0.1:{back}", way, lines=unique)
                for fronts_of, back in ((fronts, plain), (tls_fronts, encrypted))
                for front, way in zip(fronts_of, WAYS, strict=True)
            ],
            # haproxy ends TLS itself, and tells of it in fields behind the addresses
            Route(f"127.0.0.1:{ended}", f"127.0.0.1:{plain}", "send-proxy-v2-ssl-cn", bind=f"ssl crt {chain}"),
            Route(f"[::1]:{six}", f"unix@{sockets}/s", "send-proxy-v2"),
        ]
        with running(tmp_path / "server", config) as server, HAProxy(routes, tmp_path):
            for number, port in enumerate(fronts):
                reply = submit_from(f"127.0.1.{number}", port)
                assert f"([127.0.1.{number}]) by mx.test.example with ESMTP" in trace_of(server, reply)
            for number, port in enumerate(tls_fronts):
                reply = submit_from(f"127.0.2.{number}", port, trusting)
                assert re.search(
                    rf"\(\[127\.0\.2\.{number}\]\) by mx\.test\.example with ESMTPS \(TLS", trace_of(server, reply)
                )
            reply = submit_from("127.0.3.1", ended, trusting)
            assert "([127.0.3.1]) by mx.test.example with ESMTP" in trace_of(server, reply)
            reply = submit_from("::1", six)
            assert "([IPv6:::1]) by mx.test.example with ESMTP" in trace_of(server, reply)
            assert "peer=127.0.1.0" in server.log.read_text()
            with Client(fronts[0]) as first, Client(fronts[1], hello="QUIT") as second:
                assert (first.banner[0], second.banner[0]) == (220, 421)  # one address, however it comes


@pytest.mark.peer("haproxy")
def test_haproxy_when_it_looks_after_its_servers_then_we_are_up_and_never_too_fast(tmp_path: Path) -> None:
    back, front, down = free_port(), free_port(), free_port()
    config = configuration(
        limits={"connections_per_ip": 1, "connection_rate": "2/1h"},
        listen=[{"address": f"127.0.0.1:{back}", "proxy_protocol": True}],
    )
    checks = "option smtpchk EHLO haproxy.test"
    options = "send-proxy-v2 check check-send-proxy inter 50ms fall 1 rise 1"
    routes = [
        Route(f"127.0.0.1:{front}", f"127.0.0.1:{back}", options, lines=checks),
        Route(f"127.0.0.1:{down}", f"127.0.0.1:{free_port()}", options, lines=checks),
    ]
    with running(tmp_path / "server", config) as server, HAProxy(routes, tmp_path):

        def states() -> dict[str, str]:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(tmp_path / "haproxy.sock"))
                sock.sendall(b"show stat\n")
                rows = [line.split(",") for line in sock.makefile(encoding="utf-8") if ",behind," in line]
            return {row[0]: f"{row[17]} {row[22]}" for row in rows}  # status; times it went down

        until(lambda: states()["route1"].startswith("DOWN"), 30, "a server that is not there counts as one")
        assert states()["route0"] == "UP 0"
        assert "refused" not in server.log.read_text()
        assert submit(front, "ann@client.example", [ECHO], MAIL)[0] == 250


def test_proxy_listener_when_a_stranger_connects_then_nothing_is_said_and_it_is_logged(tmp_path: Path) -> None:
    port = free_port()
    listen = {"address": f"127.0.0.1:{port}", "proxy_protocol": True, "proxies": ["192.0.2.1"]}
    with running(tmp_path, configuration(listen=[listen])) as server:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            try:
                said = sock.recv(100)
            except ConnectionResetError:
                said = b""
            assert said == b""
        server.wait_for_log('refused peer=127.0.0.1 reason="not one of the listed proxies"')


# -- LMTP --------------------------------------------------------------------------------------------------------------


@pytest.mark.peer("postfix")
@pytest.mark.parametrize("way", ["inet", "unix", "inet with TLS"])
def test_postfix_when_it_delivers_by_lmtp_then_each_recipient_has_its_reply(tmp_path: Path, way: str) -> None:
    chain, _ = certificate(tmp_path)
    port = free_port()
    with folder_of_sockets() as sockets:
        address = f"unix:{sockets}/lmtp" if way == "unix" else f"127.0.0.1:{port}"
        config = configuration(listen=[{"address": address, "protocol": "lmtp", "mode": "0666"}])
        if "TLS" in way:
            config["tls"] = {"certificate": str(chain), "key": str(chain)}
        settings = {
            "virtual_transport": f"lmtp:{address if way == 'unix' else f'inet:{address}'}",
            "virtual_mailbox_domains": "test.example",
            "virtual_mailbox_maps": "static:all",
            "lmtp_tls_security_level": "encrypt" if "TLS" in way else "none",
            "lmtp_destination_recipient_limit": "50",
            "soft_bounce": "no",
        }
        with running(tmp_path / "server", config) as server, Postfix("mta.sender.example", settings=settings) as mta:
            until(lambda: "ready" in server.log.read_text(), 30, "not ready")
            recipients = [ECHO, "current-time@test.example", "nobody@test.example"]
            assert submit(mta.port, "", recipients, MAIL)[0] == 250  # nobody, so that nobody is told of the one
            until(lambda: all(f"to=<{one}>" in mta.log for one in recipients), 30, lambda: mta.log)
            for one in recipients[:2]:
                assert re.search(rf"to=<{one}>.* dsn=2\.0\.0, status=sent \(250 2\.0\.0 Queued as ", mta.log), mta.log
            assert re.search(r"to=<nobody@test\.example>.* dsn=5\.1\.1, status=bounced", mta.log), mta.log
            assert len(re.findall(r"postfix/lmtp\[\d+\]: .* to=<", mta.log)) == 3, mta.log
            accepted = re.findall(r" accepted id=(\S+)\.(\d) .*to=(\S+)", server.log.read_text())
            assert len({mail for mail, _, _ in accepted}) == 1
            assert {to for _, _, to in accepted} == set(recipients[:2])
            trace = trace_of(server, (250, accepted[0][0]))
            assert trace.startswith("Received: from mta.sender.example (")
            assert ("local socket" if way == "unix" else "[127.0.0.1]") in trace
            assert f"with LMTP{'S (TLS' if 'TLS' in way else ''}" in trace


@pytest.mark.peer("swaks")
@pytest.mark.parametrize("way", ["inet", "unix"])
def test_swaks_when_it_speaks_lmtp_then_it_is_understood(tmp_path: Path, way: str) -> None:
    port = free_port()
    with folder_of_sockets() as sockets:
        address = f"unix:{sockets}/lmtp" if way == "unix" else f"127.0.0.1:{port}"
        with running(tmp_path, configuration(listen=[{"address": address, "protocol": "lmtp"}])) as server:
            swaks = find_peer("swaks")
            assert swaks is not None
            where = ["--socket", f"{sockets}/lmtp"] if way == "unix" else ["--server", "127.0.0.1", "--port", str(port)]
            command = [swaks, "--protocol", "LMTP", *where, "--to", f"{ECHO},debug@test.example"]
            done = subprocess.run(
                [*command, "--from", "ann@client.example", "--helo", "client.test"],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout
            assert len(re.findall(r"<-  250 2\.0\.0 Queued as \S+", done.stdout)) == 2, done.stdout
            server.wait_for_log("to=debug@test.example")


# -- sockets of a parent -----------------------------------------------------------------------------------------------

PARENT = """import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",")]
for number, sock in enumerate(high, 3):
    os.dup2(sock, number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""

SPY = """import os
from responder import agent


@agent("spy")
def spy(mail):
    return " ".join(sorted(name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_"))) or ["nothing"])
"""


def inherit(server: ServerProcess, open_sockets: dict[str, socket.socket], supervisor: str = "") -> None:
    """Start it as systemd does: descriptors from 3 on, their names and number in the environment."""
    numbers = [sock.fileno() for sock in open_sockets.values()]
    numbers_of = ",".join(map(str, numbers))
    env = {"LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": ":".join(open_sockets)}
    if supervisor:
        env["NOTIFY_SOCKET"] = supervisor
    server.start(prefix=(sys.executable, "-c", PARENT, numbers_of), env=env, pass_fds=numbers)


def test_parent_when_it_hands_sockets_over_then_they_outlive_the_server(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "spy.py").write_text(SPY)
    with folder_of_sockets() as sockets, ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local, told = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.enter_context(local).bind(f"{sockets}/s")
        local.listen()
        stack.enter_context(told).bind(f"{sockets}/notify")
        told.settimeout(30)
        port = tcp.getsockname()[1]
        config = configuration(
            listen=[{"address": "systemd:smtp"}, {"address": "systemd:1", "protocol": "lmtp"}],
            inboxes={"echo": {"agent": "echo"}, "spy": {"agent": "spy"}, "far": {"agent": "spy", "isolated": True}},
        )
        config["plugins"] = [*config["plugins"], "own"]
        server = ServerProcess(tmp_path, config)
        try:
            for turn in range(2):
                inherit(server, {"smtp": tcp, "other": local}, f"{sockets}/notify")
                assert told.recv(100) == b"READY=1"
                assert submit(port, "ann@client.example", [ECHO], MAIL)[0] == 250
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(f"{sockets}/s")
                    assert client.recv(100).endswith(b"LMTP\r\n")
                for inbox in ("spy", "far") if turn == 0 else ():
                    reply = submit(port, f"{inbox}@client.example", [f"{inbox}@test.example"], MAIL)
                    mail_id = queued_as(reply)
                    until(lambda mail=mail_id: printed(server, mail), 60, lambda: server.log.read_text())  # type: ignore[misc]
                    assert "nothing" in printed(server, mail_id)
                server.signal(signal.SIGHUP)
                assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", told.recv(100))
                assert told.recv(100) == b"READY=1"
                assert server.stop() == 0
                assert told.recv(100) == b"STOPPING=1"
                assert Path(f"{sockets}/s").is_socket()
                with socket.create_connection(("127.0.0.1", port)):  # waits for the next one
                    pass
        finally:
            if server.process is not None:
                server.kill()


def printed(server: ServerProcess, mail_id: str) -> str:
    """The answer to a mail."""
    found = [file.read_text() for file in (server.folder / "state" / "printed").glob("*.eml")]
    return next((text for text in found if f"{mail_id}" in text), "")


@pytest.mark.parametrize("handed", [False, True])
def test_server_when_a_socket_was_not_handed_over_then_one_line_says_so(tmp_path: Path, handed: bool) -> None:
    server = ServerProcess(tmp_path, configuration(listen=[{"address": "systemd:smtp"}]))
    assert "The configuration is good." in verb(server, "check")  # which gets none, wherever it runs
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        try:
            if handed:
                with pytest.raises(AssertionError, match="the server ended"):
                    inherit(server, {"lmtp": tcp})
            else:
                server.spawn()
            assert server.process is not None
            assert server.process.wait(60) == 2
        finally:
            if server.process is not None:
                server.kill()
    there = "lmtp" if handed else "none"
    line = f"responder: {server.file}: listen: systemd:smtp: systemd has handed over no such socket (there: {there})\n"
    assert server.log.read_text() == line


@pytest.mark.peer("systemd-socket-activate")
def test_systemd_when_it_starts_us_at_the_first_connection_then_that_is_served(tmp_path: Path) -> None:
    port = free_port()
    program = find_peer("systemd-socket-activate")
    assert program is not None
    server = ServerProcess(tmp_path, configuration(listen=[{"address": "systemd:smtp"}]))
    prefix = (program, f"--listen=127.0.0.1:{port}", "--fdname=smtp", "--setenv=PYTHONPATH")
    try:
        server.spawn(prefix=prefix)
        until(lambda: "Listening on" in server.log.read_text(), 30, lambda: server.log.read_text())
        assert submit(port, "ann@client.example", [ECHO], MAIL)[0] == 250
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()


# -- Unix sockets and IPv6 ---------------------------------------------------------------------------------------------


def test_unix_socket_when_its_server_was_killed_then_the_next_one_starts_and_a_third_does_not(tmp_path: Path) -> None:
    with folder_of_sockets() as sockets:
        config = configuration(listen=[{"address": f"unix:{sockets}/s"}])
        first = ServerProcess(tmp_path / "first", config)
        first.start()
        first.kill()
        assert Path(f"{sockets}/s").is_socket()
        with running(tmp_path / "second", config):
            third = ServerProcess(tmp_path / "third", config)
            third.spawn()
            assert third.process is not None
            assert third.process.wait(60) == 2
            line = f"responder: {third.file}: listen: unix:{sockets}/s: another server listens there\n"
            assert third.log.read_text() == line
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{sockets}/s")
                assert client.recv(100).startswith(b"220 ")
        assert not Path(f"{sockets}/s").exists()


def test_ipv6_when_both_families_are_listened_on_then_each_client_is_noted_as_it_came(tmp_path: Path) -> None:
    port = free_port("::1")
    listen = [{"address": f"[::]:{port}"}, {"address": f"0.0.0.0:{port}"}]
    with running(tmp_path, configuration(listen=listen)) as server:
        assert "([127.0.0.1])" in trace_of(server, submit_from("127.0.0.1", port))
        assert "([IPv6:::1])" in trace_of(server, submit_from("::1", port))


# -- a reload ----------------------------------------------------------------------------------------------------------


def test_reload_when_listeners_change_then_what_can_follow_does_and_the_rest_is_named(tmp_path: Path) -> None:
    chain, _ = certificate(tmp_path)
    listen: list[dict[str, Any]] = [
        {"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True, "proxies": ["192.0.2.1"]}
    ]
    config = configuration(listen=listen)
    with running(tmp_path / "server", config) as server:

        def reload() -> str:
            offset = server.log.stat().st_size
            server.write(config)
            server.signal(signal.SIGHUP)
            return server.wait_for_log("reloaded", offset)

        listen[0]["proxies"] = ["127.0.0.1"]
        config["tls"] = {"certificate": str(chain), "key": str(chain)}
        assert "needs_restart" not in reload()
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock, sock.makefile("rb") as file:
            sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 25\r\nEHLO c.example\r\nQUIT\r\n")
            assert b"STARTTLS" in file.read()
        listen.append({"address": f"127.0.0.1:{free_port()}"})
        assert "needs_restart=listen" in reload()
        listen.pop()
        listen[0]["proxy_protocol"] = False
        assert "needs_restart=listen" in reload()
        listen[0]["proxy_protocol"] = True
        assert "needs_restart" not in reload()
