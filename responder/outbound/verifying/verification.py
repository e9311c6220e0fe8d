"""What asking about an address has come to: twelve words, and how a host's reply leads to one of them. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from responder.mail.replies import Reason, classify
from responder.mail.status import Failure, Outcome, RemoteReply, Scope, Trouble
from responder.outbound.base import RecipientResult


class Result(StrEnum):
    """What is known of one address."""

    EXISTS = "exists"  # the host takes mail for it; also where it is full now
    CATCH_ALL = "catch-all"  # the host takes mail for it, and for any other address of its domain
    UNKNOWN = "unknown"  # the host has no such mailbox
    REFUSED = "refused"  # the host takes no mail for it, or none from this sender, for another reason
    NO_MX = "no MX"  # its domain does not exist, takes no mail, or has no host with an address
    INVALID = "invalid"  # it is no address; nobody was asked
    GREYLISTED = "greylisted"  # the host wanted it tried again later, each time
    BLOCKED = "blocked"  # the host does not talk to our address
    TIMEOUT = "timeout"  # the host said nothing in time
    NO_ROUTE = "no route"  # no way leads to the host
    CLOSED = "closed"  # the host takes no connection, or ends it
    UNCLEAR = "unclear"  # the host, or the name server, could not say; or said what tells nothing


DETERMINED: Final = frozenset(
    {Result.EXISTS, Result.CATCH_ALL, Result.UNKNOWN, Result.REFUSED, Result.NO_MX, Result.INVALID}
)
"""Words about the address. The others are about us, or about the moment."""


@dataclass(frozen=True, slots=True)
class Verification:
    """One address, and who said what about it. Texts are fit for one line: no controls, a few hundred characters at most."""

    address: str  # as it was given
    result: Result
    code: int = 0  # the host's reply; 0 where there was none
    enhanced: str = ""  # RFC 3463; "" where neither the host nor we know one
    text: str = ""
    host: str = ""  # the name of the host that was asked last
    ip: str = ""
    tls: str = ""  # "TLSv1.3"; "" in plain text
    time: float = 0.0  # Unix seconds
    tries: int = 0  # how often a host was asked about it
    catch_all: bool | None = None  # whether a random address of the domain is taken, too; None: not known, or not asked

    @property
    def determined(self) -> bool:
        """Whether this is a word about the address."""
        return self.result in DETERMINED


@dataclass(frozen=True, slots=True)
class Finding:
    """What one host, or the look-up of the hosts, had to say: a verification without its address."""

    result: Result
    code: int
    enhanced: str
    text: str
    host: str = ""
    ip: str = ""
    tls: str = ""
    transient: bool = False  # the host said so itself: it is asked again after the wait


_OF_REASON: Final = {
    Reason.NO_SUCH_USER: Result.UNKNOWN,
    Reason.MAILBOX_FULL: Result.EXISTS,  # whose mailbox is full has one
    Reason.GREYLISTED: Result.GREYLISTED,
    Reason.BLOCKLISTED: Result.BLOCKED,
}
_PASSES: Final = frozenset({Reason.RATE, Reason.BUSY, Reason.TROUBLE, Reason.TOO_MANY_RECIPIENTS, Reason.DNS})
_LOOKUP: Final = frozenset({"5.1.2", "5.1.10", "5.4.4"})  # what `mx` says: no domain, null MX, no address


def of_reply(result: RecipientResult) -> Finding:
    """What a host said about one recipient, or of the whole transaction. A failure of the host goes to `of_host`."""
    if result.outcome is Outcome.SUCCESS:
        # RFC 5321 3.5.3: 252 says that it can't be known, and that mail would be taken.
        word = Result.UNCLEAR if result.code == 252 else Result.EXISTS
        transient = False
    else:
        reason = classify(result.code, result.enhanced, result.text) if result.code else Reason.UNKNOWN
        lasts = result.outcome is Outcome.PERMANENT and reason not in _PASSES
        word = _OF_REASON.get(reason, Result.REFUSED if lasts else Result.UNCLEAR)
        if result.scope is not Scope.RECIPIENT and word in (Result.UNKNOWN, Result.EXISTS):
            word = Result.REFUSED if lasts else Result.UNCLEAR  # MAIL was refused: it is no word about the recipient
        transient = bool(result.code) and word is not Result.BLOCKED and word is not Result.EXISTS and not lasts
        transient = transient or word is Result.GREYLISTED
    return Finding(
        word, result.code, result.enhanced, result.text, result.host, result.address, result.tls, transient=transient
    )


def of_host(failure: Failure, host: str = "", ip: str = "") -> Finding:
    """What it means that a host could not be asked at all, or any further."""
    word, transient = Result.UNCLEAR, False
    if failure.code:
        blocked = classify(failure.code, failure.enhanced, failure.text) is Reason.BLOCKLISTED
        if blocked:
            word = Result.BLOCKED
        elif failure.code == 530:  # it wants TLS or a login first
            word = Result.REFUSED
        elif failure.code // 100 == 5:
            word = Result.CLOSED
        else:
            transient = True
    elif failure.enhanced in _LOOKUP:
        word = Result.NO_MX
    elif failure.text.startswith(("timed out", "the host took too long")):
        word = Result.TIMEOUT
    elif failure.enhanced == Trouble.DROPPED.value[1]:
        word = Result.CLOSED
    return Finding(word, failure.code, failure.enhanced, failure.text, host, ip, transient=transient)


def of_connection(error: OSError | ValueError, host: str, ip: str) -> Finding:
    """Why there is no connection to an address."""
    if isinstance(error, TimeoutError):
        word, text = Result.TIMEOUT, "timed out"
    else:
        refused = isinstance(error, ConnectionRefusedError | ConnectionResetError | ConnectionAbortedError)
        word = Result.CLOSED if refused else Result.NO_ROUTE
        number = getattr(error, "errno", None)
        text = os.strerror(number) if number else str(error)  # asyncio has words of its own for it
    return Finding(word, 0, "4.4.1", RemoteReply(0, f"connect to {host}: {text}").text, host, ip)


def spokesman(findings: list[Finding]) -> Finding:
    """The finding that speaks for all hosts tried, best preference first: what a host said, then what we saw of one that is
    there, then what name servers say."""
    if not findings:
        return Finding(Result.UNCLEAR, 0, "", "no host to ask")
    return min(findings, key=lambda one: 0 if one.code else 2 if one.result is Result.NO_MX else 1)
