"""The gate: whether a mail may be answered (RFC 3834 2, RFC 5230 4.6, RFC 2919, RFC 2369, and the practice of the field).

An answer to an automatic mail is how loops start, so all doubt ends in silence; a silent mail is kept. No agent can switch
this off. `judge` looks at the envelope and at header fields only: nothing here parses a body.

A header that says "somebody sent this by a program" is one row of `marks.ROWS`: name, test, code. `Feedback-ID` has no row on
purpose: large providers put it on mail between people's systems too, and the bulk mail that carries it has a `List-*` or
`Precedence` field, which is a row of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Final

from responder.mail.address import Address, AddressError, from_header, parse, split_tag, unquote
from responder.mail.headers import Headers, clean
from responder.mail.mailboxes import mailboxes
from responder.mail.marks import MAX_VALUE, ROWS, SENDERS, SPAM, bare

LOOP_HEADER: Final = "X-Responder-Loop"
"""On each message that a server of this kind sends: the address of the inbox that sent it. One field is added per hop."""

AUTO_ID: Final = re.compile(r"<auto\.([0-9a-hjkmnp-tv-z]{18})(?:\.[0-9]{1,9}){0,2}@([^<>@\s]{1,255})>", re.IGNORECASE)
"""The Message-ID of each message that a server of this kind sends: the mail's id, then the host."""

MAX_DETAIL = 200  # characters of a reason's detail
MAX_ADDRESSES = 32768  # characters of address fields of one name: some 1,000 mailboxes
FIELD_COST = 64  # what a field counts besides its characters: thousands of empty ones cost as much as a few long ones
MAX_MARKERS = 20  # loop markers: a mail that so many servers of this kind sent on goes round


class Stops(StrEnum):
    """What a reason forbids."""

    ANSWER = "answer"  # answers; an inbox that forwards may still pass the mail on
    ALL = "all"  # forwards as well: this mail has been here before


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a mail is not answered. `code` is stable and printed by `explain`; `detail` fits one line."""

    code: str
    detail: str
    stops: Stops = Stops.ANSWER


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What sender authentication found (RFC 8601 result words); None where a method was not tried."""

    spf: str | None = None
    dkim: str | None = None
    dmarc: str | None = None
    dmarc_policy: str | None = None  # what the From domain asks for: none, quarantine, reject
    arc: str | None = None  # whether the chain of those who passed it on is whole: pass, fail
    overridden: bool = False  # dmarc failed, but a forwarder that the operator trusts had seen it pass
    from_domain: str | None = None  # what dmarc is about
    dkim_domains: tuple[str, ...] = ()  # whose signatures are good

    def to_json(self) -> str:
        """What a store keeps; "" where there is nothing to keep."""
        told = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(told, separators=(",", ":")) if told else ""

    @classmethod
    def from_json(cls, text: str) -> Verdicts:
        """What was kept. What is no longer understood is left out. Never fails."""
        try:
            told = json.loads(text) if text else {}
        except ValueError:
            return cls()
        if not isinstance(told, dict):
            return cls()
        known = {field.name: told[field.name] for field in fields(cls) if field.name in told}
        domains = known.get("dkim_domains")
        return cls(**{**known, "dkim_domains": tuple(domains) if isinstance(domains, list) else ()})


def is_bounce_address(recipient: Address) -> bool:
    """Whether a recipient of ours is where the bounces of our answers go: `bounces` or `bounces+ANYTHING`."""
    return _name(recipient) == "bounces"


def same_mailbox(one: Address, other: Address) -> bool:
    """Whether two addresses are one mailbox: case and `+tag` do not count."""
    return one.domain == other.domain and _name(one) == _name(other)


def _no_other(written: Address, recipient: Address) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Policy:
    """What the gate has to know of us."""

    hostname: str
    is_ours: Callable[[Address], bool]  # mail to that address comes back to us: an inbox or an alias of one
    is_bounce: Callable[[Address], bool] = is_bounce_address  # asked about recipients, so about our domains only
    same_inbox: Callable[[Address, Address], bool] = _no_other  # (written, recipient): another name of the inbox
    answer_postmaster: bool = False
    spam_headers: tuple[str, ...] = ()  # fields of a scanner that the operator trusts: yes, true or spam suppresses


def judge(
    *,
    reverse_path: str,
    recipient: Address,
    headers: Headers,
    personal: bool,
    policy: Policy,
    verdicts: Verdicts | None = None,
) -> Reason | None:
    """Why this mail must not be answered, or None where it may be. Never fails.

    `reverse_path` is what MAIL FROM said, with or without angle brackets. `personal` is the class of the inbox's agent:
    one that answers in a person's or group's name, as vacation does, answers only mail that names its recipient.
    Reasons that stop forwards as well are looked for first, so that they win.
    """
    return (
        _judge_loop(recipient, headers, policy)
        or _judge_sender(reverse_path, recipient, headers, policy)
        or _judge_headers(headers, policy)
        or _judge_verdicts(verdicts)
        or (_judge_for_person(reverse_path, recipient, headers, policy) if personal else None)
    )


def count_received(message: Headers | bytes) -> int:
    """How many hosts a message has passed: its `Received` fields (RFC 5321 6.3)."""
    headers = Headers.parse(message) if isinstance(message, bytes) else message
    return headers.count("Received")


def _judge_loop(recipient: Address, headers: Headers, policy: Policy) -> Reason | None:
    if policy.is_bounce(recipient):
        return _reason("bounce-address", "recipient", str(recipient), Stops.ALL)
    foreign: Reason | None = None
    for value in headers.all("Message-ID"):
        if (match := AUTO_ID.search(value[:MAX_VALUE])) is None:
            continue
        if match[2].casefold() == policy.hostname.casefold():
            return _reason("own-message-id", "Message-ID", match[0], Stops.ALL)
        foreign = _reason("automatic-message-id", "Message-ID", match[0])
    markers = headers.all(LOOP_HEADER)
    if len(markers) > MAX_MARKERS:
        return _reason("loop-marker", LOOP_HEADER, f"{len(markers)} times", Stops.ALL)
    for value in markers:
        try:
            passed = parse(value[:MAX_VALUE].strip(" \t<>"))
        except AddressError:
            passed = None
        if passed and (same_mailbox(passed, recipient) or policy.same_inbox(passed, recipient)):
            return _reason("loop-marker", LOOP_HEADER, value, Stops.ALL)
        foreign = foreign or _reason("loop-marker", LOOP_HEADER, value)
    return foreign


def _judge_sender(reverse_path: str, recipient: Address, headers: Headers, policy: Policy) -> Reason | None:
    path = reverse_path.strip()
    if path.startswith("<") and path.endswith(">"):
        path = path[1:-1].strip()
    if not path:
        return Reason("null-reverse-path", "MAIL FROM:<>")
    try:
        sender = parse(path)
    except AddressError as error:
        return _reason("invalid-reverse-path", "MAIL FROM", f"{path[:MAX_DETAIL]}: {error}")
    if reason := _judge_name("MAIL FROM", sender, recipient, policy):
        return reason
    author = None
    for author in _addresses(headers, "From"):
        if author != sender and (reason := _judge_name("From", author, recipient, policy)):
            return reason
    return None if author else _reason("no-from", "From", headers.get("From"))


def _judge_name(field: str, address: Address, recipient: Address, policy: Policy) -> Reason | None:
    """The reasons that lie in one address, of the envelope or of From."""
    if same_mailbox(address, recipient):
        return _reason("recipient-itself", field, str(address))
    untagged = Address(split_tag(address.local)[0], address.domain)
    if policy.is_ours(address) or policy.same_inbox(address, recipient) or policy.same_inbox(untagged, recipient):
        return _reason("own-address", field, str(address))
    name = _name(address)
    if name == "postmaster" and not policy.answer_postmaster:
        return _reason("postmaster", field, str(address))
    for pattern, code in SENDERS:
        if pattern.fullmatch(name):
            return _reason(code, field, str(address))
    return None


def _judge_headers(headers: Headers, policy: Policy) -> Reason | None:
    if headers.cut:
        return Reason(
            "header-too-long",
            "what stands behind its first megabyte, or 10,000 lines, may say that no person wrote this",
        )
    for name, marks, code in ROWS:
        if name in headers:
            for value in headers.all(name):
                if marks(bare(value)):
                    return _reason(code, name, value)
    for name in policy.spam_headers:
        for value in headers.all(name):
            if SPAM.match(value[:MAX_VALUE]):
                return _reason("spam", name, value)
    return None


def _judge_verdicts(verdicts: Verdicts | None) -> Reason | None:
    """A From that its own domain disowns (RFC 7489 6.3): the answer would hit somebody who never wrote."""
    if verdicts is None or verdicts.overridden or (verdicts.dmarc or "").casefold() != "fail":
        return None
    wanted = (verdicts.dmarc_policy or "").casefold()
    return Reason("dmarc-fail", f"the From domain asks to {wanted}") if wanted in ("quarantine", "reject") else None


_ADDRESSED: Final = ("To", "Cc", "Bcc", "Resent-To", "Resent-Cc", "Resent-Bcc")


def _judge_for_person(reverse_path: str, recipient: Address, headers: Headers, policy: Policy) -> Reason | None:
    """What only those who answer in a person's name care about: there Pigeonhole's silence is ours, to the letter."""
    if "-request" in unquote(reverse_path.strip("<> ").rpartition("@")[0]).casefold():  # `feature-requests`, too
        return _reason("list-sender", "MAIL FROM", reverse_path)
    for written in headers.written("Auto-Submitted"):
        if written.lower() != b"no":  # with a comment, a fold or a space behind it, too
            return _reason("auto-submitted", "Auto-Submitted", written.decode("utf-8", "replace"))
    return _judge_addressed(recipient, headers, policy)


def _judge_addressed(recipient: Address, headers: Headers, policy: Policy) -> Reason | None:
    """RFC 5230 4.5: whoever is not named was reached through a list or an alias that the sender may not know."""
    for name in _ADDRESSED:
        left = MAX_ADDRESSES
        for value in headers.all(name):
            if left <= 0:
                break
            # What is cut off there ends in no address, so that no shorter one is read out of it.
            for address in mailboxes(value if len(value) <= left else f"{value[:left]}\0"):
                if _names(address, recipient) or policy.same_inbox(address, recipient):
                    return None
            left -= len(value) + FIELD_COST
    return _reason("not-addressed", "recipient", str(recipient))


def _names(written: Address, recipient: Address) -> bool:
    """Whether that is how a sender writes to the recipient: with its tag or without one. Another tag is another name."""
    return same_mailbox(written, recipient) and (
        written.key == recipient.key or not split_tag(unquote(written.local))[1]
    )


# What most From fields are: one mailbox, with or without a plain name. All else takes the full parser, which costs ten
# times as much.
_SIMPLE = re.compile(
    r"""(?:(?:"[^"\\]{0,200}"[ \t]*|[^"\\(),:;<>@\[\]]{0,200})<([^\s"\\(),:;<>\[\]]+)>|([^\s"\\(),:;<>\[\]]+))"""
)


def _addresses(headers: Headers, name: str) -> Iterator[Address]:
    """The mailboxes in all fields of that name; what lies beyond `MAX_ADDRESSES` characters of them is not looked at."""
    left = MAX_ADDRESSES
    for value in headers.all(name):
        if left <= 0:
            return
        value = value[:left].strip()
        left -= len(value) + FIELD_COST
        if simple := _SIMPLE.fullmatch(value):
            with suppress(AddressError):
                yield parse(simple[1] or simple[2])
            continue
        try:
            found = from_header(value)
        except RecursionError:  # hundreds of nested comments or groups: nobody's address
            continue
        yield from [address for _, address in found]


def _name(address: Address) -> str:
    """The local part as it counts: unquoted, without case and without `+tag`."""
    return split_tag(unquote(address.local).casefold())[0]


def _reason(code: str, field: str, value: str, stops: Stops = Stops.ANSWER) -> Reason:
    return Reason(code, clean(f"{field}: {value[:MAX_DETAIL]}")[:MAX_DETAIL], stops)
