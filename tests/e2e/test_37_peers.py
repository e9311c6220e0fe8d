"""Scenario 37: the outbound side and the servers that there are: what leaves arrives whole, and both understand each other.

clients --SMTP--> responder --> loopback DNS --> Postfix | Exim | OpenSMTPD, the MX of far.example and people.example
                      ^------- their notifications to our bounce addresses
"""

from __future__ import annotations

import json
import re
import shutil
import smtplib
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_peer
from tests.support import logins
from tests.support.answers import delivery_status, parse
from tests.support.dns_server import DNSServer
from tests.support.exim import Exim
from tests.support.opensmtpd import OpenSMTPD
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client, ended, message, queue, queued_as, verb
from tests.support.waiting import Background, until

SENDER = "known@people.example"
DOMAINS = ["far.example", "people.example"]

# nobody@ is refused at RCPT, late@ is taken and comes back.
POSTFIX = {
    "smtpd_recipient_restrictions": "check_recipient_access inline:{ {nobody@far.example = 550 5.1.1 no such user here} },"
    " permit_mynetworks, reject",
    "message_size_limit": "20000",
    "virtual_mailbox_limit": "0",
    "smtpd_discard_ehlo_keywords": "",
    "smtputf8_enable": "yes",
    "notify_classes": "",
}
EXIM_LATE = """\
late:
  driver = redirect
  local_parts = late
  allow_fail
  data = :fail: the mailbox is gone
"""


@dataclass
class Peer:
    """A server of the field that mail goes to, and ours that sends it."""

    name: str
    server: ServerProcess
    log: Callable[[], str]
    mails: Callable[[], list[bytes]]
    submission: int = 0

    def relay(self, content: bytes, *to: str, mail: str = "", rcpt: str = "") -> str:
        """Hand a mail to our server for recipients over there; its id. `mail` and `rcpt` are parameters."""
        with Client(self.server.port) as client:
            assert client.say(f"MAIL FROM:<{SENDER}>{mail}")[0] == 250
            for one in to:
                reply = client.say(f"RCPT TO:<{one}>{rcpt}")
                assert reply[0] == 250, reply
            assert client.say("DATA")[0] == 354
            client.send(_dotted(content))
            return queued_as(client.reply())

    def delivered(self, mail: str) -> list[dict[str, Any]]:
        """Its items, all delivered."""
        items = ended(self.server, mail)
        assert [item["state"] for item in items] == ["DELIVERED"] * len(items), items
        return items

    def tail(self) -> str:
        """The end of its log, for a test that fails."""
        return self.log()[-4000:]

    def arrived(self, text: str, count: int = 1) -> list[bytes]:
        """The mails over there in which that text stands, once there are so many."""

        def look() -> list[bytes] | None:
            found = [one for one in self.mails() if text.encode() in one]
            return found if len(found) >= count else None

        return until(
            look, 30, lambda: f"{text} has not come:\n{self.log()[-4000:]}\n{self.server.log.read_text()[-2000:]}"
        )


def _dotted(content: bytes) -> bytes:
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.exists() else []


@contextmanager
def peer_of(name: str, folder: Path, postfix: dict[str, str] | None = None, **changes: Any) -> Iterator[Peer]:
    """That server as MX, and ours."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = free_port()
    with ExitStack() as stack:
        background = stack.enter_context(Background())
        mails: Callable[[], list[bytes]]
        if name == "postfix":
            gone = background.enter(SMTPSink({"RCPT": ["550 5.1.1 the mailbox is gone"] * 100}))
            elsewhere = {"late@far.example": gone.port, "test.example": ours}
            routes = ", ".join(f"{{{place} = smtp:[127.0.0.1]:{port}}}" for place, port in elsewhere.items())
            settings = POSTFIX | {"transport_maps": f"inline:{{ {routes} }}"} | (postfix or {})
            mta: Any = stack.enter_context(Postfix("mx.far.example", domains=DOMAINS, settings=settings))
            inbox = mta.folder / "mail" / "inbox" / "new"
            mails = lambda: _files(inbox)  # noqa: E731
        elif name == "exim":
            mta = stack.enter_context(Exim("mx.far.example", DOMAINS, relay=ours, size=20_000, router=EXIM_LATE))
            mails = mta.mails
        else:
            mta = stack.enter_context(OpenSMTPD("mx.far.example", DOMAINS))
            mails = mta.mails
        zone = {domain: {"MX": [[10, "mx.far.example"]]} for domain in DOMAINS}
        dns = background.enter(DNSServer({**zone, "mx.far.example": {"A": ["127.0.0.1"]}}))
        logins.certificate(folder, logins.NAME)
        submission = free_port()
        table: dict[str, Any] = {
            "listen": [
                {"address": f"127.0.0.1:{ours}"},
                {"address": f"127.0.0.1:{submission}", "protocol": "submission"},
            ],
            "tls": {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")},
            "auth": {"users": str(logins.users_file(folder))},
            "relay": {"networks": ["127.0.0.0/8"], "users": True, "senders": ["people.example"]},
            "delivery": {
                "transport": "mx",
                "port": mta.port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
                "retry": ["1s"],
            },
        }
        server = stack.enter_context(running(folder / "server", configuration(**{**table, **changes})))
        yield Peer(name, server, lambda: str(mta.log), mails, submission)


PEERS = [
    pytest.param(name, marks=pytest.mark.peer(program), id=name)
    for name, program in (("postfix", "postfix"), ("exim", "exim4"), ("opensmtpd", "opensmtpd"))
]


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with peer_of(request.param, tmp_path_factory.mktemp(request.param)) as peer:
        yield peer


def only(*names: str) -> pytest.MarkDecorator:
    """The peers that do what a test is about."""
    return pytest.mark.parametrize("peer", [one for one in PEERS if one.id in names], indirect=True, scope="module")


# -- what arrives -----------------------------------------------------------------------------------------------------------


def test_answer_then_it_arrives_octet_for_octet(peer: Peer) -> None:
    with Client(peer.server.port) as client:
        content = message(SENDER, "echo@test.example", "Grüße".encode().decode(), "ein Wört\r\n.\r\n..")
        mail = queued_as(client.mail(SENDER, ["echo@test.example"], content))
    items = ended(peer.server, mail)
    [answer] = [item for item in items if item["kind"] == "answer"]
    assert answer["state"] == "DELIVERED", answer
    [found] = peer.arrived(f"<auto.{mail}.0.0@mx.test.example>")
    stored = json.loads(verb(peer.server, "queue", "show", answer["id"], "--json"))["content"].encode()
    assert found.endswith(stored.replace(b"\r\n", b"\n"))
    assert f"bounces+{answer['id']}@test.example".encode() in found[: -len(stored)]  # the reverse-path


BODIES = {
    "dots": b".\r\n..\r\n.x\r\n\r\n.\r\n",
    "empty lines": b"\r\n\r\nx\r\n\r\n\r\n",
    "empty": b"",
    "long line": b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n",
    "eight bits": "Grüße aus Köln\r\n".encode() + bytes(range(0xA0, 0xFF)) + b"\r\n",
    "much": b"".join(b"%05d %s\r\n" % (number, b"z" * 60) for number in range(200)),
}


@pytest.mark.parametrize("body", BODIES)
def test_relayed_body_then_it_arrives_octet_for_octet(peer: Peer, body: str) -> None:
    identifier = f"<{body.replace(' ', '-')}.{peer.name}@people.example>"
    fields = f"From: {SENDER}\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: {identifier}\r\n\r\n".encode()
    mail = peer.relay(fields + BODIES[body], "known@far.example", mail=" BODY=8BITMIME")
    [item] = peer.delivered(mail)
    [found] = peer.arrived(identifier)
    assert found.endswith((fields + BODIES[body]).replace(b"\r\n", b"\n")), found[-300:]
    assert b"by mx.test.example with ESMTP id " + mail.encode() in found
    assert item["attempts"] == 1


def test_connection_then_it_is_encrypted_where_the_host_can(peer: Peer) -> None:
    subject = f"tls-{peer.name}"
    [item] = peer.delivered(peer.relay(message(SENDER, "known", subject, "x"), "known@far.example"))
    [found] = peer.arrived(f"Subject: {subject}")
    received = " ".join(str(parse(found)["Received"]).split())
    if peer.name == "opensmtpd":  # its TLS is broken: RFC 7435
        assert "no TLS: " in item["reason"] and "with ESMTP id" in received
    else:
        assert "TLSv1.3" in item["reason"] and re.search(r"TLSv?1\.3", received), (item, received)


@only("exim")
def test_commands_then_they_are_pipelined(peer: Peer) -> None:
    peer.delivered(
        peer.relay(message(SENDER, "known", "pipe", "x", "Message-ID: <pipe@p.example>"), "known@far.example")
    )
    line = until(
        lambda: next((line for line in peer.log().splitlines() if "id=pipe@p.example" in line), None), 30, peer.tail
    )
    assert re.search(r" L ", line), line  # "L-": offered, and not used


def test_many_recipients_of_a_domain_then_it_is_one_transaction(peer: Peer) -> None:
    to = ["known@far.example", "other@far.example"]
    identifier = f"<many.{peer.name}@people.example>"
    mail = peer.relay(message(SENDER, to[0], "many", "x", f"Message-ID: {identifier}"), *to)
    peer.delivered(mail)
    found = {
        "postfix": lambda: re.search(r"qmgr.*from=<known@people\.example>, size=\d+, nrcpt=2 \(", peer.log()),
        "exim": lambda: re.search(
            rf"<= .* id={re.escape(identifier[1:-1])} for (\S+@far\.example ?){{2}}$", peer.log(), re.MULTILINE
        ),
        "opensmtpd": lambda: re.search(r"smtp message msgid=\w+ size=\d+ nrcpt=2 ", peer.log()),
    }
    until(found[peer.name], 30, peer.tail)


# -- what does not ----------------------------------------------------------------------------------------------------------


def test_recipient_that_is_refused_then_the_sender_gets_one_notification(peer: Peer) -> None:
    identifier = f"<refused.{peer.name}@people.example>"
    to = ["known@far.example", "nobody@far.example"]
    mail = peer.relay(message(SENDER, to[0], "refused", "x", f"Message-ID: {identifier}"), *to)
    items = ended(peer.server, mail)
    assert sorted((item["kind"], item["state"]) for item in items) == [
        ("dsn", "DELIVERED"),
        ("relay", "BOUNCED"),
        ("relay", "DELIVERED"),
    ]
    peer.arrived(identifier, 2)
    [dsn] = peer.arrived("Action: failed\nStatus: 5")[-1:]
    _, recipient = delivery_status(parse(dsn))
    assert recipient["Final-Recipient"] == "rfc822; nobody@far.example"
    assert re.match(r"smtp; 5\d\d ", recipient["Diagnostic-Code"])
    path = parse(dsn)["Return-Path"]  # OpenSMTPD writes none for the null one
    assert path == "<>" or (path is None and peer.name == "opensmtpd")


@only("postfix", "exim")
def test_answer_that_comes_back_then_it_is_tied_to_its_delivery(peer: Peer) -> None:
    with Client(peer.server.port) as client:
        sender = "late@far.example"
        mail = queued_as(client.mail(sender, ["echo@test.example"], message(sender, "echo", "come back", "x")))

    def bounced() -> dict[str, Any] | None:
        items = json.loads(verb(peer.server, "explain", mail, "--json"))[0]["items"]
        return next((item for item in items if item["kind"] == "answer" and item["state"] == "BOUNCED"), None)

    answer = until(bounced, 30, lambda: f"{peer.server.log.read_text()[-3000:]}\n{peer.log()[-3000:]}")
    listed = queue(peer.server, "list", "--state=SILENT")
    [report] = [item for item in listed if item["recipient"] == f"bounces+{answer['id']}@test.example"]
    assert report["sender"] == "" and report["reason"].startswith("bounce-counted: "), report


@only("postfix", "exim")
def test_mail_larger_than_the_host_takes_then_it_is_not_even_sent(peer: Peer) -> None:
    content = message(SENDER, "known", "large", "x" * 60 + "\r\n") + b"z" * 70 + b"\r\n"
    mail = peer.relay(content + (b"y" * 70 + b"\r\n") * 600, "known@far.example")
    [relayed, *_] = [item for item in ended(peer.server, mail) if item["kind"] == "relay"]
    assert relayed["state"] == "BOUNCED" and re.search(r"\b(5\.3\.4|552)\b", relayed["reason"]), relayed
    assert relayed["attempts"] == 1


def test_international_recipient_then_it_goes_where_smtputf8_is_offered(peer: Peer) -> None:
    content = f"From: {SENDER}\r\nTo: grüße@far.example\r\nSubject: utf8-{peer.name} ü\r\n\r\nx\r\n".encode()
    mail = peer.relay(content, "grüße@far.example", mail=" SMTPUTF8 BODY=8BITMIME")
    [item, *rest] = [one for one in ended(peer.server, mail) if one["kind"] in ("relay", "dsn")]
    if peer.name == "opensmtpd":
        assert item["state"] == "BOUNCED" and "5.6.7" in item["reason"], item
        assert [one["state"] for one in rest] == ["DELIVERED"]
    else:
        assert item["state"] == "DELIVERED", item
        assert len(peer.arrived(f"Subject: utf8-{peer.name} ü")) == 1


@only("postfix", "exim")
def test_wishes_of_the_sender_then_the_host_over_there_fulfils_them(peer: Peer) -> None:
    parameters = {"mail": " RET=HDRS ENVID=QQ314", "rcpt": " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first@p.example"}
    mail = peer.relay(message(SENDER, "known", "wished", "x"), "known@far.example", **parameters)
    peer.delivered(mail)  # and we tell nothing: the next host does (RFC 3461 5.2.1)
    [dsn] = peer.arrived(f"Original-Envelope-I{'D' if peer.name == 'exim' else 'd'}: QQ314")
    _, recipient = delivery_status(parse(dsn))
    assert recipient["Action"] == "delivered"
    assert recipient["Original-Recipient"].replace(" ", "") == "rfc822;first@p.example"


# -- greylisting ------------------------------------------------------------------------------------------------------------


@contextmanager
def postgrey(delay: int) -> Iterator[int]:
    """The policy server of a greylist that delays for some seconds; its port."""
    port, program = free_port(), find_peer("postgrey")
    assert program is not None
    folder = Path(tempfile.mkdtemp(prefix="postgrey-"))
    folder.chmod(0o777)
    command = [program, f"--inet=127.0.0.1:{port}", f"--delay={delay}", f"--dbdir={folder}", "--user=nobody"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--group=nogroup", "--auto-whitelist-clients=0"], stdout=log, stderr=log)
    try:
        until(lambda: _listens(port), 30, lambda: (folder / "log").read_text())
        yield port
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@pytest.mark.peer("postfix", "postgrey")
def test_greylisting_by_postgrey_then_it_is_delivered_once_behind_the_wait(tmp_path: Path) -> None:
    with postgrey(3) as port:
        restrictions = f"check_policy_service inet:127.0.0.1:{port}, permit_mynetworks, reject"
        with peer_of("postfix", tmp_path, {"smtpd_recipient_restrictions": restrictions}) as peer:
            mail = peer.relay(message(SENDER, "known", "grey", "x"), "known@far.example")
            [item] = peer.delivered(mail)
            assert item["attempts"] > 1, item
            [account] = json.loads(verb(peer.server, "explain", mail, "--json"))
            deferred = [entry["reason"] for entry in account["history"] if entry["event"] == "defer"]
            assert deferred and all("450 4.2.0 " in reason for reason in deferred), deferred
            assert len(peer.arrived("Subject: grey")) == 1
            until(lambda: len(peer.mails()) == 1, 5, "more than one arrived")


# -- those who send through us ----------------------------------------------------------------------------------------------


@pytest.mark.peer("postfix", "exim4", "msmtp", "swaks")
def test_programs_that_use_us_as_their_smarthost_then_their_mail_reaches_exim(tmp_path: Path) -> None:
    with peer_of("exim", tmp_path) as peer:
        authority = tmp_path / "authority.pem"
        logins.authority().cert_pem.write_to_path(authority)
        text = message(SENDER, "known", "by-msmtp", "x")
        place = ["--host=127.0.0.1", f"--port={peer.submission}", f"--from={SENDER}", "--tls=on"]
        tls = [f"--tls-trust-file={authority}", "--tls-starttls=on"]
        login = ["--auth=plain", "--user=ann", f"--passwordeval=echo {logins.USERS['ann']}"]
        command = ["msmtp", "--file=/dev/null", *place, *tls, *login, "known@far.example"]
        subprocess.run(command, input=text, check=True, timeout=60)
        [by_msmtp] = peer.arrived("Subject: by-msmtp")
        assert b"by mx.test.example with ESMTPSA (TLSv1." in by_msmtp

        command = ["swaks", "--server", "127.0.0.1", "--port", str(peer.server.port), "--from", SENDER]
        data = "From: %FROM_ADDRESS%\nSubject: by-swaks\n\nx\n"
        subprocess.run([*command, "--to", "known@far.example", "--data", data], check=True, capture_output=True)
        peer.arrived("Subject: by-swaks")

        with Postfix("mta.people.example", routes={"*": peer.server.port}) as mta:
            with smtplib.SMTP("127.0.0.1", mta.port) as client:
                to = ["known@far.example", "other@far.example"]
                client.sendmail(SENDER, to, message(SENDER, "known", "by-postfix", "x"))
            until(lambda: mta.is_empty and "status=sent" in mta.log, 60, lambda: mta.log)
            assert mta.log.count("status=sent (250 2.0.0 Queued as") == 2, mta.log
        peer.arrived("Subject: by-postfix")
