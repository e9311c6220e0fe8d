"""The octets that a process holds: always exact, never stuck, the first in line first. No sessions: places that a test plays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.config import Config
from responder.inbound.limits.budget import FIRST_OCTET, HASTE, HURRY, PATIENCE, PATIENCE_BEFORE, SMALL, Budget, Place

LIMIT = 80 * SMALL
SIZE = 8 * SMALL


class Sender:
    """A session: it brings octets while it may."""

    def __init__(self, budget: Budget, declared: int = 0, who: str = "") -> None:
        self.budget = budget
        self.told: list[bool] = []
        self.place = Place(self.told.append, who)
        budget.begin(self.place, declared)

    def bring(self, octets: int, now: float = 0.0) -> bool:
        return self.budget.take(self.place, octets, now)

    def end(self, now: float = 0.0) -> None:
        self.budget.settle(self.place, now)
        self.budget.leave(self.place, now)


def filled(budget: Budget) -> list[Sender]:
    """Messages that have used up what everybody may have: the last of them waits for nobody, it was promised the rest."""
    senders: list[Sender] = []
    while not senders or not senders[-1].place.going:
        senders.append(Sender(budget))
        senders[-1].bring(SMALL + 1)
    return senders


def test_below_the_first_mark_nobody_is_asked() -> None:
    budget = Budget(LIMIT, SIZE)
    sender = Sender(budget)
    for _ in range(10):
        assert sender.bring(SMALL)
    assert not sender.place.going
    assert budget.used == 10 * SMALL
    sender.end()
    assert (budget.used, budget.promised) == (0, 0)


def test_past_it_the_first_get_room_for_all_that_they_may_become() -> None:
    budget = Budget(LIMIT, SIZE)
    senders = [Sender(budget) for _ in range(100)]
    for sender in senders:
        sender.bring(SMALL + 1)
    going = [sender for sender in senders if sender.place.going]
    waiting = [sender for sender in senders if sender.place.waiting]
    assert len(going) >= 3
    assert waiting
    assert budget.used + budget.promised <= LIMIT + SMALL * 100
    for sender in going:
        while sender.place.held < SIZE:
            assert sender.bring(SMALL), "who was promised the rest waited again"
        sender.end()
    assert waiting[0].told == [True]
    assert [sender.told for sender in waiting] == sorted((sender.told for sender in waiting), reverse=True)


def test_clients_take_turns_however_many_messages_one_of_them_begins() -> None:
    budget = Budget(LIMIT, SIZE)
    going = filled(budget)
    crowd = [Sender(budget, who="crowd") for _ in range(50)]
    for sender in crowd:
        sender.bring(SMALL + 1)
    one = Sender(budget, who="one")
    one.bring(SMALL + 1)
    assert one.place.waiting
    promised = []
    while not one.place.going:
        sender = going.pop()
        sender.end()
        promised += [each for each in crowd if each.place.going and each not in promised]
        going += [each for each in promised if each not in going and each.place.begun]
        assert len(promised) <= 8, "fifty of one client stood before another's only one"


def test_each_of_a_crowd_comes_to_its_end() -> None:
    """No deadlock: 500 messages of full size, each as far as it may go, in turns."""
    budget = Budget(LIMIT, SIZE)
    left = {Sender(budget): SIZE for _ in range(500)}
    most = rounds = 0
    while left:
        rounds += 1
        assert rounds < 100_000
        moved = False
        for sender in list(left):
            if sender.place.waiting:
                continue
            moved = True
            sender.bring(min(SMALL // 4, left[sender]))
            left[sender] -= min(SMALL // 4, left[sender])
            most = max(most, budget.used)
            if not left[sender]:
                sender.end()
                del left[sender]
        assert moved, "everybody waits for everybody"
    assert (budget.used, budget.promised, budget.crowded) == (0, 0, False)
    assert most <= LIMIT + SIZE + 500 * SMALL // 4


def test_what_is_being_stored_lets_nobody_in_beyond_the_limit() -> None:
    """A store that hangs: what is complete gives nothing back, so no further one is promised what isn't there."""
    budget = Budget(LIMIT, SIZE)
    senders = [Sender(budget) for _ in range(500)]
    for _ in range(10_000):
        for sender in senders:
            place = sender.place
            if place.waiting or place.complete:
                continue
            sender.bring(SMALL // 4)
            if place.held >= SIZE:
                budget.settle(place, 0.0)
    assert budget.crowded
    assert budget.used <= LIMIT + SIZE + 500 * SMALL // 4


def test_small_ones_pass_while_big_ones_wait() -> None:
    budget = Budget(LIMIT, SIZE)
    filled(budget)
    while not budget.crowded:
        Sender(budget).bring(SMALL + 1)
    for _ in range(100):
        small = Sender(budget)
        assert small.bring(2000)
        small.end()
    assert budget.crowded


def test_small_ones_wait_where_all_is_used_up() -> None:
    budget = Budget(LIMIT, SIZE)
    filled(budget)
    small = next(sender for sender in (Sender(budget) for _ in range(100)) if not sender.bring(SMALL))
    assert small.place.waiting
    assert budget.used + budget.promised <= LIMIT + SMALL


def test_message_is_more_than_it_said_then_it_stands_in_line_again() -> None:
    budget = Budget(LIMIT, SIZE)
    filled(budget)
    liar = Sender(budget, declared=SMALL + 10)
    liar.bring(SMALL + 1)
    assert liar.place.going
    while not budget.crowded:
        Sender(budget).bring(SMALL + 1)
    assert not liar.bring(SMALL)
    assert liar.place.waiting
    assert liar.place.claim >= SIZE


def test_promise_is_given_back_in_the_middle_of_a_message() -> None:
    budget = Budget(LIMIT, SIZE)
    senders = filled(budget)
    assert budget.promised == senders[-1].place.promise > 0
    budget.leave(senders[-1].place, 0.0)
    assert (budget.promised, budget._going) == (0, 0)


def test_limits_grow_then_those_who_wait_go_on() -> None:
    budget = Budget(LIMIT, SIZE)
    senders = [Sender(budget) for _ in range(100)]
    for sender in senders:
        sender.bring(SMALL + 1)
    assert any(sender.place.waiting for sender in senders)
    budget.follow(100 * LIMIT, SIZE, 1.0)
    assert not any(sender.place.waiting for sender in senders)


@pytest.mark.parametrize(("before", "patience"), [(False, PATIENCE), (True, PATIENCE_BEFORE)])
def test_patience_ends(before: bool, patience: float) -> None:
    budget = Budget(LIMIT, SIZE)
    going = filled(budget)
    while not budget.crowded:
        going.append(Sender(budget))
        going[-1].bring(SMALL + 1)
    late = Sender(budget, declared=SIZE)
    if before:
        assert budget.wait(late.place, 10.0)
    else:
        assert not late.bring(SMALL + 1, 10.0)
    budget.expire(10.0 + patience - 0.1)
    assert late.told == []
    budget.expire(10.0 + patience)
    assert late.told == [False]
    assert late.place.waited == patience
    budget.leave(late.place, 10.0 + patience)
    assert late.place.held == 0


def test_first_in_line_waits_for_long_then_who_comes_is_told() -> None:
    budget = Budget(LIMIT, SIZE)
    senders = [Sender(budget) for _ in range(100)]
    for sender in senders:
        sender.bring(SMALL + 1)
    budget.expire(PATIENCE_BEFORE / 2 - 1)
    assert not budget.overloaded
    budget.expire(PATIENCE_BEFORE / 2)
    told = [budget.overloaded]
    for sender in senders:
        sender.end()
    budget.expire(PATIENCE_BEFORE)
    assert [*told, budget.overloaded] == [True, False]


def test_whoever_was_promised_room_earns_time_by_what_it_brings_but_must_not_stand_still() -> None:
    budget = Budget(LIMIT, SIZE)
    place = filled(budget)[-1].place
    assert not place.dawdles(FIRST_OCTET - 1, 0, 1024)
    assert place.dawdles(FIRST_OCTET, 0, 1024)  # nothing at all, though TCP had held its octets back
    budget.take(place, 1, 1.0)
    assert not place.dawdles(HURRY - 1, 1.0, 1024)
    assert place.dawdles(HURRY + 1, 1.0, 1024)
    budget.take(place, 2 * HASTE * 1024, HURRY)
    assert not place.dawdles(HURRY + 1, HURRY, 1024)
    assert place.dawdles(HURRY + 3, HURRY + 2, 1024)
    budget.take(place, 100 * HASTE * 1024, HURRY)
    assert place.dawdles(2 * HURRY, HURRY, 1024)


STEPS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["bring", "bring", "bring", "wait", "settle", "leave", "late"]))
    | st.tuples(st.integers(1, 30), st.just("follow")),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.lists(st.integers(0, 3 * SMALL), min_size=1, max_size=10), st.integers(1, 40))
def test_sum_is_exact_whatever_happens(steps: list[tuple[int, str]], sizes: list[int], limit: int) -> None:
    budget = Budget(limit * SMALL, SIZE)
    told: list[tuple[int, bool]] = []
    places = [Place(lambda room, number=number: told.append((number, room))) for number in range(5)]  # type: ignore[misc]
    now = 0.0
    for step, (number, what) in enumerate(steps):
        place, size = places[number % 5], sizes[step % len(sizes)]
        now += 5.0
        if what == "follow":
            budget.follow(number * SMALL, SIZE, now)
        elif what == "late":
            before = len(told)
            budget.expire(now)
            for late, room in told[before:]:
                if not room:
                    budget.leave(places[late], now)
        elif not place.begun:
            budget.begin(place, size if step % 2 else 0)
        elif place.begun and what == "leave":
            budget.leave(place, now)
        elif place.begun and not place.complete:
            if what == "bring":
                assert budget.take(place, size, now) is not place.waiting
            elif what == "wait" and not place.held and not place.waiting and not place.going:
                assert budget.wait(place, now) is place.waiting
            elif what == "settle":
                budget.settle(place, now)
        assert budget.used == sum(one.held for one in places)
        assert budget.promised == sum(one.promise for one in places)
        assert budget.crowded is any(one.waiting for one in places)
        assert not (budget.crowded and not any(one.going for one in places)), "all wait, and nobody can end"
        assert all(one.begun for one in places if one.held or one.waiting or one.going)
    for place in places:
        budget.leave(place, now)
    assert (budget.used, budget.promised, budget._going, budget.crowded) == (0, 0, 0, False)


def test_room_for_less_than_one_mail_is_refused() -> None:
    with pytest.raises(ValidationError, match="wants room for one mail at least"):
        Config.model_validate({"limits": {"message_size": 1000, "in_flight": 999}})
    assert Config.model_validate({"limits": {"message_size": 1000, "in_flight": 1000}})
