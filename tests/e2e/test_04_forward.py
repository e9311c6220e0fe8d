"""Forwarding: what passes, what bounces, what comes back.

    client --> Responder --> forward inboxes --> scripted sink (MX of target.example, 127.0.0.2)
                         '-> echo, DSN       --> Postfix (MX of sender.example, 127.0.0.1) --> Maildir

A forward that fails for good is told to its sender with one DSN from `<>`; an answer that fails is told to nobody but the
operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any

import pytest

from tests.support.answers import delivery_status, parse
from tests.support.dns_server import DNSServer
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, running
from tests.support.smtp_sink import SMTPSink, Transaction
from tests.support.submission import ended, message, queue, queued_as, submit
from tests.support.waiting import Background, until

pytestmark = pytest.mark.peer("postfix")


@dataclass
class Target:
    """The script of target.example: `gone` and its like are refused, `later` twice put off."""

    asked: Counter[str] = field(default_factory=Counter)

    def __call__(self, step: str, argument: str) -> str | None:
        if step != "RCPT":
            return None
        name = argument.partition("<")[2].partition("@")[0]
        self.asked[name] += 1
        if name == "gone":
            return "550 5.1.1 <gone@target.example>: no such user"
        return "450 4.2.1 greylisted" if name == "later" and self.asked[name] < 3 else None


@dataclass(frozen=True)
class World:
    server: ServerProcess
    mx: Postfix
    sink: SMTPSink
    target: Target

    def send(self, sender: str, inbox: str, content: bytes) -> list[dict[str, Any]]:
        """One mail into an inbox; what became of it."""
        reply = submit(self.server.port, sender, [f"{inbox}@test.example"], content)
        return ended(self.server, queued_as(reply))

    def forwarded(self, to: str) -> list[Transaction]:
        return [one for one in self.sink.transactions if one.recipients == [f"{to}@target.example"]]

    def mailbox(self, address: str) -> list[EmailMessage]:
        """What has come for an address of sender.example: all of it, as nothing is on its way any more."""
        until(lambda: self.mx.is_empty, 30, lambda: self.mx.log)
        return [mail for mail in self.mx.mails() if mail["X-Original-To"] == address]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    target = Target()
    with Background() as background, Postfix("mx.sender.example", domains=["sender.example"]) as mx:
        sink = background.enter(SMTPSink(target, address="127.0.0.2", port=mx.port))
        dns = background.enter(
            DNSServer({
                "sender.example": {"MX": [[10, "mx.sender.example"]]},
                "mx.sender.example": {"A": ["127.0.0.1"]},
                "target.example": {"MX": [[10, "mx.target.example"]]},
                "mx.target.example": {"A": ["127.0.0.2"]},
            })
        )  # fmt: skip
        config = configuration(
            inboxes={
                "echo": {"agent": "echo"},
                "sales": {"agent": "forward", "targets": ["team@target.example"]},
                "old": {"agent": "forward", "targets": ["gone@target.example"]},
                "slow": {"agent": "forward", "targets": ["later@target.example"]},
                "ring": {"agent": "forward", "targets": ["ring@target.example"]},
            },
            delivery={
                "transport": "mx",
                "port": mx.port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
                "retry": ["1s"],
            },
        )
        with running(tmp_path_factory.mktemp("server"), config) as server:
            yield World(server, mx, sink, target)


RICH = b"""\
Return-Path: <somebody@else.example>
DKIM-Signature: v=1; a=rsa-sha256; d=sender.example; s=x; h=from; bh=x; b=x
From: "Alice Example" <alice@sender.example>
To: sales@test.example, Bob <bob@elsewhere.example>
Bcc: secret@elsewhere.example
Subject: =?utf-8?Q?Z=C3=A4hlen?= and reading
Date: Fri, 20 Nov 2026 10:11:12 +0100
Message-ID: <rich@sender.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="outer"

--outer
Content-Type: multipart/alternative; boundary="inner"

--inner
Content-Type: text/plain; charset=utf-8

Hello
.a dot
--inner
Content-Type: text/html; charset=utf-8

<p>Hello <b>there</b></p>
--inner--
--outer
Content-Type: application/octet-stream
Content-Disposition: attachment; filename="figures.bin"
Content-Transfer-Encoding: base64

AAECAwQFBgcICQoLDA0ODw==
--outer--
""".replace(b"\n", b"\r\n")


def test_html_and_attachment_pass_under_the_inboxs_name(world: World) -> None:
    items = world.send("alice@sender.example", "sales", RICH)
    assert [(item["direction"], item["state"]) for item in items] == [
        ("inbound", "ANSWERED"),
        ("outbound", "DELIVERED"),
    ]

    [sent] = world.forwarded("team")
    assert sent.reverse_path == f"bounces+{items[1]['id']}@test.example"
    mail = parse(sent.content)
    assert mail["Subject"] == "[sales@] Zählen and reading"
    assert getaddresses([mail["From"]]) == [("Alice Example via sales", "sales@test.example")]
    assert mail["Reply-To"] == "alice@sender.example"
    assert mail["X-Responder-Loop"] == "sales@test.example"
    for name in ("To", "Date", "Message-ID"):
        assert mail[name] == parse(RICH)[name]
    for name in ("Return-Path", "DKIM-Signature", "Bcc", "Auto-Submitted"):
        assert mail[name] is None
    assert sent.content.partition(b"\r\n\r\n")[2] == RICH.partition(b"\r\n\r\n")[2]
    attachment = next(mail.iter_attachments())
    assert (attachment.get_filename(), attachment.get_content()) == ("figures.bin", bytes(range(16)))
    assert world.mailbox("alice@sender.example") == []


def test_target_refuses_then_the_sender_gets_one_dsn(world: World) -> None:
    content = message(
        "Carol <carol@sender.example>", "old@test.example", "Still there?", "x", "Message-ID: <c1@s.example>"
    )
    items = world.send("carol@sender.example", "old", content)
    assert Counter((item["kind"], item["state"]) for item in items) == {
        ("old", "ANSWERED"): 1,
        ("forward", "BOUNCED"): 1,
        ("dsn", "DELIVERED"): 1,
    }
    [dsn] = world.mailbox("carol@sender.example")
    assert dsn["Return-Path"] == "<>"
    assert dsn["Auto-Submitted"] == "auto-replied"
    assert (dsn["To"], getaddresses([dsn["From"]])[0][1]) == ("carol@sender.example", "postmaster@test.example")
    assert dsn["In-Reply-To"] == "<c1@s.example>"
    assert not dsn.defects
    assert dsn["Content-Type"].params["report-type"] == "delivery-status"

    text, _, headers = dsn.iter_parts()
    assert isinstance(text, EmailMessage) and isinstance(headers, EmailMessage)
    assert "550 5.1.1 <gone@target.example>: no such user" in " ".join(text.get_content().split())
    per_message, per_recipient = delivery_status(dsn)
    assert per_message["Reporting-MTA"] == "dns; mx.test.example"
    assert parsedate_to_datetime(per_message["Arrival-Date"]).year >= 2025
    assert per_recipient["Final-Recipient"] == "rfc822; gone@target.example"
    assert per_recipient["Action"] == "failed"
    assert per_recipient["Status"] == "5.1.1"
    assert per_recipient["Remote-MTA"] == "dns; mx.target.example"
    assert per_recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 <gone@target.example>: no such user"
    assert headers.get_content_type() == "text/rfc822-headers"
    assert parse(headers.get_content().encode())["Message-ID"] == "<c1@s.example>"
    assert world.forwarded("gone") == []


def test_target_refuses_a_bounce_then_no_dsn_leaves(world: World) -> None:
    content = message("mailer-daemon@sender.example", "old@test.example", "Undelivered", "x")
    items = world.send("", "old", content)
    assert [(item["kind"], item["state"], item["sender"]) for item in items] == [
        ("old", "ANSWERED", ""),
        ("forward", "FAILED", ""),
    ]
    [row] = [item for item in queue(world.server, "list") if item["id"] == items[1]["id"]]
    assert row["state"] == "FAILED" and row["reason"].startswith("[no-such-user] 550 5.1.1 ")
    assert world.mailbox("mailer-daemon@sender.example") == []


def test_target_defers_then_exactly_one_copy_arrives(world: World) -> None:
    items = world.send("dave@sender.example", "slow", message("dave@sender.example", "slow@test.example", "Wait", "x"))
    assert [(item["kind"], item["state"], item["attempts"]) for item in items] == [
        ("slow", "ANSWERED", 1),
        ("forward", "DELIVERED", 3),
    ]
    assert world.target.asked["later"] == 3
    assert len(world.forwarded("later")) == 1
    assert world.mailbox("dave@sender.example") == []


def test_forward_that_comes_back_is_not_forwarded_again(world: World) -> None:
    content = message("erin@sender.example", "ring@test.example", "Round", "x", "Message-ID: <e1@sender.example>")
    first = world.send("erin@sender.example", "ring", content)
    assert [item["state"] for item in first] == ["ANSWERED", "DELIVERED"]
    [sent] = world.forwarded("ring")
    # The target sends it on to us: with the envelope that we gave it, with one of its own, and as a bounce.
    for path in (sent.reverse_path, "ring@target.example", ""):
        [item] = world.send(path, "ring", sent.content)
        assert item["state"] == "SILENT"
        assert item["reason"].startswith("loop-marker: "), item
    assert len(world.forwarded("ring")) == 1


def test_answer_is_refused_then_the_operator_alone_is_told(world: World) -> None:
    asker = "gone@target.example"  # takes no mail
    items = world.send(asker, "echo", message(asker, "echo@test.example", "Hello", "x"))
    assert [(item["kind"], item["state"]) for item in items] == [("echo", "ANSWERED"), ("answer", "FAILED")]
    table = world.server.command("queue", "list").stdout
    [line] = [line for line in table.splitlines() if items[1]["id"] in line]
    assert "FAILED" in line and asker in line and "550 5.1.1 <gone@target.example>: no such user" in line
    assert [one for one in world.sink.transactions if "<>" in one.reverse_path or not one.reverse_path] == []
