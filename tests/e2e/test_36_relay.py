"""Scenario 36: a real server relays for a network and for users: what is acknowledged arrives, and nobody else gets mail out.

swaks, nmap, sockets --SMTP, submission--> responder --> loopback DNS --> a sink at far.example
"""

from __future__ import annotations

import contextlib
import random
import signal
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import logins
from tests.support.answers import delivery_status, parse
from tests.support.dns_server import DNSServer
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client, ended, message, queue, queued_as
from tests.support.waiting import Background, until

SENDER = "ann@people.example"
KILLS = 5


@dataclass
class World:
    """A server, and where its mail arrives."""

    server: ServerProcess
    sink: SMTPSink
    submission: int

    def arrived(self, subject: str) -> bytes:
        """The mail of that subject, once it has come."""

        def look() -> bytes | None:
            wanted = f"\r\nSubject: {subject}\r\n".encode()
            return next((one.content for one in self.sink.transactions if wanted in b"\r\n" + one.content), None)

        return until(look, 30, lambda: f"{subject} has not come:\n{self.server.log.read_text()[-4000:]}")


def script(step: str, argument: str) -> str | None:
    return "550 5.1.1 nobody here" if step == "RCPT" and "nobody@" in argument else None


def relaying(folder: Path, sink: SMTPSink, dns: DNSServer, **relay: Any) -> dict[str, Any]:
    logins.certificate(folder, logins.NAME)
    return configuration(
        listen=[
            {"address": f"127.0.0.1:{free_port()}"},
            {"address": f"127.0.0.1:{free_port()}", "protocol": "submission"},
        ],
        tls={"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")},
        auth={"users": str(logins.users_file(folder))},
        relay={"networks": ["127.0.0.0/8"], "users": True, "senders": ["people.example"], **relay},
        delivery={
            "transport": "mx",
            "port": sink.port,
            "nameservers": [dns.nameserver],
            "allow_private_addresses": True,
            "retry": ["1s"],
        },
    )


ZONE = {name: {"A": ["127.0.0.1"]} for name in ("far.example", "near.example", "people.example")}


@contextlib.contextmanager
def world_of(folder: Path, **relay: Any) -> Iterator[World]:
    folder.mkdir(parents=True, exist_ok=True)
    with Background() as background:
        sink = background.enter(SMTPSink(script))
        config = relaying(folder, sink, background.enter(DNSServer(ZONE)), **relay)
        with running(folder / "server", config) as server:
            yield World(server, sink, int(config["listen"][1]["address"].rpartition(":")[2]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(tmp_path_factory.mktemp("relay")) as world:
        yield world


def test_session_of_several_mails_then_each_is_sent_on_while_it_goes_on(world: World) -> None:
    with Client(world.server.port) as client:
        for number in range(3):
            subject = f"while-{number}"
            identifier = queued_as(client.mail(SENDER, ["a@far.example"], message(SENDER, "a", subject, "x")))
            content = parse(world.arrived(subject))
            assert f"id {identifier}" in " ".join(str(content["Received"]).split())
            assert content["From"] == SENDER and content["Message-ID"] == f"<{identifier}@mx.test.example>"
        assert client.say("QUIT")[0] == 221


def test_mail_to_both_then_our_inbox_answers_and_the_other_domain_gets_it(world: World) -> None:
    to = ["echo@test.example", "a@near.example", "b@near.example", "c@far.example"]
    with Client(world.server.port) as client:
        mail = queued_as(client.mail(SENDER, to, message(SENDER, to[0], "both", "x", "Message-ID: <b@p.example>")))
    items = ended(world.server, mail)
    found = sorted((item["kind"], item["recipient"], item["state"]) for item in items)
    assert found == [
        ("answer", SENDER, "DELIVERED"),
        ("echo", "echo@test.example", "ANSWERED"),
        ("relay", "a@near.example", "DELIVERED"),
        ("relay", "b@near.example", "DELIVERED"),
        ("relay", "c@far.example", "DELIVERED"),
    ]
    reached = [one for one in world.sink.transactions if b"Subject: both" in one.content]
    assert sorted(name for one in reached for name in one.recipients) == sorted(to[1:])
    assert {one.reverse_path for one in reached} == {SENDER}


def test_recipient_is_refused_over_there_then_the_sender_is_told(world: World) -> None:
    with Client(world.server.port) as client:
        mail = queued_as(client.mail(SENDER, ["nobody@far.example"], message(SENDER, "n", "refused", "x")))
    items = ended(world.server, mail)
    assert [(item["kind"], item["state"]) for item in items] == [("relay", "BOUNCED"), ("dsn", "DELIVERED")]
    [dsn] = [one for one in world.sink.transactions if one.recipients == [SENDER] and b"nobody@far" in one.content]
    assert dsn.reverse_path == ""
    _, recipient = delivery_status(parse(dsn.content))
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1")


@pytest.mark.parametrize("name", ["ann", "ann@test.example"])
def test_user_logs_in_then_the_mail_goes_out_without_the_user_s_name(world: World, name: str) -> None:
    context = ssl.create_default_context(cadata=logins.authority().cert_pem.bytes().decode())
    subject = f"user-{len(name)}"
    with smtplib.SMTP("127.0.0.1", world.submission) as client:
        client.starttls(context=context)
        client.ehlo()
        client.login(name, logins.USERS[name])
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("boss@far.example", ["a@far.example"], message("boss@far.example", "a", "x", "x"))
        with pytest.raises(smtplib.SMTPDataError):
            client.sendmail(SENDER, ["a@far.example"], message("boss@far.example", "a", "x", "x"))
        client.sendmail(SENDER, ["a@far.example"], message(SENDER, "a", subject, "x"))
    content = world.arrived(subject)
    received = parse(content)["Received"]
    assert "with ESMTPSA" in received
    assert name.encode() not in content.replace(SENDER.encode(), b"")
    listed = queue(world.server, "list", "--state=DELIVERED")
    [item] = [item for item in listed if f"user {name}" in str(world.server.command("explain", item["id"]).stdout)][:1]
    assert (item["kind"], item["sender"]) == ("relay", SENDER)


@pytest.mark.parametrize("known", [True, False])
def test_network_of_ours_then_neither_dmarc_nor_the_greylist_is_asked_about_it(tmp_path: Path, known: bool) -> None:
    networks = ["127.0.0.0/8"] if known else ["192.0.2.0/24"]
    with Background() as background:
        sink = background.enter(SMTPSink())
        dns = background.enter(DNSServer(ZONE | {"_dmarc.people.example": {"TXT": ["v=DMARC1; p=reject"]}}))
        config = relaying(tmp_path, sink, dns, networks=networks)
        config["authentication"] = {"mode": "enforce", "trusted_networks": ["192.0.2.0/24"]}
        with running(tmp_path / "server", config) as server, Client(server.port) as client:
            reply = client.mail(SENDER, ["echo@test.example"], message(SENDER, "echo", "x", "x"))
            assert reply[0] == 250 if known else reply[1].startswith("5.7.26 "), reply
            config["greylist"] = {"enabled": True}
            offset = server.log.stat().st_size
            server.write(config)
            server.signal(signal.SIGHUP)
            server.wait_for_log(" reloaded ", offset)
            reply = client.mail(SENDER, ["echo@test.example"], message(SENDER, "echo", "x", "x"))
            assert reply[0] == (250 if known else 451), reply


@pytest.mark.peer("nmap")
@pytest.mark.parametrize("is_open", [False, True])
def test_nmap_looks_for_an_open_relay_then_it_finds_none(tmp_path: Path, is_open: bool) -> None:
    """And one where all that it could come from is let in: it does look."""
    networks, senders = (["127.0.0.0/8"], ["*"]) if is_open else (["192.0.2.0/24"], [])
    with world_of(tmp_path, networks=networks, senders=senders) as world:
        command = ["nmap", "-Pn", "-p", str(world.server.port), "--script", "+smtp-open-relay", "127.0.0.1"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        left = queue(world.server, "stats")["outbound"]
        assert ("Server is an open relay" in said) == is_open, said
        if not is_open:
            assert "all tests failed" in said, said
            assert left == {}


@pytest.mark.peer("swaks")
def test_relay_is_switched_off_then_a_hangup_signal_is_enough(tmp_path: Path) -> None:
    with world_of(tmp_path) as world:
        place = ["swaks", "--server", "127.0.0.1", "--port", str(world.server.port), "--from", SENDER]

        def send() -> str:
            done = subprocess.run([*place, "--to", "a@far.example"], capture_output=True, text=True, check=False)
            return done.stdout

        assert " 250 2.0.0 Queued as " in send()
        config = dict(world.server.config)
        config["relay"] = {**config["relay"], "networks": []}
        offset = world.server.log.stat().st_size
        world.server.write(config)
        world.server.signal(signal.SIGHUP)
        world.server.wait_for_log(" reloaded ", offset)
        assert "550 5.7.1 We do not relay" in send()


def test_send_beside_the_server_then_it_arrives(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    words = ["--from", "ops@test.example", "--to", "a@far.example", "echo@test.example", "--subject", "from-the-shell"]
    done = world.server.command("send", *words, "--text", "hello", "--attach", str(tmp_path / "a.bin"))
    content = parse(world.arrived("from-the-shell"))
    assert content["From"] == "ops@test.example"
    [attached] = content.iter_attachments()
    assert attached.get_content() == bytes(range(256))
    items = ended(world.server, done.stdout.removeprefix("Queued as ").strip())
    assert {(item["kind"], item["state"]) for item in items} >= {("relay", "DELIVERED"), ("echo", "ANSWERED")}


class Sender:
    """Sends mail after mail, whatever becomes of the server, and keeps what was acknowledged."""

    def __init__(self, port: int, number: int) -> None:
        self.port = port
        self.number = number
        self.acknowledged: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        count = 0
        while not self.stop.is_set():
            try:
                with Client(self.port, timeout=5) as client:
                    while not self.stop.is_set():
                        count += 1
                        identifier = f"<{self.number}.{count}@people.example>"
                        content = message(SENDER, "a", "x", "x", f"Message-ID: {identifier}")
                        if client.mail(SENDER, ["a@far.example", "b@near.example"], content)[0] != 250:
                            break
                        self.acknowledged.append(identifier)
            except OSError:
                time.sleep(0.02)  # it is being started


def test_server_is_killed_while_it_relays_then_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    chance = random.Random(5)
    with Background() as background:
        sink = background.enter(SMTPSink())
        config = relaying(tmp_path, sink, background.enter(DNSServer(ZONE)))
        config["queue"] = {"lease": "2s"}
        server = ServerProcess(tmp_path / "server", config)
        senders = [Sender(server.port, number) for number in range(3)]
        try:
            for sender in senders:
                sender.thread.start()
            for _ in range(KILLS):
                server.start()
                time.sleep(chance.uniform(0.3, 1.2))
                server.kill()
            server.start()
            for sender in senders:
                sender.stop.set()
            for sender in senders:
                sender.thread.join(30)

            def quiet() -> bool:
                return set(queue(server, "stats")["outbound"]) <= {"DELIVERED"}

            until(quiet, 60, lambda: str(queue(server, "stats")))
            assert server.stop() == 0
        finally:
            for sender in senders:
                sender.stop.set()
            if server.process is not None:
                server.kill()
        arrived = {
            (str(parse(one.content)["Message-ID"]), name) for one in sink.transactions for name in one.recipients
        }
    promised = [identifier for sender in senders for identifier in sender.acknowledged]
    print(f"\n{len(promised)} mails acknowledged, {len(sink.transactions)} transactions at the sink")
    assert len(promised) > 10 * KILLS
    lost = [one for one in promised for name in ("a@far.example", "b@near.example") if (one, name) not in arrived]
    assert not lost
