"""Mail in another's name: whom the answers hit, and how many of them there are."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from responder.mail.address import parse
from responder.mail.lifecycle import State
from responder.store.records import NewMail
from tests.support.server import ROOT
from tests.support.stages import PLUGINS, QUIET, Desk, configured, desk
from tests.support.stores import claim_out

VICTIM = "ann@far.example"
STOCK = {"plugins": [str(PLUGINS), str(ROOT / "plugins")]}
LIST: dict[str, Any] = {
    "agent": "list",
    "targets": ["*"],
    "answer_to": "from",
    "settings": {"name": "Talk", "owners": ["olga@far.example"], "members": ["ben@near.example"]},
}


async def forged(it: Desk, inbox: str, sender: str, author: str, subject: str = "hello") -> str:
    """A mail whose From is another than its reverse-path; its item."""
    mail = NewMail(
        id=it.clock.new_id(),
        received_at=it.clock.now(),
        reverse_path=sender,
        peer="192.0.2.1",
        helo="client.example",
        message_id="",
        content=f"From: {author}\r\nTo: {inbox}@test.example\r\nSubject: {subject}\r\n\r\nhello\r\n".encode(),
        recipients=((f"{inbox}@test.example", inbox.partition("+")[0]),),
    )
    await it.store.accept(mail)
    return f"{mail.id}.0"


async def states(it: Desk, *items: str) -> list[State]:
    await it.turn()
    return [(await it.end(item))[0] for item in items]


@pytest.mark.parametrize(
    ("sender", "person"),
    [
        ("ann+1@far.example", "ann@far.example"),
        ('"Ann+a b"@FAR.example', "ann@far.example"),
        ("+ann@far.example", "+ann@far.example"),
        ("SRS0+xyz=ab=near.example=ben@far.example", "srs0+xyz=ab=near.example=ben@far.example"),
    ],
)
def test_person_when_an_address_has_a_tag_then_it_does_not_count(sender: str, person: str) -> None:
    assert parse(sender).person == person


async def test_breaker_when_each_mail_has_another_tag_then_it_holds(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, reply=QUIET | {"per_sender": "2/10m"})
    async with desk(tmp_path, config) as it:
        items = [await it.put("echo", f"ann+{number}@far.example") for number in range(4)]
        assert await states(it, *items) == [State.ANSWERED, State.ANSWERED, State.SILENT, State.SILENT]


async def test_interval_when_each_mail_has_another_tag_then_there_is_one_answer(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"bob": {"agent": "personal"}})) as it:
        items = [await it.put("bob", f"ann+{number}@far.example") for number in range(2)]
        assert await states(it, *items) == [State.ANSWERED, State.SILENT]


async def test_breaker_when_answers_go_to_from_then_it_counts_whom_they_reach(tmp_path: Path) -> None:
    inboxes = {"echo": {"agent": "scripted", "settings": {"does": "answer"}, "answer_to": "from"}}
    async with desk(tmp_path, configured(inboxes, reply=QUIET | {"per_sender": "2/10m"})) as it:
        items = [await forged(it, "echo", f"r{number}@far.example", VICTIM) for number in range(4)]
        assert await states(it, *items) == [State.ANSWERED, State.ANSWERED, State.SILENT, State.SILENT]
        assert {message.recipient for message in await it.leaving()} == {VICTIM}


async def test_question_when_from_is_another_then_only_the_sender_gets_the_token(tmp_path: Path) -> None:
    guard = {"agent": "confirm", "settings": {"agent": "scripted", "settings": {"does": "answer"}}, "answer_to": "from"}
    async with desk(tmp_path, configured({"guard": guard, "talk": LIST}, **STOCK)) as it:
        for inbox in ("guard", "talk+subscribe"):
            await forged(it, inbox, VICTIM, "eve@far.example")
        await forged(it, "talk+request", "olga@far.example", "eve@far.example", "members")
        await it.turn()
        assert [message.recipient for message in await it.leaving()] == [VICTIM, VICTIM, "olga@far.example"]


async def test_questions_when_each_has_another_tag_then_five_leave_and_each_token_is_its_own(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"talk": LIST}, **STOCK)) as it:
        items = [await it.put("talk+subscribe", f"ann+{number}@far.example") for number in range(7)]
        assert await states(it, *items) == [State.ANSWERED] * 5 + [State.SILENT] * 2
        sent = {one.recipient: one for one in await claim_out(it.store, "post")}
        tags = {}
        for to, one in sent.items():
            author = message_from_bytes(one.content or b"")["From"]
            tags[to] = parse(author.rpartition("<")[2].strip("> ")).local
        assert len(set(tags.values())) == 5
        for to, local in tags.items():
            await it.put(local, to)
        await it.turn()
        welcomed = await claim_out(it.store, "post")
        assert {one.recipient for one in welcomed if b"You are on the list" in (one.content or b"")} == set(tags)


async def test_forward_when_a_mail_is_for_many_tags_then_its_targets_get_it_once(tmp_path: Path) -> None:
    inboxes = {"fwd": {"agent": "reader", "settings": {"does": "forward"}, "targets": ["one@far.example"]}}
    async with desk(tmp_path, configured(inboxes)) as it:
        first = await it.put("fwd", VICTIM, recipients=("fwd+a", "fwd+b"))
        mail = first.partition(".")[0]
        assert await states(it, first, f"{mail}.1", f"{mail}.2") == [State.ANSWERED, State.SILENT, State.SILENT]
        again = await it.put("fwd+a", VICTIM)
        assert await states(it, again) == [State.ANSWERED]


async def test_member_when_others_wrote_in_its_name_to_another_inbox_then_its_posts_are_sent_on(tmp_path: Path) -> None:
    member = "ben@near.example"
    config = configured({"echo": "answer", "talk": LIST}, reply=QUIET | {"per_sender": "2/10m"}, **STOCK)
    async with desk(tmp_path, config) as it:
        flood = [await it.put("echo", member) for _ in range(3)]
        assert await states(it, *flood) == [State.ANSWERED, State.ANSWERED, State.SILENT]
        posts = [await it.put("talk", member, message_id=f"<{number}@near.example>") for number in range(3)]
        assert await states(it, *posts) == [State.ANSWERED, State.ANSWERED, State.SILENT]
