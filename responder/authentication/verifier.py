"""What the rest of the program asks: who wrote this mail, what to write on top of it, and whether to refuse it.

The libraries behind cost a tenth of a second to load, so they come with the first mail, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from types import ModuleType
from typing import TYPE_CHECKING

from responder.aside import aside
from responder.authentication.digests import Hasher
from responder.authentication.forged import strip_forged
from responder.authentication.questions import MAX_OPEN, Turns
from responder.clock import Clock
from responder.config import Authentication
from responder.dns import Resolver
from responder.mail.automatic import Verdicts
from responder.mail.headers import Headers
from responder.observe import event

if TYPE_CHECKING:
    from responder.authentication.examine import Findings


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of one mail."""

    hostname: str
    verdicts: Verdicts = field(default_factory=Verdicts)
    fields: bytes = b""
    """`Authentication-Results` with its line end, for the top of the message; empty where nothing was looked at."""
    refusal: str | None = None
    """Why the mail is to be refused, in words that may be shown to the client; None where it is not."""
    deferral: bool = False
    """Whether it is to be put off: nobody could say now whether it is to be refused."""

    def cleaned(self, content: bytes) -> bytes:
        """The message without fields that claim to be of this host (RFC 8601 5). Signatures are verified before, never after."""
        return strip_forged(content, self.hostname)

    @property
    def note(self) -> str:
        """What the history of the mail says: `, spf pass, dkim none, dmarc fail (reject)`."""
        given = self.verdicts
        words = [("spf", given.spf), ("dkim", given.dkim), ("arc", given.arc), ("dmarc", given.dmarc)]
        text = "".join([f", {method} {word}" for method, word in words if word])
        if given.dmarc == "fail" and given.dmarc_policy:
            text += f" ({given.dmarc_policy})"
        return f"{text}, passed on by a trusted forwarder" if given.overridden else text


class Authenticator:
    """Belongs to one event loop. A reload takes another one; the resolver, with what it knows, may stay."""

    def __init__(
        self, hostname: str, settings: Authentication, resolver: Resolver, clock: Clock, questions: int = MAX_OPEN
    ) -> None:
        """`questions` are what it may ask the DNS at a time, for all mails together: each takes a descriptor."""
        self.hostname = hostname
        self._settings = settings
        self._resolver = resolver
        self._clock = clock
        self._hasher = Hasher()
        self._turns = Turns(questions)
        self._work: ModuleType | None = None
        self._loading = asyncio.Lock()

    async def judge(
        self, *, peer: str, helo: str, reverse_path: str, headers: Headers, content: bytes, user: str = ""
    ) -> Judgement:
        """Who wrote it, as far as can be told within `authentication.timeout`. Never raises; it may be cancelled.

        `content` is the message as it came, `headers` its fields, `reverse_path` the address of MAIL FROM without brackets,
        `user` the name of whoever has logged in.
        """
        if self._settings.mode == "off":
            return Judgement(self.hostname)
        by_address = not user and self._is_judged(peer)
        try:
            work = self._work or await self._loaded()
            findings = await work.examine(
                peer=peer,
                helo=helo,
                reverse_path=reverse_path,
                headers=headers,
                content=content,
                by_address=by_address,
                now=self._clock.now(),
                settings=self._settings,
                resolver=self._resolver,
                hasher=self._hasher,
                turns=self._turns,
            )
            return self._judgement(findings, reverse_path, user)
        except Exception as error:  # our own mistake, which must not cost anybody a mail
            event("authentication failed", level=logging.ERROR, peer=peer, error=error)
            unknown = Verdicts(spf="temperror", dkim="temperror", dmarc="temperror")
            return Judgement(self.hostname, unknown, deferral=by_address and self._settings.mode == "enforce")

    async def _loaded(self) -> ModuleType:
        """In one thread, however many mails come first."""
        async with self._loading:
            if self._work is None:
                self._work = await aside(_load)
            return self._work

    def _is_judged(self, peer: str) -> bool:
        """Whether the peer's address means anything: a Unix socket has none, a relay of ours is not who sends."""
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return not any(address in network for network in self._settings.trusted_networks)

    def _judgement(self, findings: Findings, reverse_path: str, user: str) -> Judgement:
        from responder.authentication import results

        path, chain, dmarc = findings.spf, findings.chain, findings.dmarc
        verdicts = Verdicts(
            spf=path.result if path else None,
            dkim=findings.signed,
            dmarc=dmarc.result if dmarc else None,
            dmarc_policy=dmarc.policy if dmarc else None,
            arc=chain.result if chain else None,
            overridden=findings.overridden,
            from_domain=dmarc.domain or None if dmarc else None,
            dkim_domains=tuple(dict.fromkeys([one.domain for one in findings.dkim if one.result == "pass"])),
        )
        written = results.field(
            self.hostname,
            path,
            findings.dkim,
            chain,
            dmarc,
            reverse_path=reverse_path,
            user=user,
            overridden=findings.overridden,
        )
        return Judgement(self.hostname, verdicts, written, self._refusal(verdicts), self._defers(verdicts))

    def _refusal(self, verdicts: Verdicts) -> str | None:
        """Only a policy that says so, of a domain that could be asked: no temporary error refuses anything."""
        if self._settings.mode != "enforce" or verdicts.overridden:
            return None
        if verdicts.dmarc != "fail" or verdicts.dmarc_policy != "reject":
            return None
        return f"{verdicts.from_domain} asks to reject mail that neither SPF nor DKIM vouch for (DMARC)"

    def _defers(self, verdicts: Verdicts) -> bool:
        """Where the author's domain could not be asked and may wish to reject, it is asked again when the client comes again:
        else a forger would only have to make name servers busy."""
        if self._settings.mode != "enforce" or verdicts.dmarc != "temperror":
            return False
        return verdicts.dmarc_policy in (None, "reject")


def _load() -> ModuleType:
    from responder.authentication import examine

    examine.warm()
    return examine
