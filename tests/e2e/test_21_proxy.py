"""Handing over: the mail as it came, to a scripted upstream host and to a Postfix.

    client --> Responder --> proxy inboxes --> upstream: scripted sink 127.0.0.3, Postfix 127.0.0.1
                         '-> DSN           --> scripted sink 127.0.0.2 (MX of sender.example)

An upstream host that refuses is told to the sender; one that is away is waited for; nothing is lost, nothing is altered.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from responder.mail.report import bounce_of, parse_report
from tests.support.dns_server import DNSServer
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.smtp_sink import SMTPSink, Transaction
from tests.support.submission import Client, ended, message, queue, queued_as, settled, stuffed, submit
from tests.support.waiting import Background, until

MAIL = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=sender.example; s=x;\r\n\th=From : To  :Subject; bh=x;\r\n b=x\r\n"
    b"From:   Alice   Example  <alice@sender.example>\r\n"
    b"to: whoever@elsewhere.example\r\n"
    b"Bcc: secret@elsewhere.example\r\n"
    b"subject:  =?utf-8?q?=C3=A9?=\r\n\twith folds  \r\n"
    b"X-Stray: \xff\xfe\r\n"
    b"Auto-Submitted: auto-generated\r\n"
    b"Precedence: bulk\r\n"
    b"\r\n"
    b".a dot\r\n..two\r\n.\r\ntrailing blanks   \r\n\xc3\xa9 and \xff\r\n" + b"x" * 990 + b"\r\n\r\n\r\n"
)


def refuse(step: str, argument: str) -> str | None:
    """The upstream's script: `gone` and its like do not exist there."""
    return "550 5.1.1 no such user" if step == "RCPT" and argument.upper().startswith("TO:<GONE") else None


@dataclass(frozen=True)
class World:
    server: ServerProcess
    upstream: SMTPSink
    home: SMTPSink  # the MX of sender.example

    def send(self, sender: str, recipient: str, content: bytes) -> list[dict[str, Any]]:
        """One mail; what became of it."""
        return ended(self.server, queued_as(submit(self.server.port, sender, [recipient], content)))

    def handed(self, recipient: str) -> list[Transaction]:
        return [one for one in self.upstream.transactions if one.recipients == [recipient]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Background() as background:
        upstream = background.enter(SMTPSink(refuse, address="127.0.0.3"))
        home = background.enter(SMTPSink(address="127.0.0.2"))
        dns = background.enter(
            DNSServer({
                "sender.example": {"MX": [[10, "mx.sender.example"]]},
                "mx.sender.example": {"A": ["127.0.0.2"]},
            })
        )  # fmt: skip
        config = configuration(
            inboxes={"*": {"agent": "proxy", "upstream": f"127.0.0.3:{upstream.port}"}},
            delivery={
                "transport": "mx",
                "port": home.port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
                "retry": ["1s"],
            },
        )
        with running(tmp_path_factory.mktemp("server"), config) as server:
            yield World(server, upstream, home)


def below_trace(content: bytes) -> bytes:
    """The mail without the one trace field that we put on top of it."""
    lines = content.split(b"\r\n")
    assert lines[0].startswith(b"Received: from client.test ([127.0.0.1])"), lines[:3]
    assert lines[1].startswith(b"\tby mx.test.example with ") and lines[2].startswith(b"\tfor <")
    return b"\r\n".join(lines[3:])


def test_mail_arrives_octet_by_octet_with_its_own_envelope(world: World) -> None:
    items = world.send("Alice+tag@Sender.example", "whole+Tag@test.example", MAIL)
    assert [(item["kind"], item["state"]) for item in items] == [("*", "ANSWERED"), ("proxy", "DELIVERED")]
    [sent] = world.handed("whole+Tag@test.example")
    assert below_trace(sent.content) == MAIL
    assert sent.reverse_path == "Alice+tag@sender.example"  # a domain is written in lower case (RFC 5321 2.4)
    assert "BODY=8BITMIME" in sent.parameters
    assert "SMTPUTF8" not in sent.parameters


def test_null_reverse_path_stays_null(world: World) -> None:
    [_, item] = world.send("", "bounced@test.example", message("mailer-daemon@x.org", "x@test.example", "Failure", "x"))
    assert item["state"] == "DELIVERED"
    [sent] = world.handed("bounced@test.example")
    assert sent.reverse_path == ""


def test_international_mail_goes_on_as_such(world: World) -> None:
    content = "From: Grüße <grüße@sender.example>\r\nSubject: é\r\n\r\né\r\n".encode()
    with Client(world.server.port) as client:
        assert client.say("MAIL FROM:<grüße@sender.example> SMTPUTF8 BODY=8BITMIME")[0] == 250
        assert client.say("RCPT TO:<größe@test.example>")[0] == 250
        assert client.say("DATA")[0] == 354
        client.send(stuffed(content))
        items = ended(world.server, queued_as(client.reply()))
    assert items[-1]["state"] == "DELIVERED"
    [sent] = world.handed("größe@test.example")
    assert (sent.reverse_path, below_trace(sent.content)) == ("grüße@sender.example", content)
    assert "SMTPUTF8" in sent.parameters and "BODY=8BITMIME" in sent.parameters


def test_ten_megabytes_arrive_whole(world: World) -> None:
    chance = random.Random(7)
    lines = b"\r\n".join([chance.randbytes(60).hex().encode() for _ in range(86_000)])
    content = message("alice@sender.example", "big@test.example", "Big", "") + lines + b"\r\n"
    assert len(content) > 10 * 1024 * 1024
    began = time.monotonic()
    items = world.send("alice@sender.example", "big@test.example", content)
    assert items[-1]["state"] == "DELIVERED"
    [sent] = world.handed("big@test.example")
    assert hashlib.sha256(below_trace(sent.content)).digest() == hashlib.sha256(content).digest()
    assert time.monotonic() - began < 30


def test_upstream_refuses_then_the_sender_is_told(world: World) -> None:
    items = world.send("bob@sender.example", "gone@test.example", MAIL)
    assert {(item["kind"], item["state"]) for item in items} == {
        ("*", "ANSWERED"),
        ("proxy", "BOUNCED"),
        ("dsn", "DELIVERED"),
    }
    [dsn] = [one for one in world.home.transactions if one.recipients == ["bob@sender.example"]]
    assert dsn.reverse_path == ""
    assert bounce_of(dsn.content, "gone@test.example") == (True, "5.1.1", "550 5.1.1 no such user")


def test_upstream_refuses_a_bounce_then_the_operator_alone_is_told(world: World) -> None:
    items = world.send("", "gone-too@test.example", MAIL)
    assert [(item["kind"], item["state"]) for item in items] == [("*", "ANSWERED"), ("proxy", "FAILED")]
    [row] = [item for item in queue(world.server, "list") if item["id"] == items[1]["id"]]
    assert row["reason"].startswith("[no-such-user] 550 5.1.1 ")


def test_recipients_are_handed_over_together_and_each_has_an_end_of_its_own(world: World) -> None:
    with Client(world.server.port) as client:
        reply = client.mail(
            "carl@sender.example", ["one@test.example", "gone-3@test.example", "two@test.example"], MAIL
        )
    ended(world.server, queued_as(reply))
    taken = [sorted(one.recipients) for one in world.upstream.transactions if "one@test.example" in one.recipients]
    assert taken == [["one@test.example", "two@test.example"]]
    assert [one.recipients for one in world.home.transactions].count(["carl@sender.example"]) == 1


def test_mail_that_goes_round_is_stopped(world: World) -> None:
    """An upstream host that knows the address as ours sends the mail back: each round adds a trace field, and few are had."""
    content = message("dora@sender.example", "ring@test.example", "Round", "x")
    rounds = 0
    while True:
        items = world.send("dora@sender.example", "ring@test.example", content)
        if items[0]["state"] != "ANSWERED":
            break
        rounds += 1
        assert rounds < 10
        content = b"Received: from us by upstream.example id 1\r\n" + world.handed("ring@test.example")[-1].content
    assert rounds == 3
    assert items[0]["state"] == "FAILED"
    assert "goes round" in items[0]["reason"]
    assert items[0]["attempts"] == 1  # it is not tried again


def test_upstream_is_away_then_nothing_is_lost(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    port = free_port()
    config = configuration(
        inboxes={"*": {"agent": "proxy", "upstream": f"localhost:{port}"}},
        delivery={"transport": "mx", "retry": ["1s"]},  # the route may be private though the rest may not
    )
    recipients = [f"u{n}@test.example" for n in range(40)]
    with running(tmp_path_factory.mktemp("away"), config) as server:
        for recipient in recipients[:20]:
            queued_as(submit(server.port, "ann@sender.example", [recipient], MAIL))
        until(
            lambda: queue(server, "stats")["outbound"].get("DEFERRED", 0) >= 20,
            30,
            lambda: str(queue(server, "stats")),
        )
        with Background() as background:
            sink = background.enter(SMTPSink(port=port))
            for recipient in recipients[20:]:
                queued_as(submit(server.port, "ann@sender.example", [recipient], MAIL))
            assert settled(server, 60, mails=40)["outbound"] == {"DELIVERED": 40}
            assert sorted(one.recipients[0] for one in sink.transactions) == sorted(recipients)
            assert {below_trace(one.content) for one in sink.transactions} == {MAIL}


# -- a real one --------------------------------------------------------------------------------------------------------


@pytest.mark.peer("postfix")
def test_postfix_is_upstream(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = "inline:{ { gone@test.example = REJECT no such user } }"
    restrictions = f"check_recipient_access {table}, permit_mynetworks, reject"
    settings = {
        "smtpd_recipient_restrictions": restrictions,
        # It is to store what it is given: by itself it removes Bcc, and completes the header of a mail of its own network.
        "message_drop_headers": "",
        "local_header_rewrite_clients": "",
    }
    with Postfix("up.test.example", domains=["test.example"], settings=settings) as mx:
        config = configuration(
            inboxes={"*": {"agent": "proxy", "upstream": f"127.0.0.1:{mx.port}"}},
            delivery=world.server.config["delivery"],
        )
        with running(tmp_path_factory.mktemp("postfix"), config) as server:
            for sender in ("alice@sender.example", ""):
                items = ended(server, queued_as(submit(server.port, sender, ["ann@test.example"], MAIL)))
                assert items[-1]["state"] == "DELIVERED"
                assert "queued as" in items[-1]["reason"]
            [*_, item] = ended(
                server, queued_as(submit(server.port, "eve@sender.example", ["gone@test.example"], MAIL))
            )
            assert (item["kind"], item["state"]) == ("dsn", "DELIVERED")
        until(lambda: mx.is_empty and len(mx.mails()) == 2, 30, lambda: mx.log)
        assert sorted(str(mail["Return-Path"]) for mail in mx.mails()) == ["<>", "<alice@sender.example>"]
        folder = mx.folder / "mail" / "inbox" / "new"
        for file in folder.iterdir():
            _, ours, rest = file.read_bytes().partition(b"Received: from client.test ([127.0.0.1])\n")
            assert ours
            assert rest.split(b"\n", 2)[2] == MAIL.replace(b"\r\n", b"\n")
    [dsn] = [one for one in world.home.transactions if one.recipients == ["eve@sender.example"]]
    said = bounce_of(dsn.content, "gone@test.example")
    assert said is not None
    assert said[:2] == (True, "5.7.1")


@pytest.mark.peer("postfix")
def test_postfix_reports_are_read() -> None:
    """The refusal and the delay of one address each, as a Postfix tells them to one of our bounce addresses."""
    answers = {"gone": "550 5.2.1 disabled", "slow": "450 4.2.1 greylisted"}

    def script(step: str, argument: str) -> str | None:
        return answers.get(argument.partition("<")[2].partition("@")[0]) if step == "RCPT" else None

    quick = {"delay_warning_time": "1s", "minimal_backoff_time": "1s", "queue_run_delay": "1s"}
    with Background() as background:
        sink = background.enter(SMTPSink(script))
        with Postfix("mta.far.example", routes={"*": sink.port}, settings=quick) as mta:
            for name in ("gone", "slow"):
                content = message("garden@test.example", f"{name}@far.example", "Hello", "550 5.7.1 is a code")
                assert submit(mta.port, f"bounces+{name}@test.example", [f"{name}@far.example"], content)[0] == 250
            until(lambda: len(sink.transactions) >= 2, 60, lambda: mta.log)
        said = {one.recipients[0]: one.content for one in sink.transactions}
    gone, slow = said["bounces+gone@test.example"], said["bounces+slow@test.example"]
    assert bounce_of(gone, "gone@far.example") == (True, "5.2.1", "550 5.2.1 disabled")
    assert bounce_of(slow, "slow@far.example") == (False, "4.2.1", "450 4.2.1 greylisted")
    assert [report.recipient for report in parse_report(gone)] == ["gone@far.example"]
