"""Signers for tests: domains with keys, signed mails, sealed chains. dkimpy signs, so that nothing of ours agrees with itself."""

from __future__ import annotations

import base64
from functools import cache

import dkim  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

FIELDS = [b"from", b"to", b"subject", b"date", b"message-id"]


@cache
def rsa_key(bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


@cache
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def record(bits: int = 2048, tags: str = "v=DKIM1; k=rsa") -> str:
    """The key record of a domain that signs with `rsa_key(bits)`."""
    der = rsa_key(bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{tags}; p={base64.b64encode(der).decode()}"


def ed25519_record() -> str:
    raw = ed25519_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}"


def sign(
    content: bytes,
    domain: str = "example.org",
    selector: str = "sel",
    *,
    canonical: str = "relaxed/relaxed",
    bits: int = 2048,
    algorithm: str = "rsa-sha256",
    identity: str = "",
    length: bool = False,
    fields: list[bytes] | None = None,
) -> bytes:
    """The mail with one more signature on top."""
    if algorithm.startswith("ed25519"):
        raw = ed25519_key().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        private = base64.b64encode(raw)
    else:
        private = _pem(bits)
    made = dkim.sign(
        content,
        selector.encode(),
        domain.encode(),
        private,
        identity=identity.encode() or None,
        canonicalize=tuple(canonical.encode().split(b"/")),
        signature_algorithm=algorithm.encode(),
        include_headers=fields or FIELDS,
        length=length,
    )
    return bytes(made) + content


def seal(content: bytes, domain: str, results: str, selector: str = "sel", bits: int = 2048) -> bytes:
    """The mail as a forwarder passes it on: its Authentication-Results (host `domain`, these results) in a set of ARC."""
    written = f"Authentication-Results: {domain}; {results}\r\n".encode()
    lines = dkim.arc_sign(
        written + content, selector.encode(), domain.encode(), _pem(bits), domain.encode(), include_headers=FIELDS
    )
    assert lines, "dkimpy would not seal that"
    return b"".join([*lines, content])


@cache
def _pem(bits: int) -> bytes:
    return rsa_key(bits).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
