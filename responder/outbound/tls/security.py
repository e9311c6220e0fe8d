"""What is asked of one connection, and how it went: the words that policy, transport, session and reports share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from responder.mail.status import Failure, FailureError


class Level(IntEnum):
    """How much a connection must be worth before a mail may pass, the least first."""

    OFF = 0  # never TLS: the operator says so
    OPPORTUNISTIC = 1  # TLS where it can be had, else plain text (RFC 7435)
    ENCRYPTED = 2  # TLS, whoever it is with
    VERIFIED = 3  # TLS with a certificate that a trusted authority has given one of `names` (RFC 8461 4)
    DANE = 4  # TLS with a key that one of `tlsa` names (RFC 7672)


class TLSA(NamedTuple):
    """One TLSA record (RFC 6698 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes


PolicyType = Literal["tlsa", "sts", "no-policy-found"]
"""What RFC 8460 4.4 calls it."""


@dataclass(frozen=True, slots=True)
class Security:
    """What one connection to one host must have. Hashable: connections are kept by it."""

    level: Level = Level.OPPORTUNISTIC
    names: tuple[str, ...] = ()  # whom the certificate may name; () is the host alone
    tlsa: tuple[TLSA, ...] = ()
    testing: bool = False  # what does not hold is reported, and the mail passes as with OPPORTUNISTIC (RFC 8461 5)
    requiretls: bool = False  # the host must offer REQUIRETLS, and is told so with MAIL (RFC 8689)
    authorities: str = ""  # the PEM file of those who are trusted; "": the system's

    def server_name(self, host: str) -> str:
        """Whom to ask for in the handshake (RFC 8461 4, RFC 7672 8.1)."""
        return self.names[0] if self.names else host


OPPORTUNISTIC: Final = Security()


class Insecure(NamedTuple):
    """Why a connection has not got what was asked: `kind` is a result type of RFC 8460 4.3, `text` one line for people."""

    kind: str
    text: str


class InsecureError(FailureError):
    """The mail may not pass here: `failure` says so in SMTP's terms, `why` in those of a report."""

    def __init__(self, failure: Failure, why: Insecure) -> None:
        super().__init__(failure)
        self.why = why
