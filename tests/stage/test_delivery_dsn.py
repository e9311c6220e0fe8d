"""What a sender asks to be told (RFC 3461) where its mail is sent on: passed to the next host, or told by us."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from responder.mail.dsn import MAX_RETURNED
from responder.mail.envelope import Wish
from responder.mail.lifecycle import Event, State
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.session import ClientSession
from responder.store.records import Settlement
from tests.support.smtp_sink import EXTENSIONS, SMTPSink
from tests.support.stages import DELIVERED, LATER, NEVER, Post, configured, post
from tests.support.stores import accept, claim, outbound

CONFIG = configured({"echo": "answer"})
ORCPT = "rfc822;Bob+2BTag@example.net"
CONTENT = b"Subject: x\r\nFrom: a@example.org\r\n\r\nthe body\r\n"
SHORT = Timeouts(connect=1, greeting=0.5, command=0.5, data=0.5, block=0.5, dot=0.5, tls=0.5, farewell=0.5)


async def queue(
    it: Post,
    notify: str,
    kind: str = "forward",
    return_to: str = "a@example.org",
    content: bytes = CONTENT,
    ret: str = "",
) -> str:
    await accept(it.store, it.clock)
    [item] = await claim(it.store, "answering")
    message = replace(
        outbound(it.clock, item.id, "one@far.example", kind=kind),
        return_to=return_to,
        expires_at=it.clock.now() + CONFIG.delivery.expire,
        wish=Wish(notify, ORCPT),
        ret=ret,
        envid="QQ+2B1",
    )
    await it.store.settle_inbound(item, Settlement(Event.ANSWER, "so", (message,), ((message.id, content),)))
    return message.id


def parts_of(envelope: Envelope) -> tuple[EmailMessage, list[dict[str, str]], EmailMessage]:
    message = message_from_bytes(envelope.content, policy=default)
    assert isinstance(message, EmailMessage)
    _, status, last = message.iter_parts()
    assert isinstance(last, EmailMessage)
    return message, [{k: str(v) for k, v in block.items()} for block in status.get_payload()], last  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "tells", "notify", "passed", "told"),
    [
        ("proxy", True, "SUCCESS,FAILURE", "SUCCESS,FAILURE", False),
        ("proxy", False, "SUCCESS,FAILURE", "SUCCESS,FAILURE", True),
        ("proxy", False, "FAILURE", "FAILURE", False),
        ("proxy", True, "NEVER", "NEVER", False),
        ("forward", True, "SUCCESS,FAILURE", "FAILURE", True),
        ("forward", True, "SUCCESS", "NEVER", True),
        ("forward", False, "SUCCESS,DELAY", "DELAY", True),
        ("forward", False, "NEVER", "NEVER", False),
        ("forward", False, "", "", False),
    ],
)
async def test_success_is_told_by_the_next_host_or_by_us_and_once(
    tmp_path: Path, kind: str, tells: bool, notify: str, passed: str, told: bool
) -> None:
    async with post(tmp_path, CONFIG, lambda _: replace(DELIVERED, tells=tells)) as it:
        item = await queue(it, notify, kind)
        await it.turn()
        [envelope] = it.transport.sent
        assert (envelope.wish, envelope.envid) == (Wish(passed, ORCPT), "QQ+2B1")
        assert (await it.end(item))[0] is State.DELIVERED
        assert len(await it.turn()) == told
        if told:
            dsn = it.transport.sent[-1]
            assert (dsn.reverse_path, dsn.recipients, dsn.wish) == ("", ("a@example.org",), Wish())
            message, (about, one), last = parts_of(dsn)
            assert about["Original-Envelope-Id"] == "QQ+1"
            assert one["Original-Recipient"] == "rfc822;Bob+Tag@example.net"
            assert (one["Action"], one["Status"]) == ("relayed", "2.0.0")
            assert one["Remote-MTA"] == "dns; mx.far.example"
            assert message["Subject"] == "Your mail has arrived"
            assert last.get_content_type() == "text/rfc822-headers"
        assert await it.turn() == []


async def test_null_reverse_path_then_nobody_is_told_of_a_success(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        item = await queue(it, "SUCCESS", return_to="")
        await it.turn()
        assert (await it.end(item))[0] is State.DELIVERED
        assert await it.turn() == []


async def test_successes_are_told_no_more_often_than_a_sender_may_be_answered(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, reply={"per_sender": "2/10m"})
    async with post(tmp_path, config, lambda _: DELIVERED) as it:
        items = [await queue(it, "SUCCESS") for _ in range(4)]
        await it.turn()
        assert len(await it.turn()) == 2
        assert [(await it.end(item))[0] for item in items] == [State.DELIVERED] * 4
        assert "not told to its sender" in (await it.end(items[-1]))[1]


async def test_sender_was_let_in_by_relay_then_it_is_told_each_time(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, reply={"per_sender": "2/10m"})
    async with post(tmp_path, config, lambda _: NEVER) as it:
        items = [await queue(it, "", "relay") for _ in range(4)]
        await it.turn()
        assert len(await it.turn()) == 4
        assert [(await it.end(item))[0] for item in items] == [State.BOUNCED] * 4


@pytest.mark.parametrize(
    ("script", "notify", "state"), [(NEVER, "", State.BOUNCED), (DELIVERED, "SUCCESS", State.DELIVERED)]
)
async def test_sender_has_an_inbox_here_then_its_notification_arrives_there_without_smtp(
    tmp_path: Path, script: RecipientResult, notify: str, state: State
) -> None:
    async with post(tmp_path, CONFIG, lambda _: script) as it:
        item = await queue(it, notify, "relay", return_to="Echo+app@test.example")
        await it.turn()
        assert (await it.end(item))[0] is state
        assert await it.turn() == []
        [arrived] = await claim(it.store, "answering")
        assert (arrived.recipient, arrived.inbox, arrived.reverse_path) == ("Echo+app@test.example", "echo", "")
        assert arrived.content is not None
        assert b"report-type=delivery-status" in arrived.content


async def test_sender_is_of_our_domain_and_has_no_inbox_then_the_failure_stays_with_the_operator(
    tmp_path: Path,
) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        item = await queue(it, "", "relay", return_to="nobody@test.example")
        await it.turn()
        state, reason = await it.end(item)
        assert state is State.FAILED
        assert "no inbox here" in reason
        assert await it.turn() == []


@pytest.mark.parametrize(
    ("reverse_path", "author", "chosen"),
    [
        ("", "echo@other.example", "other.example"),
        ("", "echo@test.example", "test.example"),
        ("", "nobody@far.example", "test.example"),
        ("bounces+1@other.example", "echo@test.example", ""),
    ],
)
async def test_domain_has_a_source_of_its_own_then_mail_from_nobody_leaves_there_too(
    tmp_path: Path, reverse_path: str, author: str, chosen: str
) -> None:
    domains = {"domains": ["test.example", "other.example"], "sources": {"other.example": {"hostname": "mx2.example"}}}
    async with post(tmp_path, configured({"echo": "answer"}, **domains), lambda _: DELIVERED) as it:
        await accept(it.store, it.clock)
        [item] = await claim(it.store, "answering")
        message = replace(
            outbound(it.clock, item.id, "one@far.example"),
            reverse_path=reverse_path,
            expires_at=it.clock.now() + CONFIG.delivery.expire,
        )
        content = f"Subject: x\r\nFrom: Echo <{author}>\r\n\r\nx\r\n".encode()
        await it.store.settle_inbound(item, Settlement(Event.ANSWER, "so", (message,), ((message.id, content),)))
        await it.turn()
        [envelope] = it.transport.sent
        assert envelope.domain == chosen


async def test_transient_failure_tells_nothing_yet(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: LATER) as it:
        item = await queue(it, "SUCCESS,FAILURE,DELAY")
        assert await it.turn() == [item]
        assert await it.turn() == []


@pytest.mark.parametrize(
    ("notify", "told"),
    [("", 1), ("FAILURE", 1), ("SUCCESS,FAILURE", 1), ("NEVER", 0), ("SUCCESS", 0), ("DELAY", 0)],
)
async def test_failure_is_told_where_the_sender_wants_to_know(tmp_path: Path, notify: str, told: int) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        item = await queue(it, notify)
        await it.turn()
        state, reason = await it.end(item)
        assert state is (State.BOUNCED if told else State.FAILED)
        assert ("asked not to be told" in reason) is not bool(told)
        it.transport.script = lambda _: DELIVERED
        assert len(await it.turn()) == told
        if told:
            _, (about, one), _ = parts_of(it.transport.sent[-1])
            assert about["Original-Envelope-Id"] == "QQ+1"
            assert (one["Original-Recipient"], one["Action"]) == ("rfc822;Bob+Tag@example.net", "failed")


@pytest.mark.parametrize(
    ("ret", "content", "kind"),
    [
        ("FULL", CONTENT, "message/rfc822"),
        ("FULL", CONTENT + b"caf\xe9\r\n", "message/rfc822"),
        ("FULL", "Subject: Grüße\r\n\r\nthe body\r\n".encode(), "message/global"),
        ("FULL", CONTENT + b"x" * MAX_RETURNED + b"\r\n", "text/rfc822-headers"),
        ("HDRS", CONTENT, "text/rfc822-headers"),
        ("", CONTENT, "text/rfc822-headers"),
    ],
)
async def test_failed_mail_comes_back_whole_where_its_sender_asks_and_it_is_not_too_big(
    tmp_path: Path, ret: str, content: bytes, kind: str
) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        await queue(it, "FAILURE", ret=ret, content=content)
        await it.turn()
        await it.turn()
        sent = it.transport.sent[-1]
        message, _, last = parts_of(sent)
        assert not message.defects
        assert last.get_content_type() == kind
        assert (b"the body" in sent.content) is kind.startswith("message/")
        assert sent.body8bit is not sent.content.isascii()
        assert message["Content-Transfer-Encoding"] == ("7bit" if sent.content.isascii() else "8bit")
        assert not sent.smtputf8


# -- on the wire -------------------------------------------------------------------------------------------------------

MAIL = Envelope(
    "me@example.org",
    ("you@example.com", "they@example.com"),
    b"Subject: x\r\n\r\nx\r\n",
    wish=Wish("SUCCESS,DELAY", ORCPT),
    ret="HDRS",
    envid="QQ+2B1",
)


@pytest.mark.parametrize("offered", [True, False])
async def test_host_offers_dsn_then_it_is_told_what_the_sender_asks(offered: bool) -> None:
    async with SMTPSink(extensions=[*EXTENSIONS, *(["DSN"] if offered else [])]) as sink:
        session = await ClientSession.connect(
            "sink.test", sink.address, sink.port, local_hostname="mx.example.org", timeouts=SHORT
        )
        results = await session.send(MAIL)
        plain = await session.send(replace(MAIL, wish=Wish(), ret="", envid=""))
        await session.close()
    assert [result.code for result in (*results, *plain)] == [250] * 4
    assert [result.tells for result in results] == [offered, offered]
    assert not any(result.tells for result in plain)
    lines = [line for _, line in sink.commands if line.startswith(("MAIL", "RCPT"))]
    mail, rcpt = (" RET=HDRS ENVID=QQ+2B1", f" NOTIFY=SUCCESS,DELAY ORCPT={ORCPT}") if offered else ("", "")
    assert lines[0].endswith(f"SIZE={len(MAIL.content)}{mail}")
    assert lines[1:3] == [f"RCPT TO:<you@example.com>{rcpt}", f"RCPT TO:<they@example.com>{rcpt}"]
    assert not any(word in "".join(lines[3:]) for word in ("RET", "ENVID", "NOTIFY", "ORCPT"))
