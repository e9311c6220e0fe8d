"""Who wrote: a running server with a real name server judges signed, forged and unauthenticated mail.

client on 127.0.0.x --> Responder (record | enforce) --> loopback DNS: SPF, DKIM keys, DMARC policies
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.dns_server import DNSServer, Zone
from tests.support.server import ServerProcess, configuration, running
from tests.support.signing import record, sign
from tests.support.submission import Client, ended, message
from tests.support.waiting import Background, until

ALLOWED, STRANGER = "127.0.0.11", "127.0.0.12"  # what the domains' SPF records allow, and what nobody's does
ZONE: Zone = {
    "strict.example": {"TXT": [f"v=spf1 ip4:{ALLOWED} -all"]},
    "_dmarc.strict.example": {"TXT": ["v=DMARC1; p=reject"]},
    "sel._domainkey.strict.example": {"TXT": [record()]},
    "wary.example": {"TXT": [f"v=spf1 ip4:{ALLOWED} -all"]},
    "_dmarc.wary.example": {"TXT": ["v=DMARC1; p=quarantine"]},
    "silent.example": "TIMEOUT",
    "_dmarc.silent.example": "TIMEOUT",
    "plain.example": {"TXT": ["nothing that anybody asks for"]},
}
HOSTNAME = "mx.test.example"
DEBUG = {"echo": {"agent": "echo"}, "debug": {"agent": "debug"}}


@dataclass(frozen=True)
class World:
    recording: ServerProcess
    enforcing: ServerProcess


def settings(mode: str, dns: DNSServer) -> dict[str, Any]:
    return configuration(
        inboxes=DEBUG,
        authentication={"mode": mode, "trusted_networks": [], "timeout": "2s"},
        delivery={"transport": "print", "nameservers": [dns.nameserver]},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("who-wrote")
    with (
        Background() as background,
        running(folder / "record", settings("record", dns := background.enter(DNSServer(ZONE)))) as recording,
        running(folder / "enforce", settings("enforce", dns)) as enforcing,
    ):
        yield World(recording, enforcing)


def send(server: ServerProcess, content: bytes, sender: str, peer: str, inbox: str = "echo") -> tuple[int, str]:
    """The reply to the final dot, from that address."""
    with smtplib.SMTP("127.0.0.1", server.port, "client.test", source_address=(peer, 0)) as client:
        client.ehlo()
        assert client.mail(sender)[0] == 250
        assert client.rcpt(f"{inbox}@test.example")[0] == 250
        code, text = client.data(content)
        return code, text.decode()


def mail(author: str, inbox: str = "echo", *fields: str) -> bytes:
    return message(author, f"{inbox}@test.example", "Who am I?", "Look at my headers.", *fields)


def account(server: ServerProcess, reply: tuple[int, str]) -> tuple[dict[str, Any], str]:
    """The inbound item of an accepted mail once it has ended, and what `explain` prints of it."""
    assert reply[0] == 250, reply
    mail_id = reply[1].split()[-1]
    [item] = [item for item in ended(server, mail_id) if item["direction"] == "inbound"]
    return item, server.command("explain", mail_id).stdout


def test_mail_from_where_its_domain_sends_is_answered_and_says_so(world: World) -> None:
    item, told = account(
        world.recording, send(world.recording, mail("me@strict.example"), "me@strict.example", ALLOWED)
    )
    assert item["state"] == "ANSWERED"
    assert "spf pass" in told
    assert "dmarc pass" in told


def test_forged_author_is_recorded_and_never_answered(world: World) -> None:
    item, told = account(
        world.recording, send(world.recording, mail("me@strict.example"), "me@plain.example", STRANGER)
    )
    assert item["state"] == "SILENT"
    assert item["reason"].startswith("dmarc-fail")
    assert "dmarc fail (reject)" in told


def test_forged_author_is_refused_where_policies_are_enforced(world: World) -> None:
    code, text = send(world.enforcing, mail("me@strict.example"), "me@plain.example", STRANGER)
    assert (code, text.split()[0]) == (550, "5.7.26")
    assert "strict.example" in text


def test_quarantined_author_is_accepted_and_never_answered_where_policies_are_enforced(world: World) -> None:
    item, _ = account(world.enforcing, send(world.enforcing, mail("me@wary.example"), "me@wary.example", STRANGER))
    assert (item["state"], item["reason"].partition(":")[0]) == ("SILENT", "dmarc-fail")


def test_signature_carries_a_mail_that_was_passed_on(world: World) -> None:
    signed = sign(mail("me@strict.example"), "strict.example")
    for server in (world.recording, world.enforcing):
        item, told = account(server, send(server, signed, "list@plain.example", STRANGER))
        assert item["state"] == "ANSWERED"
        assert "dkim pass" in told
        assert "dmarc pass" in told


def test_changed_text_breaks_the_signature(world: World) -> None:
    signed = sign(mail("me@strict.example"), "strict.example").replace(b"Look at", b"Look away from")
    assert send(world.enforcing, signed, "list@plain.example", STRANGER)[0] == 550


@pytest.mark.parametrize("hidden", [f"Authentication-Results: {HOSTNAME};", "X: y"])
def test_author_hidden_behind_a_bare_cr_is_seen(world: World, hidden: str) -> None:
    """What comes with BODY=BINARYMIME may hold one: another author, whom whoever stores the mail would read as the first."""
    content = f"{hidden}\rFrom: me@strict.example\r\n".encode() + mail("me@plain.example")
    with Client(world.enforcing.port) as client:
        client.say("MAIL FROM:<me@plain.example> BODY=BINARYMIME")
        client.say("RCPT TO:<echo@test.example>")
        client.send(b"BDAT %d LAST\r\n" % len(content) + content)
        code, text = client.reply()
    assert (code, text.split()[0]) == (550, "5.7.26")


def test_silent_name_server_costs_a_little_time_and_no_mail(world: World) -> None:
    code, text = send(world.enforcing, mail("me@silent.example"), "me@silent.example", STRANGER)
    assert (code, text.split()[0]) == (451, "4.7.0")  # it may wish to reject: the client comes again
    item, told = account(
        world.recording, send(world.recording, mail("me@silent.example"), "me@silent.example", STRANGER)
    )
    assert item["state"] == "ANSWERED"
    assert "temperror" in told


def test_results_stand_on_top_and_forged_ones_are_gone(world: World) -> None:
    forged = (
        f"Authentication-Results: {HOSTNAME}; dmarc=pass header.from=bank.example",
        f"authentication-results: \t{HOSTNAME.upper()}\r\n ; spf=pass",
        "Authentication-Results: other.example; spf=neutral",
    )
    reply = send(world.recording, mail("me@wary.example", "debug", *forged), "me@wary.example", ALLOWED, "debug")
    account(world.recording, reply)
    shown = until(lambda: shown_by(world.recording), 10, "the debug agent has printed nothing")
    assert "bank.example" not in shown
    assert HOSTNAME.upper() not in shown
    assert "spf=neutral" in shown  # another host's word stays, whatever it is worth
    ours, received = shown.index(f"Authentication-Results: {HOSTNAME}"), shown.index("Received:")
    assert received < ours < shown.index("From: me@wary.example")
    assert "dmarc=pass" in shown[ours:]


def shown_by(server: ServerProcess) -> str:
    """What the debug agent has printed, once it is whole."""
    text = server.output.read_text(encoding="utf-8")
    return text if "END MESSAGE" in text else ""
