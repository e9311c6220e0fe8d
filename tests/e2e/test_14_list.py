"""Mailing lists and confirmations, from subscribing to being removed.

    client --> Responder --> lists talk, news, other, third, narrow; guard (confirm before echo)
                      '--> scripted sink (MX of client.example, 127.0.0.2): mailboxes get closed
    HTTP client --> the lists' one-click listener

Each member gets one copy of a post; whoever left, or can't be reached, gets none; nothing goes round.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import EmailMessage
from itertools import count
from typing import Any

import httpx
import pytest

from tests.support.answers import parse
from tests.support.dns_server import DNSServer
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import WAITING, ended, message, queue, queued_as, submit
from tests.support.waiting import Background, until

NUMBERS = count(1)
OWNER = "olga@client.example"
URL = "https://lists.test.example/leave"


@dataclass
class Closed:
    """The script of client.example: mailboxes that are refused from some time on."""

    addresses: set[str] = field(default_factory=set)

    def __call__(self, step: str, argument: str) -> str | None:
        if step == "RCPT" and any(f"<{address}>" in argument for address in self.addresses):
            return "550 5.1.1 no such user"
        return None


@dataclass
class World:
    server: ServerProcess
    sink: SMTPSink
    closed: Closed
    click: int  # the one-click listener's port

    def send(self, sender: str, to: str, subject: str = "Hello", *fields: str) -> list[dict[str, Any]]:
        """One mail, and what became of it and of all that came of it."""
        items = ended(self.server, self.submit(sender, to, subject, *fields))
        until(lambda: not self._waiting(), 30, lambda: self.server.log.read_text()[-4000:])
        return items

    def submit(self, sender: str, to: str, subject: str = "Hello", *fields: str) -> str:
        if not any(field.startswith("Message-ID:") for field in fields):
            fields = (*fields, f"Message-ID: <{next(NUMBERS)}@client.example>")
        content = message(sender, f"{to}@test.example", subject, "Some text", *fields)
        return queued_as(submit(self.server.port, sender, [f"{to}@test.example"], content))

    def _waiting(self) -> bool:
        return any(WAITING & set(states) for states in queue(self.server, "stats").values())

    def mails(self, to: str) -> list[EmailMessage]:
        """What an address has got so far."""
        return [parse(one.content) for one in self.sink.transactions if one.recipients == [to]]

    def asked(self, sender: str, to: str, subject: str = "Hello") -> EmailMessage:
        """The one answer to a mail."""
        before = len(self.mails(sender))
        self.submit(sender, to, subject)
        until(lambda: self.mails(sender)[before:], 30, lambda: self.server.log.read_text()[-4000:])
        [answer] = self.mails(sender)[before:]
        return answer

    def join(self, member: str, inbox: str = "talk") -> None:
        question = self.asked(member, f"{inbox}+subscribe")
        welcome = self.asked(member, local(question), f"Re: {question['Subject']}")
        assert "You are on the list" in welcome.get_content()

    def leave_by_click(self, mail: EmailMessage) -> httpx.Response:
        """Do what a provider does with the List-Unsubscribe of a mail, the reverse proxy included."""
        [url] = re.findall(r"<https://lists\.test\.example(/\S+)>", mail["List-Unsubscribe"])
        assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        return httpx.post(
            f"http://127.0.0.1:{self.click}{url}", data={"List-Unsubscribe": "One-Click"}, timeout=10, trust_env=False
        )


def local(mail: EmailMessage) -> str:
    """The local part that an answer to a mail goes to."""
    return str(mail["From"].addresses[0].username)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    port, click, closed = free_port(), free_port(), Closed()
    one_click = {"url": URL, "listen": f"127.0.0.1:{click}"}
    with Background() as background:
        sink = background.enter(SMTPSink(closed, address="127.0.0.2", port=port))
        dns = background.enter(
            DNSServer({
                "client.example": {"MX": [[10, "mx.client.example"]]},
                "mx.client.example": {"A": ["127.0.0.2"]},
                "test.example": {"MX": [[10, "in.test.example"]]},
                "in.test.example": {"A": ["127.0.0.1"]},  # the server itself
            })
        )  # fmt: skip

        def mailing_list(name: str, **settings: Any) -> dict[str, Any]:
            return {"agent": "list", "targets": ["*"], "settings": {"name": name, "owners": [OWNER], **settings}}

        ring = ["other@test.example", "third@test.example", "talk@test.example", "eve@client.example"]
        config = configuration(
            listen=[{"address": f"127.0.0.1:{port}"}],
            inboxes={
                "talk": mailing_list("Talk", one_click=one_click),
                "news": mailing_list("News", one_click=one_click, mode="announcement", bounce_limit=1),
                "other": mailing_list("Other", posting="anyone", members=ring),
                "third": mailing_list("Third", posting="anyone", members=ring),
                "narrow": {
                    **mailing_list("Narrow", members=["ann@client.example"]),
                    "targets": ["*@elsewhere.example"],
                },
                "guard": {"agent": "confirm", "settings": {"agent": "echo", "settings": {"prefix": "Done:"}}},
            },
            delivery={
                "transport": "mx",
                "port": port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
                "retry": ["1s"],
            },
            answering={"retry": ["100ms"], "attempts": 3},
        )
        with running(tmp_path_factory.mktemp("server"), config) as server:
            yield World(server, sink, closed, click)


def test_list_from_subscribing_to_one_click(world: World) -> None:
    ann, ben = "ann@client.example", "ben@client.example"
    world.join(ann)
    world.join(ben)
    before = len(world.sink.transactions)
    items = world.send(ann, "talk", "Picnic", "X-Unusual: kept")
    assert [item["state"] for item in items] == ["ANSWERED", "DELIVERED", "DELIVERED"]
    assert len(world.sink.transactions) == before + 2
    for member in (ann, ben):
        copy = world.mails(member)[-1]
        assert copy["Subject"] == "[Talk] Picnic"
        assert copy["List-Id"].endswith("<talk.test.example>")
        assert copy["List-Post"] == "<mailto:talk@test.example>"
        assert copy["Reply-To"] == "talk@test.example"
        assert copy["From"].addresses[0].addr_spec == "talk@test.example"
        assert copy["Precedence"] == "list"
        assert copy["X-Unusual"] == "kept"
        assert re.search(r"<mailto:talk\+unsubscribe-[a-z2-7]{26}@test\.example>", copy["List-Unsubscribe"])
        assert copy.get_content() == "Some text\r\n" or copy.get_content() == "Some text\n"
    by_click = world.leave_by_click(world.mails(ben)[-1])
    assert by_click.status_code == 200
    assert world.leave_by_click(world.mails(ben)[-1]).text == by_click.text
    world.send(ann, "talk", "Picnic, again")
    assert world.mails(ann)[-1]["Subject"] == "[Talk] Picnic, again"
    assert world.mails(ben)[-1]["Subject"] == "[Talk] Picnic"
    assert "only members" in world.asked(ben, "talk", "Am I still there?").get_content()

    [leave] = re.findall(r"<mailto:([^@]+)@", world.mails(ann)[-1]["List-Unsubscribe"])
    assert "gets no more mail" in world.asked(ann, leave).get_content()
    assert "only members" in world.asked(ann, "talk", "And I?").get_content()


def test_post_when_its_client_sends_it_twice_then_each_member_gets_one(world: World) -> None:
    member = "twice@client.example"
    world.join(member)
    before = len(world.mails(member))
    for _ in range(2):
        world.send(member, "talk", "Once", "Message-ID: <once@client.example>")
    assert len(world.mails(member)) == before + 1


def test_member_when_its_host_refuses_it_then_it_is_removed_and_the_author_hears_nothing(world: World) -> None:
    gone = "gone@client.example"
    for member in (OWNER, gone):
        world.join(member, "news")
    world.closed.addresses.add(gone)
    items = world.send(OWNER, "news", "First")
    assert sorted(item["state"] for item in items if item["direction"] == "outbound") == ["BOUNCED", "DELIVERED"]
    until(lambda: f"removed {gone}" in world.server.log.read_text(), 20, lambda: world.server.log.read_text()[-4000:])
    assert world.asked(OWNER, "news+request", "members").get_content().split() == [OWNER, "1", "members"]
    items = world.send(OWNER, "news", "Second")
    assert [item["state"] for item in items] == ["ANSWERED", "DELIVERED"]
    posts = [mail for mail in world.mails(OWNER) if mail["List-Id"]]
    assert [(mail["Subject"], mail["List-Post"][:2], mail["Reply-To"]) for mail in posts] == [
        ("[News] First", "NO", OWNER),
        ("[News] Second", "NO", OWNER),
    ]
    assert not [mail for mail in world.mails(OWNER) if mail.get_content_type() == "multipart/report"]


def test_lists_when_they_are_members_of_each_other_then_nothing_goes_round(world: World) -> None:
    eve = "eve@client.example"
    items = world.send(eve, "other", "Round and round")
    states = sorted(item["state"] for item in items if item["direction"] == "outbound")
    assert states == [
        "BOUNCED",
        "BOUNCED",
        "DELIVERED",
    ]  # our own lists are not mailed, and the list itself isn't tried
    [copy] = [one for one in world.sink.transactions if one.recipients == [eve]]
    before = len(world.sink.transactions)
    # Some host that forwards eve's mail brings it back: to the list itself, to another, and without our own marks.
    stripped = re.sub(rb"(?m)^X-Responder-Loop:.*\r\n", b"", copy.content)
    assert stripped != copy.content
    for inbox in ("other", "third"):
        for path in (copy.reverse_path, eve):
            for content in (copy.content, stripped):
                mail = queued_as(submit(world.server.port, path, [f"{inbox}@test.example"], content))
                assert [item["state"] for item in ended(world.server, mail)] == ["SILENT"], (inbox, path)
    asked = world.send("other@test.example", "third+subscribe")
    assert [item["state"] for item in asked] == ["SILENT"]
    assert len(world.sink.transactions) == before


def test_list_when_the_operator_allows_no_such_target_then_the_post_fails_and_says_so(world: World) -> None:
    [item] = world.send("ann@client.example", "narrow")
    assert item["state"] == "FAILED"
    assert "not among the inbox's targets" in str(item)


def test_automatic_mail_when_it_reaches_a_list_then_nobody_gets_it(world: World) -> None:
    member = "holiday@client.example"
    world.join(member)
    before = len(world.sink.transactions)
    for fields in (
        ["Auto-Submitted: auto-replied"],
        ["Precedence: bulk"],
        ["List-Id: <elsewhere.example>"],
        ["Content-Type: multipart/report; report-type=delivery-status; boundary=x"],
    ):
        [item] = world.send(member, "talk", "I am away", *fields)
        assert item["state"] == "SILENT", fields
    assert len(world.sink.transactions) == before


def test_confirmation_when_answered_five_times_at_once_then_it_is_done_once(world: World) -> None:
    sender = "quick@client.example"
    question = world.asked(sender, "guard", "Do it")
    assert question["Subject"].startswith("[confirm ")
    assert "Done:" not in question.get_content()
    with ThreadPoolExecutor(5) as pool:
        mails = list(pool.map(lambda _: world.submit(sender, local(question), question["Subject"]), range(5)))
    for mail in mails:
        ended(world.server, mail)
    until(lambda: not world._waiting(), 30, lambda: world.server.log.read_text()[-4000:])
    texts = [mail.get_content() for mail in world.mails(sender)[1:]]
    assert sorted(text.split()[0] for text in texts) == ["Done:", "You", "You", "You", "You"], texts
    assert "can't be used" in world.asked("thief@client.example", local(question)).get_content()


def test_server_when_it_restarts_and_reloads_then_members_questions_and_links_hold(world: World) -> None:
    member, late = "steady@client.example", "late@client.example"
    world.join(member)
    world.send(member, "talk", "Before")
    question = world.asked(late, "talk+subscribe")
    assert world.server.stop() == 0
    world.server.start()
    welcome = world.asked(late, local(question), question["Subject"])
    assert "You are on the list" in welcome.get_content()
    offset = world.server.log.stat().st_size
    world.server.signal(signal.SIGHUP)
    world.server.wait_for_log(" reloaded", offset)
    assert world.leave_by_click(world.mails(member)[-1]).status_code == 200
    world.send(late, "talk", "After")
    assert world.mails(late)[-1]["Subject"] == "[Talk] After"
    assert "[Talk] After" not in [mail["Subject"] for mail in world.mails(member)]
