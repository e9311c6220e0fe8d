"""DKIM signatures (RFC 6376, RFC 8463, RFC 8301): read, checked against their key and the mail, each on its own.

dkimpy reads tags and canonicalises fields. Its `verify` is not used: it canonicalises body and header anew for each signature, in
calls that keep Python's lock for as long as the mail is big, and a hostile field makes its expressions take hours.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dkim.canonicalization import (  # type: ignore[import-untyped]
    CanonicalizationPolicy,
    InvalidCanonicalizationPolicyError,
    Relaxed,
)
from dkim.util import InvalidTagValueList, parse_tag_value  # type: ignore[import-untyped]

from responder.authentication.digests import Digests
from responder.authentication.keys import Key, RefusedError, fetch
from responder.authentication.questions import Questions
from responder.authentication.section import MAX_FIELD, Field, Section, canonical, without_signature
from responder.mail.address import AddressError, domain_to_ascii

SKEW: Final = 300.0  # seconds by which a signer's clock may differ from ours
MAX_NAMES: Final = 1000  # of fields in `h=`

ONCE: Final = frozenset(
    (
        *(
            b"from",
            b"date",
            b"sender",
            b"reply-to",
            b"to",
            b"cc",
            b"message-id",
            b"in-reply-to",
            b"references",
            b"subject",
        ),
        *(b"mime-version", b"content-type", b"content-transfer-encoding"),
    )
)
"""Fields of which a mail has one (RFC 5322 3.6, RFC 2045): readers differ in which of two they show."""

_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_DIGITS = re.compile(rb"[0-9]{1,76}")  # RFC 6376 3.5, l=


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one signature: a result word (RFC 8601 2.7.1), why, and of it what was readable ("" where it was not)."""

    result: str
    reason: str = ""
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    start: str = ""  # of the signature itself, to tell equal ones apart (RFC 6008)


@dataclass(frozen=True, slots=True)
class Signature:
    """A DKIM-Signature (or ARC-Message-Signature) field that says all it must."""

    field: Field
    tags: dict[bytes, bytes]
    domain: str
    selector: str
    algorithm: bytes
    names: tuple[bytes, ...]
    relaxed_header: bool
    relaxed_body: bool
    length: int | None
    body_hash: bytes
    signature: bytes

    def checked(self, result: str, reason: str = "") -> Checked:
        return Checked(
            result,
            reason,
            self.domain,
            self.selector,
            self.algorithm.decode("ascii"),
            base64.b64encode(self.signature[:6]).decode("ascii"),
        )

    def digest(self, section: Section) -> bytes:
        """What was signed (RFC 6376 3.7).

        What a mail has once is taken once more than the signer named it: a second one, put above the signed one, must break
        the signature (RFC 6376 8.15).
        """
        more = dict.fromkeys([name for name in self.names if name in ONCE])
        signed = section.signed([*self.names, *more], self.relaxed_header)
        own = canonical(without_signature(self.field), self.relaxed_header).removesuffix(b"\r\n")
        return hashlib.sha256(b"".join([*signed, own])).digest()


async def check(
    section: Section, now: float, most: int, questions: Questions, digests: Digests, seconds: float
) -> list[Checked]:
    """What came of the first `most` DKIM signatures, in their order. `now` is in Unix seconds, `seconds` the time for keys."""
    fields = section.all(b"dkim-signature")[:most]
    if section.cut:
        return [Checked("permerror", "header section too long") for _ in fields]
    read = [_read(field, now) for field in fields]
    good = [signature for signature in read if isinstance(signature, Signature)]
    keys = await fetch_all(questions, [(signature.selector, signature.domain) for signature in good], seconds)
    found = await verify(section, good, keys, digests)
    results = iter(found)
    return [signature if isinstance(signature, Checked) else next(results) for signature in read]


async def fetch_all(
    questions: Questions, names: Iterable[tuple[str, str]], seconds: float
) -> dict[tuple[str, str], Key | RefusedError]:
    """The keys by (selector, domain), all asked for at once; one that has not come in time is a temporary error."""

    async def one(selector: str, domain: str) -> Key | RefusedError:
        try:
            async with asyncio.timeout(seconds):
                return await fetch(questions, selector, domain)
        except TimeoutError:
            return RefusedError("temperror", "key not available")

    wanted = list(dict.fromkeys(names))
    return dict(zip(wanted, await asyncio.gather(*[one(*name) for name in wanted]), strict=True))


async def verify(
    section: Section,
    signatures: Sequence[Signature],
    keys: dict[tuple[str, str], Key | RefusedError],
    digests: Digests,
) -> list[Checked]:
    """The header first: it takes microseconds, and the body is hashed only for a signature that its signer has made."""
    results = [_header(section, signature, keys[signature.selector, signature.domain]) for signature in signatures]
    true = [signature for signature, result in zip(signatures, results, strict=True) if result.result == "pass"]
    if true:
        await digests.want([(signature.relaxed_body, signature.length) for signature in true])
    return [
        _body(signature, result, digests) if result.result == "pass" else result
        for signature, result in zip(signatures, results, strict=True)
    ]


def _header(section: Section, signature: Signature, key: Key | RefusedError) -> Checked:
    if isinstance(key, RefusedError):
        return signature.checked(key.result, key.reason)
    identity = signature.tags.get(b"i", b"").lower().rpartition(b"@")[2].strip()
    if key.exact and identity and identity != signature.domain.encode():  # RFC 6376 3.6.1, t=s
        return signature.checked("permerror", "key not for subdomains")
    try:
        if key.verify(signature.algorithm, signature.signature, signature.digest(section)):
            return signature.checked("pass", "test key" if key.testing else "")
    except RefusedError as error:
        return signature.checked(error.result, error.reason)
    if key.testing:  # RFC 6376 3.6.1, t=y: as if it were not signed
        return signature.checked("neutral", "test key, bad signature")
    return signature.checked("fail", "bad signature")


def _body(signature: Signature, result: Checked, digests: Digests) -> Checked:
    body = digests.found(signature.relaxed_body)
    if body is None:
        return signature.checked("temperror", "not verified in time")
    digest = body.digests.get(signature.length)
    if digest != signature.body_hash:
        if result.reason:  # a test key: see above
            return signature.checked("neutral", "test key, body changed")
        return signature.checked("fail", "body changed")
    if signature.length is not None and signature.length < body.length:
        # RFC 6376 8.2: anybody may have added the rest, and it may be all that a reader sees.
        return signature.checked("policy", "body only signed in part")
    return result


def _read(field: Field, now: float) -> Signature | Checked:
    """A DKIM-Signature field (RFC 6376 6.1.1), or what is wrong with it."""
    try:
        tags = parse_tags(field)
        if tags.get(b"v") != b"1":
            raise RefusedError("neutral", "another version")
        signature = read(field, tags)
        _check_identity(tags, signature.domain)
        _check_times(tags, now)
    except RefusedError as error:
        return Checked(error.result, error.reason, *_named(field))
    return signature


def _named(field: Field) -> tuple[str, str]:
    """Domain and selector of a field that is otherwise bad, for the record."""
    try:
        tags = parse_tags(field)
        return _domain(tags), _selector(tags)
    except RefusedError:
        return "", ""


def parse_tags(field: Field) -> dict[bytes, bytes]:
    """The tags of a signature's field. Raises `RefusedError`."""
    if len(field.value) > MAX_FIELD:
        raise RefusedError("permerror", "signature field too long")
    try:
        tags: dict[bytes, bytes] = parse_tag_value(field.value)
    except InvalidTagValueList:
        raise RefusedError("neutral", "malformed signature field") from None
    return tags


def read(field: Field, tags: dict[bytes, bytes]) -> Signature:
    """What DKIM-Signature and ARC-Message-Signature have in common. Raises `RefusedError`."""
    for name in (b"a", b"b", b"bh", b"d", b"h", b"s"):
        if not tags.get(name):
            raise RefusedError("permerror", f"no {name.decode()}= in the signature")
    algorithm = check_algorithm(tags)
    try:
        policy = CanonicalizationPolicy.from_c_value(tags.get(b"c"))
    except InvalidCanonicalizationPolicyError:
        raise RefusedError("neutral", "unknown canonicalisation") from None
    if b"q" in tags and b"dns/txt" not in [way.strip() for way in tags[b"q"].split(b":")]:
        raise RefusedError("neutral", "unknown way to the key")
    names = tuple([name.strip().lower() for name in tags[b"h"].split(b":", MAX_NAMES)])
    if len(names) > MAX_NAMES:
        raise RefusedError("permerror", "too many signed fields")
    if b"from" not in names:  # RFC 6376 5.4
        raise RefusedError("permerror", "From not signed")
    if b"l" in tags and not _DIGITS.fullmatch(tags[b"l"]):
        raise RefusedError("permerror", "malformed l=")
    return Signature(
        field=field,
        tags=tags,
        domain=_domain(tags),
        selector=_selector(tags),
        algorithm=algorithm,
        names=names,
        relaxed_header=policy.header_algorithm is Relaxed,
        relaxed_body=policy.body_algorithm is Relaxed,
        length=int(tags[b"l"]) if b"l" in tags else None,
        body_hash=unbase64(tags[b"bh"]),
        signature=unbase64(tags[b"b"]),
    )


def check_algorithm(tags: dict[bytes, bytes]) -> bytes:
    """The algorithm. Raises `RefusedError` where it proves nothing, or is not known."""
    if tags[b"a"] == b"rsa-sha1":  # RFC 8301 3.1
        raise RefusedError("policy", "SHA-1 is not accepted")
    if tags[b"a"] not in (b"rsa-sha256", b"ed25519-sha256"):  # RFC 6376 3.3.4: ignored
        raise RefusedError("neutral", "unknown algorithm")
    return tags[b"a"]


def place_of_key(tags: dict[bytes, bytes]) -> tuple[str, str]:
    """Selector and domain. Raises `RefusedError`."""
    return _selector(tags), _domain(tags)


def unbase64(value: bytes) -> bytes:
    """Raises `RefusedError`."""
    try:
        return base64.b64decode(b"".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError("permerror", "malformed base64") from None


def _domain(tags: dict[bytes, bytes]) -> str:
    try:
        domain = domain_to_ascii(tags.get(b"d", b"").decode("utf-8"))
    except (AddressError, UnicodeError):
        raise RefusedError("permerror", "malformed d=") from None
    if domain.startswith("[") or "." not in domain:
        raise RefusedError("permerror", "malformed d=")
    return domain


def _selector(tags: dict[bytes, bytes]) -> str:
    selector = tags.get(b"s", b"").decode("ascii", "replace")
    if not _SELECTOR.fullmatch(selector) or ".." in selector:
        raise RefusedError("permerror", "malformed s=")
    return selector.lower()


def _check_identity(tags: dict[bytes, bytes], domain: str) -> None:
    """RFC 6376 3.5, i=: the domain of d=, or below it."""
    if b"i" not in tags:
        return
    try:
        identity = domain_to_ascii(tags[b"i"].rpartition(b"@")[2].strip().decode("utf-8"))
    except (AddressError, UnicodeError):
        raise RefusedError("permerror", "malformed i=") from None
    if identity != domain and not identity.endswith(f".{domain}"):
        raise RefusedError("permerror", "i= is not below d=")


def _check_times(tags: dict[bytes, bytes], now: float) -> None:
    for name in (b"t", b"x"):
        if name in tags and not _DIGITS.fullmatch(tags[name]):
            raise RefusedError("permerror", f"malformed {name.decode()}=")
    if b"x" in tags:
        expires = int(tags[b"x"])
        if b"t" in tags and expires <= int(tags[b"t"]):
            raise RefusedError("permerror", "x= is not behind t=")
        if expires + SKEW < now:
            raise RefusedError("fail", "signature expired")
