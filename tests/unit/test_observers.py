"""Observers of events (the hook `responder_event`): told of everything, and nothing that they do is felt elsewhere."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Mapping

import pytest

from responder import observe
from responder.observe import Observer, event, flush, follow, set_up
from tests.support.waiting import until

Told = list[tuple[str, dict[str, object]]]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    old = (observe._log.stream, observe._log.format, observe._log.level)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    set_up("text", "warning", stream)
    yield stream
    follow((), 10)
    flush()
    observe._log.stream, observe._log.format, observe._log.level = old
    root.handlers[:] = handlers
    root.setLevel(level)


def keeping(told: Told, origin: str = "here") -> Observer:
    return Observer(origin, lambda name, fields: told.append((name, dict(fields))))


def test_event_when_observed_then_all_are_told_whatever_the_level_is(stream: io.StringIO) -> None:
    one: Told = []
    two: Told = []
    follow([keeping(one), keeping(two)])
    event("quiet", level=logging.DEBUG, from_="<a@example.org>", nothing=None, number=7)
    event("loud", level=logging.ERROR)
    follow((), 10)
    assert one == two == [("quiet", {"from": "<a@example.org>", "number": 7}), ("loud", {})]
    assert stream.getvalue().count("\n") == 1


def test_fields_when_an_observer_writes_into_them_then_the_next_one_does_not_see_it(stream: io.StringIO) -> None:
    told: Told = []

    def write(name: str, fields: Mapping[str, object]) -> None:
        fields["id"] = "another"  # type: ignore[index]

    follow([Observer("bad", write), keeping(told)])
    event("x", id="1")
    follow((), 10)
    assert told[0] == ("x", {"id": "1"})


@pytest.mark.parametrize("error", [ValueError("so\nwhat"), SystemExit(1), KeyboardInterrupt()])
def test_observer_when_it_raises_then_it_is_logged_once_and_the_others_are_told(
    stream: io.StringIO, error: BaseException
) -> None:
    told: Told = []

    def fails(name: str, fields: Mapping[str, object]) -> None:
        raise error

    follow([Observer("own/bad.py", fails), keeping(told)])
    for number in range(3):
        event("x", number=number)
    until(lambda: len(told) >= 4, 10, lambda: str(told))  # the failure is an event, too
    follow((), 10)
    assert [fields["number"] for name, fields in told if name == "x"] == [0, 1, 2]
    flush()
    log = stream.getvalue()
    assert log.count("observer failed") == 1
    assert f"origin=own/bad.py reason={type(error).__name__}" in log


def test_observer_when_it_hangs_then_events_go_on_and_one_warning_says_that_some_are_left_out(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "WAITING", 10)
    entered, go_on = threading.Event(), threading.Event()
    told: list[object] = []

    def slow(name: str, fields: Mapping[str, object]) -> None:
        entered.set()
        go_on.wait(30)
        told.append(fields.get("number"))

    follow([Observer("own/slow.py", slow)])
    event("first")
    assert entered.wait(10)
    for number in range(1000):
        event("x", number=number)
    flush()
    assert stream.getvalue().count("observers too slow waiting=10") == 1
    go_on.set()
    follow((), 10)
    assert told == [None, *range(10)]


def test_observers_when_replaced_then_those_of_before_get_what_was_theirs_and_no_more(stream: io.StringIO) -> None:
    old: Told = []
    new: Told = []
    follow([keeping(old)])
    event("one")
    follow([keeping(new)], 10)
    event("two")
    follow((), 10)
    event("three")
    assert ([name for name, _ in old], [name for name, _ in new]) == (["one"], ["two"])


def test_observers_when_there_are_none_then_nothing_is_kept_and_no_thread_runs(stream: io.StringIO) -> None:
    follow([])
    event("x")
    assert observe._watch is None
    assert not [thread for thread in threading.enumerate() if thread.name == "responder-observers"]


def test_observer_when_it_never_ends_then_a_stop_does_not_wait_for_it(stream: io.StringIO) -> None:
    go_on = threading.Event()

    def hang(name: str, fields: Mapping[str, object]) -> None:
        go_on.wait(30)

    follow([Observer("own/slow.py", hang)])
    event("x")
    follow((), 0.05)
    assert observe._watch is None
    go_on.set()


# -- what agents log ------------------------------------------------------------------------------------------------------


def agent_logger() -> logging.LoggerAdapter[logging.Logger]:
    from responder import Context
    from responder.clock import SystemClock
    from tests.support.clock import ManualClock
    from tests.support.memory import MemoryState

    return Context("shop", MemoryState(ManualClock()), SystemClock()).log


def test_agent_when_it_logs_then_it_is_an_event_of_its_inbox(stream: io.StringIO) -> None:
    told: Told = []
    set_up("text", "warning", stream)  # without pytest's own handler, which refuses a line whose arguments do not fit
    follow([keeping(told)])
    agent_logger().warning("stock of %s is low\n2027-01-15 info fake", "tea")
    agent_logger().info("chatter")
    agent_logger().error("%d", "no number")
    follow((), 10)
    flush()
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith(r' warning agent inbox=shop text="stock of tea is low\n2027-01-15 info fake"')
    assert "%d ('no number',)" in lines[1] and len(lines) == 2
    assert [fields["text"] for _, fields in told][1] == "chatter"
