"""One private key of a domain: made, read, and as the DNS has to publish its other half (RFC 6376 3.6.1, RFC 8463, RFC 8301)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

Algorithm = Literal["rsa", "ed25519"]

BITS: Final = 2048  # RFC 8301 3.2: signers should not use less
MIN_BITS: Final = 1024  # RFC 8301 3.2: signers must not use less
MAX_BITS: Final = 4096  # RFC 8301 3.2: no verifier has to take more

_PADDING: Final = PKCS1v15()
_DIGEST: Final = Prehashed(SHA256())
_PROBE: Final = bytes(32)


class KeyUnusableError(Exception):
    """Why a private key can't sign: one phrase, without the key."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A selector and its private key, which no repr shows."""

    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.selector!r}, {self.algorithm})"

    @property
    def algorithm(self) -> Algorithm:
        return "rsa" if isinstance(self.private, RSAPrivateKey) else "ed25519"

    @property
    def bits(self) -> int:
        """Of an RSA key; 0 for another."""
        return self.private.key_size if isinstance(self.private, RSAPrivateKey) else 0

    def sign(self, digest: bytes) -> bytes:
        """The signature of a SHA-256 digest. RSA takes 0.2 ms without Python's lock, Ed25519 a tenth of that."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(digest, _PADDING, _DIGEST)
        return self.private.sign(digest)  # RFC 8463 3: what is signed is the digest

    @property
    def published(self) -> bytes:
        """The public key as it stands in `p=`, not yet in base64: DER for RSA, bare for Ed25519 (RFC 8463 4)."""
        public = self.private.public_key()
        if isinstance(self.private, RSAPrivateKey):
            return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return public.public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def record(self) -> str:
        """The text of its TXT record."""
        return f"v=DKIM1; k={self.algorithm}; p={base64.b64encode(self.published).decode('ascii')}"


def generate(selector: str, algorithm: Algorithm, bits: int = BITS) -> SigningKey:
    """A new key. An RSA one of 2048 bits takes some tenths of a second."""
    if algorithm == "rsa":
        return SigningKey(selector, generate_private_key(65537, bits))
    return SigningKey(selector, Ed25519PrivateKey.generate())


def to_pem(key: SigningKey) -> bytes:
    """The private key for its file."""
    return key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def from_pem(selector: str, content: bytes) -> SigningKey:
    """The key of a file. Raises `KeyUnusableError`.

    OpenSSL would check for 25 ms whether the numbers are primes; that the key signs what its public half verifies says as much
    of a file that is damaged, a hundred times as fast.
    """
    if b"ENCRYPTED" in content:
        raise KeyUnusableError("is encrypted, and a server has nobody to ask for the passphrase")
    try:
        private = load_pem_private_key(content, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusableError("is no private key in PEM") from error
    if not isinstance(private, RSAPrivateKey | Ed25519PrivateKey):
        raise KeyUnusableError("is neither an RSA nor an Ed25519 key")
    key = SigningKey(selector, private)
    if isinstance(private, RSAPrivateKey):
        if not MIN_BITS <= key.bits <= MAX_BITS:
            raise KeyUnusableError(
                f"has {key.bits} bits: wants {MIN_BITS} to {MAX_BITS}, and better {BITS} (RFC 8301 3.2)"
            )
        try:
            private.public_key().verify(key.sign(_PROBE), _PROBE, _PADDING, _DIGEST)
        except (InvalidSignature, ValueError) as error:
            raise KeyUnusableError("is damaged: what it signs does not verify") from error
    return key
