"""SPF (RFC 7208): pyspf decides, our resolver asks, and no thread waits for either.

pyspf asks the DNS in the middle of its work and wants the answer there. So it is run with the answers that are known; where
one is missing it is broken off, the question is asked, and it is run again. A run takes a fraction of a millisecond.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

import spf  # type: ignore[import-untyped]

from responder.authentication.questions import Questions
from responder.dns import NoData, NotFound, TemporaryError
from responder.mail.address import AddressError, domain_to_ascii

MAX_QUESTIONS: Final = 128
"""RFC 7208 4.6.4 adds up to 10 look-ups with 10 hosts each, a PTR with 10 names, and the records themselves."""
MAX_RECORD: Final = 4096
"""Octets of a record that is evaluated: they should fit into 512 (RFC 7208 3.4), and pyspf needs time by the square."""
MAX_TERM: Final = 512  # characters of one mechanism or modifier: a domain name has 253
MAX_LABELS: Final = 127  # of a domain name (RFC 1035 3.1); pyspf looks at a term once for each
MAX_ADDRESSES: Final = 100  # of one host that are compared; pyspf does it anew for each question of a mail
FOR_PTR: Final = 0.3
"""Of the time there is, for the first question to the client's own name server, and half as much for each one behind it: by its
silence it must not make a `temperror` of a `fail`."""

_PLAIN = re.compile(r"[a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class SPF:
    """What came of it: a result word of RFC 7208 2.6, for which identity (`mailfrom` or `helo`), and its domain."""

    result: str
    identity: str
    domain: str


class _UnansweredError(BaseException):
    """pyspf wants to know what has not been asked yet. No `Exception`, so that it catches nothing of ours."""

    def __init__(self, kind: str, name: str, for_ptr: bool) -> None:
        self.question = kind, name
        self.for_ptr = for_ptr


@dataclass(frozen=True, slots=True)
class _Known:
    """What the runs of one check share."""

    answers: dict[tuple[str, str], Any] = field(default_factory=dict)  # by type and name
    expanded: dict[tuple[str, str], str] = field(default_factory=dict)  # by term and current domain


class _Query(spf.query):  # type: ignore[misc]
    """pyspf's query, on answers that are there already. Its own names of one letter are macros (RFC 7208 7.2)."""

    def __init__(self, peer: str, helo: str, local: str, domain: str, known: _Known) -> None:
        super().__init__(i=peer, s=f"{local}@{domain}", h=helo, strict=True)
        self.l, self.o, self.d = local, domain, domain  # it splits at the first "@", which may stand in quotes
        self._answers, self._expanded = known.answers, known.expanded
        self._for_ptr = False

    def dns(self, name: str, qtype: str, cnames: object = None, ignore_void: bool = False) -> list[Any]:
        name = name.removesuffix(".").lower()
        if not name.isascii() or not all(0 < len(label) < 64 for label in name.split(".")):
            return []  # no domain name (RFC 7208 4.3, RFC 8616 4)
        found = self._answers.get((qtype, name))
        if found is None:
            if len(self._answers) >= MAX_QUESTIONS:
                raise spf.PermError("Too many DNS lookups")
            raise _UnansweredError(qtype, name, self._for_ptr)
        if isinstance(found, TemporaryError):
            raise spf.TempError(str(found))
        if not found and not ignore_void:  # RFC 7208 4.6.4
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        return list(found)

    def validated_ptrs(self) -> list[str]:
        """RFC 7208 5.5: where the DNS fails, a name is passed over, and without names nothing matches."""
        self._for_ptr = True
        try:
            names = self.dns_ptr(self.i)[: spf.MAX_PTR]
        except spf.TempError:
            names = []
        found = [name for name in names if self._points_back(name)]
        self._for_ptr = False
        return found

    def _points_back(self, name: str) -> bool:
        try:
            return bool(self.cidrmatch(self.dns_a(name, self.A), self.cidrmax))
        except spf.TempError:
            return False

    def dns_spf(self, domain: str) -> str | None:
        record: str | None = super().dns_spf(domain)
        if record is not None and len(record) > MAX_RECORD:
            raise spf.PermError("The record is too long")
        return record

    def expand(self, s: str, stripdot: bool = True) -> str:
        if len(s) > MAX_TERM or s.count(".") > MAX_LABELS:
            raise spf.PermError("A term is too long")
        if "%" not in s:
            return str(super().expand(s, stripdot))
        made = self._expanded.get((s, self.d))
        if made is None:  # it is the same in each run, and takes the most of its time
            made = self._expanded[s, self.d] = str(super().expand(s, stripdot))
        return made

    def cidrmatch(self, addresses: Iterable[str], length: int) -> bool:
        """pyspf makes three objects of each address, which takes a hundred times as long."""
        shift = self.cidrmax - length
        mine = int(self.ipaddr) >> shift
        try:
            return any(_number(address, self.cidrmax) >> shift == mine for address in addresses)
        except ValueError as error:
            raise spf.PermError(str(error)) from None

    def expand_domain(self, arg: str) -> str:
        if len(arg) > MAX_TERM:
            raise spf.PermError("A term is too long")
        return str(super().expand_domain(arg))

    def validate_mechanism(self, mech: str) -> Any:
        if len(mech) > MAX_TERM:
            raise spf.PermError("A term is too long")
        return super().validate_mechanism(mech)

    def get_explanation(self, spec: str) -> None:
        """Not fetched: a text of the sender's domain (RFC 7208 6.2) that nobody here shows."""


async def check(peer: str, helo: str, reverse_path: str, questions: Questions, seconds: float) -> SPF:
    """What the sender's domain says of the host that brought the mail, in `seconds` at the most. Never raises.

    With a null reverse-path the HELO name is what is checked (RFC 7208 2.4); beside another one it is not (2.3 recommends it,
    but nothing here would follow from it, and each mail would ask once more).
    """
    local, _, written = reverse_path.rpartition("@")
    identity = "mailfrom" if written else "helo"
    domain = _domain(written or helo)
    if not domain:
        return SPF("none", identity, "")
    known = _Known()
    patience = seconds * FOR_PTR
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    # RFC 7208 4.3: a path without local part is postmaster's
                    result = _Query(_peer(peer), helo, local or "postmaster", domain, known).check()[0]
                    return SPF(str(result), identity, domain)
                except _UnansweredError as missing:
                    limit = patience if missing.for_ptr else seconds
                    known.answers[missing.question] = await _ask(questions, *missing.question, limit)
                    patience /= 1 + missing.for_ptr
    except TimeoutError:
        return SPF("temperror", identity, domain)  # RFC 7208 4.6.4
    except Exception:  # a record that the library trips over is a broken one
        return SPF("permerror", identity, domain)


async def _ask(questions: Questions, kind: str, name: str, seconds: float) -> list[Any] | TemporaryError:
    try:
        async with asyncio.timeout(seconds):
            found = await questions.ask(kind, _presentation(name))
    except (NotFound, NoData):
        return []
    except TemporaryError as error:
        return error
    except TimeoutError:
        return TemporaryError(f"{name}: no answer in time")
    if kind in ("A", "AAAA"):
        return found[:MAX_ADDRESSES]
    return [(text,) for text in found] if kind == "TXT" else found


@lru_cache(maxsize=4096)
def _number(address: str, bits: int) -> int:
    """An address as a number. Raises `ValueError` where it is none of so many bits."""
    return int((IPv4Address if bits == 32 else IPv6Address)(address))


def _presentation(name: str) -> str:
    """A name as the resolver reads it: macros bring any character in, and a backslash would begin an escape (RFC 1035 5.1)."""
    if _PLAIN.fullmatch(name):
        return name
    return "".join([char if _PLAIN.fullmatch(char) else f"\\{ord(char):03d}" for char in name])


def _domain(written: str) -> str:
    """The domain to ask for; "" where there is none (RFC 7208 4.3: no literal, more than one label)."""
    try:
        domain = domain_to_ascii(written.removesuffix("."))
    except AddressError:
        return ""
    return "" if domain.startswith("[") or "." not in domain else domain


def _peer(peer: str) -> str:
    """The address without its zone."""
    return str(ip_address(peer.partition("%")[0]))
