"""The header of the PROXY protocol: a good one however it is split, and everything else refused (proxy-protocol.txt 2.1, 2.2)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.inbound.listening.proxy import (
    MAX_BLOCK,
    MAX_TEXT,
    Header,
    ProxyError,
    client_address,
    crc32c,
    parse_header,
)
from tests.support.proxy_header import LOCAL, SIGNATURE, addresses, binary_header, block, field, text_header

FULL = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
LONGEST = f"PROXY UNKNOWN {FULL} {FULL} 65535 65535\r\n".encode()
TLS = field(0x20, b"\x01" + bytes(4) + field(0x21, b"TLSv1.3") + field(0x23, b"TLS_AES_256_GCM_SHA384"))
CLIENT = ("192.0.2.7", 51234)
IPV4 = addresses(*CLIENT)[1]

GOOD: dict[str, tuple[bytes, tuple[str, int] | None]] = {
    "text, IPv4": (text_header("192.0.2.7"), CLIENT),
    "text, IPv6": (text_header("2001:DB8:0::1", 0), ("2001:db8::1", 0)),
    "text, IPv4 in IPv6": (text_header("::ffff:192.0.2.7"), CLIENT),
    "text, highest port": (text_header("192.0.2.7", 65535), ("192.0.2.7", 65535)),
    "text, unknown": (b"PROXY UNKNOWN\r\n", None),
    "text, unknown and what is to be ignored": (b"PROXY UNKNOWN 1 2  three\r\n", None),
    "text, the longest": (LONGEST, None),
    "binary, IPv4": (binary_header("192.0.2.7"), CLIENT),
    "binary, IPv6": (binary_header("2001:db8::1", 1), ("2001:db8::1", 1)),
    "binary, IPv4 in IPv6": (binary_header("::ffff:192.0.2.7"), CLIENT),
    "binary, fields": (binary_header("192.0.2.7", fields=field(2, b"mx.example") + TLS), CLIENT),
    "binary, empty field": (binary_header("192.0.2.7", fields=field(4, b"")), CLIENT),
    "binary, checksum": (binary_header("192.0.2.7", fields=TLS, checksum=True), CLIENT),
    "binary, health check": (LOCAL, None),
    "binary, health check and what is to be discarded": (block(b"\xff" * 99, 0x11, 0x20), None),
    "binary, unspecified": (block(b"", 0x00), None),
    "binary, unspecified and what is to be ignored": (block(b"\xff" * 7, 0x00), None),
    "binary, unspecified transport": (block(IPV4, 0x10), None),
    "binary, Unix": (block(b"/run/x".ljust(216, b"\0"), 0x31), ("", 0)),
    "binary, as long as may be": (binary_header("192.0.2.7", fields=field(4, bytes(MAX_BLOCK - 15))), CLIENT),
}

BAD: dict[str, bytes] = {
    "nothing of the kind": b"EHLO client.example\r\n",
    "a word that begins alike": b"PROXYING\r\n",
    "lower case": b"proxy TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
    "one octet too long": LONGEST[:-2] + b" \r\n",
    "no end": b"PROXY UNKNOWN " + b"x" * MAX_TEXT,
    "bare LF": b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n",
    "LF first": b"PROXY TCP4 192.0.2.7\n192.0.2.8 1 2\r\n",
    "nothing behind the word": b"PROXY \r\n",
    "unknown family": b"PROXY UDP4 192.0.2.7 192.0.2.8 1 2\r\n",
    "a word too few": b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n",
    "a word too many": b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n",
    "two spaces": b"PROXY TCP4  192.0.2.7 192.0.2.8 1 2\r\n",
    "a tab": b"PROXY TCP4\t192.0.2.7 192.0.2.8 1 2\r\n",
    "not ASCII": b"PROXY TCP4 192.0.2.\xb2 192.0.2.8 1 2\r\n",
    "octet too big": b"PROXY TCP4 192.0.2.256 192.0.2.8 1 2\r\n",
    "leading zero": b"PROXY TCP4 192.0.2.07 192.0.2.8 1 2\r\n",
    "bad target": b"PROXY TCP4 192.0.2.7 mx.example 1 2\r\n",
    "IPv6 as IPv4": b"PROXY TCP4 2001:db8::1 192.0.2.8 1 2\r\n",
    "IPv4 as IPv6": b"PROXY TCP6 192.0.2.7 2001:db8::2 1 2\r\n",
    "zone": b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
    "nobody's address": b"PROXY TCP4 0.0.0.0 192.0.2.8 1 2\r\n",
    "many people's address": b"PROXY TCP6 ff02::1 2001:db8::2 1 2\r\n",
    "port too big": b"PROXY TCP4 192.0.2.7 192.0.2.8 65536 2\r\n",
    "port with a sign": b"PROXY TCP4 192.0.2.7 192.0.2.8 +1 2\r\n",
    "port with a zero": b"PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n",
    "bad target port": b"PROXY TCP4 192.0.2.7 192.0.2.8 1 x\r\n",
    "version 1 in binary": SIGNATURE + b"\x11\x11\x00\x0c" + IPV4,
    "unknown command": block(IPV4, 0x11, 0x22),
    "unknown binary family": block(IPV4, 0x41),
    "datagrams": block(IPV4, 0x12),
    "unknown transport": block(IPV4, 0x13),
    "no addresses": block(b"", 0x11),
    "addresses cut short": block(IPV4[:-1], 0x11),
    "IPv6 addresses cut short": block(IPV4, 0x21),
    "too long": block(bytes(MAX_BLOCK + 1), 0x11),
    "too long, and not waited for": SIGNATURE + b"\x21\x11\xff\xff",
    "too long a health check": SIGNATURE + b"\x20\x00\xff\xff",
    "binary nobody": binary_header("0.0.0.0"),
    "field without a length": block(IPV4 + b"\x04\x00", 0x11),
    "field longer than the rest": block(IPV4 + b"\x04\x00\x02x", 0x11),
    "wrong checksum": binary_header("192.0.2.7", checksum=True, wrong=1),
    "checksum of the wrong length": binary_header("192.0.2.7", fields=field(3, b"abc")),
}


@pytest.mark.parametrize("name", GOOD)
def test_header_when_it_comes_whole_then_the_client_is_known(name: str) -> None:
    octets, client = GOOD[name]
    assert parse_header(octets) == Header(client, len(octets))


@pytest.mark.parametrize("name", GOOD)
def test_header_when_it_is_split_anywhere_then_the_rest_is_waited_for(name: str) -> None:
    octets, _ = GOOD[name]
    for size in range(len(octets)):
        assert parse_header(bytearray(octets[:size])) is None


@pytest.mark.parametrize("name", GOOD)
@given(rest=st.binary(max_size=200))
@settings(max_examples=20)
def test_header_when_the_session_follows_at_once_then_that_is_left(name: str, rest: bytes) -> None:
    octets, client = GOOD[name]
    assert parse_header(octets + rest) == Header(client, len(octets))


@pytest.mark.parametrize("name", BAD)
def test_header_when_it_is_bad_then_it_is_refused(name: str) -> None:
    with pytest.raises(ProxyError, match=r"^[\w ,']*PROXY header[\w ,']*$"):
        parse_header(BAD[name])


@pytest.mark.parametrize("name", BAD)
def test_header_when_a_bad_one_is_split_anywhere_then_it_is_never_believed(name: str) -> None:
    for size in range(len(BAD[name])):
        try:
            assert parse_header(BAD[name][:size]) is None
        except ProxyError:
            continue


@given(st.binary(max_size=300))
def test_header_when_it_is_garbage_then_it_is_refused_or_waited_for(octets: bytes) -> None:
    for start in (
        b"",
        b"PROXY ",
        b"PROXY TCP4 ",
        b"PROXY TCP6 ",
        SIGNATURE,
        SIGNATURE + b"\x21\x11",
        SIGNATURE + b"\x21\x31\x00",
    ):
        try:
            header = parse_header(start + octets)
        except ProxyError:
            continue
        assert header is None or 0 < header.size <= len(start + octets)


@given(st.binary(min_size=1, max_size=40).map(lambda octets: octets * (MAX_BLOCK + 16)))
@settings(max_examples=30)
def test_header_when_more_has_come_than_one_can_have_then_nothing_is_waited_for(octets: bytes) -> None:
    for start in (b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"):
        try:
            assert parse_header(start + octets) is not None
        except ProxyError:
            continue


@given(st.ip_addresses(), st.integers(0, 65535))
def test_header_when_both_versions_say_the_same_then_both_are_understood_so(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    written = text_header(str(address).partition("%")[0], port), binary_header(str(address), port, checksum=True)
    if address.is_unspecified or address.is_multicast:
        for octets in written:
            with pytest.raises(ProxyError):
                parse_header(octets)
        return
    for octets in written:
        header = parse_header(octets)
        assert header is not None
        assert header.client == (client_address(str(address)), port)


@given(st.data())
def test_checksum_when_one_bit_differs_then_the_header_is_refused(data: st.DataObject) -> None:
    octets = bytearray(binary_header("192.0.2.7", fields=TLS, checksum=True))
    at = data.draw(st.integers(16, len(octets) - 1))
    octets[at] ^= 1 << data.draw(st.integers(0, 7))
    kinds = {28, 28 + len(TLS)}  # where a field says what it is: a checksum may cease to be one
    if at in kinds or at - 1 in kinds or at - 2 in kinds:
        return
    with pytest.raises(ProxyError):
        parse_header(octets)


def test_checksum_when_of_the_published_text_then_as_published() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:0:1.2.3.4", "::ffff:0:1.2.3.4"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_address_when_of_a_client_then_without_zone_and_mapping(address: str, shown: str) -> None:
    assert client_address(address) == shown
