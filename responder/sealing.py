"""DKIM signatures on what leaves from our domains, in the step that composes it: each attempt then sends the same octets.

What is signed: answers, notifications, forwards and lists' copies, whose From is ours. What is handed over goes on as it came. A
list's copies share a content and have a head each that says how to leave; their signatures cover that too (RFC 8058 4), so they
stand in the head. RSA comes first: a verifier that looks at one signature, or stops at an algorithm that it does not know, takes
that one.

RSA signatures are made in a thread (`outbound.dkim.batches`); Ed25519 ones take a tenth of that, and canonical forms as much, so
they are made here. The body of a large mail is hashed aside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from responder.aside import aside
from responder.clock import Clock
from responder.config import DKIM, Config
from responder.inbound.followed import FileError, FollowedFiles, Mark, mark, open_to_all
from responder.mail.address import from_header
from responder.mail.headers import Headers
from responder.observe import event
from responder.outbound.dkim import folder
from responder.outbound.dkim.batches import Batches
from responder.outbound.dkim.folder import KeyFolderError
from responder.outbound.dkim.keys import BITS, SigningKey
from responder.outbound.dkim.signer import Message, Terms
from responder.outbound.smtp.wire import canonical
from responder.store.records import NewOutbound, Settlement

LARGE: Final = 1 << 17  # octets of a message that is hashed aside: half a millisecond
AT_ONCE: Final = 2  # such messages: more threads would only get in each other's way, and in the loop's
COPIES: Final = 16  # of a list's post that are signed at a stretch: others' answers go in between

_DOMAIN: Final = re.compile(r"[^\s<>@,]@([A-Za-z0-9.-]+)>?")


class SealingError(Exception):
    """Something can't be signed, and must not leave unsigned: it waits."""


class SigningKeys(FollowedFiles):
    """The active keys of a folder. `domains` is replaced as a whole, so that nobody sees half of a rotation."""

    def __init__(self, path: Path, ours: Sequence[str] = ()) -> None:
        """Read them. `ours` are the domains whose mail somebody should sign. Raises `FileError`."""
        self._ours = ours
        self.domains: Mapping[str, tuple[SigningKey, ...]] = {}
        # A folder of thousands is not read anew for one rotation.
        self._loaded: dict[Path, tuple[tuple[int, ...], SigningKey]] = {}
        super().__init__(path)

    @property
    def folder(self) -> Path:
        return self._paths[0]

    def find(self, domain: str) -> str:
        """The domain whose keys sign for that one: itself, else the nearest above it (DMARC is content with that: RFC 7489
        3.1.1); "" where there is none."""
        domains = self.domains
        while domain and domain not in domains:
            domain = domain.partition(".")[2]
        return domain

    def remarks(self) -> Iterator[tuple[str, str]]:
        for domain in self.unsigned:
            yield "dkim.keys", f"no key signs for {domain}: its mail leaves unsigned"
        for domain, keys in self.domains.items():
            for key in keys:
                path = folder.key_file(self.folder, domain, key.selector)
                if open_to_all(path):
                    yield "dkim.keys", f"{path}: everybody on this machine can read it: chmod 600"
                if key.algorithm == "rsa" and key.bits < BITS:
                    yield (
                        "dkim.keys",
                        f"{path}: {key.bits} bits are few: `responder dkim rotate {domain}` makes longer ones",
                    )

    @property
    def unsigned(self) -> list[str]:
        """Those of our domains that nobody signs for. A name without a dot is known here alone."""
        return [domain for domain in self._ours if "." in domain and not self.find(domain)]

    def _look(self) -> Mark:
        places = [place for place in _within(self._paths[0]) if os.path.isdir(place)]
        files = [
            path for place in places for path in _within(place) if path.suffix == ".pem" or path.name == folder.INDEX
        ]
        return (*super()._look(), *[mark(path) for path in [*places, *files]])

    def _read(self) -> None:
        try:
            names = folder.domains(self.folder)
            entries = {domain: folder.entries(self.folder, domain) for domain in names}
            loaded: dict[Path, tuple[tuple[int, ...], SigningKey]] = {}
            domains = {}
            for domain, selectors in entries.items():
                active = [selector for selector, entry in selectors.items() if entry.state == "active"]
                keys = [self._key(domain, selector, loaded) for selector in active]
                if keys:
                    domains[domain] = tuple(sorted(keys, key=lambda key: key.algorithm != "rsa"))
        except KeyFolderError as error:
            raise FileError("dkim.keys", error.path, error.reason) from error
        self._loaded, self.domains = loaded, domains

    def _key(self, domain: str, selector: str, loaded: dict[Path, tuple[tuple[int, ...], SigningKey]]) -> SigningKey:
        path = folder.key_file(self.folder, domain, selector)
        now = mark(path)
        known = self._loaded.get(path)
        key = known[1] if known and known[0] == now else folder.read_key(self.folder, domain, selector)
        loaded[path] = now, key
        return key


class Sealer:
    """Signs what stages compose. `follow` takes a new configuration; what is stored by then stays as it is."""

    def __init__(self, table: DKIM, keys: SigningKeys, clock: Clock) -> None:
        self._clock = clock
        self._batches = Batches()
        self._free = asyncio.Semaphore(AT_ONCE)
        self.follow(table, keys)

    def follow(self, table: DKIM, keys: SigningKeys) -> None:
        """Sign with these keys from now on."""
        self._keys = keys
        self._terms = Terms(tuple([name.lower() for name in table.headers]), table.expire)

    async def sign(self, content: bytes, domain: str) -> bytes:
        """The fields to put in front of a message, for its author's domain (with A-labels); b"" where no key of ours is for that,
        or its header is not one that could be signed. The message must leave as `wire.canonical` makes it.

        Raises `SealingError`.
        """
        return await self._fields(await self._read(content), self._keys.find(domain))

    async def seal(self, settlement: Settlement) -> Settlement:
        """The settlement with all that leaves by it signed. Raises `SealingError`: nothing of it may be stored then."""
        rows: dict[str, NewOutbound] = {}
        for message in settlement.outbound:
            if message.kind != "proxy":
                rows.setdefault(message.content_id, message)
        contents = list(settlement.contents)
        outbound = settlement.outbound
        for number, (content_id, content) in enumerate(contents):
            row = rows.get(content_id)
            if row is None:
                continue
            if row.kind == "list":
                outbound, content = await self._seal_copies(outbound, row, content)
            else:
                content = await self._seal(row, content)
            contents[number] = content_id, content
        receipt = settlement.receipt
        if receipt is not None:
            receipt = replace(receipt, content=await self._seal(receipt.message, receipt.content))
        return replace(settlement, outbound=outbound, contents=tuple(contents), receipt=receipt)

    async def seal_or_tell(self, settlement: Settlement) -> Settlement:
        """The same for a step that has happened and must be noted: what can't be signed leaves without, and the log says so."""
        try:
            return await self.seal(settlement)
        except SealingError as error:
            event("unsigned", level=logging.WARNING, reason=str(error))
            return settlement

    def close(self) -> None:
        """Nothing more will be signed."""
        self._batches.close()

    def _domain(self, row: NewOutbound, content: bytes) -> str:
        """Whose keys sign: those of From's domain, as DMARC wants it aligned; else those of the reverse-path's."""
        return self._keys.find(from_domain(content)) or self._keys.find(row.reverse_path.rpartition("@")[2])

    async def _seal(self, row: NewOutbound, content: bytes) -> bytes:
        domain = self._domain(row, content)
        if not domain:
            return content
        message = await self._read(content)
        return await self._fields(message, domain) + message.content

    async def _seal_copies(
        self, outbound: tuple[NewOutbound, ...], row: NewOutbound, content: bytes
    ) -> tuple[tuple[NewOutbound, ...], bytes]:
        domain = self._domain(row, content)
        if not domain:
            return outbound, content
        message = await self._read(content)
        sealed = list(outbound)
        mine = [number for number, copy in enumerate(outbound) if copy.content_id == row.content_id]
        for start in range(0, len(mine), COPIES):
            some = mine[start : start + COPIES]
            heads = await self._several(message, domain, [outbound[number].head.encode() for number in some])
            for number, head in zip(some, heads, strict=True):
                sealed[number] = replace(outbound[number], head=head.decode("ascii") + outbound[number].head)
        return tuple(sealed), message.content

    async def _read(self, content: bytes) -> Message:
        """A message as it will leave, its body hashed."""
        if len(content) <= LARGE:
            return _hashed(content)
        async with self._free:
            return await aside(_hashed, content)

    async def _fields(self, message: Message, domain: str) -> bytes:
        """The signatures of a message; b"" where there is no domain."""
        [found] = await self._several(message, domain, [b""]) if domain else [b""]
        return found

    async def _several(self, message: Message, domain: str, heads: Sequence[bytes]) -> list[bytes]:
        """The signatures of a message with each of these heads. Raises `SealingError`."""
        keys, now = self._keys.domains[domain], self._clock.now()
        try:
            drafts = [message.drafts(keys, domain, self._terms, now, head) for head in heads]
            slow = [draft for some in drafts for draft in some if draft.key.bits]
            made = iter(await self._batches.sign([(draft.key, draft.digest) for draft in slow]) if slow else ())
            return [
                b"".join([one.field(next(made) if one.key.bits else one.key.sign(one.digest)) for one in some])
                for some in drafts
            ]
        except Exception as error:  # whatever it is: mail must neither be lost by it nor leave unsigned
            raise SealingError(f"it can't be signed: {type(error).__name__}: {error}") from error


def _hashed(content: bytes) -> Message:
    message = Message(canonical(content))
    assert message.body_hash
    return message


def _within(place: Path) -> list[Path]:
    """What stands in a folder, sorted; nothing where it can't be looked into (`_read` says why)."""
    try:
        return [place / name for name in sorted(os.listdir(place)) if not name.startswith(".")]
    except OSError:
        return []


def make_signing_keys(config: Config) -> SigningKeys | None:
    """The keys of a configuration; None where nothing is signed. Raises `FileError`."""
    return SigningKeys(config.dkim.keys, config.domains) if config.dkim.keys is not None else None


def from_domain(content: bytes) -> str:
    """The domain in From, with A-labels; "" where there is none, or more than one."""
    headers = Headers.parse(content[: 1 << 16])
    values = headers.all("from")
    if len(values) != 1:
        return ""
    # What we write ends with the mailbox, and has "@" nowhere else; the parser takes a tenth of a millisecond.
    quick = _DOMAIN.search(values[0]) if values[0].count("@") == 1 else None
    if quick is not None and quick.end() == len(values[0]):
        return quick[1].lower()
    found = {address.domain for _, address in from_header(values[0])}
    return found.pop() if len(found) == 1 else ""
