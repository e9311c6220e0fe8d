"""The operator's hand on many items, and on those who are not written to: what the verbs print, and what they change."""

from __future__ import annotations

import re

import pytest

from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.operator import Operator
from tests.support.scene import EVIL, SAFE, Scene, with_store
from tests.support.server import configuration
from tests.support.stores import queue


@pytest.fixture
def operator(operator: Operator) -> Operator:
    operator.write(configuration(store="sqlite:state/responder.db"))
    return operator


@pytest.fixture
def waiting(operator: Operator) -> list[str]:
    """Three answers, two of them to one domain."""
    found: list[str] = []

    async def build(store: SQLiteStore, clock: ManualClock) -> None:
        found.extend(await queue(store, clock, "a@far.example", "b@far.example", "c@near.example"))

    with_store(operator, build)
    return found


def states(operator: Operator, ids: list[str]) -> list[str]:
    return [operator("queue", "show", item, "--json").json["item"]["state"] for item in ids]


# -- many at a time -------------------------------------------------------------------------------------------------------


def test_hold_when_a_domain_is_named_then_its_items_are_held_and_released(
    operator: Operator, waiting: list[str]
) -> None:
    assert operator("queue", "hold", "--domain", "Far.Example.").out == "2 items are done (now 2 HELD)\n"
    assert states(operator, waiting) == ["HELD", "HELD", "QUEUED"]
    told = operator("queue", "release", "--inbox", "echo", "--json").json
    assert told == {"items": 2, "states": {"QUEUED": 2}, "dry_run": False}
    assert operator("queue", "drop", "--domain", "near.example").out == "1 item is done (now 1 DROPPED)\n"
    assert operator("queue", "drop", "--domain", "nowhere.example").out == "0 items are done\n"


def test_many_when_it_is_a_dry_run_then_nothing_changes(operator: Operator, waiting: list[str]) -> None:
    result = operator("queue", "drop", "--kind", "answer", "--dry-run")
    assert result.out == "3 items would be touched (3 QUEUED)\n"
    assert states(operator, waiting) == ["QUEUED"] * 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "say which: ids, or what the items have in common"),
        (("1", "--domain", "far.example"), "ids go without filters"),
        (("1", "--all"), "ids go without filters"),
    ],
)
@pytest.mark.parametrize("verb", ["retry", "hold", "release", "drop", "expire"])
def test_hand_when_nothing_is_named_then_that_is_bad_use_and_nothing_changes(
    operator: Operator, waiting: list[str], verb: str, arguments: tuple[str, ...], reason: str
) -> None:
    result = operator("queue", verb, *arguments)
    assert result.status == 2 and result.err.startswith(f"responder: {reason}")
    assert states(operator, waiting) == ["QUEUED"] * 3


def test_expire_when_an_id_is_given_then_its_time_is_over(operator: Operator, waiting: list[str]) -> None:
    assert operator("queue", "expire", waiting[0]).out == f"{waiting[0]} is now QUEUED\n"
    history = operator("queue", "show", waiting[0], "--json").json["history"]
    assert (history[-1]["event"], history[-1]["reason"]) == ("expire", "by the operator")


def test_list_when_it_is_narrowed_then_only_that_is_there(operator: Operator, waiting: list[str]) -> None:
    told = operator("queue", "list", "--domain", "far.example", "--json").json
    assert [item["id"] for item in told] == waiting[:2]
    assert len(operator("queue", "list", "--inbox", "echo", "--json").json) == 3
    assert operator("queue", "list", "--kind", "list", "--json").json == []


def test_stats_when_by_domain_then_the_largest_come_first(operator: Operator, waiting: list[str]) -> None:
    rows = [line.split() for line in operator("queue", "stats", "--by", "domain", "--top", "1").out.splitlines()]
    assert rows == [["domain", "state", "items"], ["far.example", "QUEUED", "2"]]
    assert operator("queue", "stats", "--by", "inbox", "--json").json == [
        {"inbox": "echo", "state": "QUEUED", "items": 3}
    ]


# -- who is not written to ------------------------------------------------------------------------------------------------


def test_suppress_when_added_then_it_is_listed_until_it_is_removed(operator: Operator, waiting: list[str]) -> None:
    assert operator("suppress", "list").out == "Everybody is written to.\n"
    result = operator(
        "suppress", "add", "<Ann@Far.Example>", "--inbox", "echo", "--for", "30d", "--reason", "asked for it"
    )
    assert re.fullmatch(r"ann@far\.example is not written to for echo, until \d{4}-[^\n]*\n", result.out)
    operator("suppress", "add", "bob@far.example", "ann@far.example")
    told = operator("suppress", "list", "--json").json
    assert [(one["address"], one["inbox"], one["reason"], one["detail"]) for one in told] == [
        ("ann@far.example", "", "operator", ""),
        ("ann@far.example", "echo", "operator", "asked for it"),
        ("bob@far.example", "", "operator", ""),
    ]
    assert told[0]["expires_at"] == 0 and told[1]["expires_at"] - told[1]["created_at"] == 30 * 86400
    assert "(all)" in operator("suppress", "list").out and "never" in operator("suppress", "list").out
    assert len(operator("suppress", "list", "--inbox", "echo", "--json").json) == 1

    assert operator("suppress", "remove", "ann@far.example", "--inbox", "echo").status == 0
    result = operator("suppress", "remove", "ann@far.example", "nobody@far.example")
    assert result.status == 1
    assert result.out == "ann@far.example is written to again\n"
    assert result.err == "responder: nobody@far.example: is not on the list\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "nobody"),
        ("add", "a@b.example", "--for", "soon"),
        ("add",),
        ("remove", "a b@c"),
        ("list", "--limit", "0"),
    ],
)
def test_suppress_when_it_is_misused_then_one_line_says_so(operator: Operator, arguments: tuple[str, ...]) -> None:
    result = operator("suppress", *arguments)
    assert result.status == 2 and "Traceback" not in result.err


def test_suppress_when_a_reason_is_evil_then_no_terminal_obeys(operator: Operator, waiting: list[str]) -> None:
    operator("suppress", "add", "ann@far.example", "--reason", EVIL)
    for arguments in ((), ("--json",)):
        assert SAFE.fullmatch(operator("suppress", "list", *arguments).out)


def test_scene_when_all_is_retried_then_what_was_told_stays_as_it_is(operator: Operator) -> None:
    scene = Scene()
    with_store(operator, scene.build)
    silent = f"{scene.mails['silent'].id}.0"
    assert operator("queue", "retry", "--all").status == 0
    assert states(operator, [silent]) == ["SILENT"]
    operator("queue", "retry", "--state", "silent")
    assert states(operator, [silent]) == ["RECEIVED"]
