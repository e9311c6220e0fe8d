"""Delivery: which host gets an answer, and what is said of a domain that has none.

    client --> Responder --> loopback DNS --> scripted sinks on 127.0.0.2 to 127.0.0.7, all on one port
                                          '-> Postfix with STARTTLS, or a smarthost

The address that wrote decides where the answer goes: `me@DOMAIN` writes to echo, and DOMAIN is the scenario.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.answers import delivery_status, parse
from tests.support.dns_server import DNSServer, Zone
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import ended, message, queue, queued_as, settled, submit
from tests.support.waiting import Background, until

ADDRESSES = {
    "first": "127.0.0.2",
    "second": "127.0.0.3",
    "busy": "127.0.0.4",  # puts every recipient off
    "helo": "127.0.0.5",  # knows no EHLO
    "wordy": "127.0.0.6",  # says everything in several lines
    "nobody": "127.0.0.8",  # where nobody listens
    "ourselves": "127.0.0.9",
}
ZONE: Zone = {
    **{f"{name}.host.example": {"A": [address]} for name, address in ADDRESSES.items()},
    "preferred.example": {"MX": [[20, "second.host.example"], [10, "first.host.example"]]},
    "deferring.example": {"MX": [[10, "busy.host.example"], [20, "second.host.example"]]},
    "refusing.example": {"MX": [[10, "nobody.host.example"], [20, "second.host.example"]]},
    "nameless.example": {"MX": [[10, "missing.host.example"], [20, "second.host.example"]]},
    "greylisting.example": {"MX": [[10, "busy.host.example"]]},
    "a-only.example": {"A": ["127.0.0.2"]},
    "alias.example": {"CNAME": "preferred.example"},
    "old.example": {"MX": [[10, "helo.host.example"]]},
    "wordy.example": {"MX": [[10, "wordy.host.example"]]},
    "null.example": {"MX": [[0, "."]]},
    "broken.example": "SERVFAIL",
    "mirror.example": {"MX": [[10, "ourselves.host.example"], [20, "second.host.example"]]},
    "backup.example": {"MX": [[10, "mx.test.example"], [20, "second.host.example"]]},
}


@dataclass(frozen=True)
class World:
    server: ServerProcess
    sinks: dict[str, SMTPSink]

    def ask(self, domain: str) -> str:
        """Write to echo from there; the mail's id."""
        return ask(self.server, f"me@{domain}")

    def taken(self, domain: str) -> list[str]:
        """The hosts that have taken an answer for that domain."""
        return [
            name for name, sink in self.sinks.items() for one in sink.transactions if one.recipients == [f"me@{domain}"]
        ]


def ask(server: ServerProcess, sender: str, inbox: str = "echo") -> str:
    content = message(sender, f"{inbox}@test.example", "Where am I?", "x")
    return queued_as(submit(server.port, sender, [f"{inbox}@test.example"], content))


def answer_of(server: ServerProcess, mail_id: str) -> dict[str, Any]:
    """The answer's item, once it has come to its end."""
    [item] = [item for item in ended(server, mail_id) if item["kind"] == "answer"]
    return item


def transport(port: int, dns: DNSServer, **more: Any) -> dict[str, Any]:
    return {
        "transport": "mx",
        "port": port,
        "nameservers": [dns.nameserver],
        "allow_private_addresses": True,
        **more,
    }


def wordy(step: str, argument: str) -> str | None:
    code = {"BANNER": 220, "EHLO": 250, "MAIL": 250, "RCPT": 250, "DATA": 354, "DOT": 250, "QUIT": 221}.get(step)
    return None if code is None else f"{code}-one {step}\n{code}-two\n{code} three"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Background() as background:
        port = free_port(ADDRESSES["first"])
        scripts: dict[str, Any] = {"busy": {"RCPT": ["451 4.3.0 busy"] * 1000}, "wordy": wordy}
        scripts["helo"] = {"EHLO": ["502 5.5.1 what?"] * 1000}
        sinks = {
            name: background.enter(SMTPSink(scripts.get(name), address=ADDRESSES[name], port=port))
            for name in ("first", "second", "busy", "helo", "wordy")
        }
        dns = background.enter(DNSServer(ZONE))
        config = configuration(
            listen=[{"address": f"127.0.0.1:{free_port()}"}, {"address": f"{ADDRESSES['ourselves']}:{port}"}],
            delivery=transport(port, dns),
        )
        with running(tmp_path_factory.mktemp("server"), config) as server:
            yield World(server, sinks)


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("preferred.example", "first"),
        ("deferring.example", "second"),
        ("refusing.example", "second"),
        ("nameless.example", "second"),
        ("a-only.example", "first"),
        ("alias.example", "first"),
        ("old.example", "helo"),
        ("wordy.example", "wordy"),
    ],
)
def test_answer_reaches_the_best_host_that_takes_it(world: World, domain: str, host: str) -> None:
    item = answer_of(world.server, world.ask(domain))
    assert (item["state"], item["attempts"]) == ("DELIVERED", 1), item
    name = domain if domain == "a-only.example" else f"{host}.host.example"
    assert f"({name} [{ADDRESSES[host]}])" in item["reason"]
    assert world.taken(domain) == [host]


def test_deferring_host_was_asked_before_the_next_one(world: World) -> None:
    asked = len(world.sinks["busy"].commands)
    item = answer_of(world.server, world.ask("deferring.example"))
    assert item["state"] == "DELIVERED"
    assert any(line.startswith("RCPT TO:<me@deferring.example>") for _, line in world.sinks["busy"].commands[asked:])


def test_host_without_ehlo_is_greeted_with_helo(world: World) -> None:
    sink = world.sinks["helo"]
    assert answer_of(world.server, world.ask("old.example"))["state"] == "DELIVERED"
    taken = sink.transactions[-1]
    assert sink.verbs(taken.connection)[:5] == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]
    assert (taken.helo, taken.parameters) == ("mx.test.example", "")  # no parameter that only ESMTP knows


@pytest.mark.parametrize(
    ("domain", "code"),
    [
        ("null.example", "5.1.10"),  # RFC 7505
        ("missing.example", "5.1.2"),
        ("mirror.example", "5.4.6"),  # its best host is our own listening socket
        ("backup.example", "5.4.6"),  # its best host has our name
    ],
)
def test_domain_that_no_host_can_help_fails_at_once(world: World, domain: str, code: str) -> None:
    item = answer_of(world.server, world.ask(domain))
    assert (item["state"], item["attempts"]) == ("FAILED", 1), item
    assert item["reason"].partition("] ")[2].startswith(code), item
    assert world.taken(domain) == []


@pytest.mark.parametrize(("domain", "code"), [("broken.example", "4.4.3"), ("greylisting.example", "451 4.3.0")])
def test_trouble_that_may_pass_defers(world: World, domain: str, code: str) -> None:
    mail_id = world.ask(domain)

    def deferred() -> list[dict[str, Any]]:
        return [item for item in queue(world.server, "list", "--state=DEFERRED") if item["recipient"] == f"me@{domain}"]

    [item] = until(deferred, 30, lambda: f"{mail_id}: {queue(world.server, 'list')}")
    assert item["reason"].partition("] ")[2].startswith(code), item
    assert item["attempts"] == 1
    assert 30 < item["due_at"] - item["created_at"] < 90  # the schedule's first pause is a minute, with jitter
    assert world.taken(domain) == []


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path, world: World) -> None:
    port = world.sinks["first"].port
    with Background() as background:
        dns = background.enter(DNSServer(ZONE))
        before = world.sinks["first"].connections, world.sinks["second"].connections
        config = configuration(delivery=transport(port, dns, allow_private_addresses=False))
        with running(tmp_path, config) as server:
            item = answer_of(server, ask(server, "me@preferred.example"))
        assert item["state"] == "FAILED" and item["reason"].partition("] ")[2].startswith("5.4.4"), item
        assert "loopback" in item["reason"]
        assert (world.sinks["first"].connections, world.sinks["second"].connections) == before


def test_smarthost_gets_all_domains_and_no_name_server_is_asked(tmp_path: Path) -> None:
    with Background() as background:
        sink = background.enter(SMTPSink())
        dns = background.enter(DNSServer({}))
        delivery = {
            "transport": "smarthost",
            "smarthost": f"127.0.0.1:{sink.port}",
            "nameservers": [dns.nameserver],
        }
        with running(tmp_path, configuration(delivery=delivery)) as server:
            for sender in ("me@one.example", "me@two.example"):
                assert answer_of(server, ask(server, sender))["state"] == "DELIVERED"
        assert [one.recipients for one in sink.transactions] == [["me@one.example"], ["me@two.example"]]
        assert not dns.queries


def test_forward_that_expires_earns_one_dsn(tmp_path: Path) -> None:
    with Background() as background:
        sink = background.enter(
            SMTPSink(lambda step, argument: "450 4.2.1 later" if "team@" in argument and step == "RCPT" else None)
        )
        host = {"A": ["127.0.0.1"]}
        dns = background.enter(DNSServer({"sender.example": host, "target.example": host}))
        config = configuration(
            inboxes={"sales": {"agent": "forward", "targets": ["team@target.example"]}},
            delivery=transport(sink.port, dns, retry=["1s"], expire="3s"),
        )
        with running(tmp_path, config) as server:
            items = ended(server, ask(server, "me@sender.example", "sales"))
            assert [(item["kind"], item["state"]) for item in items] == [
                ("sales", "ANSWERED"),
                ("forward", "BOUNCED"),
                ("dsn", "DELIVERED"),
            ]
            assert items[1]["attempts"] >= 3
        [one] = sink.transactions
        assert (one.reverse_path, one.recipients) == ("", ["me@sender.example"])
        _, recipient = delivery_status(parse(one.content))
        assert (recipient["Action"], recipient["Status"]) == ("failed", "4.4.7")
        assert recipient["Diagnostic-Code"] == "smtp; 450 4.2.1 later"


@pytest.mark.peer("postfix")
def test_connections_to_postfix_are_encrypted_and_kept_for_the_next_mail(tmp_path: Path) -> None:
    mails = 30
    with Background() as background, Postfix("mx.sender.example", domains=["sender.example"]) as mx:
        dns = background.enter(DNSServer({"sender.example": {"A": ["127.0.0.1"]}}))
        config = configuration(delivery=transport(mx.port, dns, connections_per_host=2))
        with running(tmp_path, config) as server:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: ask(server, f"user{number}@sender.example"), range(mails)))
            stats = settled(server, 60, mails=mails)
            assert stats["outbound"] == {"DELIVERED": mails}
        # The server has said QUIT to all.
        until(lambda: sum(mx.sessions()) == mails, 30, lambda: mx.log)
        assert 1 <= len(mx.sessions()) <= 2, mx.log
        received = [mail["Received"] for mail in mx.mails()]
        assert len(received) == mails
        assert all("(using TLSv1.3 with cipher" in " ".join(field.split()) for field in received), received


@pytest.mark.peer("postfix")
def test_broken_tls_falls_back_to_plain_text(tmp_path: Path) -> None:
    """A host that offers STARTTLS and cannot do it: opportunistic TLS must not lose the mail (RFC 7435)."""
    with Background() as background:
        settings = {"smtpd_tls_mandatory_protocols": "TLSv1", "smtpd_tls_protocols": "TLSv1"}
        with Postfix("mx.sender.example", domains=["sender.example"], settings=settings) as mx:
            dns = background.enter(DNSServer({"sender.example": {"A": ["127.0.0.1"]}}))
            with running(tmp_path, configuration(delivery=transport(mx.port, dns))) as server:
                item = answer_of(server, ask(server, "me@sender.example"))
            assert item["state"] == "DELIVERED" and "no TLS: " in item["reason"], item
            [mail] = until(mx.mails, 30, lambda: mx.log)
            assert "TLS" not in mail["Received"]
