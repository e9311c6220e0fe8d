"""DANE for SMTP (RFC 7672): which TLSA records can be used, and whether one of them speaks of what a host shows. Pure.

Usage 3 (DANE-EE) pins the host's own certificate or key: whatever names and times stand in it (RFC 7672 3.1.1). Usage 2 (DANE-TA)
pins an authority: the host shows a chain up to it, each link in its time, and one of its names (RFC 7672 3.1.2, 3.2.2). Usages 0
and 1 can't be used with SMTP (RFC 7672 3.1.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography import x509

from responder.outbound.tls.certificates import current, encoded, encoded_key, issued, speaks_for
from responder.outbound.tls.security import TLSA, Insecure

MAX_RECORDS: Final = 20
TA: Final = 2
EE: Final = 3
_LENGTHS: Final = {1: 32, 2: 64}  # of SHA-256 and SHA-512 (RFC 6698 2.1.3)


def usable(records: Sequence[TLSA]) -> tuple[TLSA, ...]:
    """Those that can speak of a host. Of several digests of one thing the best counts alone (RFC 7671 9)."""
    known = [
        record
        for record in dict.fromkeys(records)
        if record.usage in (TA, EE)
        and record.selector in (0, 1)
        and ((record.matching == 0 and record.data) or _LENGTHS.get(record.matching) == len(record.data))
    ]
    best: dict[tuple[int, int], int] = {}
    for record in known:
        what = record.usage, record.selector
        best[what] = max(record.matching, best.get(what, 0))
    return tuple([r for r in known if r.matching in (0, best[r.usage, r.selector])])[:MAX_RECORDS]


def examine_chain(
    chain: Sequence[x509.Certificate], records: Sequence[TLSA], names: Sequence[str], now: float
) -> Insecure | None:
    """None where one of the records holds for the chain that a host has shown; else why none does."""
    if not chain:
        return Insecure("validation-failure", "the host shows no certificate")
    leaf = chain[0]
    if any(record.usage == EE and _is(record, leaf) for record in records):
        return None
    why = Insecure("validation-failure", "no TLSA record matches the certificate")
    anchors = [record for record in records if record.usage == TA]
    if not anchors:
        return why
    path, anchored = _path(chain, anchors)
    if not anchored:
        return why
    if not all(current(certificate, now) for certificate in path):
        return Insecure("certificate-expired", "a certificate under the TLSA record's authority is out of its time")
    if not speaks_for(leaf, names):
        return Insecure(
            "certificate-host-mismatch", f"the certificate does not name {names[0] if names else 'the host'}"
        )
    return None


def _path(chain: Sequence[x509.Certificate], anchors: Sequence[TLSA]) -> tuple[list[x509.Certificate], bool]:
    """From the host's certificate to one that a record names, each issued by the next; and whether there is such a one."""
    spoken = [certificate for record in anchors if (certificate := _whole(record)) is not None]
    left = [*chain[1:], *spoken]  # RFC 7671 5.2.2: a whole certificate in DNS need not be sent
    path = [chain[0]]
    while True:
        if any(_is(record, path[-1]) for record in anchors):
            return path, True
        found = next((one for one in left if issued(one, path[-1])), None)
        if found is None:
            return path, False
        left.remove(found)
        path.append(found)


def _whole(record: TLSA) -> x509.Certificate | None:
    if (record.selector, record.matching) != (0, 0):
        return None
    try:
        return x509.load_der_x509_certificate(record.data)
    except ValueError:
        return None


def _is(record: TLSA, certificate: x509.Certificate) -> bool:
    """Whether the record speaks of this certificate (RFC 6698 2.1)."""
    try:
        subject = encoded_key(certificate) if record.selector else encoded(certificate)
    except ValueError:
        return False
    if record.matching == 0:
        return subject == record.data
    return hashlib.new({1: "sha256", 2: "sha512"}[record.matching], subject).digest() == record.data
