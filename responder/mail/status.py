"""What an SMTP reply means, and what it means that there was none: the only place that judges a failure (RFC 5321 4.2, RFC 3463).

A failure has a scope, and the scope decides who is tried next:

- RECIPIENT: this recipient; the others of the transaction go on.
- MESSAGE: this message on this host; the connection is still good.
- HOST: this host or connection says nothing about the mail; the domain's next host may.
- DOMAIN: no host can help.

A permanent RECIPIENT, MESSAGE or DOMAIN failure is the final word. Anything transient is tried at the next host, then later.
A HOST failure is permanent only where no host left a hope (`verdict`). Its reason (`replies`) is found when somebody asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final

from responder.mail.headers import clean
from responder.mail.replies import BLAMES_RECIPIENT, BLAMES_US, SOFT, THROTTLES, Reason, by_status, classify

MAX_TEXT = 500
"""Characters of a reply that are kept: history and DSN show them, and a remote host must not fill the store."""

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])")


class Outcome(StrEnum):
    """What became of one recipient."""

    SUCCESS = "success"
    TRANSIENT = "transient"
    PERMANENT = "permanent"


class Scope(StrEnum):
    """How far a failure reaches, the narrowest first."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    HOST = "host"
    DOMAIN = "domain"


class Verb(StrEnum):
    """The step of a session that was answered."""

    BANNER = "banner"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "."
    RSET = "RSET"
    QUIT = "QUIT"


_SCOPE: Final = {
    Verb.MAIL: Scope.MESSAGE,
    Verb.RCPT: Scope.RECIPIENT,
    Verb.DATA: Scope.MESSAGE,
    Verb.DOT: Scope.MESSAGE,
}


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """One reply of a remote host. The text is fit for one line of a log: no controls, `MAX_TEXT` characters at most."""

    code: int
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", clean(self.text[: 4 * MAX_TEXT])[:MAX_TEXT])

    @property
    def outcome(self) -> Outcome:
        """By the code's first digit; what is no final reply by RFC 5321 4.2.1 (3yz, nonsense) is transient."""
        return {2: Outcome.SUCCESS, 5: Outcome.PERMANENT}.get(self.code // 100, Outcome.TRANSIENT)

    @property
    def enhanced(self) -> str:
        """The RFC 3463 code that the text starts with, where its class is the reply's (RFC 2034 4); else X.0.0."""
        class_ = {Outcome.SUCCESS: "2", Outcome.TRANSIENT: "4", Outcome.PERMANENT: "5"}[self.outcome]
        match = _ENHANCED.match(self.text)
        if match and match[1] == class_ and 200 <= self.code < 600:
            return f"{class_}.{int(match[2])}.{int(match[3])}"
        return f"{class_}.0.0"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a recipient has not got the mail. `code` is the remote host's, 0 where it said nothing."""

    scope: Scope
    outcome: Outcome
    enhanced: str
    code: int
    text: str
    after_dot: bool = False  # the whole mail was handed over and no reply came: it may have arrived (RFC 1047)

    @property
    def final(self) -> bool:
        """Whether no other host could say better."""
        return self.outcome is Outcome.PERMANENT and self.scope is not Scope.HOST

    @property
    def reason(self) -> Reason:
        """What it is about. Our own words are not read as a host's would be: their code says it all."""
        if not self.code:
            return by_status(self.enhanced) or Reason.TROUBLE
        return classify(self.code, self.enhanced, self.text)

    @property
    def throttles(self) -> bool:
        """Whether the destination wants less of us. Who greylists wants the same again, later."""
        reason = self.reason
        return reason in THROTTLES or (self.code == 421 and reason is not Reason.GREYLISTED)

    @property
    def blames_recipient(self) -> bool:
        """Whether every further mail to this mailbox would come to the same: a permanent word on this recipient alone."""
        return self.final and self.scope is Scope.RECIPIENT and bool(self.code) and self.reason in BLAMES_RECIPIENT

    @property
    def blames_us(self) -> bool:
        """Whether it is our address, name or mail that the host doesn't like, rather than the recipient."""
        return bool(self.code) and self.reason in BLAMES_US


class Trouble(Enum):
    """A failure that no remote host worded: its scope, its RFC 3463 code, and the text where there is nothing better."""

    UNREACHABLE = Scope.HOST, "4.4.1", "no answer from host"
    DROPPED = Scope.HOST, "4.4.2", "connection lost"
    TIMED_OUT = Scope.HOST, "4.4.2", "timed out waiting for a reply"
    GARBAGE = Scope.HOST, "4.5.0", "reply is not SMTP"
    INTERNAL = Scope.HOST, "4.3.0", "internal error"
    DNS_FAILED = Scope.HOST, "4.4.3", "name server failure"
    MOVED = Scope.DOMAIN, "4.4.4", "the domain has other hosts now"
    NO_ADDRESS = Scope.HOST, "5.4.4", "host has no address"
    BOGUS_ADDRESS = Scope.HOST, "5.4.4", "host has no address on the public Internet"
    INSECURE = Scope.HOST, "4.7.5", "host has not the TLS that is asked of it"  # RFC 8461 5, RFC 7672 2.2
    NO_REQUIRETLS = Scope.HOST, "5.7.30", "host does not support REQUIRETLS"  # RFC 8689 5
    LOOP = Scope.DOMAIN, "5.4.6", "mail for this domain loops back to this host"
    NO_DOMAIN = Scope.DOMAIN, "5.1.2", "domain not found"
    NULL_MX = Scope.DOMAIN, "5.1.10", "domain does not accept mail"  # RFC 7505 4.2
    BAD_ADDRESS = Scope.RECIPIENT, "5.1.3", "malformed recipient address"
    BAD_SENDER = Scope.MESSAGE, "5.1.7", "malformed sender address"
    TOO_BIG = Scope.MESSAGE, "5.3.4", "message is larger than the host accepts"  # RFC 1870 6.3
    NEEDS_SMTPUTF8 = Scope.MESSAGE, "5.6.7", "host does not support SMTPUTF8"  # RFC 6531 3.5

    def failure(self, text: str = "", *, after_dot: bool = False) -> Failure:
        """This trouble as a failure; the code's class decides whether it is permanent."""
        scope, enhanced, default = self.value
        outcome = Outcome.PERMANENT if enhanced[0] == "5" else Outcome.TRANSIENT
        return Failure(scope, outcome, enhanced, 0, RemoteReply(0, text).text or default, after_dot)


class FailureError(Exception):
    """A failure on its way to whoever notes it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


def judge(verb: Verb, reply: RemoteReply, *, accepted: int = 0) -> Failure | None:
    """What `reply` to `verb` means: None where the session goes on. `accepted`: recipients that this transaction already has."""
    code = reply.code
    if verb is Verb.DATA:
        if code // 100 == 3:
            return None
    elif code // 100 == 2:
        return None

    if code == 421:  # RFC 5321 3.8: the host closes the channel, whatever was asked
        return Failure(Scope.HOST, Outcome.TRANSIENT, reply.enhanced, code, reply.text)
    if code // 100 not in (4, 5):  # 250 to DATA, 354 to RCPT, 999: whatever it means, it is no refusal
        return replace(Trouble.GARBAGE.failure(reply.text), code=max(code, 0))

    failure = Failure(_SCOPE.get(verb, Scope.HOST), reply.outcome, reply.enhanced, code, reply.text)
    if verb is Verb.BANNER and code // 100 == 5 and code != 521:
        # 554 here is mostly a block list's or an overload's word about us, not about the mail: Postfix moves on to the next
        # host and then defers (smtp_skip_5xx_greeting). 521 alone says that the host never accepts mail (RFC 7504 3).
        return soften(failure)
    if verb is Verb.RCPT and accepted and code // 100 == 5:
        # RFC 5321 4.5.3.1.10: an old host's "too many recipients"; with 5.2.2 it is this mailbox that is full
        old = code == 552 and reply.enhanced in ("5.0.0", "5.5.3") and failure.reason is not Reason.TOO_LARGE
        if old or failure.reason is Reason.TOO_MANY_RECIPIENTS:
            return replace(failure, outcome=Outcome.TRANSIENT, enhanced="4.5.3")
    if verb is Verb.MAIL and code == 530:  # RFC 3207 4, RFC 4954 6: the host wants TLS or a login first
        return replace(failure, scope=Scope.HOST)
    if failure.outcome is Outcome.PERMANENT and failure.reason in SOFT:
        return soften(failure)  # some say 550 or 554 for "not now": greylisting and rates pass, whatever the digit
    return failure


def soften(failure: Failure) -> Failure:
    """The failure as a transient one, its text and code kept."""
    if failure.outcome is not Outcome.PERMANENT:
        return failure
    return replace(failure, outcome=Outcome.TRANSIENT, enhanced=f"4{failure.enhanced[1:]}")


def verdict(failures: Sequence[Failure]) -> Failure:
    """The failure that speaks for all hosts tried, best preference first.

    A final one; else a transient one, what a host said before what we could not ask; else, where each host was
    permanently useless, the first. Raises `ValueError` where there is none.
    """
    if not failures:
        raise ValueError("no failure to judge")

    def rank(failure: Failure) -> int:
        if failure.final:
            return 0
        if failure.outcome is Outcome.TRANSIENT:
            return 1 if failure.after_dot else 2 if failure.code else 3
        return 4

    return min(failures, key=rank)
