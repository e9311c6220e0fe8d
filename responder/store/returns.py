"""What comes back of what has left, who is not written to any more, and what an operator's hand is laid on: records. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from responder.mail.address import parse
from responder.mail.envelope import Wish
from responder.mail.lifecycle import Event, State


@dataclass(frozen=True, slots=True)
class Suppression:
    """A mailbox that is not written to: `address` is its `Address.key`, `inbox` whose mail that is about ("" for all), `reason`
    is hard-bounce, complaint or operator, `detail` for people. Unix seconds; `expires_at` 0.0: never."""

    address: str
    inbox: str
    reason: str
    detail: str
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Sent:
    """What has left, or is to leave, as far as what comes back of it has to be tied to it."""

    id: str
    kind: str
    inbox: str
    content_id: str
    head: str
    reverse_path: str
    recipient: str
    return_to: str
    state: State
    created_at: float
    changed_at: float
    wish: Wish
    ret: str
    envid: str


@dataclass(frozen=True, slots=True)
class Returned:
    """What came back of an outbound item: a step for it (RETURN), or with `event` None a line of its history."""

    item: str
    event: Event | None
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Items, for an operator's hand: those that all of this holds for; what is empty holds for any. `inbox` of what comes in is
    where it came to, of what leaves whose mail it is; a `domain` or `kind` only what leaves has."""

    states: tuple[State, ...] = ()
    domain: str = ""
    inbox: str = ""
    kind: str = ""


PASSED_ON = frozenset({"forward", "proxy", "relay"})
"""Kinds of what is somebody else's mail."""

_TOLD = PASSED_ON | {"list"}
"""Kinds of which somebody learns what became of them, and decides: nobody is suppressed for those."""


def hard_bounce(kind: str, recipient: str, inbox: str, detail: str, now: float, keep: float) -> tuple[Suppression, ...]:
    """The suppression that a mailbox earns which does not exist, for `keep` seconds (0.0: none). What no inbox wrote (a report)
    bars nobody from all of them."""
    if not keep or kind in _TOLD or not inbox:
        return ()
    return (Suppression(parse(recipient).key, inbox, "hard-bounce", detail[:300], now, now + keep),)
