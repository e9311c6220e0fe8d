"""The delivery stage and reasons: whom a host's word suppresses, what is not tried, who is warned, who is told of a delay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from responder.mail.envelope import Wish
from responder.mail.lifecycle import Event, State
from responder.mail.report import parse_report
from responder.mail.status import Outcome, Scope
from responder.observe import Observer, follow
from responder.outbound.base import RecipientResult
from responder.store.records import Settlement
from responder.store.returns import Suppression
from tests.support.stages import DELIVERED, NEVER, Post, configured, post, result
from tests.support.stores import accept, claim, claim_out, outbound

CONFIG = configured({"echo": "answer"})
LISTED = result(Outcome.PERMANENT, 554, "5.7.1 blocked using zen.spamhaus.org", "5.7.1")


async def queue(it: Post, to: str = "gone@far.example", **fields: Any) -> str:
    """One message; its id."""
    await accept(it.store, it.clock)
    [item] = await claim(it.store, "answering")
    fields = {"expires_at": it.clock.now() + 3600, **fields}
    message = replace(outbound(it.clock, item.id, to), **fields)
    content = ((message.id, b"Subject: Re: x\r\n\r\ny\r\n"),)
    await it.store.settle_inbound(item, Settlement(Event.ANSWER, "answered", (message,), content))
    return message.id


@pytest.mark.parametrize(
    ("said", "kind", "suppressed"),
    [
        (NEVER, "answer", True),
        (NEVER, "dsn", True),
        (NEVER, "forward", False),
        (NEVER, "relay", False),
        (NEVER, "list", False),
        (NEVER, "proxy", False),
        (LISTED, "answer", False),
        (replace(NEVER, scope=Scope.MESSAGE), "answer", False),
        (replace(NEVER, outcome=Outcome.TRANSIENT, code=450, enhanced="4.1.1"), "answer", False),
        (result(Outcome.PERMANENT, 552, "5.2.2 mailbox full", "5.2.2"), "answer", False),
        (DELIVERED, "answer", False),
    ],
)
async def test_mailbox_when_its_host_says_it_does_not_exist_then_it_is_suppressed(
    tmp_path: Path, said: RecipientResult, kind: str, suppressed: bool
) -> None:
    async with post(tmp_path, CONFIG, lambda _: said) as it:
        await queue(it, kind=kind, return_to="bounces+00000000000000000x@test.example" if kind == "list" else "")
        await it.turn()
        found = [(entry.address, entry.inbox, entry.reason) for entry in await it.store.suppressions()]
        assert found == ([("gone@far.example", "echo", "hard-bounce")] if suppressed else [])


async def test_mailbox_when_a_report_of_no_inbox_comes_back_then_no_inbox_is_kept_from_it(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        item = await queue(it, kind="report", inbox="")
        await it.turn()
        assert (await it.end(item))[0] is State.FAILED
        assert await it.store.suppressions() == []


async def test_mailbox_when_bounces_count_for_nothing_then_it_is_tried_each_time(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, suppression={"hard_bounce": "0s"})
    async with post(tmp_path, config, lambda _: NEVER) as it:
        await queue(it)
        await it.turn()
        assert await it.store.suppressions() == []


@pytest.mark.parametrize(
    ("kind", "return_to", "state"),
    [
        ("answer", "", State.FAILED),
        ("dsn", "", State.FAILED),
        ("relay", "carl@client.example", State.BOUNCED),
        ("forward", "carl@client.example", State.BOUNCED),
        ("list", "bounces+00000000000000000x@test.example", State.FAILED),
    ],
)
async def test_recipient_when_it_is_suppressed_then_nothing_is_connected(
    tmp_path: Path, kind: str, return_to: str, state: State
) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        await it.store.suppress(Suppression("gone@far.example", "", "operator", "asked for it", it.clock.now(), 0.0))
        item = await queue(it, "Gone@far.example", kind=kind, return_to=return_to)
        await it.turn()
        assert it.transport.sent == []
        ended, reason = await it.end(item)
        assert ended is state
        assert reason.startswith("[suppressed] ") and reason.endswith("not sent: operator, asked for it")
        told = await claim_out(it.store)
        assert len(told) == (state is State.BOUNCED)
        for one in told:
            assert one.content is not None
            [said] = parse_report(one.content)
            assert (said.recipient, said.status, said.action) == ("Gone@far.example", "5.7.1", "failed")
            assert b"so it was not tried" in b" ".join(one.content.split())


async def test_reputation_when_a_provider_refuses_us_then_the_operator_is_told_once_an_hour(tmp_path: Path) -> None:
    heard: list[dict[str, object]] = []
    follow([Observer("test", lambda name, fields: heard.append(dict(fields)) if name == "reputation" else None)])
    try:
        async with post(tmp_path, CONFIG, lambda _: replace(LISTED, host="mx7.mail.far.example")) as it:
            for name in ("a", "b"):
                await queue(it, f"{name}@far.example")
                await it.turn()
            it.transport.script = lambda _: NEVER
            await queue(it, "c@near.example")
            await it.turn()
            it.transport.script = lambda _: replace(LISTED, host="mx8.mail.far.example")
            it.clock.advance(3601)
            await queue(it, "d@far.example")
            await it.turn()
    finally:
        follow([], 10.0)
    assert [one["provider"] for one in heard] == ["far.example", "far.example"]
    assert heard[0]["reason"] == "[blocklisted] 554 5.7.1 blocked using zen.spamhaus.org"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"return_to": "carl@client.example"}, True),
        ({"return_to": "carl@client.example", "wish": Wish("FAILURE,DELAY", "")}, True),
        ({"return_to": "carl@client.example", "wish": Wish("FAILURE", "")}, False),
        ({"return_to": "carl@client.example", "wish": Wish("NEVER", "")}, False),
        ({"return_to": ""}, False),
    ],
)
async def test_delay_when_it_is_long_then_its_sender_is_told_once_unless_it_wants_not(
    tmp_path: Path, fields: dict[str, Any], told: bool
) -> None:
    late = result(Outcome.TRANSIENT, 450, "4.2.0 Greylisted", "4.2.0")
    config = configured({"echo": "answer"}, delivery={"retry": ["1m"], "expire": "1h", "delay_warning": "90s"})
    async with post(tmp_path, config, lambda _: late) as it:
        item = await queue(it, kind="forward", **fields)
        for _ in range(4):
            await it.turn()
            it.clock.advance(61)
        views = [view for view in await it.store.items(list(State)) if view.kind == "dsn"]
        assert len(views) == told
        state, reason = await it.end(item)
        assert state is State.DEFERRED and reason.startswith("[greylisted] 450 4.2.0 Greylisted")
        for view in views:
            content = await it.store.content(view.id)
            assert b"\r\nAction: delayed\r\n" in content and b"\r\nWill-Retry-Until: " in content
