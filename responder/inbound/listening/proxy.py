"""The header that a proxy puts in front of a connection: the PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt,
sections 2.1 and 2.2). Pure: what has arrived goes in, who the client is comes out.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import cache
from typing import NamedTuple

MAX_TEXT = 107
"""Octets of a header of version 1 with its line end (section 2.1)."""

MAX_BLOCK = 4096
"""Octets behind the fixed part of a header of version 2 that are waited for. Real ones have some hundred."""

_TEXT = b"PROXY "
_BINARY = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED = 16  # octets of a header of version 2 before its addresses
_ADDRESSES = (0, 12, 36, 216)  # octets of the addresses: unspecified, IPv4, IPv6, Unix
_STREAM = 1
_CRC32C = 3  # the type of the field that holds a checksum (section 2.2.4)


class ProxyError(Exception):
    """What came is no header, or one that can't be believed."""


class Header(NamedTuple):
    """A header that is complete."""

    client: tuple[str, int] | None
    """The client's address and port; ("", 0) where it came by a Unix socket; None where the proxy speaks for itself."""

    size: int
    """Octets of the header: what comes behind it is the client's."""


def parse_header(data: bytes | bytearray) -> Header | None:
    """The header that `data` begins with; None where more has to come. Raises `ProxyError` as soon as it can't become one."""
    if data[: len(_BINARY)] == _BINARY[: len(data)]:
        return _binary(data) if len(data) >= _FIXED else None
    if data[: len(_TEXT)] == _TEXT[: len(data)]:
        return _text(data)
    raise ProxyError("no PROXY header")


def client_address(address: str) -> str:
    """An address as it is counted, judged and shown: IPv4 in IPv6 (RFC 4291 2.5.5.2) as IPv4, without a zone (RFC 4007 11)."""
    if ":" not in address:
        return address
    address = address.partition("%")[0]
    if address.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        return str(mapped) if mapped is not None else address
    return address


# -- version 1 ---------------------------------------------------------------------------------------------------------


def _text(data: bytes | bytearray) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_TEXT)
    if end < 0:
        if len(data) >= MAX_TEXT or b"\n" in data:
            raise ProxyError("PROXY header without an end")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyError("PROXY header that is not ASCII") from None
    if words[1] == "UNKNOWN":  # what stands behind it is to be ignored
        return Header(None, end + 2)
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise ProxyError("malformed PROXY header")
    source, target, port, target_port = words[2:]
    _address(target, words[1])
    _port(target_port)
    return Header((_client(_address(source, words[1])), _port(port)), end + 2)


def _address(text: str, family: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        if family == "TCP4":
            return ipaddress.IPv4Address(text)
        if "%" in text:
            raise ValueError
        return ipaddress.IPv6Address(text)
    except ValueError:
        raise ProxyError("bad address in a PROXY header") from None


def _port(text: str) -> int:
    if not (text.isdigit() and len(text) <= 5 and int(text) <= 65535) or (len(text) > 1 and text[0] == "0"):
        raise ProxyError("bad port in a PROXY header")
    return int(text)


def _client(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if address.is_unspecified or address.is_multicast:  # nobody can come from there
        raise ProxyError("bad address in a PROXY header")
    return client_address(str(address))


# -- version 2 ---------------------------------------------------------------------------------------------------------


def _binary(data: bytes | bytearray) -> Header | None:
    version, kind, length = struct.unpack_from("!BBH", data, len(_BINARY))
    if version not in (0x20, 0x21):
        raise ProxyError("PROXY header of an unknown version or command")
    if length > MAX_BLOCK:
        raise ProxyError("PROXY header too long")
    size = _FIXED + length
    if len(data) < size:
        return None
    if version == 0x20:  # LOCAL, a health check: the rest is to be discarded
        return Header(None, size)
    family, transport = kind >> 4, kind & 15
    if family >= len(_ADDRESSES) or transport > _STREAM:  # SMTP has no datagrams
        raise ProxyError("PROXY header of an unknown family")
    if not family or not transport:
        return Header(None, size)
    fields = _FIXED + _ADDRESSES[family]
    if size < fields:
        raise ProxyError("PROXY header without addresses")
    _verify(bytes(data[:size]), fields)
    if family == 3:
        return Header(("", 0), size)
    width = 4 if family == 1 else 16
    address = ipaddress.ip_address(bytes(data[_FIXED : _FIXED + width]))
    (port,) = struct.unpack_from("!H", data, _FIXED + 2 * width)
    return Header((_client(address), port), size)


def _verify(header: bytes, at: int) -> None:
    """Walk over the fields behind the addresses: they must fill the header, and a checksum must be right."""
    while at < len(header):
        if at + 3 > len(header):
            raise ProxyError("malformed field in a PROXY header")
        kind, length = struct.unpack_from("!BH", header, at)
        at += 3
        if at + length > len(header):
            raise ProxyError("malformed field in a PROXY header")
        if kind == _CRC32C:
            if length != 4:
                raise ProxyError("malformed field in a PROXY header")
            if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(header[at : at + 4], "big"):
                raise ProxyError("wrong checksum in a PROXY header")
        at += length


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720 B.4."""
    table, value = _table(), 0xFFFFFFFF
    for octet in data:
        value = table[(value ^ octet) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return tuple(found)
