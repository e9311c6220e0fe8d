"""Mutated octets for all that reads octets of strangers: a short run, the same each time, and every find of the long ones.

The long run is `python -m tests.fuzz.run --inputs 1000000 --seed N`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from responder import observe
from tests.fuzz.mutate import MOST, Mutator, corpus
from tests.fuzz.run import CASES, STALL, Complaints, run
from tests.fuzz.targets import TARGETS, feed, warm_up

INPUTS = 60_000
FOUND = sorted(path for path in CASES.glob("*") if path.is_file())


def test_short_run_finds_nothing() -> None:
    outcome = run(INPUTS, seed=20240)
    print(outcome)
    assert outcome.finds == []
    assert outcome.inputs == INPUTS
    assert outcome.slowest < STALL
    assert set(outcome.each) == set(TARGETS)
    # Flat: what a tenth of it needed is enough for all of it.
    assert outcome.memory[-1] - outcome.memory[0] < 30


@pytest.mark.parametrize("path", FOUND, ids=[path.name for path in FOUND])
def test_find_of_an_earlier_run_is_none_any_more(path: Path) -> None:
    name = path.name.rpartition("-")[0]
    complaints = Complaints()
    warm_up()
    observe.set_up("text", "error", complaints)
    try:
        began = time.perf_counter()
        asyncio.run(feed(name, path.read_bytes()))
        assert time.perf_counter() - began < STALL
        complaints.check()
    finally:
        observe.set_up("text", "info", sys.stderr)


def test_same_seed_gives_the_same_inputs() -> None:
    one, other, third = Mutator(5), Mutator(5), Mutator(6)
    first = [one.next() for _ in range(200)]
    assert first == [other.next() for _ in range(200)]
    assert first != [third.next() for _ in range(200)]
    assert all(len(octets) <= MOST for octets in first)


def test_corpus_has_the_conversations_and_the_data() -> None:
    found = corpus()
    assert len(found) > 100
    assert any(b"DKIM-Signature" in octets for octets in found)
    assert any(b"RCPT TO" in octets for octets in found)


def test_exception_and_contained_mistake_are_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(octets: bytes) -> None:
        raise ValueError("as it should")

    def contain(octets: bytes) -> None:
        observe.event("stumbled", level=40, error=ValueError("as it should"))

    monkeypatch.setattr("tests.fuzz.run.TARGETS", {"stumble": (1, stumble), "contain": (1, contain)})
    monkeypatch.setitem(TARGETS, "stumble", (1, stumble))
    monkeypatch.setitem(TARGETS, "contain", (1, contain))
    outcome = run(2, seed=1)
    assert [name for name, _, _ in outcome.finds] == ["stumble", "contain"]
