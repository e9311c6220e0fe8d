"""What an agent may say to a mail: the results of `answer`, and the two exceptions that mean something.

None of them names a recipient of an answer, a protocol header or a host: the core writes those, behind the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from responder.mail.compose import Attachment

MAX_DELAY = 30 * 86400.0  # seconds: the longest that an agent may put a mail off


class TryLater(Exception):  # noqa: N818 - fixed by the contract; it is no error
    """Raised by an agent that wants to be run again after that many seconds. It counts as an attempt."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = min(max(float(seconds), 0.0), MAX_DELAY)
        if math.isnan(self.seconds):
            raise ValueError("TryLater wants a number of seconds")
        super().__init__(f"the agent asked to be run again in {self.seconds:g} s")


class GiveUp(Exception):  # noqa: N818 - a decision, as `TryLater` is
    """Raised by an agent that knows that no further attempt will help: the mail is FAILED at once, with this reason."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Recipient, sender and protocol headers are none of the agent's business: the core writes them.

    `subject` replaces "Re: ..."; `headers` may name only those of `responder.mail.compose.ALLOWED_EXTRA_HEADERS`.
    `tag` stands in the answer's From (`inbox+tag@domain`), so that the reply to it comes back with `Mail.tag` set. `from_` is a
    mailbox in place of the inbox's: one of the agent's or the inbox's `addresses`. `handle` and `interval` (seconds): the
    sender gets one answer of this handle in that time, in place of the inbox's own interval (RFC 5230 4.2). `to_sender`: what it
    says is for `Mail.sender` alone, so it goes there, even where the inbox answers to From.
    """

    text: str = ""
    html: str = ""
    attachments: Sequence[Attachment] = ()
    subject: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""
    from_: str | None = None
    handle: str = ""
    interval: float | None = None
    to_sender: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """The mail itself, passed on to the inbox's configured `targets` (or to those of them that `to` names)."""

    to: Sequence[str] = ()
    subject_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class HandOver:
    """The mail itself, unaltered and with its own envelope, handed to the host that the inbox's `upstream` names."""


@dataclass(frozen=True, slots=True)
class Distribute:
    """The mail as a mailing list sends it on, to each of `to` alone (RFC 2369, RFC 2919, RFC 8058).

    Each address must be allowed by the inbox's `targets` (`"*"` allows all). `name` is what people call the list.
    `discussion`: a reply goes to the list; else to the author, and nobody else may post. `one_click` is, by address of a
    member, the https address at which a POST unsubscribes it; `tokens`, in the same way, what proves in a mail to
    `list+unsubscribe-TOKEN` whose it is. What fails to be delivered comes back to `Agent.bounced`.
    """

    to: Sequence[str]
    name: str = ""
    subject_prefix: str | None = None
    discussion: bool = True
    one_click: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)


Answer = Reply | Forward | HandOver | Distribute | str | None
