"""DMARC (RFC 7489): what a From domain asks for, and whether SPF or DKIM speak for it. Pure: who asks the DNS is elsewhere.

Where this differs from RFC 7489, it follows the draft of its successor: `pct` below 100 is read as that one's `t=y`, one step
milder for all of a domain's mail. What share of it a receiver refuses can't be told to anybody, and no two receivers chose alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from responder.mail.suffix import organisational

MAX_RECORD: Final = 4096  # octets
POLICIES: Final = ("none", "quarantine", "reject")

_VERSION = re.compile(r"\s*v\s*=\s*DMARC1\s*(?:;|\Z)")
_TAG = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*?)\s*", re.DOTALL)


class RecordError(ValueError):
    """A record that begins like a DMARC record, and is none."""


@dataclass(frozen=True, slots=True)
class Record:
    """A policy record (RFC 7489 6.3)."""

    policy: str
    subdomains: str
    strict_dkim: bool = False
    strict_spf: bool = False
    testing: bool = False
    missing: str = ""  # for subdomains that do not exist; "" where they are as others

    def asks(self, subdomain: bool, exists: bool = True) -> str:
        """What becomes of mail that fails: `none`, `quarantine` or `reject`."""
        below = self.subdomains if exists else self.missing or self.subdomains
        wanted = POLICIES.index(below if subdomain else self.policy)
        return POLICIES[max(wanted - self.testing, 0)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one From domain: a result word (RFC 7489 11.2), and what the domain asks for where there is a record."""

    result: str
    domain: str = ""
    policy: str | None = None


Finding = tuple[str, str]
"""A result word of SPF or DKIM, and the domain that it is about."""


def choose(records: Iterable[bytes]) -> Record | None:
    """The record among a name's TXT records; None where there is none, or more than one (RFC 7489 6.6.3).

    Raises `RecordError` where it is malformed.
    """
    texts = [record.decode("ascii", "replace") for record in records if len(record) <= MAX_RECORD]
    found = [text for text in texts if _VERSION.match(text)]
    return parse(found[0]) if len(found) == 1 else None


def parse(text: str) -> Record:
    """The policy in a record. Unknown tags and values are passed over (RFC 7489 6.3). Raises `RecordError`."""
    if not _VERSION.match(text):
        raise RecordError("another version")
    tags: dict[str, str] = {}
    for written in text.split(";"):
        if not written.strip():
            continue
        match = _TAG.fullmatch(written)
        if match is None:
            continue
        name, value = match[1].lower(), match[2]
        if name in tags:  # RFC 6376 3.2, by which these are written: then none of it counts
            raise RecordError("a tag twice")
        tags[name] = value
    policy = tags.get("p", "").lower()
    if policy not in POLICIES:
        if "rua" not in tags:  # RFC 7489 6.6.3 6
            raise RecordError("no policy")
        policy = "none"
    subdomains = tags.get("sp", policy).lower()
    if subdomains not in POLICIES:
        subdomains = policy
    missing = tags.get("np", "").lower()
    share = tags.get("pct", "100")
    return Record(
        policy,
        subdomains,
        strict_dkim=tags.get("adkim", "").lower() == "s",
        strict_spf=tags.get("aspf", "").lower() == "s",
        testing=tags.get("t", "").lower() == "y"
        or (share.isascii() and share.isdigit() and len(share) < 4 and int(share) < 100),
        missing=missing if missing in POLICIES else "",
    )


def evaluate(
    domain: str, record: Record, at_parent: bool, spf: Finding, dkim: Sequence[Finding], exists: bool = True
) -> Verdict:
    """Whether what SPF and DKIM found speaks for the domain (RFC 7489 6.6.2).

    Only what is aligned counts, also where it could not be found out: a signature of a domain of the forger's own, whose name
    servers never answer, must not keep a mail from being refused.
    """
    policy = record.asks(at_parent, exists)
    aligned = {spf[0]} if _aligned(spf[1], domain, record.strict_spf) else set()
    aligned.update([result for result, signer in dkim if _aligned(signer, domain, record.strict_dkim)])
    for result in ("pass", "temperror"):
        if result in aligned:
            return Verdict(result, domain, policy)
    return Verdict("fail", domain, policy)


def gravest(verdicts: Sequence[Verdict]) -> Verdict:
    """Of several From domains the one that decides: each must pass (RFC 7489 6.6.1)."""
    order = ("pass", "none", "permerror", "temperror", "fail")
    return max(verdicts, key=lambda one: (order.index(one.result), POLICIES.index(one.policy or "none")))


def _aligned(domain: str, author: str, strict: bool) -> bool:
    if not domain:
        return False
    return domain == author or (not strict and organisational(domain) == organisational(author))
