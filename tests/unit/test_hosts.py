"""What is remembered of hosts: which of several equals is asked, and which addresses are left alone."""

from __future__ import annotations

import pytest

from responder.mail.status import Trouble
from responder.outbound.hosts import ALIVE, BUSY, EXPLORE, OUTRUN, PATIENCE, PROBE, STRIKES, HostMemory, Place, Rests
from responder.outbound.mx import Host
from tests.support.clock import ManualClock

EQUALS = [Host("a.example", 10), Host("b.example", 10), Host("c.example", 10)]
PLACE = Place("192.0.2.1", 25)
REFUSED = Trouble.UNREACHABLE.failure("Connection refused")
RESTS = Rests(60.0, 600.0)


class Net:
    """Hosts that take so many seconds each, and deliveries one after the other, each on a new connection."""

    def __init__(self, clock: ManualClock, **seconds: float) -> None:
        self.clock = clock
        self.memory = HostMemory(clock)
        self.seconds = {f"{name}.example": value for name, value in seconds.items()}
        self.hosts = [Host(name, 10) for name in self.seconds]

    def deliver(self, every: float = 1.0) -> str:
        """The host that one more delivery goes to."""
        self.clock.advance(every)
        host = self.memory.rank(self.hosts, 25)[0].name
        self.memory.connected(host, 25, self.seconds[host])
        return host

    def until_settled(self, host: str, most: int, *, run: int = 5, every: float = 1.0) -> int:
        """How many deliveries it takes until `run` of them in a row go to that host."""
        in_a_row = 0
        for number in range(1, most + run + 1):
            in_a_row = in_a_row + 1 if self.deliver(every) == host else 0
            if in_a_row == run:
                return number - run
        raise AssertionError(f"{host} was not settled on within {most} deliveries")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(clock: ManualClock) -> HostMemory:
    return HostMemory(clock)


def names(hosts: list[Host]) -> str:
    return "".join([host.name[0] for host in hosts])


def test_nothing_is_known_then_each_equal_is_measured_by_one_mail(memory: HostMemory) -> None:
    firsts = []
    for _ in range(3):
        first = memory.rank(EQUALS, 25)[0].name
        firsts.append(first[0])
        memory.connected(first, 25, 1.0)
    assert firsts == ["a", "b", "c"]


def test_host_is_being_measured_then_others_do_not_wait_for_it_too(memory: HostMemory) -> None:
    memory.connected("b.example", 25, 0.1)
    assert names(memory.rank(EQUALS, 25)) == "abc"
    assert names(memory.rank(EQUALS, 25)) == "cba"
    assert names(memory.rank(EQUALS, 25)) == "bac"


def test_preference_then_it_is_never_broken(memory: HostMemory, clock: ManualClock) -> None:
    hosts = [Host("slow.example", 5), *EQUALS, Host("fast.example", 20)]
    memory.connected("slow.example", 25, 30.0)
    memory.connected("fast.example", 25, 0.001)
    for number in range(200):
        clock.advance(10)
        ranked = memory.rank(hosts, 25)
        assert [host.preference for host in ranked] == [5, 10, 10, 10, 20]
        memory.connected(ranked[1].name, 25, number % 7)


def test_equals_about_as_fast_then_chance_decides_as_rfc_5321_asks(clock: ManualClock) -> None:
    memory = HostMemory(clock)
    for host, seconds in zip(EQUALS, (0.100, 0.120, 0.200), strict=True):
        memory.connected(host.name, 25, seconds)
    assert names(memory.rank(EQUALS, 25)) == "abc"
    assert names(memory.rank([EQUALS[1], EQUALS[0], EQUALS[2]], 25)) == "bac"
    assert names(memory.rank(EQUALS[::-1], 25)) == "bac"


def test_three_delays_then_traffic_moves_to_the_fastest_at_once(clock: ManualClock) -> None:
    assert Net(clock, a=0.8, b=0.3, c=0.05).until_settled("c.example", 20) <= 2


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_fastest_becomes_slow_and_recovers_then_traffic_leaves_and_returns(clock: ManualClock, chance: float) -> None:
    clock.chance = chance
    net = Net(clock, a=0.8, b=0.3, c=0.05)
    net.until_settled("c.example", 20)
    net.seconds["c.example"] = 3.0
    assert net.until_settled("b.example", 20) <= 20
    for _ in range(300):
        net.deliver()
    net.seconds["c.example"] = 0.05
    assert net.until_settled("c.example", 60, every=2.0) <= 60


def test_slower_hosts_then_few_mails_go_there(clock: ManualClock) -> None:
    net = Net(clock, a=0.8, b=0.3, c=0.05)
    taken = [net.deliver(60.0) for _ in range(1000)]
    assert taken.count("c.example") >= 1000 * (1 - 2 / EXPLORE)
    assert taken.count("a.example") > 10  # but some do


def test_many_mails_a_second_then_a_slow_host_is_measured_seldom(clock: ManualClock) -> None:
    net = Net(clock, a=0.8, c=0.05)
    taken = [net.deliver(0.001) for _ in range(10_000)]
    assert taken.count("a.example") <= 1 + 10 / PATIENCE


def test_busy_host_then_its_equals_come_first_for_a_while(memory: HostMemory, clock: ManualClock) -> None:
    for host in EQUALS:
        memory.connected(host.name, 25, 0.1)
    memory.refused("a.example", 25)
    assert names(memory.rank(EQUALS, 25)) == "bca"
    clock.advance(BUSY)
    assert names(memory.rank(EQUALS, 25)) == "abc"


def test_ports_then_they_are_different_hosts(memory: HostMemory) -> None:
    memory.connected("a.example", 25, 9.0)
    memory.connected("b.example", 25, 0.1)
    memory.connected("a.example", 26, 0.1)
    memory.connected("b.example", 26, 9.0)
    assert names(memory.rank(EQUALS[:2], 25)) == "ba"
    assert names(memory.rank(EQUALS[:2], 26)) == "ab"


def test_dead_address_then_it_rests_and_one_asks_again(memory: HostMemory, clock: ManualClock) -> None:
    assert memory.admit(PLACE) is None
    memory.failed(PLACE, REFUSED, RESTS)
    assert memory.admit(PLACE) == REFUSED
    assert memory.rest(PLACE) == 60.0
    clock.advance(59.9)
    assert memory.admit(PLACE) == REFUSED
    clock.advance(0.1)
    assert memory.admit(PLACE) is None  # the one
    assert memory.admit(PLACE) == REFUSED
    clock.advance(PROBE)  # it never came back
    assert memory.admit(PLACE) is None


def test_dead_address_fails_again_then_rests_double_up_to_ten_minutes(memory: HostMemory, clock: ManualClock) -> None:
    rests = []
    for _ in range(6):
        assert memory.admit(PLACE) is None
        memory.failed(PLACE, REFUSED, RESTS)
        rests.append(memory.rest(PLACE))
        clock.advance(rests[-1])
    assert rests == [60, 120, 240, 480, 600, 600]


def test_many_fail_together_then_that_is_one_failure(memory: HostMemory) -> None:
    for _ in range(50):
        memory.failed(PLACE, REFUSED, RESTS)
    assert memory.rest(PLACE) == 60.0


def test_dead_address_answers_then_all_is_forgotten(memory: HostMemory, clock: ManualClock) -> None:
    memory.failed(PLACE, REFUSED, RESTS)
    clock.advance(60)
    memory.answered(PLACE)
    assert memory.admit(PLACE) is memory.admit(PLACE) is None
    clock.advance(ALIVE)
    memory.failed(PLACE, REFUSED, RESTS)
    assert memory.rest(PLACE) == 60.0


def test_address_drops_one_connection_of_many_then_it_is_not_dead(memory: HostMemory, clock: ManualClock) -> None:
    for number in range(1000):
        clock.advance(0.5)
        if number % 3:
            memory.failed(PLACE, REFUSED, RESTS)
        else:
            memory.answered(PLACE)
        assert memory.admit(PLACE) is None
    for _ in range(STRIKES):
        assert memory.rest(PLACE) == 0.0
        memory.failed(PLACE, REFUSED, RESTS)
    assert memory.rest(PLACE) == 60.0


def test_failures_long_ago_then_the_next_rest_is_short(memory: HostMemory, clock: ManualClock) -> None:
    for _ in range(5):
        memory.failed(PLACE, REFUSED, RESTS)
        clock.advance(memory.rest(PLACE))
    clock.advance(RESTS.longest + 1)
    memory.failed(PLACE, REFUSED, RESTS)
    assert memory.rest(PLACE) == 60.0


def test_source_that_reaches_nobody_then_others_may(memory: HostMemory) -> None:
    memory.failed(PLACE._replace(source="192.0.2.99"), REFUSED, RESTS)
    assert memory.admit(PLACE) is None


def test_address_that_lost_a_race_then_it_is_slow_for_a_while(memory: HostMemory, clock: ManualClock) -> None:
    memory.outrun(PLACE)
    assert memory.is_slow(PLACE) and memory.admit(PLACE) is None
    clock.advance(OUTRUN)
    assert not memory.is_slow(PLACE)


def test_a_million_hosts_then_memory_stays_bounded_and_the_oldest_go(clock: ManualClock) -> None:
    memory = HostMemory(clock, max_entries=100)
    for number in range(100_000):
        memory.connected(f"mx{number}.example", 25, 0.1)
        memory.failed(Place(f"2001:db8::{number:x}", 25), REFUSED, RESTS)
        memory.refused(f"busy{number}.example", 25)
        memory.outrun(Place(f"2001:db8:1::{number:x}", 25))
        memory.rank([Host(f"x{number}.example"), Host(f"y{number}.example")], 25)
        assert len(memory) <= 200
    assert memory.admit(Place("2001:db8::1", 25)) is None
    assert memory.admit(Place(f"2001:db8::{99_999:x}", 25)) == REFUSED
