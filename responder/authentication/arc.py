"""ARC (RFC 8617): whether the chain of those who passed a mail on is whole, and what the ones that we trust said of it.

A chain proves who sealed it, not that they are honest: without a list of trusted sealers it changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from responder.authentication.digests import Digests
from responder.authentication.dkim import (
    Signature,
    check_algorithm,
    fetch_all,
    parse_tags,
    place_of_key,
    read,
    unbase64,
    verify,
)
from responder.authentication.keys import Key, RefusedError
from responder.authentication.questions import Questions
from responder.authentication.section import MAX_FIELD, Field, Section, canonical, without_signature

MAX_SETS: Final = 50  # RFC 8617 4.2.1

_RESULTS, _MESSAGE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_INSTANCE = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,2})[ \t\r\n]*;(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Chain:
    """What came of it: `none`, `pass` or `fail`, and why. Of each set, the latest first: who sealed it, and what it recorded
    (the value of its ARC-Authentication-Results behind `i=`). Both only where the chain passes."""

    result: str
    reason: str = ""
    sealers: tuple[str, ...] = ()
    records: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seal:
    """One set, read."""

    fields: tuple[Field, Field, Field]  # as they are sealed: results, message signature, seal
    record: bytes
    tags: dict[bytes, bytes]
    domain: str
    selector: str
    algorithm: bytes
    signature: bytes


async def check(section: Section, questions: Questions, digests: Digests, seconds: float) -> Chain:
    """The state of the chain (RFC 8617 5.2); `seconds` is the time for keys. A key that can't be had fails it: there is no
    result word for that, and nothing is lost by it."""
    if not any(section.all(name) for name in (_RESULTS, _MESSAGE, _SEAL)):
        return Chain("none")
    try:
        if section.cut:
            raise RefusedError("fail", "header section too long")
        seals, message = _read(section)
        places = [(seal.selector, seal.domain) for seal in seals]
        keys = await fetch_all(questions, [(message.selector, message.domain), *places], seconds)
        (latest,) = await verify(section, [message], keys, digests)
        if latest.result != "pass":
            raise RefusedError("fail", f"message signature: {latest.reason}")
        signed = hashlib.sha256()
        for seal in seals:
            _verify(seal, signed, keys)
            await asyncio.sleep(0)  # fifty of them take some milliseconds
    except RefusedError as error:
        return Chain("fail", error.reason)
    seals.reverse()
    return Chain("pass", "", tuple([seal.domain for seal in seals]), tuple([seal.record for seal in seals]))


def vouched(chain: Chain, trusted: Collection[str], domain: str) -> bool:
    """Whether a trusted sealer saw the From domain pass DMARC, and all who had the mail since are trusted, too."""
    if chain.result != "pass" or not trusted:
        return False
    for sealer, record in zip(chain.sealers, chain.records, strict=True):
        if sealer not in trusted:
            return False
        if _records_pass(record, domain):
            return True
    return False


def _records_pass(record: bytes, domain: str) -> bool:
    import authres  # type: ignore[import-untyped]

    if len(record) > MAX_FIELD:
        return False
    try:
        text = b" ".join(record.split()).decode("ascii")
        header = authres.AuthenticationResultsHeader.parse(f"Authentication-Results: {text}")
    except Exception:  # what can't be read says nothing
        return False
    for result in header.results:
        if result.method == "dmarc" and result.result == "pass":
            named = [
                str(prop.value).lower() for prop in result.properties if (prop.type, prop.name) == ("header", "from")
            ]
            return named in ([], [domain])
    return False


def _read(section: Section) -> tuple[list[_Seal], Signature]:
    """The sets from the first to the latest, and the latest's message signature. Raises `RefusedError`."""
    sets: dict[int, dict[bytes, Field]] = {}
    for name in (_RESULTS, _MESSAGE, _SEAL):
        fields = section.all(name)
        if len(fields) > MAX_SETS:
            raise RefusedError("fail", "too many sets")
        for field in fields:
            instance = _instance(field, name)
            if name in sets.setdefault(instance, {}):
                raise RefusedError("fail", "a set twice")
            sets[instance][name] = field
    if sorted(sets) != list(range(1, len(sets) + 1)) or any(len(found) != 3 for found in sets.values()):
        raise RefusedError("fail", "a set is not whole")
    latest = sets[len(sets)]
    if parse_tags(latest[_SEAL]).get(b"cv") == b"fail":  # RFC 8617 5.2 2: nothing more to be learnt
        raise RefusedError("fail", "found broken before")
    seals = [_seal(number, sets[number]) for number in range(1, len(sets) + 1)]
    message = latest[_MESSAGE]
    tags = parse_tags(message)
    signature = read(message, {**tags, b"c": tags.get(b"c", b"relaxed/relaxed")})
    if _SEAL in signature.names:  # RFC 8617 4.1.2
        raise RefusedError("fail", "message signature covers seals")
    return seals, signature


def _instance(field: Field, name: bytes) -> int:
    if name == _RESULTS:
        match = _INSTANCE.match(field.value)
        written = match[1] if match else b""
    else:
        written = parse_tags(field).get(b"i", b"")
    if not written.isdigit() or not 0 < int(written[:3]) <= MAX_SETS:
        raise RefusedError("fail", "malformed instance")
    return int(written)


def _seal(number: int, found: dict[bytes, Field]) -> _Seal:
    tags = parse_tags(found[_SEAL])
    for name in (b"a", b"b", b"cv", b"d", b"s"):
        if not tags.get(name):
            raise RefusedError("fail", f"no {name.decode()}= in a seal")
    if b"h" in tags or b"bh" in tags:  # RFC 8617 4.1.3
        raise RefusedError("fail", "a seal names fields")
    if tags[b"cv"] != (b"none" if number == 1 else b"pass"):  # RFC 8617 5.2 3
        raise RefusedError("fail", "a seal on a broken chain")
    selector, domain = place_of_key(tags)
    match = _INSTANCE.match(found[_RESULTS].value)
    return _Seal(
        fields=(found[_RESULTS], found[_MESSAGE], found[_SEAL]),
        record=match[2] if match else b"",
        tags=tags,
        domain=domain,
        selector=selector,
        algorithm=check_algorithm(tags),
        signature=unbase64(tags[b"b"]),
    )


def _verify(seal: _Seal, signed: hashlib._Hash, keys: dict[tuple[str, str], Key | RefusedError]) -> None:
    """Whether the seal is its sealer's: over all sets before, which are in `signed`, and its own but for its signature
    (RFC 8617 5.1.1). Then its set is in `signed`, too."""
    key = keys[seal.selector, seal.domain]
    if isinstance(key, RefusedError):
        raise RefusedError("fail", f"seal: {key.reason}")
    for field in seal.fields[:2]:
        signed.update(canonical(field, True))
    own = signed.copy()
    own.update(canonical(without_signature(seal.fields[2]), True).removesuffix(b"\r\n"))
    if not key.verify(seal.algorithm, seal.signature, own.digest()):
        raise RefusedError("fail", "seal: bad signature")
    signed.update(canonical(seal.fields[2], True))
