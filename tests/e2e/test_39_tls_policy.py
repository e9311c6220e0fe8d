"""MTA-STS, DANE and REQUIRETLS of a whole server, with real certificates.

    client --> Responder --> loopback DNS that sets AD --> sinks with certificates, one of them wrong
                         '-> HTTPS on port 443 of a loopback address: the policy

A policy that is known outlives the web server, the record and a restart; and what it forbids is never said in plain text.
"""

from __future__ import annotations

import os
import signal
import smtplib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.dns_server import DNSServer, Zone
from tests.support.http_server import HTTPServer, Said
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.smtp_sink import EXTENSIONS, SMTPSink
from tests.support.submission import ended, message, queue, queued_as, submit
from tests.support.tls_world import POLICY_PATH, Authority, policy, tlsa
from tests.support.waiting import Background, until

STS, DANE, WRONG = "sts.example", "dane.example", "wrong.example"


@dataclass
class World:
    server: ServerProcess
    sinks: dict[str, SMTPSink]
    web: HTTPServer
    dns: DNSServer
    authority: Authority
    config: dict[str, Any]

    def ask(self, domain: str) -> str:
        """Write to echo from there; the mail's id."""
        content = message(f"me@{domain}", "echo@test.example", "Where am I?", "x")
        return queued_as(submit(self.server.port, f"me@{domain}", ["echo@test.example"], content))

    def delivered(self, mail_id: str) -> bool:
        return [item["state"] for item in ended(self.server, mail_id) if item["kind"] == "answer"] == ["DELIVERED"]

    def deferred(self, domain: str, reason: str) -> dict[str, Any]:
        """The answer that could not leave, once it was tried."""

        def look() -> dict[str, Any] | None:
            items = [item for item in queue(self.server, "list") if item["recipient"] == f"me@{domain}"]
            return next((item for item in items if item["state"] == "DEFERRED" and reason in item["reason"]), None)

        return until(look, 20.0, lambda: str(queue(self.server, "list")))

    def silent(self, domain: str) -> bool:
        """Whether its host has heard nothing of any mail."""
        return not {"MAIL", "RCPT", "DATA", "BDAT"} & set(self.sinks[domain].verbs())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority = Authority()
    authority.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server_certificate = authority.ca.issue_cert("mx.test.example")
    server_certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    mine = os.getpid()
    web_address = f"127.{100 + mine % 100}.{mine // 100 % 250}.{mine // 25_000 % 250 + 1}"  # port 443 is one for all
    web = HTTPServer(
        {POLICY_PATH: Said(body=policy("enforce", f"mx.{STS}"))},
        authority.context(f"mta-sts.{STS}"),
        address=web_address,
        port=443,
    )
    contexts = {
        STS: authority.issued(f"mx.{STS}"),
        DANE: Authority().issued("another.name.example", expired=True),
        WRONG: authority.issued(f"mx.{WRONG}"),
    }
    addresses = {STS: "127.0.3.1", DANE: "127.0.3.2", WRONG: "127.0.3.3"}
    port = free_port(addresses[STS])
    zone: Zone = {
        f"_mta-sts.{STS}": {"TXT": ["v=STSv1; id=1"], "TTL": 1},
        f"mta-sts.{STS}": {"A": [web_address]},
        f"_{port}._tcp.mx.{DANE}": {"TLSA": [tlsa(3, 1, 1, contexts[DANE][1])]},
        f"_{port}._tcp.mx.{WRONG}": {"TLSA": [tlsa(3, 1, 1, contexts[DANE][1])]},
    }
    for domain, address in addresses.items():
        zone[domain] = {"MX": [[10, f"mx.{domain}"]]}
        zone[f"mx.{domain}"] = {"A": [address]}
    for name, entry in zone.items():
        entry["AD"] = STS not in name
    with Background() as background:
        dns = background.enter(DNSServer(zone))
        extensions = [*EXTENSIONS, "REQUIRETLS"]
        sinks = {
            domain: background.enter(
                SMTPSink(address=address, port=port, tls=contexts[domain][0], extensions=extensions)
            )
            for domain, address in addresses.items()
        }
        config = configuration(
            tls={"certificate": str(tmp_path / "own.pem"), "key": str(tmp_path / "own.pem")},
            delivery={
                "transport": "mx",
                "port": port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
                "retry": ["1s"],
            },
            tls_policy={"authorities": str(tmp_path / "ca.pem")},
        )
        with web, running(tmp_path / "server", config) as server:
            yield World(server, sinks, web, dns, authority, config)


def test_policies_hold_then_answers_leave_and_what_is_known_outlives_its_source(world: World) -> None:
    assert world.delivered(world.ask(STS))
    assert world.delivered(world.ask(DANE))  # expired and for another name, but pinned
    assert {sink.transactions[0].tls for name, sink in world.sinks.items() if name != WRONG} == {"TLSv1.3"}

    world.ask(WRONG)
    world.deferred(WRONG, "TLSA")
    assert world.silent(WRONG)

    # Record and web server vanish, the server is started again, the host shows what is nobody's: the policy is still known.
    assert world.server.stop() == 0
    del world.dns.zone[f"_mta-sts.{STS}"], world.dns.zone[f"mta-sts.{STS}"]
    world.web.routes.clear()
    sink = world.sinks[STS]
    sink.tls = Authority().context(f"mx.{STS}")
    before = len(sink.transactions), len(sink.commands)
    world.server.start()
    mail = world.ask(STS)
    world.deferred(STS, "certificate")
    said = {line.partition(" ")[0] for _, line in sink.commands[before[1] :]}
    assert said <= {"EHLO", "STARTTLS", "QUIT"}
    sink.tls = False  # a downgrade: nothing offered at all
    seen = len(sink.commands)
    world.deferred(STS, "offers no TLS")
    assert {line.partition(" ")[0] for _, line in sink.commands[seen:]} <= {"EHLO", "QUIT", "STARTTLS"}
    assert len(sink.transactions) == before[0]

    # The operator's word beats it, from the next attempt on.
    offset = world.server.log.stat().st_size
    world.server.write({**world.config, "tls_policy": {"domains": {STS: "opportunistic"}}})
    world.server.signal(signal.SIGHUP)
    log = world.server.wait_for_log("reloaded", offset)
    assert "holds even where the domain asks for more" in log
    assert world.delivered(mail)
    assert sink.transactions[-1].tls == ""


def test_mail_came_with_requiretls_then_its_answer_leaves_with_it_or_not_at_all(world: World) -> None:
    context = ssl.create_default_context(cafile=str(world.server.folder.parent / "ca.pem"))
    context.check_hostname = False

    def write(domain: str) -> None:
        with smtplib.SMTP("127.0.0.1", world.server.port) as client:
            client.starttls(context=context)
            client.ehlo()
            assert client.has_extn("requiretls")
            content = message(f"me@{domain}", "echo@test.example", "Secret", "x")
            client.sendmail(f"me@{domain}", ["echo@test.example"], content, mail_options=["REQUIRETLS"])

    for domain in (DANE, STS):
        write(domain)
        sink = world.sinks[domain]
        until(lambda sink=sink: bool(sink.transactions), 20.0, lambda: world.server.log.read_text())  # type: ignore[misc]
        assert "REQUIRETLS" in sink.transactions[0].parameters.split()

    world.dns.zone["plain.example"] = {"MX": [[10, "mx.plain.example"]]}
    world.dns.zone["mx.plain.example"] = {"A": ["127.0.3.1"]}
    write("plain.example")
    log = until(lambda: "5.7.30" in world.server.log.read_text() or None, 20.0, world.server.log.read_text)
    assert log
    assert all("me@plain.example" not in mail.recipients for sink in world.sinks.values() for mail in sink.transactions)
