"""When the answering stage lets an answer leave: automatic mail, forwards, intervals, breakers, the same mail twice."""

from __future__ import annotations

import io
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from responder import observe
from responder.mail.lifecycle import Event, State
from tests.support.clock import ManualClock
from tests.support.stages import QUIET, configured, desk
from tests.support.stores import claim_out

DAY = 86400.0
PERSONAL = {"agent": "personal"}
READER = {"agent": "reader", "settings": {"does": "answer"}}
FORWARDER = {
    "agent": "reader",
    "settings": {"does": "forward"},
    "targets": ["one@far.example", "two@far.example"],
}

AUTOMATIC: list[tuple[str, str, tuple[str, ...]]] = [
    ("null-reverse-path", "", ()),
    ("auto-submitted", "a@example.org", ("Auto-Submitted: auto-replied",)),
    ("auto-submitted", "a@example.org", ("auto-submitted: (yes) AUTO-GENERATED; x=y",)),
    ("precedence", "a@example.org", ("Precedence: bulk",)),
    ("list-id", "a@example.org", ("List-Id: <x.example.org>",)),
    ("list-unsubscribe", "a@example.org", ("List-Unsubscribe: <mailto:x@example.org>",)),
    ("auto-response-suppress", "a@example.org", ("X-Auto-Response-Suppress: DR, OOF",)),
    ("multipart-report", "a@example.org", ("Content-Type: multipart/report; boundary=x",)),
    ("mailer-daemon", "MAILER-DAEMON@example.org", ()),
    ("no-reply", "no-reply@example.org", ()),
    ("bounce-sender", "bounces+x@example.org", ()),
    ("own-address", "bob@test.example", ()),
    ("recipient-itself", "echo+tag@test.example", ()),
    ("automatic-message-id", "a@example.org", ("Message-ID: <auto.01jqzzzzzzzzzzzzzz.0.0@mx.other.example>",)),
    ("loop-marker", "a@example.org", ("X-Responder-Loop: robot@other.example",)),
]
LOOPS: list[tuple[str, str, tuple[str, ...]]] = [
    ("own-message-id", "a@example.org", ("Message-ID: <auto.01jqzzzzzzzzzzzzzz.0.0@mx.test.example>",)),
    ("loop-marker", "a@example.org", ("X-Responder-Loop: echo@test.example",)),
]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged meanwhile, from warnings on."""
    old = (observe._log.stream, observe._log.level)
    observe._log.stream, observe._log.level = io.StringIO(), 30
    yield observe._log.stream
    observe.flush()
    observe._log.stream, observe._log.level = old


# -- automatic mail ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["answer", READER], ids=["service", "reader"])
@pytest.mark.parametrize(("code", "sender", "fields"), AUTOMATIC + LOOPS)
async def test_automatic_mail_is_never_answered_though_the_agent_insists(
    tmp_path: Path, code: str, sender: str, fields: tuple[str, ...], table: Any
) -> None:
    async with desk(tmp_path, configured({"echo": table, "bob": "answer"})) as it:
        item = await it.put("echo", sender, *fields)
        await it.turn()
        state, reason = await it.end(item)
        assert (state, reason.partition(":")[0]) == (State.SILENT, code)
        assert await it.leaving() == []
        assert await it.store.content(item.partition(".")[0])  # kept


async def test_agent_that_does_not_read_automatic_mail_is_not_even_run(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "raise"})) as it:
        item = await it.put("echo", "a@example.org", "Precedence: bulk")
        await it.turn()
        assert (await it.end(item))[0] is State.SILENT


@pytest.mark.parametrize(("code", "sender", "fields"), [one for one in AUTOMATIC if one[0] != "recipient-itself"])
async def test_automatic_mail_is_forwarded(tmp_path: Path, code: str, sender: str, fields: tuple[str, ...]) -> None:
    async with desk(tmp_path, configured({"echo": FORWARDER, "bob": "answer"})) as it:
        item = await it.put("echo", sender, *fields)
        await it.turn()
        assert await it.end(item) == (State.ANSWERED, "forwarded by reader")
        assert [one.recipient for one in await it.leaving()] == ["one@far.example", "two@far.example"]


@pytest.mark.parametrize(("code", "sender", "fields"), LOOPS)
async def test_mail_that_has_been_here_before_is_not_even_forwarded(
    tmp_path: Path, code: str, sender: str, fields: tuple[str, ...]
) -> None:
    async with desk(tmp_path, configured({"echo": FORWARDER})) as it:
        item = await it.put("echo", sender, *fields)
        await it.turn()
        state, reason = await it.end(item)
        assert (state, reason.partition(":")[0]) == (State.SILENT, code)
        assert await it.leaving() == []


async def test_our_own_answer_coming_back_is_silence(tmp_path: Path) -> None:
    """Two servers face each other: the answer of one is the other's mail, even where a relay took the headers off."""
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        await it.put("echo", "robot@other.example")
        await it.turn()
        [leaving] = await it.leaving()
        assert leaving.content is not None
        answer = message_from_bytes(leaving.content)
        for kept in ("Auto-Submitted", "X-Responder-Loop", "Message-ID"):
            back = await it.put("echo", "robot@other.example", f"{kept}: {answer[kept]}")
            await it.turn()
            assert (await it.end(back))[0] is State.SILENT


# -- forwards ----------------------------------------------------------------------------------------------------------


async def test_forward_is_one_content_to_all_targets_and_tells_the_sender_of_failures(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": FORWARDER})) as it:
        item = await it.put("echo", "a@example.org")
        await it.turn()
        leaving = await it.leaving()
        assert {one.content_id for one in leaving} == {leaving[0].content_id}
        assert [one.reverse_path for one in leaving] == [f"bounces+{one.id}@test.example" for one in leaving]
        assert {(one.kind, one.cause, one.return_to) for one in leaving} == {("forward", item, "a@example.org")}


async def test_forward_of_a_bounce_can_never_bounce(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": FORWARDER})) as it:
        await it.put("echo", "")
        await it.turn()
        assert {(one.reverse_path, one.return_to) for one in await it.leaving()} == {("", "")}


async def test_forward_goes_to_the_inboxs_targets_alone(tmp_path: Path) -> None:
    inboxes = {
        "some": FORWARDER | {"settings": {"does": "forward-one"}},
        "else": FORWARDER | {"settings": {"does": "forward-elsewhere"}},
        "none": {"agent": "reader", "settings": {"does": "forward"}},
    }
    async with desk(tmp_path, configured(inboxes)) as it:
        some, elsewhere, none = [await it.put(name) for name in inboxes]
        await it.turn()
        assert await it.end(some) == (State.ANSWERED, "forwarded by reader")
        assert [one.recipient for one in await it.leaving()] == ["two@far.example"]
        for item, reason in ((elsewhere, "not among the inbox's targets"), (none, "the inbox has no targets")):
            state, told = await it.end(item)
            assert state is State.RECEIVED
            assert reason in told
            assert "victim" not in told


# -- personal ----------------------------------------------------------------------------------------------------------


async def test_personal_answer_leaves_with_the_null_reverse_path_and_says_auto(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"anna": PERSONAL})) as it:
        await it.put("anna")
        await it.turn()
        [leaving] = await it.leaving()
        assert leaving.reverse_path == ""
        assert leaving.content is not None
        assert message_from_bytes(leaving.content)["Subject"] == "Auto: hello"


async def test_personal_answer_once_in_its_interval_across_restarts(tmp_path: Path) -> None:
    config, clock = configured({"anna": PERSONAL}), ManualClock()

    async def ask(sender: str) -> State:
        async with desk(tmp_path, config, clock) as it:  # each time a new process
            item = await it.put("anna", sender)
            await it.turn()
            return (await it.end(item))[0]

    assert await ask("a@example.org") is State.ANSWERED
    assert await ask("A@Example.ORG") is State.SILENT
    assert await ask("b@example.org") is State.ANSWERED
    clock.advance(7 * DAY - 60)
    assert await ask("a@example.org") is State.SILENT
    clock.advance(61)
    assert await ask("a@example.org") is State.ANSWERED
    async with desk(tmp_path, config, clock) as it:
        assert len(await it.leaving()) == 3


async def test_personal_interval_is_a_day_at_least(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"anna": PERSONAL | {"interval": "1m"}})) as it:
        await it.put("anna")
        await it.turn()
        it.clock.advance(DAY - 1)
        item = await it.put("anna")
        await it.turn()
        assert await it.end(item) == (State.SILENT, "interval: this sender was answered within the inbox's interval")


async def test_personal_agent_answers_only_mail_that_names_its_recipient(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"anna": PERSONAL, "bob": "answer"})) as it:
        item = await it.put("bob", recipients=("anna",))
        named = item.replace(".0", ".1")
        await it.turn()
        assert (await it.end(named))[0] is State.ANSWERED  # `put` names everybody in To
        hidden = await it.put("anna", "b@example.org")
        mail = hidden.partition(".")[0]
        content = (await it.store.content(mail)).replace(b"To: anna@", b"To: all@")
        await it.store._writer.run(lambda c: c.execute("UPDATE content SET data = ? WHERE id = ?", (content, mail)))
        await it.turn()
        state, reason = await it.end(hidden)
        assert (state, reason.partition(":")[0]) == (State.SILENT, "not-addressed")


# -- windows -----------------------------------------------------------------------------------------------------------


async def test_same_mail_twice_is_answered_once_in_a_day(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "answer", "bob": "answer"})) as it:

        async def ask(inbox: str, sender: str, message_id: str) -> State:
            item = await it.put(inbox, sender, message_id=message_id)
            await it.turn()
            return (await it.end(item))[0]

        assert await ask("echo", "a@example.org", "<1@example.org>") is State.ANSWERED
        assert await ask("echo", "a@example.org", "<1@example.org>") is State.SILENT
        assert await ask("echo", "a@example.org", "<2@example.org>") is State.ANSWERED
        assert await ask("bob", "a@example.org", "<1@example.org>") is State.ANSWERED  # another recipient
        assert (
            await ask("echo", "b@example.org", "<1@example.org>") is State.ANSWERED
        )  # who forges an id silences nobody
        it.clock.advance(DAY + 1)
        assert await ask("echo", "a@example.org", "<1@example.org>") is State.ANSWERED
        assert await ask("echo", "a@example.org", "") is State.ANSWERED
        assert await ask("echo", "a@example.org", "") is State.ANSWERED


@pytest.mark.parametrize("breaker", ["per_sender", "per_conversation", "per_inbox"])
async def test_breaker_keeps_the_rest_of_a_flood_and_raises_one_alert(
    tmp_path: Path, breaker: str, log: io.StringIO
) -> None:
    config = configured({"echo": "answer"}, reply=QUIET | {breaker: "3/10m"})
    async with desk(tmp_path, config) as it:
        items = [await it.put("echo", "a@example.org", "References: <first@example.org>") for _ in range(10)]
        await it.turn_together()
        ends = [await it.end(item) for item in items]
        reason = f"breaker-{breaker.replace('_', '-')}: 3/10m answers reached"
        assert ends[:3] == [(State.ANSWERED, "answered by scripted")] * 3
        assert ends[3:] == [(State.SILENT, reason)] * 7
        assert len(await it.leaving()) == 3
        assert log.getvalue().count("breaker open") == 1
        it.clock.advance(600)
        late = [await it.put("echo", "a@example.org", "References: <first@example.org>") for _ in range(4)]
        await it.turn_together()
        assert [(await it.end(item))[0] for item in late] == [State.ANSWERED] * 3 + [State.SILENT]
        assert log.getvalue().count("breaker open") == 2


async def test_breaker_of_one_sender_does_not_touch_another(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, reply=QUIET | {"per_sender": "1/10m"})
    async with desk(tmp_path, config) as it:
        items = [await it.put("echo", sender) for sender in ("a@example.org", "A@example.org", "b@example.org")]
        await it.turn()
        assert [(await it.end(item))[0] for item in items] == [State.ANSWERED, State.SILENT, State.ANSWERED]


async def test_silence_does_not_use_up_a_window(tmp_path: Path) -> None:
    config = configured({"echo": "answer", "mute": "silent"}, reply=QUIET | {"per_sender": "1/10m"})
    async with desk(tmp_path, config) as it:
        await it.put("mute")
        await it.turn()
        item = await it.put("echo")
        await it.turn()
        assert (await it.end(item))[0] is State.ANSWERED


async def test_operators_retry_of_what_a_breaker_kept_is_answered_when_it_has_room(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, reply=QUIET | {"per_sender": "1/10m"})
    async with desk(tmp_path, config) as it:
        await it.put()
        kept = await it.put()
        await it.turn()
        assert (await it.end(kept))[0] is State.SILENT
        it.clock.advance(601)
        await it.store.act(kept, Event.RETRY, "by hand")
        await it.turn()
        assert (await it.end(kept))[0] is State.ANSWERED
        assert len(await claim_out(it.store)) == 2
