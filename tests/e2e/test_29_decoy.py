"""Scenario 29: a scanner and a spammer at decoys.

swaks and nmap --SMTP--> a decoy of each persona --> its transcript, and nowhere else
                         a real listener beside it --> its inbox --> a sink, to show that the way out works

What they print shows the persona; nothing that a decoy took is stored, answered or sent; the transcript has all that was said.
"""

from __future__ import annotations

import json
import re
import signal
import smtplib
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from responder.decoy.transcript import octets_of
from tests.support.server import ServerProcess, configuration, environment, free_port
from tests.support.smtp_sink import SMTPSink
from tests.support.waiting import Background, until

PERSONAS = ("postfix", "exchange", "sendmail")
DETECTED = {
    "postfix": r"smtp +Postfix smtpd\n",
    "exchange": r"smtp +Microsoft Exchange smtpd\n",
    "sendmail": r"smtp +Sendmail 8\.17\.1/8\.17\.1\n",
}
SHOWN = {
    "postfix": [
        "ESMTP Postfix",
        "250 2.1.0 Ok",
        "354 End data with <CR><LF>.<CR><LF>",
        "250 2.0.0 Ok: queued as ",
        "Bye",
    ],
    "exchange": [
        "Microsoft ESMTP MAIL Service ready at ",
        "Sender OK",
        "354 Start mail input",
        "Queued mail for delivery",
    ],
    "sendmail": ["ESMTP Sendmail 8.17.1", "pleased to meet you", "... Recipient ok", "Message accepted for delivery"],
}


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, dict[str, int], SMTPSink]]:
    """A server with a real listener and a decoy for each persona; its answers would leave through a sink."""
    ports = {name: free_port() for name in PERSONAS}
    decoys = [{"address": f"127.0.0.1:{port}", "dialect": name, "decoy": True} for name, port in ports.items()]
    with Background() as background:
        sink = background.enter(SMTPSink())
        server = ServerProcess(
            tmp_path_factory.mktemp("decoy"),
            configuration(
                hostname="mail.corp.example",
                listen=[{"address": f"127.0.0.1:{free_port()}"}, *decoys],
                delivery={"transport": "smarthost", "smarthost": f"127.0.0.1:{sink.port}"},
            ),
        )
        server.start()
        try:
            yield server, ports, sink
        finally:
            server.stop()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment())
    return done.stdout + done.stderr


def records(server: ServerProcess, port: int) -> list[dict[str, Any]]:
    """What the transcript has of the sessions that are over, at one decoy."""
    path = server.folder / "state" / "decoy.jsonl"
    found = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    here = {one["session"] for one in found if one.get("listen") == f"127.0.0.1:{port}"}
    over = {one["session"] for one in found if one["event"] == "end"}
    return [one for one in found if one.get("session") in here & over]


def side(found: list[dict[str, Any]], kind: str) -> bytes:
    return b"".join([octets_of(one) for one in found if one["event"] == kind])


def stored(server: ServerProcess) -> int:
    """Items in the store, coming in and going out."""
    with sqlite3.connect(server.database) as database:
        return sum(
            int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            for table in ("mail", "inbound", "outbound")
        )


@pytest.mark.peer("swaks")
@pytest.mark.parametrize("persona", PERSONAS)
def test_spammer_comes_then_the_persona_takes_its_mail_and_nothing_leaves(
    trap: tuple[ServerProcess, dict[str, int], SMTPSink], persona: str
) -> None:
    server, ports, sink = trap
    before = stored(server), len(sink.transactions)
    options = ("--to", "echo@test.example,victim@elsewhere.example", "--from", "spam@bad.example", "--auth-optional")
    login = ("--auth", "LOGIN" if persona == "exchange" else "PLAIN,LOGIN")
    credentials = (*login, "--auth-user", "admin", "--auth-password", "hunter2")
    shown = run("swaks", "--server", "127.0.0.1", "--port", str(ports[persona]), *options, *credentials)
    assert all(text in shown for text in SHOWN[persona]), shown
    said = re.search(r"<- +250 2\.[06]\.0 (?:Ok: queued as |<)?([0-9A-Za-z]+)", shown[shown.index("-> .\n") :])
    assert said is not None
    found = until(lambda: records(server, ports[persona]), 20, "no session")
    session = next(one["session"] for one in found if one["event"] == "message" and one["id"] == said[1])
    mine = [one for one in found if one["session"] == session]
    assert_is_what_was_seen(shown, mine)
    assert {(one["user"], one["password"]) for one in mine if one["event"] == "login"} == {("admin", "hunter2")}
    assert (stored(server), len(sink.transactions)) == before
    explained = run(*operator(server, "explain", said[1]))
    assert f"decoy {session}" in explained
    assert "C: MAIL FROM:<spam@bad.example>" in explained
    listed = json.loads(run(*operator(server, "explain", session, "--json")))
    assert listed == mine


def assert_is_what_was_seen(shown: str, found: list[dict[str, Any]]) -> None:
    """The transcript replays what the client itself printed, line for line, both ways."""
    sent = re.findall(r"^(?: ->|=>) (.*)$", shown, re.MULTILINE)
    told = re.findall(r"^<(?:-|\*\*|~)\*? +(.*)$", shown, re.MULTILINE)
    assert side(found, "client").decode().splitlines() == sent
    assert [line.strip() for line in side(found, "server").decode().splitlines()] == [line.strip() for line in told]


def operator(server: ServerProcess, *words: str) -> tuple[str, ...]:
    line = [sys.executable, "-m", "responder", *words, "--config", str(server.file)]
    return ("env", "-C", str(server.folder), *line)


@pytest.mark.peer("nmap")
@pytest.mark.parametrize("persona", PERSONAS)
def test_scanner_comes_then_it_names_the_persona_and_finds_what_it_looks_for(
    trap: tuple[ServerProcess, dict[str, int], SMTPSink], persona: str
) -> None:
    server, ports, sink = trap
    before = stored(server), len(sink.transactions)
    port = str(ports[persona])
    scripts = "smtp-commands,smtp-open-relay,smtp-enum-users,smtp-ntlm-info"
    shown = run("nmap", "-Pn", "-n", "-sT", "-p", port, "-sV", "--script", scripts, "127.0.0.1")
    assert re.search(rf"^{port}/tcp open +{DETECTED[persona]}", shown, re.MULTILINE), shown
    assert "Server is an open relay (16/16 tests)" in shown
    assert "smtp-commands: mail.corp.example" in shown
    assert re.search(r"smtp-enum-users:\s+\|\s+root", shown)
    assert ("NetBIOS_Domain_Name: CORP" in shown) == (persona == "exchange")
    found = until(lambda: records(server, ports[persona]), 20, "no session")
    assert side(found, "client").count(b"RCPT TO:") >= 16
    assert side(found, "server").count(b"220 mail.corp.example") >= 4
    assert (stored(server), len(sink.transactions)) == before


def test_client_is_ours_then_the_transcript_has_every_octet_of_it(
    trap: tuple[ServerProcess, dict[str, int], SMTPSink],
) -> None:
    server, ports, _ = trap
    sent = b"EHLO me\r\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\r\nDATA\r\n\xff\x00.\r\n..\r\nx\r\n.\r\n\x1b[2J\r\nQUIT\r\n"
    with socket.create_connection(("127.0.0.1", ports["postfix"]), timeout=20) as sock:
        name = sock.getsockname()[1]
        told = sock.recv(4096)
        for octet in range(0, len(sent), 7):
            sock.sendall(sent[octet : octet + 7])
        while piece := sock.recv(4096):
            told += piece
    mine = until(
        lambda: [one for one in records(server, ports["postfix"]) if one["port"] == name], 20, "no session of that port"
    )
    assert (side(mine, "client"), side(mine, "server")) == (sent, told)


def test_real_listener_stands_beside_a_decoy_then_its_mail_is_answered(
    trap: tuple[ServerProcess, dict[str, int], SMTPSink],
) -> None:
    server, ports, sink = trap
    before = len(sink.transactions)
    text = "From: ann@client.example\r\nTo: echo@test.example\r\nSubject: {}\r\nMessage-ID: <{}@client.example>\r\n\r\nhi\r\n"
    for port, word in ((ports["sendmail"], "trap"), (server.port, "real")):
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            client.sendmail("ann@client.example", ["echo@test.example"], text.format(word, word))
    until(lambda: len(sink.transactions) > before, 30, "no answer")
    [answer] = sink.transactions[before:]
    assert b"Subject: Re: real" in answer.content
    with sqlite3.connect(server.database) as database:
        assert database.execute("SELECT count(*) FROM mail WHERE message_id = '<trap@client.example>'").fetchone() == (
            0,
        )


def test_server_is_told_otherwise_then_it_follows_and_a_restart_goes_on_writing(tmp_path: Path) -> None:
    port = free_port()
    config = configuration(listen=[{"address": f"127.0.0.1:{port}", "dialect": "postfix", "decoy": True}])
    server = ServerProcess(tmp_path, config)
    server.start()
    assert server.process is not None
    try:
        assert banner(port) == b"220 mx.test.example ESMTP Postfix\r\n"
        offset = server.log.stat().st_size
        changed = {"address": f"127.0.0.1:{port}", "dialect": "exchange", "decoy": True}
        server.write(config | {"listen": [changed]})
        server.process.send_signal(signal.SIGHUP)
        assert (
            "needs_restart"
            not in server.wait_for_log(" reloaded ", offset).rpartition(" reloaded ")[2].partition("\n")[0]
        )
        assert b"Microsoft ESMTP" in banner(port)
        offset = server.log.stat().st_size
        (tmp_path / "bad.toml").write_text("[replies]\nnoop = '550 no'\n")
        server.write(config | {"listen": [changed | {"dialect": "bad.toml"}]})
        server.process.send_signal(signal.SIGHUP)
        refused = server.wait_for_log("reload refused", offset)
        assert "listen[0].dialect: bad.toml: replies:" in refused.replace("\\", "")
        assert b"Microsoft ESMTP" in banner(port)
    finally:
        server.stop()
    before = len(records(server, port))
    assert before >= 9  # stopped in order: nothing is left out
    server.write(config)
    server.start()
    try:
        banner(port)
    finally:
        server.stop()
    assert len(records(server, port)) > before
    assert stat.S_IMODE((tmp_path / "state" / "decoy.jsonl").stat().st_mode) == 0o600


def test_dialect_is_bad_then_neither_check_nor_a_start_accept_it(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[replies]\nqueued = "Thanks"\n')
    server = ServerProcess(tmp_path, configuration(dialect="mine.toml"))
    for verb in ("check", "serve"):
        said = run(*operator(server, verb))
        assert said == (
            f'responder: {server.file}: dialect: mine.toml: replies: "queued": wants "{{id}}": it is what mail is found by\n'
        )


def banner(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, sock.makefile("rb") as file:
        line = file.readline()
        sock.sendall(b"QUIT\r\n")
        file.read()
    return line
