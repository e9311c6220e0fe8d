"""The hosts of a domain, in the order they are to be tried (RFC 5321 5.1, RFC 7505)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

from responder.clock import Clock
from responder.dns import NoData, NotFound, Resolver, TemporaryError
from responder.mail.status import FailureError, Trouble

MAX_HOSTS = 10
"""Hosts of one domain that are tried: real domains have up to five, and a hostile one must not make us ask for a thousand."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host that takes mail for a domain: a name, or an address literal such as `[192.0.2.1]`."""

    name: str
    preference: int = 0


class Found(NamedTuple):
    """The hosts of a domain, in the order they are to be tried, and whether DNSSEC vouches for them (RFC 7672 2.2.1)."""

    hosts: list[Host]
    secure: bool = False


async def find_hosts(
    domain: str, resolver: Resolver, clock: Clock, *, own_names: AbstractSet[str] = frozenset(), limit: int = MAX_HOSTS
) -> Found:
    """The first `limit` hosts by preference, those of one preference in random order; never none.

    `own_names` are the names (lower case) that this server goes by. Raises `FailureError`: 5.1.2 no such domain, 5.1.10
    null MX, 5.4.6 mail would come back to us, 4.4.3 the name servers can't say.
    """
    if domain.startswith("["):
        literal_address(domain)
        return Found([Host(domain)])
    try:
        records, secure = await resolver.mx_secure(domain)
    except NotFound as error:
        raise FailureError(Trouble.NO_DOMAIN.failure(str(error))) from None
    except TemporaryError as error:
        raise FailureError(Trouble.DNS_FAILED.failure(str(error))) from None
    except NoData as error:
        records, secure = (
            [(0, domain)],
            error.secure,
        )  # RFC 5321 5.1: the implicit MX, only where there is no MX record at all

    best: dict[str, int] = {}
    for preference, name in records:
        best[name] = min(preference, best.get(name, preference))
    if "" in best:
        if len(best) == 1:
            raise FailureError(Trouble.NULL_MX.failure())
        del best[""]  # RFC 7505 3 forbids it beside others; the others are meant

    # RFC 5321 5.1: where we are a host of the domain ourselves, those no better than us would bring the mail back.
    ours = min([preference for name, preference in best.items() if name in own_names], default=None)
    hosts = [Host(name, preference) for name, preference in best.items() if ours is None or preference < ours]
    if not hosts:
        raise FailureError(Trouble.LOOP.failure())
    hosts.sort(key=attrgetter("preference"))
    equals = [clock.shuffle(list(group)) for _, group in groupby(hosts, attrgetter("preference"))]
    return Found(list(chain.from_iterable(equals))[:limit], secure)


async def host_addresses(host: str, resolver: Resolver) -> list[str]:
    """The IP addresses of a host, in the order they are to be tried.

    Raises `FailureError`: 5.4.4 it has none, 4.4.3 the name servers can't say.
    """
    if host.startswith("["):
        return [literal_address(host)]
    try:
        return await resolver.addresses(host)
    except (NotFound, NoData) as error:
        raise FailureError(Trouble.NO_ADDRESS.failure(str(error))) from None
    except TemporaryError as error:
        raise FailureError(Trouble.DNS_FAILED.failure(str(error))) from None


def literal_address(literal: str) -> str:
    """The IP address in `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3). Raises `FailureError` where there is none."""
    text = literal.removeprefix("[").removesuffix("]")
    is_v6 = text[:5].lower() == "ipv6:"
    try:
        ip = ip_address(text[5:] if is_v6 else text)
        if (ip.version == 6) is is_v6:
            return str(ip)
    except ValueError:
        pass
    raise FailureError(Trouble.NO_DOMAIN.failure("malformed address literal"))
