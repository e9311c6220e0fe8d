"""What is passed on by the delivery stage: routes, fields of one recipient alone, and the copies of a list that come back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from responder.mail.lifecycle import Event, State
from responder.mail.report import bounce_of
from responder.outbound.base import RecipientResult
from responder.store.records import NewOutbound, Settlement
from tests.support.stages import DELIVERED, LATER, NEVER, Post, configured, post
from tests.support.stores import accept, claim, outbound

CONFIG = configured({"echo": "answer"})
ROUTE = "127.0.0.1:2525"


async def put(
    it: Post,
    *messages: tuple[str, dict[str, str]],
    content: bytes = b"Subject: x\r\n\r\ny\r\n",
    kind: str = "proxy",
) -> list[str]:
    """Messages to these recipients, with these fields of `NewOutbound`, that share one content."""
    await accept(it.store, it.clock)
    [item] = await claim(it.store, "answering")
    content_id = it.clock.new_id()
    rows: list[NewOutbound] = [
        replace(
            outbound(it.clock, item.id, to, kind=kind, content_id=content_id),
            expires_at=it.clock.now() + CONFIG.delivery.expire,
            **fields,  # type: ignore[arg-type]
        )
        for to, fields in messages
    ]
    await it.store.settle_inbound(item, Settlement(Event.ANSWER, "so", tuple(rows), ((content_id, content),)))
    return [row.id for row in rows]


async def test_route_is_handed_to_the_way_out(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        await put(it, ("a@far.example", {"route": ROUTE, "domain": ROUTE, "reverse_path": "s@near.example"}))
        await it.turn()
        [sent] = it.transport.sent
        assert (sent.route, sent.reverse_path, sent.recipients) == (ROUTE, "s@near.example", ("a@far.example",))
        assert sent.content == b"Subject: x\r\n\r\ny\r\n"


async def test_route_is_refused_then_the_sender_is_told(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda envelope: NEVER if envelope.route else DELIVERED) as it:
        [item] = await put(it, ("a@far.example", {"route": ROUTE, "domain": ROUTE, "return_to": "s@near.example"}))
        await it.turn()
        assert (await it.end(item))[0] is State.BOUNCED
        await it.turn()
        dsn = it.transport.sent[-1]
        # The notification goes to its recipient's own hosts, not the way of what it speaks of.
        assert (dsn.reverse_path, dsn.recipients, dsn.route) == ("", ("s@near.example",), "")


async def test_route_is_down_then_the_mail_waits_and_arrives(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: LATER) as it:
        [item] = await put(it, ("a@far.example", {"route": ROUTE, "domain": ROUTE, "return_to": "s@near.example"}))
        await it.turn()
        assert (await it.end(item))[0] is State.DEFERRED
        it.transport.script = lambda _: DELIVERED
        it.clock.advance(100)
        assert await it.turn() == [item]
        assert (await it.end(item))[0] is State.DELIVERED


@pytest.mark.parametrize("transport", ["mx", "smarthost", "print"])
async def test_route_has_connections_of_its_own(tmp_path: Path, transport: str) -> None:
    """However many mails wait for one upstream host, no more than its share are under way, and others go past."""
    release = asyncio.Event()

    async def slow() -> RecipientResult:
        await release.wait()
        return DELIVERED

    table = {"transport": transport, "smarthost": "127.0.0.9:25", "concurrency": 100, "connections_per_host": 2}
    config = configured({"echo": "answer"}, delivery=table)
    async with post(tmp_path, config, lambda envelope: slow() if envelope.route else DELIVERED) as it:
        routed = await put(
            it, *[(f"u{n}@d.example", {"route": ROUTE, "domain": ROUTE, "head": f"X: {n}\r\n"}) for n in range(9)]
        )
        [other] = await put(it, ("a@far.example", {"domain": "far.example"}))
        items, _ = await it.stage.claim(it.lease.token, 100)
        tasks = {item.id: asyncio.create_task(it.stage.handle(item)) for item in items}
        [settlement] = (await asyncio.wait_for(tasks[other], 10)).settlements
        assert settlement.event is Event.DELIVER
        busy = sum(1 for envelope in it.transport.sent if envelope.route)
        assert busy == 2 if transport != "print" else busy > 2  # nothing is connected where all is printed
        release.set()
        for item in items:
            await it.stage.settle(item, await asyncio.wait_for(tasks[item.id], 10))
        assert not it.stage._pace._rooms
        assert set(routed) >= {item.id for item in items if item.id != other}


# -- fields of one recipient alone -------------------------------------------------------------------------------------


async def test_head_of_each_stands_before_the_shared_content(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        await put(
            it,
            ("a@far.example", {"head": "List-Unsubscribe: <mailto:1>\r\n"}),
            ("b@far.example", {"head": "List-Unsubscribe: <mailto:2>\r\n"}),
            ("c@far.example", {}),
            kind="list",
        )
        await it.turn()
        sent = {envelope.recipients[0][0]: envelope.content for envelope in it.transport.sent}
        assert sent == {
            "a": b"List-Unsubscribe: <mailto:1>\r\nSubject: x\r\n\r\ny\r\n",
            "b": b"List-Unsubscribe: <mailto:2>\r\nSubject: x\r\n\r\ny\r\n",
            "c": b"Subject: x\r\n\r\ny\r\n",
        }


RECEIVED = b"Received: from a\r\n\tby mx.test.example with %s id x\r\n\t; now\r\n"


@pytest.mark.parametrize(
    ("content", "fields", "flags"),
    [
        (b"Subject: x\r\n\r\ny", {}, (False, False)),
        (b"Subject: x\r\n\r\n\xc3\xa9", {}, (False, True)),
        (RECEIVED % b"ESMTP" + b"Subject: \xc3\xa9\r\n\r\nx", {}, (False, True)),
        (RECEIVED % b"UTF8SMTP" + b"Subject: \xc3\xa9\r\n\r\nx", {}, (True, True)),
        (RECEIVED % b"UTF8SMTP" + b"Subject: e\r\n\r\n\xc3\xa9", {}, (False, True)),
        (RECEIVED % b"UTF8SMTP" + b"Subject: e\r\n\r\nx", {}, (False, False)),
        # Only our own trace field, which stands on top, says how it came to us.
        (RECEIVED % b"ESMTP" + RECEIVED % b"UTF8SMTP" + b"Subject: \xc3\xa9\r\n\r\nx", {}, (False, True)),
        (b"X-Responder-Loop: l@x\r\n" + RECEIVED % b"UTF8SMTP" + b"A: \xc3\xa9\r\n\r\nx", {}, (True, True)),
        (b"Subject: x\r\n\r\ny", {"reverse_path": "\u00e9@near.example"}, (True, False)),
        (b"Subject: x\r\n\r\ny", {"head": "X: \u00e9\r\n"}, (False, True)),
    ],
)
async def test_what_is_asked_of_the_host_is_what_the_mail_needs(
    tmp_path: Path, content: bytes, fields: dict[str, str], flags: tuple[bool, bool]
) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        await put(it, ("a@far.example", fields), content=content)
        await it.turn()
        [sent] = it.transport.sent
        assert (sent.smtputf8, sent.body8bit) == flags


# -- copies of a list that come back -----------------------------------------------------------------------------------

BOUNCES = "bounces+00000000000000000x@test.example"


async def test_copy_of_a_list_is_refused_then_the_report_arrives_at_its_bounce_address(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        [item] = await put(
            it, ("gone@far.example", {"reverse_path": BOUNCES, "return_to": BOUNCES, "head": "A: b\r\n"}), kind="list"
        )
        it.store.wake_inbound.clear()
        await it.turn()
        assert await it.end(item) == (
            State.BOUNCED,
            "[no-such-user] 550 5.1.1 nobody here (mx.far.example [192.0.2.25])",
        )
        assert it.store.wake_inbound.is_set()
        [arrived] = await claim(it.store, "answering")
        assert (arrived.recipient, arrived.inbox, arrived.reverse_path) == (BOUNCES, "bounces", "")
        content = await it.store.content(arrived.mail_id)
        assert bounce_of(content, "gone@far.example") == (True, "5.1.1", "550 5.1.1 nobody here")
        assert b"\r\nTo: " + BOUNCES.encode() in content
        assert b"\r\nMessage-ID: " + arrived.message_id.encode() in content
        it.clock.advance(100_000)
        assert await it.turn() == []  # nothing is sent to ourselves


async def test_copy_of_a_list_expires_then_its_report_says_so(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: LATER) as it:
        [item] = await put(it, ("a@far.example", {"reverse_path": BOUNCES, "return_to": BOUNCES}), kind="list")
        it.clock.advance(3601)
        await it.turn()
        assert (await it.end(item))[0] is State.BOUNCED
        [arrived] = await claim(it.store, "answering")
        content = await it.store.content(arrived.mail_id)
        assert bounce_of(content, "a@far.example") == (True, "4.4.7", "451 4.3.0 later")


async def test_report_to_ourselves_is_thrown_away_with_a_stale_claim(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        [identifier] = await put(it, ("a@far.example", {"reverse_path": BOUNCES, "return_to": BOUNCES}), kind="list")
        [item], _ = await it.stage.claim(it.lease.token, 1)
        settlement = await it.stage.handle(item)
        it.clock.advance(31)
        await it.store.sweep(5)
        await it.stage.settle(item, settlement)
        assert (await it.end(identifier))[0] is State.DEFERRED
        assert await claim(it.store, "answering") == []
