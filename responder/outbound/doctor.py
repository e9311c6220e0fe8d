"""Whether the names and addresses that mail of ours leaves by belong together, as other servers look: remarks for the operator.

A receiver looks up the name of the address that connects (PTR), that name's addresses, and the name in EHLO. RFC 5321 4.1.4
forbids to refuse for the latter alone; the large providers do refuse where the address has no name at all. Nothing here connects.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from responder.config import Config
from responder.dns import LookupFailedError, NoData, NotFound, Resolver, TemporaryError
from responder.outbound.reach import is_local, refusal

MAX_NAMES: Final = 10
"""Names of one address, and addresses of one name, that are looked at."""

_OUTSIDE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # where no packet is ever sent to


class Remark(NamedTuple):
    """What may be wrong at one key of the configuration."""

    key: str
    reason: str


class _Face(NamedTuple):
    """An EHLO name, its key, and the addresses that mail leaves from by that name, with theirs."""

    key: str
    hostname: str
    addresses: Sequence[tuple[str, str]]


async def examine(config: Config, resolver: Resolver) -> list[Remark]:
    """What other servers would find odd, in the order of the configuration; nothing where `transport` is not `mx`.

    Asks the name servers, all questions at once: it takes as long as the slowest answer. Never raises.
    """
    if config.delivery.transport != "mx":
        return []
    found = await asyncio.gather(*[_examine(face, resolver) for face in _faces(config)])
    return list(dict.fromkeys([remark for remarks in found for remark in remarks]))


def _faces(config: Config) -> list[_Face]:
    delivery = config.delivery
    default: list[tuple[str, str]] = [("delivery.source_address", text) for text in [delivery.source_address] if text]
    if not default:
        default = [("hostname", address) for address in outward()]
    faces = [_Face("hostname", config.hostname, default)]
    for domain, source in config.sources.items():
        key = f"sources.{domain}"
        faces.append(
            _Face(
                f"{key}.hostname" if source.hostname else "hostname",
                source.hostname or config.hostname,
                [(f"{key}.addresses", address) for address in source.addresses] or default,
            )
        )
    return faces


async def _examine(face: _Face, resolver: Resolver) -> list[Remark]:
    strange = [
        Remark(key, f"{address} is no address of this machine: nothing can leave from it")
        for key, address in face.addresses
        if not is_local(ip_address(address))
    ]
    return strange or await _ask(face, resolver)


async def _ask(face: _Face, resolver: Resolver) -> list[Remark]:
    try:
        named = (await resolver.addresses(face.hostname))[:MAX_NAMES]
    except (NotFound, NoData) as error:
        return [Remark(face.key, f"does not resolve ({error}): other servers refuse one that greets by such a name")]
    except TemporaryError as error:
        return [Remark(face.key, f"can't be looked up now ({error})")]
    remarks = await asyncio.gather(
        *[_examine_address(key, address, face.hostname, named, resolver) for key, address in face.addresses]
    )
    return [remark for remark in remarks if remark is not None]


async def _examine_address(
    key: str, address: str, hostname: str, named: Sequence[str], resolver: Resolver
) -> Remark | None:
    if refusal(address, 25) is not None:
        return Remark(
            key, f"{address} is no public address: what it becomes on the way out can't be looked at from here"
        )
    if ip_address(address) not in [ip_address(one) for one in named]:
        return Remark(key, f"{address} is not among the addresses of {hostname} ({', '.join(named)})")
    try:
        names = (await resolver.ptr(ip_address(address).reverse_pointer))[:MAX_NAMES]
    except (NotFound, NoData):
        return Remark(key, f"{address} has no name (PTR): many servers refuse mail from it; it should be {hostname}")
    except LookupFailedError as error:
        return Remark(key, f"the name of {address} can't be looked up now ({error})")
    if hostname not in names:
        return Remark(key, f"{address} is called {', '.join(names)} (PTR), and greets as {hostname}")
    return None


def outward() -> list[str]:
    """The addresses that the kernel would connect from, one of each family it has a route for. Sends nothing."""
    found = []
    for family, target in _OUTSIDE.items():
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 25))
                found.append(str(probe.getsockname()[0]))
        except OSError:
            continue
    return found
