"""One mail, all methods at once: what SPF, DKIM, ARC and DMARC find, in a bounded time and with a bounded number of questions."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from responder.authentication import arc, dkim, dmarc, spf
from responder.authentication.digests import Digests, Hasher
from responder.authentication.questions import MAX_QUESTIONS, Questions, Turns
from responder.authentication.section import Section
from responder.config import Authentication
from responder.dns import NoData, NotFound, Resolver, TemporaryError
from responder.mail.address import MAX_ADDRESS_FIELD, AddressError, from_header, parse
from responder.mail.binary import with_line_ends
from responder.mail.headers import Headers, split_section
from responder.mail.mailboxes import mailboxes
from responder.mail.suffix import organisational

MAX_AUTHORS: Final = 4  # domains in From that are asked about; the first is the one that agents see
MAX_FIELDS: Final = 64  # From fields that are read
HASHING: Final = 60.0
"""Seconds that a body may wait for its hash. It is our own time, and bounded by the octets that are taken in at once: who
replays a signature over another body must not gain by sending many big ones."""

_SIMPLE = re.compile(r'(?:(?:"[^"\\]{0,200}"[ \t]*|[^"\\(),:;<>@\[\]]{0,200})<([^\s"\\(),:;<>\[\]]{1,320})>)')


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found. None: not asked for. `overridden`: a trusted forwarder saw the author's domain pass."""

    spf: spf.SPF | None
    dkim: list[dkim.Checked]
    chain: arc.Chain | None
    dmarc: dmarc.Verdict | None
    overridden: bool = False

    @property
    def signed(self) -> str:
        """One word for all signatures: the best of them."""
        order = ("pass", "temperror", "fail", "policy", "permerror", "neutral")
        return min([one.result for one in self.dkim], key=order.index, default="none")


def warm() -> None:
    """Read what is read once."""
    organisational("example.org")


async def examine(
    *,
    peer: str,
    helo: str,
    reverse_path: str,
    headers: Headers,
    content: bytes,
    by_address: bool,
    now: float,
    settings: Authentication,
    resolver: Resolver,
    hasher: Hasher,
    turns: Turns,
) -> Findings:
    """`by_address`: whether the peer is the one that SPF judges, and not a relay or a user of ours. `now` in Unix seconds."""
    questions = Questions(resolver, turns, MAX_QUESTIONS + settings.max_signatures)
    seconds = settings.timeout
    signed, sealed = "dkim-signature" in headers, "arc-seal" in headers or "arc-message-signature" in headers
    authors, unread = _authors(headers, content) if by_address or signed else ([], False)
    section = digests = None
    if signed or sealed:
        section = Section(content)
        digests = Digests(hasher, content, section.body, HASHING)

    async def by_spf() -> spf.SPF | None:
        return await spf.check(peer, helo, reverse_path, questions, seconds) if by_address else None

    async def by_dkim() -> list[dkim.Checked]:
        if section is None or digests is None or not signed:
            return []
        return await dkim.check(section, now, settings.max_signatures, questions, digests, seconds)

    async def by_arc() -> arc.Chain | None:
        if section is None or digests is None or not sealed:
            return None
        return await arc.check(section, questions, digests, seconds)

    async def wanted() -> list[_Wish]:
        return await asyncio.gather(*[_ask(questions, author, seconds) for author in authors])

    path, signatures, chain, wishes = await asyncio.gather(by_spf(), by_dkim(), by_arc(), wanted())
    findings = (path.result, path.domain) if path else ("none", ""), [(one.result, one.domain) for one in signatures]
    verdicts = [_verdict(author, wish, *findings) for author, wish in zip(authors, wishes, strict=True)]
    if unread or not verdicts:  # RFC 7489 6.6.1
        verdicts.append(dmarc.Verdict("permerror"))
    verdict = dmarc.gravest(verdicts)
    if not by_address and verdict.result != "pass":
        return Findings(path, signatures, chain, None)  # without SPF nobody can say that it fails
    failed = [one.domain for one in verdicts if one.result == "fail"]
    vouched = [chain is not None and arc.vouched(chain, settings.trusted_arc, domain) for domain in failed]
    overridden = bool(vouched) and all(vouched)
    return Findings(path, signatures, chain, verdict, overridden)


_Wish = tuple[dmarc.Record | None, bool, bool] | str
"""The record that holds for a domain, whether it is its organisational domain's, whether the domain exists; or a result word."""


def _verdict(author: str, wish: _Wish, path: dmarc.Finding, signatures: list[dmarc.Finding]) -> dmarc.Verdict:
    if isinstance(wish, str):
        return dmarc.Verdict(wish, author)
    record, at_parent, exists = wish
    if record is None:
        return dmarc.Verdict("none", author)
    return dmarc.evaluate(author, record, at_parent, path, signatures, exists)


async def _ask(questions: Questions, domain: str, seconds: float) -> _Wish:
    """RFC 7489 6.6.3: the domain's own record, else that of its organisational domain. Never raises."""
    try:
        async with asyncio.timeout(seconds):
            for name in dict.fromkeys((domain, organisational(domain))):
                with suppress(NotFound, NoData):
                    record = dmarc.choose(await questions.ask("TXT", f"_dmarc.{name}"))
                    if record is not None:
                        asks_about = name != domain and record.missing
                        return record, name != domain, not asks_about or await _exists(questions, domain)
    except dmarc.RecordError:
        return "permerror"
    except (TemporaryError, TimeoutError):
        return "temperror"
    return None, False, True


async def _exists(questions: Questions, domain: str) -> bool:
    """Whether mail could come from there: an A, AAAA or MX record (the draft of DMARC's successor, 3.2.6)."""
    for kind in ("A", "MX", "AAAA"):
        try:
            await questions.ask(kind, domain)
        except NotFound:
            return False
        except NoData:
            continue
        except TemporaryError:
            return True
        return True
    return False


def _authors(headers: Headers, content: bytes) -> tuple[list[str], bool]:
    """The domains in From, the one that agents see first, and whether there are more, or some that nobody has read: such a
    mail passes for nobody. All ways of reading addresses count: what any finds, some reader may take for the author."""
    found: dict[str, None] = {}
    values, cut = headers.all("from"), headers.cut
    section = split_section(content)
    if section.count(b"\r") != section.count(b"\r\n"):  # some readers end a line there, and so may whoever stores it
        other = Headers.parse(with_line_ends(section))
        values, cut = values + other.all("from"), cut or other.cut
    left = MAX_ADDRESS_FIELD  # for all of them: reading takes time
    for value in values[:MAX_FIELDS]:
        if simple := _SIMPLE.fullmatch(value):
            with suppress(AddressError):
                found[parse(simple[1]).domain] = None
                continue
        value = value[:left]
        left -= len(value)
        found.update(dict.fromkeys([address.domain for _, address in from_header(value)]))
        found.update(dict.fromkeys([address.domain for address in mailboxes(value)]))
        if len(found) > MAX_AUTHORS or left <= 0:
            break
    domains = [domain for domain in found if domain and not domain.startswith("[")]
    unread = cut or left <= 0 or len(values) > MAX_FIELDS or len(domains) > MAX_AUTHORS
    return domains[:MAX_AUTHORS], unread
