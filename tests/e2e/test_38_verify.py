"""`responder verify` against a real Postfix with postgrey, and hosts that are silent, closed or absent: every word for real."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import find_peer
from tests.support.dns_server import DNSServer
from tests.support.postfix import Postfix
from tests.support.server import configuration, environment, free_port, to_toml
from tests.support.waiting import Background, until

LISTED = "Service unavailable; Client host [127.0.0.3] blocked using bl.test; https://bl.test/query/ip/127.0.0.3"

pytestmark = [pytest.mark.peer("postfix"), pytest.mark.peer("postgrey")]


@contextmanager
def postgrey() -> Iterator[int]:
    """A postgrey that wants a second to pass, each client on its own; its port."""
    if os.getuid():
        pytest.skip("postgrey has to be started by root")
    folder = Path(tempfile.mkdtemp(prefix="postgrey-"))
    shutil.chown(folder, "postgrey", "postgrey")
    port = free_port()
    program = find_peer("postgrey")
    assert program is not None
    process = subprocess.Popen(
        [
            program,
            f"--inet=127.0.0.1:{port}",
            f"--dbdir={folder}",
            "--delay=1",
            "--auto-whitelist-clients=0",
            "--lookup-by-host",
            "--whitelist-clients=/dev/null",
            "--whitelist-recipients=/dev/null",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: _connects(port), 30, "postgrey did not start")
        yield port
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[DNSServer, Postfix]]:
    """A name server, and a Postfix that has some users, greylists a domain, takes all of another, and blocks 127.0.0.3."""
    users = ", ".join(
        f"{{{name} = inbox/}}" for name in ("ann@known.test", "bob@known.test", "ann@grey.test", "@all.test")
    )
    with ExitStack() as stack:
        port = stack.enter_context(postgrey())
        settings = {
            "mynetworks": "127.0.0.1/32",
            "virtual_mailbox_maps": f"inline:{{ {users} }}",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "smtpd_restriction_classes": "greylist",
            "greylist": f"check_policy_service inet:127.0.0.1:{port}",
            "smtpd_client_restrictions": f"check_client_access inline:{{ {{127.0.0.3 = 554 5.7.1 {LISTED}}}, "
            "{127.0.0.4 = REJECT} }",
            "smtpd_recipient_restrictions": "check_recipient_access inline:{ {grey.test = greylist} }",
        }
        mx = stack.enter_context(
            Postfix("mx.peer.test", domains=["known.test", "grey.test", "all.test"], settings=settings)
        )
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.70", mx.port))
        silent.listen()
        here = {"MX": [[10, "mx.peer.test"]]}
        zone = {
            "mx.peer.test": {"A": ["127.0.0.1"]},
            "known.test": here,
            "grey.test": here,
            "all.test": here,
            "stranger.test": here,
            "silent.test": {"A": ["127.0.0.70"]},
            "closed.test": {"MX": [[10, "mx.closed.test"]]},
            "mx.closed.test": {"A": ["127.0.0.71"]},
            "far.test": {"A": ["192.0.2.1"]},
            "null.test": {"MX": [[0, "."]]},
            "nohost.test": {"MX": [[10, "mx.nowhere.test"]]},
            "sick.test": "SERVFAIL",
        }
        background = stack.enter_context(Background())
        yield background.enter(DNSServer(zone)), mx


def ask(
    world: tuple[DNSServer, Postfix], folder: Path, *arguments: str, source: str = "127.0.0.2"
) -> tuple[int, dict[str, dict[str, object]]]:
    """The exit status of `responder verify`, and what it says of each address."""
    server, mx = world
    delivery = {"port": mx.port, "nameservers": [server.nameserver], "allow_private_addresses": True}
    file = folder / "responder.toml"
    file.write_text(to_toml(configuration(delivery=delivery)))
    options = ["--config", str(file), "--source-address", source, "--timeout", "2s", "--pause", "0.1s"]
    done = subprocess.run(
        [sys.executable, "-m", "responder", "verify", "--format", "jsonl", *options, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == "", done.stderr
    return done.returncode, {one["address"]: one for one in map(json.loads, done.stdout.splitlines())}


def test_every_word_when_hosts_are_real_then_it_is_said(world: tuple[DNSServer, Postfix], tmp_path: Path) -> None:
    expected = {
        "ann@known.test": ("exists", 250),
        "bob@known.test": ("exists", 250),
        "nobody@known.test": ("unknown", 550),
        "ann@grey.test": ("exists", 250),
        "nobody@grey.test": ("unknown", 550),
        "x@all.test": ("catch-all", 250),
        "x@stranger.test": ("refused", 554),
        "x@silent.test": ("timeout", 0),
        "x@closed.test": ("closed", 0),
        "x@far.test": ("no route", 0),
        "x@null.test": ("no MX", 0),
        "x@nohost.test": ("no MX", 0),
        "x@nowhere.test": ("no MX", 0),
        "x@sick.test": ("unclear", 0),
        "no address": ("invalid", 0),
    }
    status, found = ask(world, tmp_path, "--wait", "2s", *expected)
    assert {address: (one["result"], one["code"]) for address, one in found.items()} == expected
    assert status == 1  # some could not be determined
    assert [found[name]["tries"] for name in ("ann@known.test", "ann@grey.test", "x@null.test")] == [1, 2, 0]
    assert (found["ann@known.test"]["host"], found["ann@known.test"]["ip"]) == ("mx.peer.test", "127.0.0.1")
    assert str(found["ann@known.test"]["tls"]).startswith("TLSv1")
    assert [found[name]["catch_all"] for name in ("ann@known.test", "x@all.test", "x@null.test")] == [False, True, None]
    texts = {name.partition("@")[2]: str(one["text"]) for name, one in found.items()}
    assert "does not accept mail" in texts["null.test"]
    assert "mx.nowhere.test: no such domain" in texts["nohost.test"]
    assert "nowhere.test: no such domain" in texts["nowhere.test"]
    assert "refused" in texts["closed.test"] and "timed out" in texts["silent.test"]
    assert not world[1].mails() and world[1].is_empty
    assert " data=" not in world[1].log


def test_greylisted_when_it_is_not_tried_again_then_it_says_so(
    world: tuple[DNSServer, Postfix], tmp_path: Path
) -> None:
    status, found = ask(world, tmp_path, "--wait", "0s", "--sender", "me@sender.test", "ann@grey.test")
    one = found["ann@grey.test"]
    assert (status, one["result"], one["code"], one["tries"]) == (1, "greylisted", 450, 1)


@pytest.mark.parametrize("source", ["127.0.0.3", "127.0.0.4"])
def test_blocked_when_another_source_address_is_used_then_all_of_the_host_are(
    world: tuple[DNSServer, Postfix], tmp_path: Path, source: str
) -> None:
    status, found = ask(world, tmp_path, "ann@known.test", "nobody@known.test", "x@all.test", source=source)
    assert {str(one["result"]) for one in found.values()} == {"blocked"}
    assert len(found) == 3 and status == 1
    assert {one["code"] for one in found.values()} == {554}
    assert all(source in str(one["text"]) for one in found.values())
    _, found = ask(world, tmp_path, "ann@known.test")
    assert found["ann@known.test"]["result"] == "exists"
