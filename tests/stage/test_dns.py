"""The resolver against a scripted name server over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from responder.clock import SystemClock
from responder.dns import FAILURE_TTL, NoData, NotFound, Resolver, TemporaryError, parse_nameserver
from tests.support.dns_server import DNSServer, Zone

ZONE: Zone = {
    "example.org": {"MX": [[20, "MX2.example.org"], [10, "mx1.example.org"]], "TTL": 100},
    "mx1.example.org": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]},
    "v4.example.org": {"A": ["192.0.2.1"]},
    "half.example.org": {"A": ["192.0.2.1"], "AAAA": "SERVFAIL"},
    "halfnone.example.org": {"AAAA": "SERVFAIL"},
    "slow6.example.org": {"A": ["192.0.2.1"], "AAAA": "TIMEOUT"},
    "null.example.org": {"MX": [[0, "."]]},
    "bare.example.org": {"TXT": ["nothing else"]},
    "alias.example.org": {"CNAME": "example.org"},
    "dangling.example.org": {"CNAME": "nowhere.test"},
    "circle1.example.org": {"CNAME": "circle2.example.org"},
    "circle2.example.org": {"CNAME": "circle1.example.org"},
    "servfail.example.org": "SERVFAIL",
    "refused.example.org": "REFUSED",
    "silent.example.org": "TIMEOUT",
    "garbage.example.org": "GARBAGE",
    "many.example.org": {"MX": [[n, f"mx-with-a-long-name-{n}.example.org"] for n in range(100)]},
    "zero.example.org": {"A": ["192.0.2.9"], "TTL": 0},
}


class Clock(SystemClock):
    """The system's, put forward by hand."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@pytest.fixture
async def server() -> AsyncIterator[DNSServer]:
    async with DNSServer(dict(ZONE)) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(server: DNSServer, clock: Clock) -> Resolver:
    return Resolver([server.nameserver], clock=clock, timeout=0.6)


async def test_mx_records_come_with_preference_in_lower_case(resolver: Resolver) -> None:
    assert sorted(await resolver.mx("Example.ORG.")) == [(10, "mx1.example.org"), (20, "mx2.example.org")]


async def test_null_mx_has_an_empty_name(resolver: Resolver) -> None:
    assert await resolver.mx("null.example.org") == [(0, "")]


async def test_families_take_turns(resolver: Resolver) -> None:
    found = await resolver.addresses("mx1.example.org")
    assert found[1] == "2001:db8::1"
    assert sorted(found) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]


@pytest.mark.parametrize("name", ["v4", "half", "slow6"])
async def test_one_family_is_an_answer_whatever_happens_to_the_other(resolver: Resolver, name: str) -> None:
    assert await resolver.addresses(f"{name}.example.org") == ["192.0.2.1"]


async def test_no_address_in_one_family_and_servfail_in_the_other_is_temporary(resolver: Resolver) -> None:
    with pytest.raises(TemporaryError):
        await resolver.addresses("halfnone.example.org")


async def test_unknown_name_is_not_found(resolver: Resolver) -> None:
    with pytest.raises(NotFound):
        await resolver.mx("nowhere.test")
    with pytest.raises(NotFound):
        await resolver.addresses("nowhere.test")


@pytest.mark.parametrize(
    "name", ["a" * 64 + ".test", ".".join(["abcdefgh"] * 40), "a..b", "", "\ud800.test", "a b.test"]
)
async def test_name_that_cannot_exist_is_not_found(resolver: Resolver, name: str) -> None:
    with pytest.raises((NotFound, NoData)):
        await resolver.mx(name)


async def test_name_without_the_type_has_no_data(resolver: Resolver) -> None:
    with pytest.raises(NoData):
        await resolver.mx("bare.example.org")
    with pytest.raises(NoData):
        await resolver.addresses("bare.example.org")


@pytest.mark.parametrize("name", ["servfail", "refused", "silent", "garbage"])
async def test_failing_server_is_temporary(resolver: Resolver, name: str) -> None:
    with pytest.raises(TemporaryError):
        await resolver.mx(f"{name}.example.org")


async def test_no_server_at_all_is_temporary(server: DNSServer, clock: Clock) -> None:
    resolver = Resolver(["127.0.0.1:1"], clock=clock, timeout=0.5)
    with pytest.raises(TemporaryError):
        await resolver.mx("example.org")


async def test_first_server_is_dead_then_the_second_answers(server: DNSServer, clock: Clock) -> None:
    resolver = Resolver(["127.0.0.1:1", server.nameserver], clock=clock, timeout=2)
    assert len(await resolver.mx("example.org")) == 2


@pytest.mark.parametrize("chase", [True, False])
async def test_cname_is_followed_whether_the_server_does_or_not(
    server: DNSServer, resolver: Resolver, chase: bool
) -> None:
    server.chase = chase
    assert len(await resolver.mx("alias.example.org")) == 2


@pytest.mark.parametrize("chase", [True, False])
async def test_cname_to_nowhere_is_not_found(server: DNSServer, resolver: Resolver, chase: bool) -> None:
    server.chase = chase
    with pytest.raises(NotFound):
        await resolver.mx("dangling.example.org")


@pytest.mark.parametrize("chase", [True, False])
async def test_circle_of_cnames_is_temporary(server: DNSServer, resolver: Resolver, chase: bool) -> None:
    server.chase = chase
    with pytest.raises(TemporaryError):
        await resolver.addresses("circle1.example.org")
    assert sum(server.queries.values()) <= 4


async def test_truncated_answer_is_asked_again_over_tcp(server: DNSServer, resolver: Resolver) -> None:
    assert len(await resolver.mx("many.example.org")) == 100
    assert server.tcp_queries == 1


async def test_answer_is_kept_for_its_ttl(server: DNSServer, resolver: Resolver, clock: Clock) -> None:
    for _ in range(3):
        await resolver.mx("example.org")
    await resolver.mx("EXAMPLE.org.")
    assert server.queries["example.org", "MX"] == 1
    clock.ahead = 101
    await resolver.mx("example.org")
    assert server.queries["example.org", "MX"] == 2


async def test_ttl_zero_is_not_kept(server: DNSServer, resolver: Resolver) -> None:
    await resolver.addresses("zero.example.org")
    await resolver.addresses("zero.example.org")
    assert server.queries["zero.example.org", "A"] == 2


@pytest.mark.parametrize(("name", "error"), [("nowhere.test", NotFound), ("bare.example.org", NoData)])
async def test_absence_is_kept_for_the_time_in_the_soa(
    server: DNSServer, resolver: Resolver, clock: Clock, name: str, error: type[Exception]
) -> None:
    for ahead, queries in ((0, 1), (29, 1), (31, 2)):
        clock.ahead = ahead
        with pytest.raises(error):
            await resolver.mx(name)
        assert server.queries[name, "MX"] == queries


async def test_failure_is_kept_for_moments_only(server: DNSServer, resolver: Resolver, clock: Clock) -> None:
    for ahead in (0.0, 0.1):
        clock.ahead = ahead
        with pytest.raises(TemporaryError):
            await resolver.mx("servfail.example.org")
    assert server.queries["servfail.example.org", "MX"] == 1
    server.zone["servfail.example.org"] = {"MX": [[1, "mx1.example.org"]]}
    clock.ahead = FAILURE_TTL + 1
    assert await resolver.mx("servfail.example.org") == [(1, "mx1.example.org")]


async def test_cache_forgets_what_was_not_used_for_longest(server: DNSServer, clock: Clock) -> None:
    resolver = Resolver([server.nameserver], clock=clock, timeout=1, max_entries=2)
    for domain in ("example.org", "many.example.org", "example.org", "null.example.org", "example.org"):
        await resolver.mx(domain)
    assert server.queries["example.org", "MX"] == 1
    asked = server.queries["many.example.org", "MX"]
    await resolver.mx("many.example.org")
    assert server.queries["many.example.org", "MX"] > asked


async def test_equal_questions_at_once_are_one_query(server: DNSServer, resolver: Resolver) -> None:
    answers = await asyncio.gather(*[resolver.mx("example.org") for _ in range(50)])
    assert server.queries["example.org", "MX"] == 1
    assert all(answer == answers[0] for answer in answers)


async def test_who_gives_up_does_not_spoil_the_answer_for_others(server: DNSServer, resolver: Resolver) -> None:
    impatient = asyncio.create_task(resolver.mx("example.org"))
    patient = asyncio.create_task(resolver.mx("example.org"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert len(await patient) == 2
    assert server.queries["example.org", "MX"] == 1


async def test_close_ends_what_is_being_asked(resolver: Resolver) -> None:
    asking = asyncio.create_task(resolver.mx("silent.example.org"))
    await asyncio.sleep(0)
    await resolver.close()
    with pytest.raises(TemporaryError):
        await asking


async def test_texts_when_in_several_strings_then_each_record_is_one(server: DNSServer, resolver: Resolver) -> None:
    server.zone["text.example.org"] = {"TXT": [["v=spf1 ", "-all"], "é" * 200, "x" * 20_000]}
    assert sorted(await resolver.txt("text.example.org")) == [
        b"v=spf1 -all",
        "é".encode() * 200,
    ]  # MAX_TEXT: the last is left out


async def test_pointer_and_one_family_when_asked_then_they_are_found(server: DNSServer, resolver: Resolver) -> None:
    server.zone["1.2.0.192.in-addr.arpa"] = {"PTR": ["Host.Example.ORG"]}
    server.zone["both.example.org"] = {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]}
    assert await resolver.ptr("1.2.0.192.in-addr.arpa") == ["host.example.org"]
    assert await resolver.ipv4("both.example.org") == ["192.0.2.1"]
    assert await resolver.ipv6("both.example.org") == ["2001:db8::1"]


async def test_cache_when_records_are_big_then_it_forgets_by_octets(server: DNSServer, clock: Clock) -> None:
    resolver = Resolver([server.nameserver], clock=clock, timeout=1, max_octets=30_000)
    for number in range(5):
        server.zone[f"big{number}.example.org"] = {"TXT": ["x" * 10_000]}
        await resolver.txt(f"big{number}.example.org")
    await resolver.txt("big4.example.org")
    assert server.queries["big4.example.org", "TXT"] in (1, 2)  # over UDP, then TCP
    asked = server.queries["big0.example.org", "TXT"]
    await resolver.txt("big0.example.org")
    assert server.queries["big0.example.org", "TXT"] > asked
    await resolver.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_nameserver_is_an_address_with_an_optional_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_nameserver(text) == expected


@pytest.mark.parametrize(
    "text", ["", "ns.example.org", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:99999", "[::1]:x", "1:2"]
)
def test_what_is_no_nameserver_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_nameserver(text)
