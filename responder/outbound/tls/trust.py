"""Certificates that the handshake left alone: held against TLSA records, or, for a policy in testing, against the authorities."""

from __future__ import annotations

import os
import re
import ssl
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509

from responder.mail.headers import clean
from responder.outbound.tls.certificates import current, issued, peer_chain, speaks_for
from responder.outbound.tls.dane import examine_chain
from responder.outbound.tls.security import Insecure, Level, Security

MAX_AUTHORITIES: Final = 2000
_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def examine_certificates(connection: ssl.SSLObject, security: Security, host: str, now: float) -> Insecure | None:
    """What a host's certificates lack of DANE, or of VERIFIED; None where nothing. `now` in Unix seconds."""
    chain = peer_chain(connection)
    names = security.names or (host,)
    if security.level is Level.DANE:
        return examine_chain(chain, security.tlsa, names, now)
    if not chain:
        return Insecure("validation-failure", "the host shows no certificate")
    return _examine_trust(chain, names, security.authorities, now)


def _examine_trust(
    chain: Sequence[x509.Certificate], names: Sequence[str], authorities: str, now: float
) -> Insecure | None:
    """What the handshake would have checked, near enough for a report: nothing depends on it but that."""
    leaf = chain[0]
    if not current(leaf, now):
        return Insecure("certificate-expired", "certificate: out of its time")
    if not speaks_for(leaf, names):
        return Insecure("certificate-host-mismatch", f"certificate: does not name {names[0]}")
    try:
        anchors = store_of(authorities)
    except (OSError, ValueError) as error:
        return Insecure("validation-failure", clean(f"authorities: {error}")[:200])
    above = list(chain[1:])
    certificate = leaf
    while True:
        trusted = anchors.get(certificate.issuer.public_bytes(), ())
        if any(current(anchor, now) and issued(anchor, certificate) for anchor in trusted):
            return None
        found = next((one for one in above if current(one, now) and issued(one, certificate)), None)
        if found is None:
            return Insecure("certificate-not-trusted", "certificate: no chain to a trusted authority")
        above.remove(found)
        certificate = found


@lru_cache(maxsize=8)
def store_of(authorities: str) -> Mapping[bytes, Sequence[x509.Certificate]]:
    """The authorities in a PEM file, or, for "", the system's, by subject. Raises `OSError`."""
    paths = ssl.get_default_verify_paths()
    if authorities or paths.cafile:
        files = [Path(authorities or str(paths.cafile))]
    else:
        files = [Path(entry) for entry in os.scandir(paths.capath)] if paths.capath else []
    found: dict[bytes, x509.Certificate] = {}  # by their text: some stand in two files
    for file in files:
        for block in _BLOCK.findall(file.read_bytes())[:MAX_AUTHORITIES]:
            if block not in found and len(found) < MAX_AUTHORITIES:
                try:
                    with warnings.catch_warnings(action="ignore"):  # old authorities have oddities
                        found[block] = x509.load_pem_x509_certificate(block)
                except ValueError:
                    continue  # the others are as good
    by_subject: dict[bytes, list[x509.Certificate]] = {}
    for certificate in found.values():
        by_subject.setdefault(certificate.subject.public_bytes(), []).append(certificate)
    return by_subject
