"""Which IP addresses mail may be delivered to.

Anyone can point an MX record anywhere. So the address that is really connected is judged, after the last name lookup: never
one of our own listening sockets (a loop), and, unless the operator allows it, nothing but the public Internet.
"""

from __future__ import annotations

import socket
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from responder.mail.status import Failure, Trouble

# IANA special-purpose registries (RFC 6890). Written down, because `ipaddress` judges some of them differently by version.
_NEVER: Final = {
    "unspecified": ["0.0.0.0/8", "::/128"],  # Linux takes 0.0.0.0 and :: for this host
    "multicast": ["224.0.0.0/4", "ff00::/8"],
    "broadcast": ["255.255.255.255/32"],
}
_NOT_PUBLIC: Final = {
    "loopback": ["127.0.0.0/8", "::1/128"],
    "private": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"],
    "link-local": ["169.254.0.0/16", "fe80::/10"],
    "shared": ["100.64.0.0/10"],  # RFC 6598, carrier-grade NAT
    "documentation": ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"],
    "benchmarking": ["198.18.0.0/15", "2001:2::/48"],
    "reserved": [
        "192.0.0.0/24",
        "192.88.99.0/24",
        "240.0.0.0/4",
        "2001:10::/28",
        "2001:20::/28",
        "64:ff9b:1::/48",
    ],
}
_NETWORKS: Final = [
    (kind, network, always)
    for table, always in ((_NEVER, True), (_NOT_PUBLIC, False))
    for kind, texts in table.items()
    for network in [IPv6Network(text) if ":" in text else IPv4Network(text) for text in texts]
]
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE: Final = IPv6Network("::/96")  # RFC 4291 2.5.5.1


def refusal(
    address: str, port: int, *, allow_private: bool = False, own: AbstractSet[tuple[str, int]] = frozenset()
) -> Failure | None:
    """Why there must be no connection to `address` and `port`; None where there may be one.

    `own` holds the (IP address, port) pairs that this server listens on; `0.0.0.0`, `::` and "" stand for each address of
    the machine. They are refused whatever is allowed. An IPv6 address that carries an IPv4 one is judged by both.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return Trouble.NO_ADDRESS.failure("not an IP address")
    for one in (ip, *_embedded(ip)):
        if _is_own(one, port, own):
            return Trouble.LOOP.failure(f"{address} port {port} is this server itself")
        kind = _kind(one, allow_private=allow_private)
        if kind:
            return Trouble.BOGUS_ADDRESS.failure(f"{address} is a {kind} address")
    return None


def _kind(ip: IPv4Address | IPv6Address, *, allow_private: bool) -> str:
    for kind, network, always in _NETWORKS:
        if (always or not allow_private) and ip.version == network.version and ip in network:
            return kind
    if isinstance(ip, IPv6Address) and not allow_private and ip not in _GLOBAL_UNICAST and not _embedded(ip):
        return "reserved"
    return ""


def _embedded(ip: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that packets to this IPv6 address may end at."""
    if isinstance(ip, IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        found.append(IPv4Address(int(ip) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def _is_own(ip: IPv4Address | IPv6Address, port: int, own: AbstractSet[tuple[str, int]]) -> bool:
    for text, own_port in own:
        if own_port != port:
            continue
        listening = ip_address(text or "::")
        if ip == listening or ip in _embedded(listening):
            return True
        if listening.is_unspecified and is_local(ip):
            return True
    return False


def is_local(ip: IPv4Address | IPv6Address) -> bool:
    """Whether the address is one of this machine's: only those can be bound. Sends nothing."""
    with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return False
    return True
