"""The delivery stage with a real store and a scripted way out: outcomes, back-off, expiry, DSNs, and who is sent to when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from responder.mail.lifecycle import Event, State
from responder.mail.status import Outcome
from responder.outbound.base import Envelope, RecipientResult
from responder.store.records import NewOutbound, Settlement
from tests.support.stages import DELIVERED, LATER, NEVER, Post, configured, post, result
from tests.support.stores import accept, claim, history, outbound

CONFIG = configured({"echo": "answer"})


async def queue(it: Post, *targets: str, return_to: str = "", reverse_path: str = "") -> list[str]:
    """Messages to these, as an answer or (with `return_to`) a forward would have queued them."""
    await accept(it.store, it.clock)
    [item] = await claim(it.store, "answering")
    messages: list[NewOutbound] = [
        replace(
            outbound(it.clock, item.id, to, kind="forward" if return_to else "answer"),
            return_to=return_to,
            reverse_path=reverse_path,
            expires_at=it.clock.now() + CONFIG.delivery.expire,
        )
        for to in targets
    ]
    contents = tuple((message.id, b"Subject: Re: x\r\n\r\ny\r\n") for message in messages)
    await it.store.settle_inbound(item, Settlement(Event.ANSWER, "answered", tuple(messages), contents))
    return [message.id for message in messages]


# -- outcomes ----------------------------------------------------------------------------------------------------------


async def test_message_is_handed_over_as_it_was_stored(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        [item] = await queue(it, "a@far.example", reverse_path="bounces+x@test.example")
        await it.turn()
        assert it.transport.sent == [
            Envelope("bounces+x@test.example", ("a@far.example",), b"Subject: Re: x\r\n\r\ny\r\n", id=item)
        ]
        assert await it.end(item) == (State.DELIVERED, "250 2.0.0 taken (mx.far.example [192.0.2.25])")
        it.clock.advance(100_000)
        assert await it.turn() == []


async def test_transient_failure_is_tried_again_by_schedule(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: LATER) as it:
        [item] = await queue(it, "a@far.example")
        for pause in (60, 300, 300):
            assert await it.turn() == [item]
            assert await it.end(item) == (State.DEFERRED, "[trouble] 451 4.3.0 later (mx.far.example [192.0.2.25])")
            it.clock.advance(pause - 1)
            assert await it.turn() == []
            it.clock.advance(1)
        it.transport.script = lambda _: DELIVERED
        assert await it.turn() == [item]
        assert (await it.end(item))[0] is State.DELIVERED
        assert len(it.transport.sent) == 4


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 48), (1.0, 72)])
async def test_chance_moves_a_pause_by_a_fifth(tmp_path: Path, chance: float, pause: float) -> None:
    async with post(tmp_path, CONFIG, lambda _: LATER) as it:
        it.clock.chance = chance
        [item] = await queue(it, "a@far.example")
        await it.turn()
        it.clock.advance(pause - 0.5)
        assert await it.turn() == []
        it.clock.advance(0.5)
        assert await it.turn() == [item]


async def test_answer_that_is_refused_fails_and_nobody_is_told(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        [item] = await queue(it, "a@far.example")
        await it.turn()
        assert await it.end(item) == (
            State.FAILED,
            "[no-such-user] 550 5.1.1 nobody here (mx.far.example [192.0.2.25])",
        )
        it.clock.advance(100_000)
        assert await it.turn() == []


async def test_forward_that_is_refused_is_told_to_its_sender_once(tmp_path: Path) -> None:
    def script(envelope: Envelope) -> RecipientResult:
        return NEVER if envelope.recipients == ("one@far.example",) else DELIVERED

    async with post(tmp_path, CONFIG, script) as it:
        [item] = await queue(it, "one@far.example", return_to="sender@example.org")
        await it.turn()
        assert (await it.end(item))[0] is State.BOUNCED
        [dsn] = await it.turn()
        sent = it.transport.sent[-1]
        assert (sent.reverse_path, sent.recipients, sent.id) == ("", ("sender@example.org",), dsn)
        message = message_from_bytes(sent.content, policy=default)
        assert message.get_content_type() == "multipart/report"
        status = list(message.iter_parts())[1].as_string()
        assert "Final-Recipient: rfc822; one@far.example" in status
        assert "Status: 5.1.1" in status
        assert "Remote-MTA: dns; mx.far.example" in status
        assert (await it.end(dsn))[0] is State.DELIVERED
        assert await it.turn() == []


async def test_dsn_that_is_refused_ends_there(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        [item] = await queue(it, "one@far.example", return_to="sender@example.org")
        await it.turn()
        [dsn] = await it.turn()
        assert (await it.end(item))[0] is State.BOUNCED
        assert (await it.end(dsn))[0] is State.FAILED
        it.clock.advance(100_000)
        assert await it.turn() == []
        [account] = await it.store.account(dsn)
        assert sum(view.kind == "dsn" for view in account.items) == 1


@pytest.mark.parametrize("return_to", ["", "nonsense", "@", "two@at@example.org"])
async def test_nobody_is_told_where_there_is_nobody(tmp_path: Path, return_to: str) -> None:
    async with post(tmp_path, CONFIG, lambda _: NEVER) as it:
        [item] = await queue(it, "one@far.example", return_to=return_to)
        await it.turn()
        assert (await it.end(item))[0] is State.FAILED
        assert await it.turn() == []


@pytest.mark.parametrize(("return_to", "state"), [("sender@example.org", State.BOUNCED), ("", State.FAILED)])
async def test_message_is_given_up_when_its_time_is_over(tmp_path: Path, return_to: str, state: State) -> None:
    async with post(tmp_path, CONFIG, lambda _: LATER) as it:
        [item] = await queue(it, "a@far.example", return_to=return_to)
        began = it.clock.now()
        while (await it.end(item))[0] in (State.QUEUED, State.DEFERRED):
            await it.turn()
            it.clock.advance(20)
            assert it.clock.now() - began < 3700
        end, reason = await it.end(item)
        assert end is state
        assert "451 4.3.0 later" in reason
        assert reason.endswith(f"given up after {len(it.transport.sent)} attempts")
        assert it.clock.now() - began >= 3600  # the last attempt is made at the end of the time, not before it
        if return_to:
            [dsn] = await it.turn()
            assert b"Status: 4.4.7" in it.transport.sent[-1].content
            assert (await it.end(dsn))[0] is State.DEFERRED


async def test_mail_that_may_have_arrived_says_so(tmp_path: Path) -> None:
    doubt = replace(result(Outcome.TRANSIENT, 0, "connection lost", "4.4.2"), after_dot=True)
    async with post(tmp_path, CONFIG, lambda _: doubt) as it:
        [item] = await queue(it, "a@far.example")
        await it.turn()
        assert await it.end(item) == (
            State.DEFERRED,
            "[unreachable] 4.4.2 connection lost (mx.far.example [192.0.2.25]; it may have arrived)",
        )


async def test_content_that_is_gone_fails_instead_of_hanging(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        [item] = await queue(it, "a@far.example")
        await it.store._writer.run(lambda c: c.execute("DELETE FROM content WHERE id = ?", (item,)))
        await it.turn()
        assert await it.end(item) == (State.FAILED, "the message is gone: retention removed it")
        assert it.transport.sent == []


async def test_our_own_mistake_is_tried_again_until_the_time_is_over(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        [identifier] = await queue(it, "a@far.example")
        [item], _ = await it.stage.claim(it.lease.token, 1)
        await it.stage.settle(item, it.stage.broken(item, KeyError("secret")))
        assert await it.end(identifier) == (State.DEFERRED, "internal error: KeyError")
        it.clock.advance(3600)
        await it.lease.start()
        [item], _ = await it.stage.claim(it.lease.token, 1)
        await it.stage.settle(item, it.stage.broken(item, KeyError("secret")))
        assert (await it.end(identifier))[0] is State.FAILED


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_sent_without_a_valid_lease(tmp_path: Path) -> None:
    """The process was stopped for longer than its lease: another one may have the message by now."""
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        [identifier] = await queue(it, "a@far.example")
        [item], _ = await it.stage.claim(it.lease.token, 1)
        it.clock.advance(31)
        assert not it.lease.valid
        ended = await it.stage.handle(item)
        [settlement] = ended.settlements
        assert (settlement.event, settlement.reason) == (Event.YIELD, "the lease had run out")
        assert it.transport.sent == []
        await it.stage.settle(item, ended)
        await it.lease.start()
        assert await it.turn() == [identifier]
        assert len(it.transport.sent) == 1


async def test_outcome_behind_a_lost_lease_is_thrown_away(tmp_path: Path) -> None:
    async with post(tmp_path, CONFIG, lambda _: DELIVERED) as it:
        [identifier] = await queue(it, "a@far.example", return_to="sender@example.org")
        it.transport.script = lambda _: NEVER
        [item], _ = await it.stage.claim(it.lease.token, 1)
        settlement = await it.stage.handle(item)
        it.clock.advance(31)
        await it.store.sweep(5)
        await it.stage.settle(item, settlement)
        assert (await it.end(identifier))[0] is State.DEFERRED
        assert [event for event, _, _ in await history(it.store, identifier)] == ["queue", "claim", "expire-lease"]


# -- fairness ----------------------------------------------------------------------------------------------------------


async def test_slow_domain_does_not_keep_another_waiting(tmp_path: Path) -> None:
    """Hosts of one domain take their time: what is claimed for it is bounded, and others' mail goes past it."""
    release = asyncio.Event()

    async def slow() -> RecipientResult:
        await release.wait()
        return DELIVERED

    config = configured({"echo": "answer"}, delivery={"concurrency": 10, "connections_per_host": 2})
    async with post(tmp_path, config, lambda envelope: slow() if "slow" in envelope.recipients[0] else DELIVERED) as it:
        await queue(it, *(f"u{n}@slow.example" for n in range(100)))
        it.clock.advance(1)
        fast = await queue(it, *(f"u{n}@fast{n}.example" for n in range(3)))
        items, _ = await it.stage.claim(it.lease.token, 10)
        assert set(fast) < {item.id for item in items}
        tasks = {item.id: asyncio.create_task(it.stage.handle(item)) for item in items}
        for item in items:
            if item.id in fast:
                await it.stage.settle(item, await asyncio.wait_for(tasks[item.id], 10))
        assert [(await it.end(item))[0] for item in fast] == [State.DELIVERED] * 3
        busy = [envelope for envelope in it.transport.sent if "slow" in envelope.recipients[0]]
        assert len(busy) <= 2  # as many as there may be connections
        again, _ = await it.stage.claim(it.lease.token, 10)
        assert len([item for item in [*items, *again] if item.place == "slow.example"]) < 10
        release.set()
        for item in items:
            if item.id not in fast:
                await it.stage.settle(item, await asyncio.wait_for(tasks[item.id], 10))
        more, _ = await it.stage.claim(it.lease.token, 10)
        assert more


async def test_smarthosts_connections_are_counted_though_one_domain_s_mail_is_done(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow() -> RecipientResult:
        await release.wait()
        return DELIVERED

    table = {"transport": "smarthost", "smarthost": "127.0.0.9:25", "connections_per_host": 2}
    config = configured({"echo": "answer"}, delivery=table)
    async with post(tmp_path, config, lambda envelope: slow() if "slow" in envelope.recipients[0] else DELIVERED) as it:
        tasks = {}
        for target in ("a@slow.example", "b@fast.example", "c@slow.example", "d@slow.example"):
            await queue(it, target)
            [item], _ = await it.stage.claim(it.lease.token, 1)
            tasks[item] = asyncio.create_task(it.stage.handle(item))
            for _ in range(10):
                await asyncio.sleep(0)
            if "fast" in target:
                await it.stage.settle(item, await tasks.pop(item))
        assert len([envelope for envelope in it.transport.sent if "slow" in envelope.recipients[0]]) == 2
        release.set()
        for item, task in tasks.items():
            await it.stage.settle(item, await task)


async def test_dsn_when_one_sender_is_told_of_many_failures_then_the_rest_are_failed_and_nobody_is_flooded(
    tmp_path: Path,
) -> None:
    config = configured({"echo": "answer"}, reply={"per_sender": "2/10m"})
    async with post(tmp_path, config, lambda envelope: DELIVERED if not envelope.reverse_path else NEVER) as it:
        items = []
        for number in range(4):
            items += await queue(
                it, "a@far.example", return_to=f"ann+{number}@near.example", reverse_path="b@c.example"
            )
        await it.turn()
        ends = [await it.end(item) for item in items]
        assert [state for state, _ in ends] == [State.BOUNCED, State.BOUNCED, State.FAILED, State.FAILED]
        assert "not told to its sender: 2/10m notifications reached" in ends[2][1]
        it.clock.advance(601)
        [late] = await queue(it, "a@far.example", return_to="ann@near.example", reverse_path="b@c.example")
        await it.turn()
        assert (await it.end(late))[0] is State.BOUNCED
