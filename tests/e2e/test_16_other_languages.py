"""Scenario 16: agents that ask elsewhere, in other languages.

client ──SMTP──> responder: webhook ──HTTP──> a receiver of the tests; one in Node
                            command ──exec──> sh, perl, node
                            weather ──HTTP──> geocoder and weather station of the tests
                     '──SMTP──> sink: each mail's one answer

What is down comes up again, and every mail is answered once.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_peer
from tests.support.answers import check_answer, parse, text_of
from tests.support.http_server import HTTPServer, Request, Said, said_json
from tests.support.server import ROOT, ServerProcess, configuration, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client, ended, message, queue, queued_as, settled, submit
from tests.support.waiting import Background, until

SECRET = "0123456789abcdef-secret"

PROGRAMS = {
    "greet.sh": """#!/bin/sh
printf '%s, you wrote:\\n' "$MAIL_FROM"
cat
""",
    "reverse.pl": """#!/usr/bin/perl
use strict; use warnings;
my $text = do { local $/; <STDIN> };
my ($subject) = $text =~ /^Subject: (.*?)\\r?$/m;
print scalar reverse($subject), "\\n";
""",
    "file.js": """#!/usr/bin/env node
const mail = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const data = Buffer.from(mail.reply_text.toUpperCase()).toString('base64')
const attachments = [{ name: 'up.txt', content_type: 'text/plain', data }]
console.log(JSON.stringify({ text: mail.inbox, html: '<b>x</b>', attachments }))
""",
    "third.py": """#!/usr/bin/env python3
import os, pathlib, sys
count = pathlib.Path("count")
tried = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(tried))
print("attempt", tried, os.environ["MAIL_ID"], file=sys.stderr)
if tried < 3:
    sys.exit(75 if tried == 1 else 1)
print("at last")
""",
}


@dataclass
class World:
    server: ServerProcess
    sink: SMTPSink

    def send(
        self, inbox: str, subject: str = "Hello", text: str = "How are you?", *fields: str
    ) -> list[dict[str, Any]]:
        """One mail; what became of it."""
        sender, to = "ann@client.example", f"{inbox}@test.example"
        reply = submit(self.server.port, sender, [to], message(sender, to, subject, text, *fields))
        return ended(self.server, queued_as(reply))

    def answers(self, inbox: str) -> list[Any]:
        mails = [parse(one.content) for one in self.sink.transactions]
        return [mail for mail in mails if mail["X-Responder-Loop"] == f"{inbox}@test.example"]

    def answer(self, inbox: str, *about: str) -> str:
        """The text of the one answer to one mail."""
        before = len(self.answers(inbox))
        items = self.send(inbox, *about)
        assert [item["state"] for item in items] == ["ANSWERED", "DELIVERED"], items
        found = self.answers(inbox)
        assert len(found) == before + 1
        check_answer(found[-1], inbox=f"{inbox}@test.example", to="ann@client.example", hostname="mx.test.example")
        return text_of(found[-1])


@contextmanager
def world(folder: Path, inboxes: dict[str, Any], **changes: Any) -> Iterator[World]:
    with Background() as background:
        sink = background.enter(SMTPSink())
        config = configuration(
            inboxes=inboxes,
            delivery={
                "transport": "smarthost",
                "smarthost": f"127.0.0.1:{sink.port}",
                "allow_private_addresses": True,
            },
            **changes,
        )
        with running(folder, config) as server:
            yield World(server, sink)
            assert "Traceback" not in server.log.read_text()


def programs(folder: Path) -> None:
    for name, source in PROGRAMS.items():
        (folder / name).write_text(source)
        (folder / name).chmod(0o755)


def command(*arguments: str, **settings: Any) -> dict[str, Any]:
    return {"agent": "command", "settings": {"command": list(arguments), **settings}}


def test_programs_when_run_then_each_mail_has_its_answer(tmp_path: Path) -> None:
    programs(tmp_path)
    inboxes = {
        "sh": command("./greet.sh", input="text"),
        "perl": command("./reverse.pl"),
        "final": command("sh", "-c", "echo no such customer >&2; exit 67"),
        "slow": command("sh", "-c", "sleep 600 & echo $$ > leader; wait", timeout=0.5),
        "again": command("./third.py", retry=1),
        "passing": {**command("sh", "-c", """echo '{"action": "forward"}'"""), "targets": ["team@target.example"]},
    }
    inboxes["passing"]["settings"]["output"] = "json"
    with world(tmp_path, inboxes, answering={"retry": ["0.2s"], "attempts": 3}) as here:
        assert here.answer("sh") == "ann@client.example, you wrote:\nHow are you?\n"
        assert here.answer("perl", "Hello $(id) `id`") == "`di` )di($ olleH\n"
        assert here.answer("again") == "at last\n"
        assert (tmp_path / "count").read_text() == "3"

        [item] = here.send("final")
        assert item["state"] == "FAILED" and item["attempts"] == 1
        assert "the agent gave up: the program ended with 67 (EX_NOUSER): no such customer" in item["reason"]

        [item] = here.send("slow")
        assert item["state"] == "FAILED" and item["attempts"] == 3
        assert "the program took longer than 0.5 s" in item["reason"]
        leader = int((tmp_path / "leader").read_text())
        until(lambda: not _group(leader), 10, "the program's child is still there")

        assert [item["state"] for item in here.send("passing")] == ["ANSWERED", "DELIVERED"]
        assert here.sink.transactions[-1].recipients == ["team@target.example"]


def _group(leader: int) -> bool:
    """Whether a process of that group is there, zombies not counted."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            return True
    return False


@pytest.mark.peer("node")
def test_node_when_it_is_the_program_then_its_answer_has_a_file(tmp_path: Path) -> None:
    programs(tmp_path)
    with world(tmp_path, {"node": command("./file.js", input="json", output="json")}) as here:
        assert [item["state"] for item in here.send("node")] == ["ANSWERED", "DELIVERED"]
        [mail] = here.answers("node")
        assert mail.get_body(("plain",)).get_content().strip() == "node"
        assert mail.get_body(("html",)).get_content().strip() == "<b>x</b>"
        [file] = mail.iter_attachments()
        assert (file.get_filename(), file.get_content().strip()) == ("up.txt", "HOW ARE YOU?")


def test_server_when_killed_then_its_mail_is_answered_by_the_next(tmp_path: Path) -> None:
    """A program under way goes on when the server dies; the mail is given to it again, with the same id."""
    script = 'echo "$MAIL_ID" >> ids; n=0; until [ -e go ] || [ $n -gt 1200 ]; do n=$((n+1)); sleep 0.05; done; cat'
    with world(tmp_path, {"sh": command("sh", "-c", script, input="text")}) as here:
        sender, to = "ann@client.example", "sh@test.example"
        mail_id = queued_as(submit(here.server.port, sender, [to], message(sender, to, "Hi", "Hello")))
        ids = tmp_path / "ids"
        until(lambda: ids.exists() and ids.read_text().count("\n") == 1, 30, "the program did not start")
        here.server.kill()
        here.server.start()
        until(lambda: ids.read_text().count("\n") == 2, 30, lambda: here.server.log.read_text())
        (tmp_path / "go").touch()
        assert [item["state"] for item in ended(here.server, mail_id)] == ["ANSWERED", "DELIVERED"]
        assert len(here.sink.transactions) == 1
        assert len(set(ids.read_text().split())) == 1


def test_receiver_when_down_and_up_again_then_each_mail_is_answered_once(tmp_path: Path) -> None:
    mails = 40
    turns: Counter[str] = Counter()

    def receive(request: Request) -> Said:
        """Each mail goes wrong in its own way, twice at the most."""
        turns[request.json["id"]] += 1
        turn = turns[request.json["id"]]
        number = int(request.json["subject"].rpartition(" ")[2])
        if turn <= number % 3:
            return [
                Said(503, headers={"Retry-After": "1"}),
                Said(500),
                Said(drop=-1),
                Said(body=b"half", drop=2),
            ][number % 4]
        return said_json({"text": f"answer {number}", "tag": f"t{number}"})

    with HTTPServer({"/hook": receive}) as receiver:
        settings = {"url": f"{receiver.url}/hook", "secret": SECRET, "timeout": 5}
        inboxes = {"hook": {"agent": "webhook", "settings": settings}}
        with world(tmp_path, inboxes, answering={"retry": ["0.5s"], "attempts": 30}) as here:
            receiver.__exit__(None, None, None)  # it is down
            sender, to = "ann@client.example", "hook@test.example"
            with Client(here.server.port) as client:
                for number in range(mails):
                    assert client.mail(sender, [to], message(sender, to, f"Question {number}", "x"))[0] == 250
            until(lambda: "ConnectError" in here.server.log.read_text(), 30, "nobody asked")
            assert queue(here.server, "stats")["inbound"].keys() <= {"RECEIVED", "ANSWERING"}
            receiver.__enter__()
            stats = settled(here.server, 60, mails=mails)
            assert stats == {"inbound": {"ANSWERED": mails}, "outbound": {"DELIVERED": mails}}
            told = sorted(text_of(parse(one.content)).strip() for one in here.sink.transactions)
            assert told == sorted(f"answer {number}" for number in range(mails))
            tags = {parse(one.content)["From"] for one in here.sink.transactions}
            assert tags == {f"hook+t{number}@test.example" for number in range(mails)}
    assert len(turns) == mails
    for request in receiver.requests:
        assert request.headers["idempotency-key"] == request.json["id"]


def test_receiver_when_it_refuses_then_the_mail_is_kept_with_the_reason(tmp_path: Path) -> None:
    said = [Said(410, b"this customer has left"), said_json({"text": "welcome back"})]
    with HTTPServer({"/hook": said}) as receiver:
        settings = {"url": f"{receiver.url}/hook", "secret": SECRET}
        with world(tmp_path, {"hook": {"agent": "webhook", "settings": settings}}) as here:
            [item] = here.send("hook")
            assert item["state"] == "FAILED"
            assert "the agent gave up: the webhook said 410: this customer has left" in item["reason"]
            here.server.command("queue", "retry", item["id"])
            until(lambda: here.sink.transactions, 30, lambda: here.server.log.read_text())
            assert text_of(parse(here.sink.transactions[0].content)) == "welcome back\n"
            assert SECRET not in here.server.log.read_text()


@pytest.mark.peer("node")
def test_receiver_when_in_node_then_it_answers_as_its_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "agents" / "webhook.md").read_text(encoding="utf-8")
    [source] = re.findall(r"^```javascript\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "receiver.js").write_text(source)
    node = subprocess.Popen(
        [find_peer("node") or "node", str(tmp_path / "receiver.js")],
        env={**os.environ, "SECRET": SECRET, "PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert node.stdout
        settings = {"url": f"http://127.0.0.1:{int(node.stdout.readline())}/", "secret": SECRET}
        with world(tmp_path / "server", {"hook": {"agent": "webhook", "settings": settings}}) as here:
            for number in range(20):
                told = here.answer("hook", f"number {number}", "Really?")
                assert told == f"You wrote about number {number}:\n\nReally?\n"
    finally:
        node.kill()
        node.communicate()


def test_weather_when_asked_then_it_is_told_and_an_apology_where_nobody_knows(tmp_path: Path) -> None:
    station = [
        said_json({"current": {"temperature_2m": -3, "weather_code": 73}}),
        Said(500),
    ]
    spot = {"latitude": 46.95, "longitude": 7.45, "name": "Bern", "country": "Switzerland"}

    def geocode(request: Request) -> Said:
        known = request.query["name"][0].casefold() in ("bern", "thun")
        return said_json({"results": [spot]} if known else {})

    with HTTPServer({"/search": geocode, "/locate/8.8.8.8": said_json(spot), "/now": station}) as providers:
        settings = {
            "geocoder": f"{providers.url}/search?name={{place}}",
            "weather": f"{providers.url}/now?latitude={{latitude}}&longitude={{longitude}}",
            "locator": f"{providers.url}/locate/{{ip}}",
            "locator_fields": {"name": "name"},
            "unknown_place": "Where?",
            "unavailable": "Later!",
        }
        with world(tmp_path, {"weather": {"agent": "weather", "settings": settings}}) as here:
            assert here.answer("weather", "Wetter in Bern?") == "Bern, Switzerland: -3 °C, snow.\n"
            assert here.answer("weather", "bern") == "Bern, Switzerland: -3 °C, snow.\n"  # remembered
            assert here.answer("weather", "Thun") == "Later!\n"
            assert here.answer("weather", "weather in Nowhere") == "Where?\n"
            providers.routes["/now"] = said_json({"current": {"temperature_2m": 4, "weather_code": 3}})
            told = here.answer("weather", "weather", "please", "X-Originating-IP: [8.8.8.8]")
            assert told == "Bern, Switzerland: 4 °C, overcast.\n"
            asked = len(providers.requests)
            assert here.server.stop() == 0
            here.server.start()
            assert here.answer("weather", "BERN") == "Bern, Switzerland: -3 °C, snow.\n"  # what is remembered survives
            assert len(providers.requests) == asked
