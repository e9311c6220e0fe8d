"""Whether the DNS has the public half of keys: `responder dkim activate` and `check` ask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from responder.authentication.keys import RefusedError, parse
from responder.clock import Clock
from responder.dns import NoData, NotFound, Resolver, TemporaryError
from responder.outbound.dkim.keys import SigningKey

PUBLISHED = "published"


async def ask(nameservers: Sequence[str], domain: str, keys: Mapping[str, SigningKey], clock: Clock) -> dict[str, str]:
    """By selector what the DNS has of it: `PUBLISHED`, or what is wrong. Never raises."""
    resolver = Resolver(nameservers, clock=clock)
    try:
        said = await asyncio.gather(*[_one(resolver, domain, key) for key in keys.values()])
    finally:
        await resolver.close()
    return dict(zip(keys, said, strict=True))


async def _one(resolver: Resolver, domain: str, key: SigningKey) -> str:
    try:
        records = await resolver.txt(f"{key.selector}._domainkey.{domain}")
    except (NotFound, NoData):
        return "no record"
    except TemporaryError as error:
        return f"not known: {error}"
    if len(records) != 1:  # RFC 6376 3.6.2.2: what a verifier then makes of it is its own affair
        return f"{len(records)} records, where there must be one"
    try:
        public = parse(records[0]).public
    except RefusedError as error:
        return f"a record that verifiers refuse: {error.reason}"
    der = isinstance(public, RSAPublicKey)
    shape = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo) if der else (Encoding.Raw, PublicFormat.Raw)
    return PUBLISHED if public.public_bytes(*shape) == key.published else "another key"
