"""One cached asynchronous resolver, which never takes "I could not find out" for "there is none".

A question ends in records, in `NotFound` or `NoData` (both are facts, and cached for as long as the zone says, RFC 2308),
or in `TemporaryError` (kept for moments only, so that a thousand mails do not ask a dead name server at once).

What a validating name server has found signed by DNSSEC it marks with the AD bit (RFC 4035 3.2.3), which anybody on the way could
set: it is believed where every name server is on this machine, or where the operator says so (`believe_ad`).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from responder.clock import Clock

TIMEOUT: Final = 10.0
MAX_ENTRIES: Final = 10_000
MAX_OCTETS: Final = 16 << 20  # of all records that are kept: a few thousand TXT records of 64 KB would be a gigabyte
MAX_TEXT: Final = 16_384  # octets of one TXT record: what is longer holds neither a policy nor a key
MAX_TTL: Final = 86_400.0
MAX_NEGATIVE_TTL: Final = 900.0  # RFC 2308 5 allows hours, but a domain that was mended should not wait for us
FAILURE_TTL: Final = 2.0
MAX_ALIASES: Final = 8

_MX: Final = dns.rdatatype.MX
_A: Final = dns.rdatatype.A
_AAAA: Final = dns.rdatatype.AAAA
_TXT: Final = dns.rdatatype.TXT
_PTR: Final = dns.rdatatype.PTR
_CNAME: Final = dns.rdatatype.CNAME
_TLSA: Final = dns.rdatatype.TLSA
_OVERHEAD: Final = 200  # octets that an entry of the cache costs besides its records


class LookupFailedError(Exception):
    """A question that brought no records: one of the three below. `secure`: DNSSEC proves it."""

    def __init__(self, text: str, *, secure: bool = False) -> None:
        super().__init__(text)
        self.secure = secure


class NotFound(LookupFailedError):  # noqa: N818 - a finding, not a fault
    """The name does not exist (NXDOMAIN), or can't exist."""


class NoData(LookupFailedError):  # noqa: N818
    """The name exists and has no record of the type."""


class TemporaryError(LookupFailedError):
    """Nobody knows: SERVFAIL, REFUSED, time-out, malformed answer, no name server, CNAMEs in a circle."""


class _Entry(NamedTuple):
    expires: float  # by clock.monotonic()
    records: tuple[Any, ...]
    error: type[LookupFailedError] | None
    text: str
    secure: bool = False
    name: str = ""  # what the aliases lead to

    @property
    def size(self) -> int:
        """The octets that it costs, roughly."""
        return _OVERHEAD + sum([len(record) if isinstance(record, bytes | str) else 50 for record in self.records])


class Base(NamedTuple):
    """A host's name as TLSA records are looked up for it, and its names besides (RFC 7672 2.2.2)."""

    secure: bool  # its addresses, or at least its alias, came signed: there is no use in asking else
    names: tuple[str, ...]  # the candidates, in the order they are to be asked


class Resolver:
    """Asks the given name servers (`127.0.0.1:5353`, `[::1]:53`, `192.0.2.1`), or the system's where there are none.

    `timeout` is for a whole question, over all servers and repetitions. Belongs to one event loop.
    `believe_ad`: whether the AD bit is believed; None: where all of them are at loopback addresses.
    Raises `ValueError` where a name server is no IP address with an optional port.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        clock: Clock,
        timeout: float = TIMEOUT,
        believe_ad: bool | None = None,
        max_entries: int = MAX_ENTRIES,
        max_octets: int = MAX_OCTETS,
    ) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._max_octets = max_octets
        self._octets = 0
        self._cache: OrderedDict[tuple[str, int], _Entry] = OrderedDict()
        self._pending: dict[tuple[str, int], asyncio.Task[_Entry]] = {}
        servers = [dns.nameserver.Do53Nameserver(*parse_nameserver(text)) for text in nameservers]
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not servers)
        except dns.resolver.NoResolverConfiguration:
            self._resolver = dns.asyncresolver.Resolver(configure=False)
            servers = [dns.nameserver.Do53Nameserver("127.0.0.1")]  # as the C library does: resolv.conf(5)
        if servers:
            self._resolver.nameservers = servers
        asked = [ipaddress.ip_address(str(getattr(server, "address", server))) for server in self._resolver.nameservers]
        self.validates = all(address.is_loopback for address in asked) if believe_ad is None else believe_ad
        if self.validates:
            self._resolver.flags = dns.flags.RD | dns.flags.AD  # "tell me" (RFC 6840 5.7)
        self._resolver.lifetime = timeout
        self._resolver.timeout = timeout / 3  # for one server, once

    async def mx(self, domain: str) -> list[tuple[int, str]]:
        """The (preference, host name) pairs, in no order. The name of a null MX (RFC 7505) is "".

        Raises `NotFound`, `NoData` or `TemporaryError`, as the others do.
        """
        return list(await self._records(domain, _MX))

    async def mx_secure(self, domain: str) -> tuple[list[tuple[int, str]], bool]:
        """The same, and whether they came signed by DNSSEC. What is raised says so of itself (`secure`)."""
        entry = await self._entry(domain, _MX)
        return list(entry.records), entry.secure

    async def tlsa(self, name: str) -> tuple[list[tuple[int, int, int, bytes]], bool]:
        """The TLSA records of a name such as `_25._tcp.mx.example.org`: (usage, selector, matching type, data), and whether they
        came signed."""
        entry = await self._entry(name, _TLSA)
        return list(entry.records), entry.secure

    async def tlsa_base(self, host: str) -> Base:
        """By which names TLSA records of a host are to be asked for (RFC 7672 2.2.2, 2.2.3).

        Raises `TemporaryError` where neither family of addresses can be looked up: then nobody can say.
        """
        answers = await asyncio.gather(self._entry(host, _A), self._entry(host, _AAAA), return_exceptions=True)
        found = [answer for answer in answers if isinstance(answer, _Entry)]
        if not found:
            raise next(
                (error for error in answers if isinstance(error, TemporaryError)), NotFound(f"{host}: no address")
            )
        own = host.lower().removesuffix(".")
        last = found[0].name
        if all(entry.secure for entry in found):
            return Base(True, (last, own) if last != own else (own,))
        if last == own:
            return Base(False, (own,))
        try:  # the alias may be signed where its target is not
            return Base((await self._entry(host, _CNAME)).secure, (own,))
        except (NotFound, NoData):
            return Base(False, (own,))

    async def addresses(self, host: str) -> list[str]:
        """The IPv4 and IPv6 addresses, taking turns, each family in the order that the name server gave.

        Both families are asked at once. One that fails does not spoil what the other found.
        """
        answers = await asyncio.gather(self._records(host, _A), self._records(host, _AAAA), return_exceptions=True)
        v4, v6 = [[] if isinstance(answer, BaseException) else list(answer) for answer in answers]
        found = [address for n in range(max(len(v4), len(v6))) for family in (v4, v6) for address in family[n : n + 1]]
        if found:
            return found
        for kind in (NotFound, TemporaryError, NoData):  # NXDOMAIN holds for every type (RFC 8020)
            for error in answers:
                if isinstance(error, kind):
                    raise error
        raise next(error for error in answers if isinstance(error, BaseException))

    async def ipv4(self, host: str) -> list[str]:
        """The IPv4 addresses alone."""
        return list(await self._records(host, _A))

    async def ipv6(self, host: str) -> list[str]:
        """The IPv6 addresses alone."""
        return list(await self._records(host, _AAAA))

    async def txt(self, name: str) -> list[bytes]:
        """The TXT records, each with its strings put together (RFC 7208 3.3, RFC 6376 3.6.2.2). Those of more than `MAX_TEXT`
        octets are left out."""
        return list(await self._records(name, _TXT))

    async def ptr(self, name: str) -> list[str]:
        """The host names that a name such as `1.2.0.192.in-addr.arpa` points to."""
        return list(await self._records(name, _PTR))

    async def close(self) -> None:
        """Stops what is being asked; who waits for it gets a `TemporaryError`."""
        for task in list(self._pending.values()):
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    async def _records(self, name: str, rdtype: dns.rdatatype.RdataType) -> tuple[Any, ...]:
        return (await self._entry(name, rdtype)).records

    async def _entry(self, name: str, rdtype: dns.rdatatype.RdataType) -> _Entry:
        key = (name.lower().removesuffix("."), int(rdtype))
        entry = self._cache.get(key)
        if entry is not None and entry.expires > self._clock.monotonic():
            self._cache.move_to_end(key)
        else:
            task = self._pending.get(key)
            if task is None:
                task = self._pending[key] = asyncio.create_task(self._ask(key[0], rdtype), name=f"dns {key[0]}")
                task.add_done_callback(lambda task: self._store(key, task))
            # The question belongs to all who wait for it: one who gives up does not stop it.
            await asyncio.wait([task])
            if task.cancelled():
                raise TemporaryError("resolver was closed")
            entry = task.result()
        if entry.error is not None:
            raise entry.error(entry.text, secure=entry.secure)
        return entry

    def _store(self, key: tuple[str, int], task: asyncio.Task[_Entry]) -> None:
        del self._pending[key]
        if task.cancelled() or task.exception() is not None:
            return
        entry = task.result()
        if entry.expires > self._clock.monotonic():
            if (old := self._cache.pop(key, None)) is not None:
                self._octets -= old.size
            self._cache[key] = entry
            self._octets += entry.size
            while len(self._cache) > self._max_entries or self._octets > self._max_octets:
                self._octets -= self._cache.popitem(last=False)[1].size

    async def _ask(self, name: str, rdtype: dns.rdatatype.RdataType) -> _Entry:
        def failed(error: type[LookupFailedError], text: str, ttl: float, secure: bool = False) -> _Entry:
            return _Entry(self._clock.monotonic() + ttl, (), error, f"{name}: {text}", secure)

        ttl = MAX_TTL
        secure = self.validates  # until an answer on the way is not
        seen: list[dns.name.Name] = []
        if not name:
            return failed(NotFound, "no domain name", MAX_NEGATIVE_TTL)
        try:
            target = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return failed(NotFound, "no domain name", MAX_NEGATIVE_TTL)
        try:
            while True:
                answer = await self._resolver.resolve(target, rdtype, raise_on_no_answer=False, search=False)
                chain = answer.chaining_result
                secure = secure and _signed(answer.response)
                if answer.rrset is not None:
                    ttl = min(ttl, chain.minimum_ttl)
                    records = tuple([_PLAIN[rdtype](record) for record in answer.rrset])
                    if rdtype == _TXT:
                        records = tuple([record for record in records if len(record) <= MAX_TEXT])
                    last = _host_name(chain.canonical_name)
                    return _Entry(self._clock.monotonic() + ttl, records, None, "", secure, last)
                if not chain.cnames:
                    ttl = min(ttl, _negative_ttl(answer.response, chain))
                    return failed(NoData, f"no {rdtype.name} record", ttl, secure)
                # A recursive server follows aliases itself; one that gave only the CNAME is asked for its target.
                ttl = min([ttl, *[float(cname.ttl) for cname in chain.cnames]])
                seen.append(target)
                target = chain.canonical_name
                if target in seen or len(seen) > MAX_ALIASES:
                    return failed(TemporaryError, "circle of CNAME records", FAILURE_TTL)
        except dns.resolver.NXDOMAIN as error:
            response = error.kwargs["responses"][target]
            ttl = min(ttl, _negative_ttl(response, response.resolve_chaining()))
            return failed(NotFound, "no such domain", ttl, secure and _signed(response))
        except dns.exception.Timeout:
            return failed(TemporaryError, "no answer from the name servers", FAILURE_TTL)
        except Exception as error:  # some malformed answers end in an assertion of the library
            return failed(TemporaryError, f"name server failure ({type(error).__name__})", FAILURE_TTL)


def parse_nameserver(text: str) -> tuple[str, int]:
    """`192.0.2.1`, `192.0.2.1:5353`, `::1` or `[::1]:5353` as address and port. Raises `ValueError` where it is none."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") if port else "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    ipaddress.ip_address(host)
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"{text!r} has no port from 1 to 65535")
    return host, int(port)


def _negative_ttl(response: dns.message.QueryMessage, chain: dns.message.ChainingResult) -> float:
    """RFC 2308 5: by the SOA record; an answer without one is not to be cached."""
    if any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority):
        return min(float(chain.minimum_ttl), MAX_NEGATIVE_TTL)
    return FAILURE_TTL


def _signed(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.AD)


def _host_name(name: dns.name.Name) -> str:
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()


_PLAIN: Final[dict[dns.rdatatype.RdataType, Callable[[Any], Any]]] = {
    _MX: lambda record: (int(record.preference), _host_name(record.exchange)),
    _A: lambda record: str(record.address),
    _AAAA: lambda record: str(record.address),
    _TXT: lambda record: b"".join(record.strings),
    _PTR: lambda record: _host_name(record.target),
    _CNAME: lambda record: _host_name(record.target),
    _TLSA: lambda record: (int(record.usage), int(record.selector), int(record.mtype), bytes(record.cert)),
}
