"""Why a host refuses or puts off: its code, its enhanced code (RFC 3463) and its words, told apart by one table.

The words come first (`phrases`), as hosts give one code for anything (`550 5.7.1` most of all); then the enhanced code; then the
code. Phrases are plain texts, looked for one after the other in the reply's lower-case words. So what a hostile host writes costs
no more than its length, and that is bounded (`status.MAX_TEXT`).

`tests/data/replies.toml` holds what the large providers and mail systems really say, and what it has to come to.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

from responder.mail.phrases import PHRASES


class Reason(StrEnum):
    """What a failure is about."""

    GREYLISTED = "greylisted"
    RATE = "rate"
    BUSY = "busy"
    BLOCKLISTED = "blocklisted"
    SPAM = "spam"
    AUTHENTICATION = "authentication"
    OUR_NAME = "our-name"
    BAD_SENDER = "bad-sender"
    RELAY_DENIED = "relay-denied"
    POLICY = "policy"
    CONTENT = "content"
    MALFORMED = "malformed"
    NO_SUCH_USER = "no-such-user"
    MAILBOX_DISABLED = "mailbox-disabled"
    MAILBOX_FULL = "mailbox-full"
    NO_SUCH_DOMAIN = "no-such-domain"
    NO_ROUTE = "no-route"
    TOO_LARGE = "too-large"
    TOO_MANY_RECIPIENTS = "too-many-recipients"
    TLS_REQUIRED = "tls-required"
    UNSUPPORTED = "unsupported"
    LOOP = "loop"
    DNS = "dns-failed"
    UNREACHABLE = "unreachable"
    EXPIRED = "expired"
    TROUBLE = "trouble"
    SUPPRESSED = "suppressed"
    UNKNOWN = "unknown"


SOFT: Final = frozenset({Reason.GREYLISTED, Reason.RATE, Reason.BUSY})
"""What passes, whatever the code's first digit says."""

THROTTLES: Final = frozenset({Reason.RATE, Reason.BUSY})
"""Who is sent more gets angrier."""

BLAMES_RECIPIENT: Final = frozenset({Reason.NO_SUCH_USER, Reason.MAILBOX_DISABLED})
"""Every further mail to that mailbox would come to the same."""

BLAMES_US: Final = frozenset({Reason.BLOCKLISTED, Reason.SPAM, Reason.AUTHENTICATION, Reason.OUR_NAME})
"""It is our address, our name or our mail that the host doesn't like: others' mail would be taken."""

Rule = tuple[Reason, str, tuple[tuple[str, ...], ...]]


def _rules(text: str) -> tuple[Rule, ...]:
    """The rows of a table of phrases: reason, class ("" for any), the parts of each phrase."""
    rows: list[str] = []
    for line in text.splitlines():
        if line.startswith(" "):
            rows[-1] += line
        else:
            rows.append(line)
    found = []
    for row in rows:
        head, _, phrases = row.partition(":")
        name, _, class_ = head.partition(" ")
        found.append((Reason(name), class_, tuple(tuple(one.strip().split("*")) for one in phrases.split(" | "))))
    return tuple(found)


RULES: Final = _rules(PHRASES)

# RFC 3463 and the registry that grew out of it (RFC 5248), without the class.
STATUS: Final[dict[str, Reason]] = {
    "1.0": Reason.NO_SUCH_USER,
    "1.1": Reason.NO_SUCH_USER,
    "1.2": Reason.NO_SUCH_DOMAIN,
    "1.3": Reason.NO_SUCH_USER,
    "1.4": Reason.NO_SUCH_USER,
    "1.6": Reason.MAILBOX_DISABLED,
    "1.7": Reason.BAD_SENDER,
    "1.8": Reason.BAD_SENDER,
    "1.10": Reason.NO_SUCH_DOMAIN,
    "2.1": Reason.MAILBOX_DISABLED,
    "2.2": Reason.MAILBOX_FULL,
    "2.3": Reason.TOO_LARGE,
    "2.4": Reason.TROUBLE,
    "3.0": Reason.TROUBLE,
    "3.1": Reason.TROUBLE,
    "3.2": Reason.TROUBLE,
    "3.3": Reason.UNSUPPORTED,
    "3.4": Reason.TOO_LARGE,
    "3.5": Reason.TROUBLE,
    "4.0": Reason.UNREACHABLE,
    "4.1": Reason.UNREACHABLE,
    "4.2": Reason.UNREACHABLE,
    "4.3": Reason.DNS,
    "4.4": Reason.NO_ROUTE,
    "4.5": Reason.BUSY,
    "4.6": Reason.LOOP,
    "4.7": Reason.EXPIRED,
    "5.3": Reason.TOO_MANY_RECIPIENTS,
    "6.0": Reason.MALFORMED,
    "6.1": Reason.UNSUPPORTED,
    "6.2": Reason.UNSUPPORTED,
    "6.3": Reason.UNSUPPORTED,
    "6.6": Reason.UNSUPPORTED,
    "6.7": Reason.UNSUPPORTED,
    "6.8": Reason.UNSUPPORTED,
    "6.9": Reason.UNSUPPORTED,
    "6.10": Reason.UNSUPPORTED,
    "7.0": Reason.POLICY,
    "7.1": Reason.POLICY,
    "7.2": Reason.POLICY,
    "7.5": Reason.TLS_REQUIRED,
    "7.10": Reason.TLS_REQUIRED,
    "7.11": Reason.TLS_REQUIRED,
    "7.13": Reason.MAILBOX_DISABLED,
    "7.17": Reason.MAILBOX_DISABLED,
    "7.18": Reason.MAILBOX_DISABLED,
    "7.20": Reason.AUTHENTICATION,
    "7.21": Reason.AUTHENTICATION,
    "7.22": Reason.AUTHENTICATION,
    "7.23": Reason.AUTHENTICATION,
    "7.24": Reason.AUTHENTICATION,
    "7.25": Reason.OUR_NAME,
    "7.26": Reason.AUTHENTICATION,
    "7.27": Reason.BAD_SENDER,
    "7.28": Reason.RATE,
    "7.29": Reason.AUTHENTICATION,
    "7.30": Reason.TLS_REQUIRED,
}

# RFC 5321 4.2.3, where there are neither words nor an enhanced code. 550 and 450 may be anything: nobody is blamed by them.
CODES: Final[dict[int, Reason]] = {
    421: Reason.BUSY,
    451: Reason.TROUBLE,
    452: Reason.TROUBLE,
    454: Reason.TROUBLE,
    521: Reason.NO_SUCH_DOMAIN,  # RFC 7504
    530: Reason.TLS_REQUIRED,
    541: Reason.SPAM,
    551: Reason.NO_SUCH_USER,
    552: Reason.MAILBOX_FULL,
    556: Reason.NO_SUCH_DOMAIN,  # RFC 7504
}

_REPEATED = re.compile(r"(?:\b[245]\d\d[ -])?(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.])[ :-]?")


_PATHS = re.compile(r"(https?://[^/\s]{1,255})[^#\s]*", re.IGNORECASE)


@lru_cache(maxsize=1024)
def classify(code: int, enhanced: str, text: str) -> Reason:
    """Why, by a reply's code (0: none is known), its enhanced code ("" or X.0.0: none) and its text, a line of 500 characters."""
    class_ = str(code // 100) if code else enhanced[:1]
    words = _words(text[:2000])
    for reason, of_class, phrases in RULES:
        if of_class in ("", class_) and any(_holds(words, phrase) for phrase in phrases):
            return reason
    return by_status(enhanced) or CODES.get(code, Reason.UNKNOWN)


def by_status(enhanced: str) -> Reason | None:
    """What an enhanced code alone says; None where that is nothing."""
    return STATUS.get(enhanced[2:])


def _words(text: str) -> str:
    """A reply in lower case, without what says nothing of its reason: the enhanced code, which hosts say again in each line and
    so in the middle of their sentences; addresses, which people choose; and the paths of links (`/help_spam.htm`)."""
    plain = _PATHS.sub(r"\1", _REPEATED.sub(" ", text)).casefold().replace("\u2019", "'")
    return " ".join([word for word in plain.split() if "@" not in word])


def _holds(words: str, phrase: tuple[str, ...]) -> bool:
    at = 0
    for part in phrase:
        found = words.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True
