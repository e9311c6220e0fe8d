"""The operator's hand: reload, stop, and the verbs, all on a live server.

clients ==load==> Responder --> scripted sink (smarthost), which puts off `later@` and refuses `gone@`
                      ^
    SIGHUP, SIGTERM, queue ..., explain, try
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.answers import parse
from tests.support.server import ServerProcess, configuration, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import message, queue, queued_as, submit, verb
from tests.support.waiting import Background, until

ECHO = "echo@test.example"


@dataclass
class Host:
    """The script of the smarthost; `open` ends its doubts about `later@`."""

    open: bool = False

    def __call__(self, step: str, argument: str) -> str | None:
        if step == "RCPT" and "<gone@" in argument:
            return "550 5.1.1 nobody of that name"
        return "450 4.2.1 later" if step == "RCPT" and "<later@" in argument and not self.open else None


@dataclass(frozen=True)
class World:
    server: ServerProcess
    sink: SMTPSink
    host: Host

    def ask(self, name: str, number: int = 0) -> str:
        """Mail to echo from `name@away.example`; its id."""
        sender = f"{name}@away.example"
        content = message(sender, ECHO, "Hello", "x", f"Message-ID: <{name}.{number}@away.example>")
        return queued_as(submit(self.server.port, sender, [ECHO], content))

    def answer(self, name: str, state: str) -> dict[str, Any]:
        """The answer to `name@away.example`, once it is in that state."""

        def look() -> dict[str, Any] | None:
            found = queue(self.server, "list", f"--state={state}")
            return next((item for item in found if item["recipient"] == f"{name}@away.example"), None)

        return until(look, 30, lambda: f"no answer to {name} is {state}: {queue(self.server, 'list')}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    host = Host()
    with Background() as background:
        sink = background.enter(SMTPSink(host))
        delivery = {"transport": "smarthost", "smarthost": f"127.0.0.1:{sink.port}", "retry": ["1h"]}
        with running(tmp_path, configuration(delivery=delivery)) as server:
            yield World(server, sink, host)


def test_queue_verbs_move_what_they_name(world: World) -> None:
    server = world.server
    assert queue(server, "list") == [] and queue(server, "stats") == {"inbound": {}, "outbound": {}}
    assert "Nothing waits" in verb(server, "queue", "list")
    for name in ("fine", "later", "gone"):
        world.ask(name)
    fine, later, gone = (
        world.answer("fine", "DELIVERED"),
        world.answer("later", "DEFERRED"),
        world.answer("gone", "FAILED"),
    )
    assert queue(server, "stats") == {
        "inbound": {"ANSWERED": 3},
        "outbound": {"DELIVERED": 1, "DEFERRED": 1, "FAILED": 1},
    }
    assert [line.split() for line in verb(server, "queue", "stats").splitlines()[1:]] == [
        ["inbound", "ANSWERED", "3"],
        ["outbound", "DEFERRED", "1"],
        ["outbound", "DELIVERED", "1"],
        ["outbound", "FAILED", "1"],
    ]
    table = verb(server, "queue", "list")
    assert later["id"] in table and gone["id"] in table and fine["id"] not in table
    assert {item["id"] for item in queue(server, "list")} == {later["id"], gone["id"]}

    assert verb(server, "queue", "hold", later["id"]) == f"{later['id']} is now HELD\n"
    assert world.answer("later", "HELD")["id"] == later["id"]
    world.host.open = True
    assert queue(server, "retry", gone["id"]) == [{"id": gone["id"], "state": "QUEUED", "error": None}]
    until(lambda: _claims(server, gone["id"]) == 2, 30, "the retried answer was not tried")
    assert world.answer("gone", "FAILED")["attempts"] == 1  # counted anew
    assert world.answer("later", "HELD")["attempts"] == 1  # a held one stays where it is

    assert verb(server, "queue", "release", later["id"]) == f"{later['id']} is now QUEUED\n"
    world.answer("later", "DELIVERED")
    assert [one.recipients for one in world.sink.transactions].count(["later@away.example"]) == 1
    assert queue(server, "drop", gone["id"]) == [{"id": gone["id"], "state": "DROPPED", "error": None}]
    assert queue(server, "list") == []


def _claims(server: ServerProcess, item: str) -> int:
    return sum(entry["event"] == "claim" for entry in queue(server, "show", item)["history"])


def test_retry_sends_at_once_what_was_deferred_for_an_hour(world: World) -> None:
    world.ask("later")
    later = world.answer("later", "DEFERRED")
    assert later["due_at"] - later["created_at"] > 1800
    world.host.open = True
    verb(world.server, "queue", "retry", later["id"])
    assert world.answer("later", "DELIVERED")["id"] == later["id"]


def test_queue_verbs_refuse_what_makes_no_sense(world: World) -> None:
    server = world.server
    world.ask("fine")
    fine = world.answer("fine", "DELIVERED")["id"]
    for action in ("hold", "release", "drop"):
        said = verb(server, "queue", action, fine, status=1)
        assert said == f"responder: {fine}: a mail that is DELIVERED can't {action}\n"
    assert verb(server, "queue", "retry", "nonsense", status=1) == "responder: nonsense: no such item\n"
    assert "no such mail" in verb(server, "queue", "show", "nonsense", status=1)
    assert "no such mail" in verb(server, "explain", "<nonsense@away.example>", status=1)
    assert world.answer("fine", "DELIVERED")["id"] == fine


def test_explain_and_show_tell_the_whole_history_by_any_name(world: World) -> None:
    server = world.server
    mail_id = world.ask("fine")
    answer = world.answer("fine", "DELIVERED")
    for key in (mail_id, f"{mail_id}.0", answer["id"], "<fine.0@away.example>", "fine.0@away.example"):
        [account] = json.loads(verb(server, "explain", key, "--json"))
        assert account["mail"]["id"] == mail_id and account["mail"]["message_id"] == "<fine.0@away.example>"
        steps = [(entry["item"], entry["state"]) for entry in account["history"]]
        assert [state for item, state in steps if item == f"{mail_id}.0"] == ["RECEIVED", "ANSWERING", "ANSWERED"]
        assert [state for item, state in steps if item == answer["id"]] == ["QUEUED", "SENDING", "DELIVERED"]
        assert len(steps) == 6
        text = verb(server, "explain", key)
        for words in (
            mail_id,
            answer["id"],
            "fine@away.example",
            "answered by echo",
            "250 2.0.0 stored",
            "client.test",
        ):
            assert words in text, (key, words)

    shown = queue(server, "show", answer["id"])
    assert shown["item"] == answer
    assert parse(shown["content"].encode())["In-Reply-To"] == "<fine.0@away.example>"
    assert [entry["event"] for entry in shown["history"]] == ["queue", "claim", "deliver"]
    text = verb(server, "queue", "show", answer["id"])
    assert "Subject: Re: Hello" in text and "You wrote:" in text and "DELIVERED" in text


def test_try_shows_the_decision_and_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    server = world.server
    file = tmp_path / "mail.eml"
    sender = "someone@away.example"
    file.write_bytes(message(sender, ECHO, "Aw: Hello", "A question", "Message-ID: <try@away.example>"))
    tried = json.loads(verb(server, "try", "echo", str(file), "--json"))
    assert (tried["event"], tried["inbox"], tried["sender"]) == ("answer", "echo", sender)
    [answer] = tried["messages"]
    assert answer["recipient"] == sender
    mail = parse(answer["content"].encode())
    assert (mail["Subject"], mail["In-Reply-To"]) == ("Re: Hello", "<try@away.example>")
    text = verb(server, "try", ECHO, str(file))
    assert "answered by echo" in text and "A question" in text

    file.write_bytes(message(sender, ECHO, "Away", "x", "Auto-Submitted: auto-replied"))
    assert "silence: auto-submitted: Auto-Submitted: auto-replied" in verb(server, "try", "echo", str(file))
    silent = json.loads(verb(server, "try", "echo", str(file), "--json"))
    assert (silent["event"], silent["messages"]) == ("silence", [])
    assert "there is none for nobody@test.example" in verb(server, "try", "nobody", str(file), status=2)
    assert "No such file" in verb(server, "try", "echo", str(tmp_path / "missing.eml"), status=2)
    assert queue(server, "stats") == {"inbound": {}, "outbound": {}} and not world.sink.transactions
