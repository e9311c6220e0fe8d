"""The answering stage with a real store and scripted agents: what leaves, what does not, and what history tells of it."""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from responder.agents import attempts, results
from responder.mail.lifecycle import State
from responder.store.records import OutboundItem
from tests.support.stages import configured, desk
from tests.support.stores import history

DAY = 86400.0


def subject_of(item: OutboundItem) -> str:
    assert item.content is not None
    return str(message_from_bytes(item.content, policy=default)["Subject"])


# -- what leaves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["scripted", "synchronous"])
@pytest.mark.parametrize("does", ["answer", "text"])
async def test_answer_goes_to_the_reverse_path_once(tmp_path: Path, agent: str, does: str) -> None:
    config = configured({"echo": {"agent": agent, "settings": {"does": does}}})
    async with desk(tmp_path, config) as it:
        item = await it.put(message_id="<1@example.org>")
        await it.turn()
        assert await it.end(item) == (State.ANSWERED, f"answered by {agent}")
        [leaving] = await it.leaving()
        assert (leaving.recipient, leaving.kind, leaving.cause) == ("a@example.org", "answer", item)
        assert leaving.reverse_path == f"bounces+{leaving.id}@test.example"
        assert leaving.return_to == ""
        assert leaving.content is not None
        message = message_from_bytes(leaving.content, policy=default)
        assert message["Message-ID"] == f"<auto.{item}.0@mx.test.example>"
        assert (message["In-Reply-To"], message["Auto-Submitted"]) == ("<1@example.org>", "auto-replied")
        assert message.get_content() == "hello\r\n"
        assert await it.turn() == []


@pytest.mark.parametrize("does", ["silent", "blank"])
async def test_agent_without_an_answer_is_silence(tmp_path: Path, does: str) -> None:
    async with desk(tmp_path, configured({"echo": does})) as it:
        item = await it.put()
        await it.turn()
        assert await it.end(item) == (State.SILENT, "agent-silent: the agent had no answer")
        assert await it.leaving() == []


async def test_each_recipient_has_one_run_of_its_own(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "answer", "bob": "raise", "eve": "silent"})) as it:
        item = await it.put("echo", recipients=("bob", "eve"))
        mail = item.partition(".")[0]
        assert await it.turn() == [f"{mail}.0", f"{mail}.1", f"{mail}.2"]
        ends = [(await it.end(f"{mail}.{number}"))[0] for number in range(3)]
        assert ends == [State.ANSWERED, State.RECEIVED, State.SILENT]
        it.clock.advance(12)
        assert await it.turn() == [f"{mail}.1"]


async def test_run_that_comes_to_its_end_twice_leaves_one_answer(tmp_path: Path) -> None:
    """The lease ran out while the agent worked, and another worker did the mail: the first one's answer is thrown away."""
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        await it.put()
        [slow], _ = await it.stage.claim("slow", 1)
        settlement = await it.stage.handle(slow)
        await it.store.sweep(5)
        await it.turn()
        await it.stage.settle(slow, settlement)
        assert len(await it.leaving()) == 1


# -- containment -------------------------------------------------------------------------------------------------------

FAILURES = {
    "raise": "the agent raised ValueError: it broke",
    "raise-base": "the agent raised BaseExceptionGroup: ",
    "raise-group": "the agent raised ExceptionGroup: several",
    "raise-surrogate": "the agent raised ValueError: it broke ?   two",
    "raise-unprintable": "the agent raised UnprintableError",
    "exit": "the agent raised SystemExit: 3",
    "interrupt": "the agent raised KeyboardInterrupt",
    "cancelled": "the agent raised CancelledError",
    "stop-iteration": "the agent raised ",
    "timeout": "the agent raised TimeoutError: of its own",
    "recursion": "the agent raised RecursionError: ",
    "number": "the agent returned a int; allowed are Reply, Forward, HandOver, Distribute, str and None",
    "bytes": "the agent returned a bytes",
    "list": "the agent returned a list",
    "class": "the agent returned a ",
    "text-number": "the agent's Reply holds something else than text",
    "html-bytes": "the agent's Reply holds something else than text",
    "subject-number": "the agent's Reply holds something else than ",
    "headers-list": "the agent's Reply holds something else than ",
    "headers-number": "the agent's Reply holds something else than ",
    "attachments-none": "the agent's Reply holds something else than ",
    "attachments-text": "the agent's Reply holds something else than ",
    "attachment-text": "the agent's Reply holds something else than ",
    "huge-text": "the agent's answer is too large: ",
    "huge-file": "the agent's answer is too large: ",
    "forbidden-header": "the agent's answer can't be sent: ",
    "forward": "the agent forwards, but the inbox has no targets",
    "forward-number": "the agent's ",
    "forward-text": "the agent's Forward holds something else than a list of addresses",
    "forward-prefix": "the agent's Forward holds something else than text in subject_prefix",
}


@pytest.mark.parametrize("agent", ["scripted", "synchronous"])
@pytest.mark.parametrize("does", FAILURES)
async def test_whatever_an_agent_does_is_contained_and_tried_again(tmp_path: Path, does: str, agent: str) -> None:
    config = configured({"bad": {"agent": agent, "settings": {"does": does}}, "echo": "answer"})
    async with desk(tmp_path, config) as it:
        bad, good = await it.put("bad"), await it.put("echo")
        await it.turn()
        state, reason = await it.end(bad)
        assert state is State.RECEIVED
        assert reason.startswith(FAILURES[does])
        assert reason.endswith(", attempt 1 of 3")
        assert (await it.end(good))[0] is State.ANSWERED  # its neighbour is none the worse
        assert [leaving.cause for leaving in await it.leaving()] == [good]


async def test_attempts_are_spaced_out_and_end_in_a_failure_with_its_traceback(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "raise"})) as it:
        item = await it.put()
        for pause in (10, 60):
            assert await it.turn() == [item]
            it.clock.advance(pause - 1)
            assert await it.turn() == []
            it.clock.advance(1)
        assert await it.turn() == [item]
        state, reason = await it.end(item)
        assert state is State.FAILED
        first, *trace = reason.split("\n")
        assert first == "the agent raised ValueError: it broke, attempt 3 of 3"
        assert trace[0] == "Traceback (most recent call last):"
        assert trace[-1] == "ValueError: it broke"
        it.clock.advance(10 * DAY)
        assert await it.turn() == []
        assert [event for event, _, _ in await history(it.store, item)] == [
            "accept", "claim", "defer", "claim", "defer", "claim", "fail",
        ]  # fmt: skip


async def test_traceback_is_kept_to_its_end_and_no_longer(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "recursion"}, answering={"attempts": 1})) as it:
        item = await it.put()
        await it.turn()
        _, reason = await it.end(item)
        assert len(reason) < results.TRACEBACK + 500
        assert reason.splitlines()[-1].startswith("RecursionError")


async def test_answer_of_a_later_attempt_is_the_only_one(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "once"})) as it:
        item = await it.put()
        await it.turn()
        it.clock.advance(12)
        await it.turn()
        assert (await it.end(item))[0] is State.ANSWERED
        [leaving] = await it.leaving()
        assert leaving.content is not None
        assert b"run 2" in leaving.content


@pytest.mark.parametrize(("agent", "does"), [("scripted", "hang"), ("scripted", "stubborn"), ("synchronous", "block")])
async def test_agent_that_hangs_is_left_at_its_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, does: str
) -> None:
    monkeypatch.setattr(attempts, "GRACE", 0.05)
    table = {"agent": agent, "timeout": "50ms", "settings": {"does": does}}
    async with desk(tmp_path, configured({"bad": table, "echo": "answer"})) as it:
        bad, good = await it.put("bad"), await it.put("echo")
        async with asyncio.timeout(20):
            await it.turn()
        state, reason = await it.end(bad)
        assert (state, reason) == (State.RECEIVED, "the agent took longer than 0.05 s, attempt 1 of 3")
        assert (await it.end(good))[0] is State.ANSWERED


async def test_agent_that_cancels_itself_ends_its_own_run_alone(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"bad": "cancel-itself", "echo": "answer"})) as it:
        bad, good = await it.put("bad"), await it.put("echo")
        await it.turn()
        state, reason = await it.end(bad)
        assert state is State.RECEIVED
        assert "cancel" in reason.lower()
        assert (await it.end(good))[0] is State.ANSWERED


async def test_agent_that_asks_for_later_is_run_then(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "later"})) as it:
        item = await it.put()
        await it.turn()
        state, reason = await it.end(item)
        assert (state, reason) == (State.RECEIVED, "the agent asked to be run again in 120 s, attempt 1 of 3")
        it.clock.advance(119)
        assert await it.turn() == []
        it.clock.advance(1)
        assert await it.turn() == [item]
        it.clock.advance(120)
        await it.turn()
        assert (await it.end(item))[0] is State.FAILED  # it counts as an attempt: nothing is put off for ever


async def test_nothing_an_agent_writes_gets_out_of_its_header(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "inject"})) as it:
        item = await it.put()
        await it.turn()
        state, reason = await it.end(item)
        assert state is State.ANSWERED, reason
        [leaving] = await it.leaving()
        assert (leaving.recipient, leaving.content is not None) == ("a@example.org", True)
        assert leaving.content is not None
        message = message_from_bytes(leaving.content, policy=default)
        assert sorted(name.lower() for name in message) == sorted([
            "date", "from", "to", "subject", "message-id", "auto-submitted", "x-auto-response-suppress",
            "x-responder-loop", "x-mailer", "mime-version", "content-type", "content-transfer-encoding",
        ])  # fmt: skip
        assert [part.get_content_type() for part in message.walk()][:2] == ["multipart/mixed", "text/plain"]
        assert "Bcc: victim" in str(message["Subject"])
        assert leaving.content.count(b"\r") == leaving.content.count(b"\n") == leaving.content.count(b"\r\n")
        for part in message.walk():
            assert "bcc" not in [name.lower() for name in part]


async def test_text_that_no_charset_holds_is_sent_or_contained(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "surrogates"})) as it:
        item = await it.put()
        await it.turn()
        assert (await it.end(item))[0] in (State.ANSWERED, State.RECEIVED)
        for leaving in await it.leaving():
            assert leaving.content is not None
            assert message_from_bytes(leaving.content, policy=default)["Subject"]


async def test_inbox_that_the_configuration_lost_fails_visibly(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        item = await it.put("gone")
        await it.turn()
        assert await it.end(item) == (State.FAILED, "no-inbox: the configuration no longer has it")


async def test_domain_that_the_configuration_lost_is_not_answered_for(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "answer"}, domains=["other.example"])) as it:
        item = await it.put("echo")  # at test.example
        await it.turn()
        assert await it.end(item) == (State.FAILED, "no-inbox: the configuration no longer has it")
        assert await it.leaving() == []


@pytest.mark.parametrize("recipient", ["postmaster", "bounces+x"])
async def test_mail_to_an_inbox_that_need_not_exist_is_kept(tmp_path: Path, recipient: str) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        item = await it.put(recipient)
        await it.turn()
        state, _ = await it.end(item)
        assert state is State.SILENT
        assert await it.store.content(item.partition(".")[0])


async def test_large_mail_reaches_its_agent_whole(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        item = await it.put("echo", "a@example.org", f"X-Long: {'x' * 300_000}")
        [claimed], _ = await it.stage.claim("w1", 1)
        assert claimed.content is None
        await it.stage.settle(claimed, await it.stage.handle(claimed))
        assert (await it.end(item))[0] is State.ANSWERED


async def test_our_own_mistake_is_tried_again_like_an_agents(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        item = await it.put()
        [claimed], _ = await it.stage.claim("w1", 1)
        await it.stage.settle(claimed, it.stage.broken(claimed, KeyError("secret")))
        assert await it.end(item) == (State.RECEIVED, "internal error: KeyError, attempt 1 of 3")
