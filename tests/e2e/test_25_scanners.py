"""Scenario 25: what scanners find: TLS without weakness, no relay, and no name of an inbox given away.

testssl.sh, nmap ──STARTTLS, SMTPS──> responder
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import find_peer
from tests.support import logins
from tests.support.server import ServerProcess, configuration, free_port, running

HARMLESS = {"OK", "INFO", "LOW"}
ABOUT_ITSELF = {"engine_problem", "service"}  # its own OpenSSL; that it knows no checks of its own for SMTPS
LIMIT = 110  # seconds of one scan


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, dict[str, int]]]:
    folder = tmp_path_factory.mktemp("scanned")
    logins.certificate(folder, logins.NAME, "localhost")
    ports = {"smtp": free_port(), "smtps": free_port()}
    config = configuration(
        listen=[{"address": f"127.0.0.1:{port}", "protocol": way, "auth": "offered"} for way, port in ports.items()],
        tls={"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")},
        auth={"users": str(logins.users_file(folder))},
        limits={"errors": 1000, "tarpit": "0s", "junk_commands": 10000},
        inboxes={"echo": {"agent": "echo"}, "admin": {"agent": "echo"}, "root": {"agent": "echo"}},
    )
    with running(folder / "server", config) as found:
        yield found, ports


@pytest.mark.peer("testssl")
@pytest.mark.parametrize("way", ["smtp", "smtps"])
def test_testssl_finds_no_weakness_above_low(
    way: str, server: tuple[ServerProcess, dict[str, int]], tmp_path: Path
) -> None:
    program, report = find_peer("testssl"), tmp_path / "report.csv"
    assert program is not None
    starttls = ["--starttls", "smtp"] if way == "smtp" else []
    # Protocols, cipher categories, vulnerabilities: the certificate is of an authority that nobody else trusts.
    asked = ["-p", "-s", "-f", "-U", "--quiet", "--warnings", "batch", "--color", "0", "--csvfile", str(report)]
    done = subprocess.run(
        [program, *starttls, *asked, f"127.0.0.1:{server[1][way]}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb"},
        check=False,
    )
    said = done.stdout.decode("utf-8", "replace")
    rows = list(csv.DictReader(report.read_text().splitlines()))
    found = {row["id"]: row["severity"] for row in rows}
    assert len(found) > 25 and {"TLS1_3", "heartbleed"} <= found.keys(), f"{sorted(found)}\n{said}"
    weak = {
        row["id"]: row["finding"] for row in rows if row["severity"] not in HARMLESS and row["id"] not in ABOUT_ITSELF
    }
    assert not weak, f"{weak}\n{said}"


def nmap(server: tuple[ServerProcess, dict[str, int]], script: str, *arguments: str) -> str:
    command = ["nmap", "-Pn", "-n", "-p", str(server[1]["smtp"]), "--script", f"+{script}", *arguments, "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, text=True, check=True)
    assert f"{server[1]['smtp']}/tcp open" in done.stdout
    return done.stdout


@pytest.mark.peer("nmap")
def test_nmap_finds_no_relay_and_no_user(server: tuple[ServerProcess, dict[str, int]]) -> None:
    process = server[0]
    said = nmap(server, "smtp-commands", "--script-args", "smtp.domain=client.example")
    assert "PIPELINING" in said and "STARTTLS" in said and "AUTH" not in said
    said = nmap(server, "smtp-open-relay", "--script-args", "smtp-open-relay.domain=elsewhere.example")
    assert "doesn't seem to be an open relay, all tests failed" in said, said
    said = nmap(
        server, "smtp-enum-users", "--script-args", "smtp-enum-users.methods={VRFY,EXPN},smtp.domain=test.example"
    )
    assert not re.search(r"^\|_? +(root|admin|echo)$", said, re.MULTILINE), said
    assert process.command("queue", "list", "--json").stdout.strip() == "[]"
