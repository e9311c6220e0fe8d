"""MTA-STS as text: records, policy files, host names (RFC 8461)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.outbound.tls.mta_sts import MAX_AGE, StsPolicy, names_host, parse_policy, policy_id

GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mx1.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=a"], "a"),
        ([b"v=STSv1; x=y; id = b ;"], "b"),
        ([b"v=spf1 -all", b"v=STSv1; id=c;"], "c"),
        ([b"v=STSv1; id=1;", b"v=STSv1; id=2;"], None),
        ([b"v=STSv1; id=;"], None),
        ([b"v=STSv1; id=a-b;"], None),
        ([b"v=STSv1; id=" + b"a" * 33], None),
        ([b"v=STSv1"], None),
        ([b"v=STSv10; id=1;"], None),
        ([b" v=STSv1; id=1;"], None),
        ([b"\xff\xfe"], None),
        ([], None),
    ],
)
def test_record_is_read_then_its_id_is_known_or_there_is_none(records: list[bytes], expected: str | None) -> None:
    assert policy_id(records) == expected


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        GOOD.replace(b"\r\n", b"\n"),
        GOOD.rstrip(),
        GOOD + b"\r\nfuture_key: what it may be\r\n",
        GOOD.replace(b": ", b":"),
        GOOD.replace(b"mx1", b"MX1"),
        GOOD + b"mode: none\r\n",
    ],
)
def test_policy_is_written_in_any_way_that_is_allowed_then_it_is_the_same(body: bytes) -> None:
    assert parse_policy(body) == StsPolicy("enforce", 604_800, ("mx1.example.com", "*.example.net"))


def test_policy_of_mode_none_needs_no_mx() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400\n").mode == "none"


def test_policy_is_to_be_kept_for_longer_than_a_year_then_it_is_a_year() -> None:
    assert parse_policy(GOOD.replace(b"604800", b"9999999999")).max_age == MAX_AGE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"\xff" + GOOD,
        GOOD.replace(b"version: STSv1\r\n", b""),
        GOOD.replace(b"STSv1", b"STSv2"),
        GOOD.replace(b"enforce", b"Enforce"),
        GOOD.replace(b"mode: enforce\r\n", b""),
        GOOD.replace(b"604800", b"-1"),
        GOOD.replace(b"604800", b"1e9"),
        GOOD.replace(b"604800", b"99999999999"),
        GOOD.replace(b"max_age: 604800\r\n", b""),
        b"version: STSv1\nmode: enforce\nmax_age: 86400\n",
        GOOD.replace(b"mx1.example.com", b"*.*.example.com"),
        GOOD.replace(b"mx1.example.com", b"mx*.example.com"),
        GOOD.replace(b"mx1.example.com", b"*"),
        GOOD.replace(b"mx1.example.com", b"a b"),
        GOOD.replace(b"mx1.example.com", b".".join([b"a" * 60] * 6)),
        GOOD + b"mx: a.example.com\n" * 1000,
    ],
)
def test_policy_is_none_then_it_says_why(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[ -~]+$"):
        parse_policy(body)


@given(st.binary(max_size=300) | st.lists(st.sampled_from([*GOOD.splitlines(True), b"\r", b"\n", b":"])).map(b"".join))
def test_octets_are_of_any_kind_then_there_is_a_policy_or_a_reason(body: bytes) -> None:
    try:
        policy = parse_policy(body)
    except ValueError:
        return
    assert policy.mode in ("enforce", "testing", "none") and 0 <= policy.max_age <= MAX_AGE


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("mx.example.com", "mx.example.com", True),
        ("mx.example.com", "MX.Example.COM.", True),
        ("mx.example.com", "example.com", False),
        ("*.example.com", "mx.example.com", True),
        ("*.example.com", "a.mx.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", True),  # no host has such a name
        ("*.example.com", "mx.example.com.evil.net", False),
        ("*.example.com", "mxexample.com", False),
    ],
)
def test_pattern_is_held_against_a_host(pattern: str, host: str, expected: bool) -> None:
    assert names_host((pattern,), host) is expected
