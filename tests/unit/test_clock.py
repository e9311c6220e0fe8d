"""Identifiers: their form, their order, and that none comes twice."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from responder.clock import SystemClock, format_id

MILLISECONDS = st.integers(0, (1 << 45) - 1)
NOISE = st.integers(0, (1 << 40) - 1)
FORM = re.compile(r"[0-9a-hjkmnp-tv-z]{18}")


@given(MILLISECONDS, NOISE)
def test_identifier_is_18_characters_that_nobody_misreads(milliseconds: int, noise: int) -> None:
    assert FORM.fullmatch(format_id(milliseconds, noise))


@given(MILLISECONDS, NOISE, MILLISECONDS, NOISE)
def test_later_identifiers_sort_behind_earlier_ones(one: int, noise: int, other: int, more: int) -> None:
    first, second = format_id(one, noise), format_id(other, more)
    assert (first < second) is ((one, noise) < (other, more))
    assert (first == second) is ((one, noise) == (other, more))


@given(MILLISECONDS, NOISE)
def test_bits_beyond_their_places_do_not_reach_the_others(milliseconds: int, noise: int) -> None:
    assert format_id(milliseconds + (1 << 45), noise + (1 << 40)) == format_id(milliseconds, noise)


def test_ends_of_the_range() -> None:
    assert format_id(0, 0) == "0" * 18
    assert format_id((1 << 45) - 1, (1 << 40) - 1) == "z" * 9 + "0" + "z" * 8
    assert format_id(1, 0) == "000000001000000000"


def test_system_clock_gives_no_identifier_twice() -> None:
    clock = SystemClock()
    ids = [clock.new_id() for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert all(FORM.fullmatch(identifier) for identifier in ids)
    times = [identifier[:9] for identifier in ids]  # 45 bits of time, five a character
    assert times == sorted(times)


async def test_system_clock_moves_forward_and_rolls_within_bounds() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
    assert clock.now() > 1_700_000_000
    assert all(2.0 <= clock.jitter(2.0, 3.0) <= 3.0 for _ in range(1000))
    assert sorted(clock.shuffle([1, 2, 3])) == [1, 2, 3]
    assert len({tuple(clock.shuffle([1, 2, 3, 4])) for _ in range(500)}) > 1
