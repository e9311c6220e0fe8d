"""What a host shows in the handshake: its certificates, and the names that one of them speaks for."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MAX_CHAIN: Final = 10
"""Certificates of one host that are looked at: real chains have up to four."""


def peer_chain(connection: ssl.SSLObject) -> list[x509.Certificate]:
    """The certificates as the host sent them, its own first; what is none is left out. Empty where there is none of its own."""
    if hasattr(connection, "get_unverified_chain"):  # Python 3.13
        encoded: list[bytes] = list(connection.get_unverified_chain() or ())
    else:
        # The same call, before it was public (3.10 to 3.12).
        inner: Any = getattr(connection, "_sslobj", None)
        encoded = [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in inner.get_unverified_chain() or ()]
    chain = []
    for number, der in enumerate(encoded[:MAX_CHAIN]):
        try:
            chain.append(x509.load_der_x509_certificate(der))
        except ValueError:
            if number == 0:
                return []
    return chain


def encoded(certificate: x509.Certificate) -> bytes:
    """The whole certificate, DER."""
    return certificate.public_bytes(Encoding.DER)


def encoded_key(certificate: x509.Certificate) -> bytes:
    """Its SubjectPublicKeyInfo, DER. Raises `ValueError` for a kind of key that is not known."""
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as error:  # UnsupportedAlgorithm is no ValueError
        raise ValueError(str(error)) from None


def current(certificate: x509.Certificate, now: float) -> bool:
    """Whether `now` (Unix seconds) lies in its time."""
    moment = datetime.fromtimestamp(now, UTC)
    return certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether `issuer` is an authority and has signed the other one."""
    try:
        if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # whatever is odd about it: that one did not
        return False
    return True


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names that it speaks for (RFC 6125 6.4.4: the subject's common name is none of them)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return found.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        return []


def speaks_for(certificate: x509.Certificate, names: Sequence[str]) -> bool:
    """Whether one of these host names is among its names; `*` stands for one whole label, the left-most (RFC 6125 6.4.3)."""
    patterns = dns_names(certificate)
    return any(_matches(pattern, name) for pattern in patterns for name in names)


def _matches(pattern: str, name: str) -> bool:
    pattern, name = (text.lower().removesuffix(".") for text in (pattern, name))
    if pattern.startswith("*."):
        first, _, rest = name.partition(".")
        return bool(first) and "." in rest and rest == pattern[2:]
    return pattern == name
