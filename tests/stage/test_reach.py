"""Which addresses may be connected."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.outbound.reach import refusal

PUBLIC = [
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.32.0.1",
    "2a00:1450::1a",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "192.0.0.8",
    "240.0.0.1",
    "::1",
    "fe80::1",
    "fe80::1%lo",
    "fc00::1",
    "fd12::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:c0a8:101::1",
    "2001:0:808:808::80ff:fffe",  # Teredo, client 127.0.0.1
    "4000::1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "255.255.255.255",
    "224.0.0.1",
    "239.1.1.1",
    "::",
    "ff02::1",
    "::ffff:0.0.0.0",
    "::ffff:224.0.0.1",
    "64:ff9b::",
    "",
    "mx.example.org",
    "1.2.3",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_may_be_connected(address: str) -> None:
    assert refusal(address, 25) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_refused_unless_allowed(address: str) -> None:
    failure = refusal(address, 25)
    assert failure is not None
    assert failure.enhanced == "5.4.4"
    assert refusal(address, 25, allow_private=True) is None


@pytest.mark.parametrize("address", NEVER)
def test_what_is_no_host_is_refused_always(address: str) -> None:
    assert refusal(address, 25) is not None
    assert refusal(address, 25, allow_private=True) is not None


@pytest.mark.parametrize(
    ("own", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("8.8.8.8", "8.8.8.8"),
        ("8.8.8.8", "2002:808:808::1"),
        ("::1", "::1"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.3.4.5"),
        ("::", "127.0.0.1"),
        ("::", "::1"),
        ("", "127.0.0.1"),
    ],
)
def test_own_socket_is_refused_whatever_is_allowed(own: str, address: str) -> None:
    failure = refusal(address, 25, allow_private=True, own={(own, 25)})
    assert failure is not None
    assert failure.enhanced == "5.4.6"


@pytest.mark.parametrize("own", [("127.0.0.1", 2525), ("127.0.0.2", 25)])
def test_other_socket_on_this_machine_is_not_our_own(own: tuple[str, int]) -> None:
    assert refusal("127.0.0.1", 25, allow_private=True, own={own}) is None


def test_everywhere_does_not_reach_beyond_this_machine() -> None:
    assert refusal("8.8.8.8", 25, own={("0.0.0.0", 25), ("::", 25)}) is None


@given(st.one_of(st.ip_addresses(), st.text(max_size=20)))
@settings(max_examples=200)
def test_any_text_is_judged_and_what_is_allowed_less_stays_refused(address: object) -> None:
    if refusal(str(address), 25) is None:
        assert refusal(str(address), 25, allow_private=True) is None
