"""Public keys of signers, as the DNS has them (RFC 6376 3.6.1, RFC 8463), and what makes one unfit (RFC 8301)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from dkim.util import InvalidTagValueList, parse_tag_value  # type: ignore[import-untyped]

from responder.authentication.questions import Questions
from responder.dns import NoData, NotFound, TemporaryError

MAX_RECORD: Final = 4096  # octets; a key of 4096 bits takes 750
MAX_RECORDS: Final = 3  # of one name that are tried (RFC 6376 3.6.2.2 leaves open what several mean)
MIN_BITS: Final = 1024  # RFC 8301 3.2
MAX_BITS: Final = 8192  # RFC 8301 3.2 asks for 4096; each doubling costs us four times as much
MAX_EXPONENT: Final = 1 << 32  # everybody's is 65537; one as long as the key would cost a hundred times as much


class RefusedError(Exception):
    """Why something can't be verified: a result word of RFC 8601 2.7.1, and a reason in words of ours."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Key:
    """A signer's key. `testing`: its domain is only trying (t=y). `exact`: no subdomain may use it (t=s)."""

    public: RSAPublicKey | Ed25519PublicKey
    testing: bool = False
    exact: bool = False

    def verify(self, algorithm: bytes, signature: bytes, digest: bytes) -> bool:
        """Whether that is this key's signature of the SHA-256 digest. Raises `RefusedError` where the algorithm is another."""
        try:
            if isinstance(self.public, RSAPublicKey) and algorithm == b"rsa-sha256":
                self.public.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
            elif isinstance(self.public, Ed25519PublicKey) and algorithm == b"ed25519-sha256":
                self.public.verify(signature, digest)  # RFC 8463 3: what is signed is the digest
            else:
                raise RefusedError("permerror", "key of another algorithm")
        except (InvalidSignature, ValueError):
            return False
        return True


async def fetch(questions: Questions, selector: str, domain: str) -> Key | RefusedError:
    """The key that a domain publishes under a selector, or why there is none. Never raises."""
    try:
        records = await questions.ask("TXT", f"{selector}._domainkey.{domain}")
    except (NotFound, NoData):
        return RefusedError("permerror", "no key")
    except TemporaryError:
        return RefusedError("temperror", "key not available")
    refusal = RefusedError("permerror", "no key")
    for record in records[:MAX_RECORDS]:
        try:
            return parse(record)
        except RefusedError as error:
            refusal = error
    return refusal


def parse(record: bytes) -> Key:
    """The key in a record. Raises `RefusedError`."""
    if len(record) > MAX_RECORD:
        raise RefusedError("permerror", "key record too long")
    try:
        tags: dict[bytes, bytes] = parse_tag_value(record)
    except InvalidTagValueList:
        raise RefusedError("permerror", "malformed key record") from None
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise RefusedError("permerror", "key record of another version")
    if not _lists(tags.get(b"s", b"*"), b"*", b"email"):
        raise RefusedError("permerror", "key not for mail")
    if b"h" in tags and not _lists(tags[b"h"], b"sha256"):
        raise RefusedError("permerror", "key for other hashes")
    written = b"".join(tags.get(b"p", b"").split())
    if not written:
        raise RefusedError("permerror", "key revoked" if b"p" in tags else "malformed key record")
    flags = [flag.strip() for flag in tags.get(b"t", b"").split(b":")]
    return Key(_public(tags.get(b"k", b"rsa"), written), b"y" in flags, b"s" in flags)


def _lists(value: bytes, *wanted: bytes) -> bool:
    return any(word.strip() in wanted for word in value.split(b":"))


def _public(kind: bytes, written: bytes) -> RSAPublicKey | Ed25519PublicKey:
    try:
        octets = base64.b64decode(written, validate=True)
        if kind == b"ed25519":
            return Ed25519PublicKey.from_public_bytes(octets)
        if kind != b"rsa":
            raise RefusedError("permerror", "key of an unknown kind")
        public = load_der_public_key(octets)
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        raise RefusedError("permerror", "malformed key") from None
    if not isinstance(public, RSAPublicKey):
        raise RefusedError("permerror", "malformed key")
    if public.key_size < MIN_BITS:
        raise RefusedError("policy", "key too short")
    if public.key_size > MAX_BITS or public.public_numbers().e >= MAX_EXPONENT:
        raise RefusedError("policy", "key too long")
    return public
