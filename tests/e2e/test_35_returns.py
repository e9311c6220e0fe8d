"""What comes back: a mailbox that does not exist is not written to again, at once or by a report that a real Postfix sends later.

client --> Responder --> echo --> hard.example: scripted sink 127.0.0.2, refuses `gone`
                              --> soft.example: Postfix 127.0.0.1, takes all --> sink that refuses `gone`
           Responder <-- report of the Postfix, to the answer's bounce address
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.dns_server import DNSServer
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import ended, message, queued_as, submit, verb
from tests.support.waiting import Background, until

SECONDS = 60.0


def refuse(step: str, argument: str) -> str | None:
    """`gone` does not exist."""
    return "550 5.1.1 no such user" if step == "RCPT" and argument.upper().startswith("TO:<GONE") else None


@dataclass(frozen=True)
class World:
    server: ServerProcess
    sink: SMTPSink
    number: list[int]

    def ask(self, sender: str) -> list[dict[str, Any]]:
        """One mail to the echo; what became of it."""
        self.number.append(0)
        content = message(sender, "echo@test.example", f"hello {len(self.number)}", "hello")
        return ended(self.server, queued_as(submit(self.server.port, sender, ["echo@test.example"], content)))

    def show(self, item: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(verb(self.server, "queue", "show", item, "--json"))
        return shown

    def suppressed(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = json.loads(verb(self.server, "suppress", "list", "--json"))
        return entries


@pytest.fixture
def background() -> Iterator[Background]:
    with Background() as background:
        yield background


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, background: Background) -> Iterator[World]:
    sink = background.enter(SMTPSink(refuse, address="127.0.0.2"))
    dns = background.enter(
        DNSServer({
            "hard.example": {"MX": [[10, "mx.hard.example"]]},
            "mx.hard.example": {"A": ["127.0.0.2"]},
            "soft.example": {"MX": [[10, "mx.soft.example"]]},
            "mx.soft.example": {"A": ["127.0.0.1"]},
        })
    )  # fmt: skip
    config = configuration(
        delivery={
            "transport": "mx",
            "port": sink.port,
            "nameservers": [dns.nameserver],
            "allow_private_addresses": True,
            "retry": ["1s"],
        },
    )
    with running(tmp_path_factory.mktemp("server"), config) as server:
        yield World(server, sink, [])


def test_mailbox_when_it_does_not_exist_then_it_is_silent_until_it_is_removed(world: World) -> None:
    answered, sent = world.ask("gone@hard.example")
    assert (answered["state"], sent["state"]) == ("ANSWERED", "FAILED")
    assert sent["reason"].startswith("[no-such-user] 550 5.1.1 no such user (mx.hard.example")
    [entry] = world.suppressed()
    assert (entry["address"], entry["inbox"], entry["reason"]) == ("gone@hard.example", "echo", "hard-bounce")

    [silent] = world.ask("Gone@Hard.Example")
    assert silent["state"] == "SILENT" and silent["reason"].startswith("suppressed: its sender is not written to")
    assert [item["state"] for item in world.ask("ann@hard.example")] == ["ANSWERED", "DELIVERED"]

    assert verb(world.server, "suppress", "remove", "gone@hard.example") == "gone@hard.example is written to again\n"
    assert [item["state"] for item in world.ask("gone@hard.example")] == ["ANSWERED", "FAILED"]
    refused = [line for _, line in world.sink.commands if line.upper().startswith("RCPT TO:<GONE")]
    assert len(refused) == 2


def test_operator_when_a_mailbox_is_suppressed_then_what_waits_for_it_is_given_up(world: World) -> None:
    world.sink.script = {"RCPT": "450 4.2.0 later"}
    content = message("ann@hard.example", "echo@test.example", "hello", "hello")
    mail = queued_as(submit(world.server.port, "ann@hard.example", ["echo@test.example"], content))

    def waiting() -> list[dict[str, Any]]:
        found = json.loads(verb(world.server, "queue", "list", "--domain", "hard.example", "--json"))
        return [item for item in found if item["attempts"]]

    until(waiting, SECONDS, "it was not tried")
    verb(world.server, "suppress", "add", "ann@hard.example", "--for", "1h", "--reason", "asked for it")
    items = ended(world.server, mail)
    assert items[1]["state"] == "FAILED"
    assert items[1]["reason"] == "[suppressed] 5.7.1 not sent: operator, asked for it"


@pytest.mark.peer("postfix")
def test_postfix_when_it_takes_and_sends_back_then_the_delivery_is_bounced_and_the_mailbox_suppressed(
    world: World, background: Background
) -> None:
    behind = background.enter(SMTPSink(refuse, address="127.0.0.1"))
    routes = {"soft.example": behind.port, "test.example": world.server.port}
    with Postfix("mx.soft.example", routes=routes, port=world.sink.port) as postfix:
        [_, sent] = world.ask("gone@soft.example")
        state = until(
            lambda: s if (s := world.show(sent["id"])["item"]["state"]) == "BOUNCED" else None,
            SECONDS,
            lambda: f"no report came:\n{postfix.log}",
        )
    assert state == "BOUNCED"
    history = world.show(sent["id"])["history"]
    assert [entry["event"] for entry in history][-2:] == ["deliver", "return"]
    assert history[-1]["reason"] == "[no-such-user] reported: 5.1.1 550 5.1.1 no such user"
    assert [entry["address"] for entry in world.suppressed()] == ["gone@soft.example"]
    [silent] = world.ask("gone@soft.example")
    assert silent["state"] == "SILENT" and silent["reason"].startswith("suppressed: ")


def test_report_when_it_is_forged_then_nothing_follows(world: World) -> None:
    [_, sent] = world.ask("ann@hard.example")
    assert sent["state"] == "DELIVERED"
    path = world.sink.transactions[-1].reverse_path
    assert re.fullmatch(rf"bounces\+{sent['id']}@test\.example", path)
    report = message(
        "MAILER-DAEMON@evil.example", path, "Undelivered", "<ann@hard.example>: 550 5.1.1 no such user, could not be delivered"
    )  # fmt: skip
    for sender, recipient, code in (
        ("mallory@evil.example", path, "bounce-doubted"),
        ("", f"bounces+{sent['id'][:-1]}{'0' if sent['id'][-1] != '0' else '1'}@test.example", "bounce-address"),
    ):
        [item] = ended(world.server, queued_as(submit(world.server.port, sender, [recipient], report)))
        assert item["state"] == "SILENT" and item["reason"].startswith(f"{code}: ")
        assert world.show(sent["id"])["item"]["state"] == "DELIVERED" and not world.suppressed()
    [item] = ended(world.server, queued_as(submit(world.server.port, "", [path], report)))
    assert item["reason"].startswith("bounce-counted: ")
    assert world.show(sent["id"])["item"]["state"] == "BOUNCED"
    [item] = ended(world.server, queued_as(submit(world.server.port, "", [path], report)))
    assert item["reason"].startswith("bounce-known: ")
