"""What an agent remembers, in the stage: one with its answer, whatever comes between; and what a reply says besides its text."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from responder.answering.memory import InboxState
from responder.mail.lifecycle import State
from responder.store.records import OutboundItem
from tests.support.clock import ManualClock
from tests.support.stages import Desk, configured, desk

DAY = 86400.0


def remembering(does: str, agent: str = "remembering", table: dict[str, Any] | None = None, **settings: Any) -> Any:
    return {"agent": agent, "settings": {"does": does, **settings}, **(table or {})}


async def texts(it: Desk) -> list[str]:
    return [bytes(parsed(one).get_payload(decode=True) or b"").decode().strip() for one in await it.leaving()]


def parsed(one: OutboundItem) -> Message:
    assert one.content is not None
    return message_from_bytes(one.head.encode() + one.content)


async def state(it: Desk, key: str, inbox: str = "echo") -> str | None:
    found = await it.store.values(inbox, [key])
    return found[key][0] if key in found else None


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [remembering("count"), {"agent": "blocking-count"}], ids=["async", "plain"])
async def test_state_outlives_a_restart(tmp_path: Path, table: Any) -> None:
    clock = ManualClock()
    for number in (1, 2):
        async with desk(tmp_path, configured({"echo": table}), clock) as it:
            await it.put("echo")
            await it.turn()
            assert await texts(it) == [f"number {number}"]


@pytest.mark.parametrize("does", ["count", "read-slowly"])
async def test_mails_at_once_each_count_though_they_read_the_same(tmp_path: Path, does: str) -> None:
    async with desk(tmp_path, configured({"echo": remembering(does)})) as it:
        items = [await it.put("echo", f"a{number}@example.org") for number in range(5)]
        for _ in items:
            await it.turn_together()
        assert sorted(await texts(it)) == [f"number {number}" for number in range(1, 6)]
        assert [(await it.end(item))[0] for item in items] == 5 * [State.ANSWERED]
        assert await state(it, "n") == "5"


async def test_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": remembering("write-and-fail")})) as it:
        item = await it.put("echo")
        await it.turn()
        assert (await it.end(item))[1].startswith("the agent raised ValueError: it broke")
        assert await state(it, "left") is None


async def test_wish_to_be_run_later_keeps_what_was_written(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": remembering("write-and-wait")})) as it:
        await it.put("echo")
        for _ in range(3):
            await it.turn()
            it.clock.advance(11)
        assert await texts(it) == ["after 3 tries"]


async def test_value_that_is_no_json_is_the_agents_error(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": remembering("write-badly")})) as it:
        item = await it.put("echo")
        await it.turn()
        assert (await it.end(item))[1].startswith("the agent raised ValueError: a value must be JSON")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda s: s.set("k", 1, expires="1h"), "expires wants a number of seconds above 0"),
        (lambda s: s.increment("k", 0.5), "increment wants a whole number to add"),
        (lambda s: s.increment("k", "1"), "increment wants a whole number to add"),
    ],
)
async def test_mistaken_call_says_what_is_wanted(tmp_path: Path, call: Any, reason: str) -> None:
    async with desk(tmp_path, configured({"echo": remembering("count")})) as it:
        with pytest.raises(ValueError, match=reason):
            await call(InboxState("echo", it.store, it.clock))


async def test_added_value_is_there_until_it_expires(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": remembering("first-only")})) as it:
        for seconds in (0, 30, 31):
            it.clock.advance(seconds)
            await it.put("echo")
            await it.turn()
        assert await texts(it) == ["first", "again", "first"]


async def test_deleted_values_are_gone_within_the_run_and_behind_it(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": remembering("delete")})) as it:
        await it.put("echo")
        await it.turn()
        assert await texts(it) == [repr({"a:2": {"x": [1, None, "é"]}})]
        assert sorted(await it.store.values_below("echo", "")) == ["a:2", "b", "started"]


async def test_every_inbox_has_a_state_of_its_own(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": remembering("count"), "news": remembering("count")})) as it:
        for inbox in ("echo", "news", "echo"):
            await it.put(inbox)
            await it.turn()
        assert await texts(it) == ["number 1", "number 1", "number 2"]


# -- what an agent may say -------------------------------------------------------------------------------------------------


async def test_agent_that_gives_up_is_not_run_again(tmp_path: Path) -> None:
    async with desk(tmp_path, configured({"echo": remembering("give-up")})) as it:
        item = await it.put("echo")
        await it.turn()
        assert await it.end(item) == (State.FAILED, "the agent gave up: nobody can do that")


async def test_tag_stands_in_from_and_comes_back(tmp_path: Path) -> None:
    table = remembering("reply", table={"display_name": "Echo"}, reply={"tag": "a-1.x"})
    async with desk(tmp_path, configured({"echo": table})) as it:
        await it.put("echo+old")
        await it.turn()
        [one] = await it.leaving()
        assert parsed(one)["From"] == "Echo <echo+a-1.x@test.example>"
        assert parsed(one)["X-Responder-Loop"] == "echo+old@test.example"


@pytest.mark.parametrize("tag", ["a b", "a\r\nBcc: x@y.example", "x" * 41, "é", 'a"', "a@b", ".a", "a..b", "a."])
async def test_tag_that_makes_no_address_is_the_agents_error(tmp_path: Path, tag: str) -> None:
    async with desk(tmp_path, configured({"echo": remembering("reply", reply={"tag": tag})})) as it:
        item = await it.put("echo")
        await it.turn()
        if tag == ".a":  # echo+.a@... is an address
            assert (await it.end(item))[0] is State.ANSWERED
        else:
            assert "tag" in (await it.end(item))[1]
            assert await it.leaving() == []


@pytest.mark.parametrize(
    ("from_", "wanted"),
    [
        ("ann@test.example", "ann@test.example"),
        ("Ann Smith <Ann@Test.example>", "Ann Smith <Ann@test.example>"),
        ("echo@test.example", "echo@test.example"),
        ("other@test.example", None),
        ("ann@far.example", None),
        ("ann@test.example, echo@test.example", None),
        ("nobody", None),
    ],
)
async def test_from_is_one_of_the_inboxs_own_addresses(tmp_path: Path, from_: str, wanted: str | None) -> None:
    settings: dict[str, Any] = {"addresses": ["ann@test.example", "ann@far.example"], "reply": {"from_": from_}}
    async with desk(tmp_path, configured({"echo": remembering("reply", **settings)})) as it:
        item = await it.put("echo")
        await it.turn()
        if wanted is None:
            assert "is from an address" in (await it.end(item))[1]
            assert await it.leaving() == []
        else:
            assert [parsed(one)["From"] for one in await it.leaving()] == [wanted]


async def test_personal_inbox_answers_mail_to_its_other_addresses(tmp_path: Path) -> None:
    inboxes = {
        "echo": remembering("count", "remembering-person", addresses=["ann@far.example"]),
        "table": remembering("count", "remembering-person", {"addresses": ["ann@far.example"]}),
        "none": remembering("count", "remembering-person"),
    }
    async with desk(tmp_path, configured(inboxes)) as it:
        for inbox, wanted in (("echo", State.ANSWERED), ("table", State.ANSWERED), ("none", State.SILENT)):
            item = await it.put(inbox, f"{inbox}@example.org", "X-First: y\r\nCc: Ann <ANN@far.example>")
            # `put` writes a To with the inbox's own name: take it away, as mail through an alias has it
            content = (await it.store.content(item.partition(".")[0])).replace(b"To: ", b"X-To: ", 1)
            [claimed], _ = await it.stage.claim("w1", 1)
            await it.stage.settle(claimed, await it.stage.handle(replace(claimed, content=content)))
            assert (await it.end(item))[0] is wanted


async def test_handles_are_counted_apart(tmp_path: Path) -> None:
    clock = ManualClock()

    async def answered(handle: str, seconds: float, sender: str = "a@example.org", **table: Any) -> bool:
        inbox = remembering("reply", "remembering-person", table, reply={"handle": handle, "interval": seconds})
        async with desk(tmp_path, configured({"echo": inbox}), clock) as it:
            item = await it.put("echo", sender)
            await it.turn()
            state, reason = await it.end(item)
            assert state is State.ANSWERED or reason.startswith("interval: ")
            return state is State.ANSWERED

    assert await answered("summer", 3 * DAY)
    assert not await answered("summer", 3 * DAY, "A@Example.org")
    assert await answered("winter", 3 * DAY)
    assert await answered("summer", 3 * DAY, "b@example.org")
    clock.advance(3 * DAY - 1)
    assert not await answered("summer", 3 * DAY)
    clock.advance(2)
    assert await answered("summer", 60.0)
    clock.advance(DAY - 1)
    assert not await answered("summer", 60.0), "a person's answer is given once a day at the most (RFC 5230 4.1)"
    clock.advance(2)
    assert await answered("summer", 60.0)
    clock.advance(2 * DAY)
    assert not await answered("summer", 60.0, interval="7d"), "the operator's word goes before the agent's"


# -- what is passed on -------------------------------------------------------------------------------------------------


async def test_hand_over_takes_the_mail_as_it_is_to_the_upstream(tmp_path: Path) -> None:
    inboxes = {
        "all": remembering("hand-over", "remembering-reader", {"upstream": "mail.inside:2525"}),
        "none": remembering("hand-over"),
    }
    async with desk(tmp_path, configured(inboxes)) as it:
        kept = await it.put("all", "", "Precedence: bulk")
        failed = await it.put("none")
        await it.turn()
        assert await it.end(kept) == (State.ANSWERED, "handed over by remembering-reader")
        [one] = await it.leaving()
        assert (one.kind, one.reverse_path, one.recipient) == ("proxy", "", "all@test.example")
        assert (one.route, one.domain, one.return_to) == ("mail.inside:2525", "mail.inside:2525", "")
        assert one.content == await it.store.content(kept.partition(".")[0])
        assert "no upstream" in (await it.end(failed))[1]


async def test_post_goes_to_each_member_alone_and_says_how_to_leave(tmp_path: Path) -> None:
    table = remembering("distribute", table={"targets": ["*@far.example"]})
    async with desk(tmp_path, configured({"news": table})) as it:
        item = await it.put("news")
        await it.turn()
        assert await it.end(item) == (State.ANSWERED, "sent on by remembering to 2")
        one, two = await it.leaving()
        assert (one.kind, one.recipient, two.recipient) == ("list", "one@far.example", "two@far.example")
        assert one.content_id == two.content_id
        assert one.reverse_path == one.return_to == f"bounces+{one.id}@test.example"
        assert "https://lists.example/u?t=2" in parsed(two)["List-Unsubscribe"]
        assert parsed(two)["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert parsed(one)["List-Unsubscribe-Post"] is None


@pytest.mark.parametrize(
    ("targets", "to", "reason"),
    [
        (["*@far.example"], ["a@far.example", "x@else.example"], "not among the inbox's targets"),
        ([], ["a@far.example"], "not among the inbox's targets"),
        (["*"], ["a@far.example\r\nBcc: x@y.example"], "no address"),
        (["*@far.example"], ["a@far.example@else.example"], "no address"),
        (["team-*@far.example"], ["other@far.example"], "not among the inbox's targets"),
    ],
)
async def test_post_to_others_than_the_operator_allows_is_the_agents_error(
    tmp_path: Path, targets: list[str], to: list[str], reason: str
) -> None:
    table = remembering("distribute", table={"targets": targets}, to=to)
    async with desk(tmp_path, configured({"news": table})) as it:
        item = await it.put("news")
        await it.turn()
        assert reason in (await it.end(item))[1]
        assert await it.leaving() == []


async def test_automatic_mail_is_not_sent_on_to_a_list(tmp_path: Path) -> None:
    table = remembering("distribute", "remembering-reader", {"targets": ["*"]})
    async with desk(tmp_path, configured({"news": table})) as it:
        item = await it.put("news", "a@example.org", "Auto-Submitted: auto-replied")
        await it.turn()
        assert (await it.end(item))[0] is State.SILENT
        assert await it.leaving() == []


async def test_same_post_twice_is_sent_on_once(tmp_path: Path) -> None:
    table = remembering("distribute", table={"targets": ["*"]})
    async with desk(tmp_path, configured({"news": table})) as it:
        for _ in range(2):
            await it.put("news", message_id="<1@client.example>")
        await it.turn_together()
        assert len(await it.leaving()) == 2


# -- places ------------------------------------------------------------------------------------------------------------


async def test_inbox_has_no_more_runs_at_a_time_than_it_may(tmp_path: Path) -> None:
    inboxes = {"slow": remembering("count", table={"concurrency": 2}), "echo": remembering("count")}
    limits = {"attempts": 3, "retry": ["10s"], "timeout": "20s", "per_inbox": 3}
    async with desk(tmp_path, configured(inboxes, answering=limits)) as it:
        for inbox in ("slow", "echo"):
            for number in range(5):
                await it.put(inbox, f"{inbox}{number}@example.org")

        async def claimed() -> list[str]:
            items, _ = await it.stage.claim("w1", 100)
            running.extend(items)
            return sorted(item.inbox for item in items)

        running: list[Any] = []
        assert await claimed() == 3 * ["echo"] + 2 * ["slow"]
        assert await claimed() == []
        done = next(item for item in running if item.inbox == "slow")
        await it.stage.settle(done, await it.stage.handle(done))
        assert await claimed() == ["slow"]


async def test_inboxes_that_hang_leave_places_for_the_others(tmp_path: Path) -> None:
    """Each takes half of what is free at the most, so however many hang, the next one still finds a place."""
    inboxes = {f"slow{number}": remembering("count") for number in range(4)} | {"echo": remembering("count")}
    async with desk(tmp_path, configured(inboxes)) as it:
        free = 64
        for inbox in inboxes:
            for number in range(40):
                await it.put(inbox, f"a{number}@example.org")
            items, _ = await it.stage.claim("w1", free)
            free -= len(items)
            assert inbox in {item.inbox for item in items}
        assert free > 0


async def test_mail_to_many_that_is_handed_over_is_stored_once(tmp_path: Path) -> None:
    table = remembering("hand-over", "remembering-reader", {"upstream": "mail.inside:2525"})
    async with desk(tmp_path, configured({"*": table})) as it:
        item = await it.put("one", recipients=("two", "three"))
        await it.turn()
        leaving = await it.leaving()
        assert {one.content_id for one in leaving} == {item.partition(".")[0]}
        # The mail's own rows may go first: what waits to leave keeps the content
        it.clock.advance(30 * DAY)
        await it.store.purge(it.clock.now() - DAY, 0.0)
        assert await it.store.content(leaving[0].content_id) == leaving[0].content
