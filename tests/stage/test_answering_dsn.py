"""What a sender asks to be told (RFC 3461), in the answering stage: notifications of arrival, and what is passed on."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from responder.mail.automatic import Verdicts
from responder.mail.envelope import Wish
from responder.mail.lifecycle import Event, State
from responder.store.records import Memory, NewMail, OutboundItem, Value
from tests.support.stages import Desk, configured, desk

SUCCESS = Wish("SUCCESS", "rfc822;Bob+2BTag@example.net")
PROXY = {"agent": "proxy", "upstream": "127.0.0.1:2525"}


async def put(
    it: Desk,
    wish: Wish = SUCCESS,
    *,
    inbox: str = "echo",
    sender: str = "a@example.org",
    fields: str = "",
    verdicts: Verdicts | None = None,
    size: int = 0,
) -> str:
    text = f"From: {sender or 'd@example.org'}\r\nTo: {inbox}@test.example\r\nSubject: hello\r\n{fields}\r\nhi\r\n"
    mail = NewMail(
        id=it.clock.new_id(),
        received_at=it.clock.now(),
        reverse_path=sender,
        peer="192.0.2.1",
        helo="client.example",
        message_id="",
        content=text.encode() + b"x\r\n" * size,
        recipients=((f"{inbox}@test.example", inbox),),
        authentication=verdicts.to_json() if verdicts else "",
        ret="FULL",
        envid="QQ314+2B1",
        wishes=(wish,),
    )
    await it.store.accept(mail)
    return f"{mail.id}.0"


async def sent(it: Desk, kind: str = "dsn") -> list[OutboundItem]:
    return [item for item in await it.leaving() if item.kind == kind]


def blocks_of(item: OutboundItem) -> list[dict[str, str]]:
    assert item.content is not None
    message = message_from_bytes(item.content, policy=default)
    assert isinstance(message, EmailMessage)
    status = list(message.iter_parts())[1]
    return [{name: str(value) for name, value in block.items()} for block in status.get_payload()]  # type: ignore[union-attr]


@pytest.mark.parametrize(("does", "end"), [("answer", State.ANSWERED), ("silent", State.SILENT)])
async def test_mail_has_arrived_then_its_sender_is_told_so_once(tmp_path: Path, does: str, end: State) -> None:
    async with desk(tmp_path, configured({"echo": does})) as it:
        item = await put(it)
        await it.turn()
        assert (await it.end(item))[0] is end
        [told] = await sent(it)
        assert (told.recipient, told.reverse_path, told.return_to, told.cause) == ("a@example.org", "", "", item)
        assert told.wish == Wish()
        envelope, one = blocks_of(told)
        assert envelope["Original-Envelope-Id"] == "QQ314+1"
        assert one == {
            "Original-Recipient": "rfc822;Bob+Tag@example.net",
            "Final-Recipient": "rfc822; echo@test.example",
            "Action": "delivered",
            "Status": "2.1.5",
        }
        assert told.content is not None
        assert b"Content-Type: text/rfc822-headers" in told.content  # RFC 3461 4.3: of a success never the whole
        assert b"\r\nhi\r\n" not in told.content
        assert await it.turn() == []


async def test_big_mail_is_told_of_with_its_header(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "silent"})) as it:
        await put(it, size=100_000)
        await it.turn()
        [told] = await sent(it)
        assert told.content is not None
        assert b"\r\nSubject: hello\r\n" in told.content


@pytest.mark.parametrize("notify", ["", "NEVER", "FAILURE", "DELAY", "FAILURE,DELAY"])
async def test_nobody_asked_then_nobody_is_told(tmp_path: Path, notify: str) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        await put(it, Wish(notify))
        await it.turn()
        assert [item.kind for item in await it.leaving()] == ["answer"]


async def test_null_reverse_path_never_earns_one(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        await put(it, sender="")
        await it.turn()
        assert await it.leaving() == []


@pytest.mark.parametrize("does", ["raise", "later"])
async def test_agent_does_not_take_it_then_it_has_not_arrived(tmp_path: Path, does: str) -> None:
    async with desk(tmp_path, configured({"echo": does}, answering={"attempts": 1, "retry": ["10s"]})) as it:
        await put(it)
        await it.turn()
        assert await it.leaving() == []


@pytest.mark.parametrize("field", ["Auto-Submitted: auto-generated", "List-Id: <x.example.org>", "Precedence: bulk"])
async def test_automatic_mail_is_not_answered_but_told_of_as_its_sender_asked(tmp_path: Path, field: str) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        await put(it, fields=f"{field}\r\n")
        await it.turn()
        assert [item.kind for item in await it.leaving()] == ["dsn"]


@pytest.mark.parametrize(
    ("sender", "fields", "verdicts"),
    [
        ("a@example.org", "X-Responder-Loop: echo@test.example\r\n", None),
        ("echo@test.example", "", None),
        ("a@example.org", "", Verdicts(spf="fail")),
        ("a@example.org", "", Verdicts(dmarc="fail", dmarc_policy="reject")),
        ("a@example.org", "X-Spam-Flag: YES\r\n", None),
    ],
)
async def test_loop_or_forged_sender_then_nobody_is_told(
    tmp_path: Path, sender: str, fields: str, verdicts: Verdicts | None
) -> None:
    config = configured({"echo": "silent"}, reply={"trusted_spam_headers": ["X-Spam-Flag"]})
    async with desk(tmp_path, config) as it:
        await put(it, sender=sender, fields=fields, verdicts=verdicts)
        await it.turn()
        assert await it.leaving() == []


async def test_notifications_count_among_the_answers_to_one_address(tmp_path: Path) -> None:
    config = configured({"echo": "silent"}, reply={"per_sender": "3/10m", "per_conversation": "off"})
    async with desk(tmp_path, config) as it:
        for number in range(8):
            await put(it, sender=f"a+{number}@example.org")
        await it.turn()
        assert len(await sent(it)) == 3
        it.clock.advance(601)
        await put(it)
        await it.turn()
        assert len(await sent(it)) == 1


async def test_answers_and_notifications_share_the_breaker(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, reply={"per_sender": "3/10m", "per_conversation": "off"})
    async with desk(tmp_path, config) as it:
        for _ in range(5):
            await put(it)
        await it.turn()
        assert len(await it.leaving()) == 3


async def test_interval_keeps_the_answer_back_and_the_notification_leaves(tmp_path: Path) -> None:
    config = configured({"echo": {"agent": "scripted", "settings": {"does": "answer"}, "interval": "1h"}})
    async with desk(tmp_path, config) as it:
        items = [await put(it), await put(it)]
        await it.turn_together()
        assert sorted([(await it.end(item))[0] for item in items]) == [State.ANSWERED, State.SILENT]
        assert sorted(item.kind for item in await it.leaving()) == ["answer", "dsn", "dsn"]


async def test_operator_has_it_answered_again_then_its_sender_is_not_told_again(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "silent"})) as it:
        item = await put(it)
        await it.turn()
        assert len(await sent(it)) == 1
        await it.store.act(item, Event.RETRY, "again")
        await it.turn()
        assert (await it.end(item))[0] is State.SILENT
        assert await sent(it) == []


async def test_stale_worker_then_nobody_is_told_twice(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "silent"})) as it:
        await put(it)
        [item], _ = await it.stage.claim("w1", 10)
        settlement = await it.stage.handle(item)
        assert settlement.receipt is not None
        assert await it.store.settle_inbound(item, settlement) is not None
        assert await it.store.settle_inbound(item, settlement) is None
        assert len(await sent(it)) == 1


async def test_state_was_changed_then_the_run_is_done_again_and_told_of_once(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "silent"})) as it:
        item = await put(it)
        [claimed], _ = await it.stage.claim("w1", 10)
        settlement = await it.stage.handle(claimed)
        stale = replace(settlement, memory=Memory("echo", {"k": "another version"}, (Value("k", "1"),)))
        await it.store.settle_inbound(claimed, stale)
        assert (await it.end(item))[0] is State.RECEIVED
        assert await it.leaving() == []
        await it.turn()
        assert len(await sent(it)) == 1


@pytest.mark.parametrize("notify", ["SUCCESS,FAILURE", "NEVER", "DELAY"])
@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("forward", {"agent": "scripted", "settings": {"does": "forward"}, "targets": ["one@far.example"]}),
        ("proxy", PROXY),
    ],
)
async def test_mail_that_is_passed_on_takes_the_wishes_along_and_has_not_arrived(
    tmp_path: Path, kind: str, table: dict[str, Any], notify: str
) -> None:
    config = configured({"echo": table}, plugins=[*map(str, configured({}).plugins), "plugins"])
    async with desk(tmp_path, config) as it:
        await put(it, Wish(notify, SUCCESS.orcpt))
        await it.turn()
        [leaving] = await it.leaving()
        assert (leaving.kind, leaving.wish, leaving.ret, leaving.envid) == (
            kind,
            Wish(notify, SUCCESS.orcpt),
            "FULL",
            "QQ314+2B1",
        )
