"""The two lives of a mail: every state and every step between states, as data.

The inbound machine runs once per (message, recipient), the outbound machine once per message that leaves and recipient.
The stores, the tests and the diagrams of `docs/architecture.md` all come from `TRANSITIONS`; no other line of code names a
step. A store applies a step by compare-and-set and writes a row of history in the same transaction.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a mail stands."""

    # inbound
    RECEIVED = "RECEIVED"
    ANSWERING = "ANSWERING"
    ANSWERED = "ANSWERED"
    SILENT = "SILENT"
    # both
    FAILED = "FAILED"
    DROPPED = "DROPPED"
    # outbound
    QUEUED = "QUEUED"
    SENDING = "SENDING"
    DEFERRED = "DEFERRED"
    HELD = "HELD"
    DELIVERED = "DELIVERED"
    BOUNCED = "BOUNCED"


class Event(StrEnum):
    """What happens to it."""

    CLAIM = "claim"  # a worker takes it and is charged an attempt
    EXPIRE_LEASE = "expire-lease"  # that worker died: the work is free again
    RELEASE = "release"  # inbound: given back untouched at a shutdown; outbound: an operator lifts a hold
    DEFER = "defer"  # not now: run again later
    FAIL = "fail"  # given up; nobody is told but the operator
    RETRY = "retry"  # an operator wants it run again now
    DROP = "drop"  # an operator wants it gone
    # inbound
    ANSWER = "answer"  # the agent's answer and its outbound rows are stored
    SILENCE = "silence"  # there is no answer, for a reason that history tells
    # outbound
    YIELD = "yield"  # given back untouched at a shutdown
    DELIVER = "deliver"  # the remote host took it
    BOUNCE = "bounce"  # given up, and the DSN for its sender is stored
    HOLD = "hold"  # an operator keeps it back
    EXPIRE = "expire"  # an operator wants no more than one last attempt
    RETURN = "return"  # the remote host took it, and sent it back later


class IllegalTransitionError(Exception):
    """An event that the state does not allow."""


Machine = dict[tuple[State, Event], State]

INBOUND: Final[Machine] = {
    (State.RECEIVED, Event.CLAIM): State.ANSWERING,
    (State.RECEIVED, Event.DROP): State.DROPPED,
    (State.ANSWERING, Event.ANSWER): State.ANSWERED,
    (State.ANSWERING, Event.SILENCE): State.SILENT,
    (State.ANSWERING, Event.FAIL): State.FAILED,
    (State.ANSWERING, Event.DEFER): State.RECEIVED,
    (State.ANSWERING, Event.RELEASE): State.RECEIVED,
    (State.ANSWERING, Event.EXPIRE_LEASE): State.RECEIVED,
    (State.RECEIVED, Event.RETRY): State.RECEIVED,
    (State.FAILED, Event.RETRY): State.RECEIVED,
    (State.SILENT, Event.RETRY): State.RECEIVED,
    (State.FAILED, Event.DROP): State.DROPPED,
}

OUTBOUND: Final[Machine] = {
    (State.QUEUED, Event.CLAIM): State.SENDING,
    (State.DEFERRED, Event.CLAIM): State.SENDING,
    (State.SENDING, Event.DELIVER): State.DELIVERED,
    (State.SENDING, Event.DEFER): State.DEFERRED,
    (State.SENDING, Event.BOUNCE): State.BOUNCED,
    (State.SENDING, Event.FAIL): State.FAILED,
    (State.SENDING, Event.YIELD): State.DEFERRED,
    (State.SENDING, Event.EXPIRE_LEASE): State.DEFERRED,
    (State.QUEUED, Event.HOLD): State.HELD,
    (State.DEFERRED, Event.HOLD): State.HELD,
    (State.HELD, Event.RELEASE): State.QUEUED,
    (State.QUEUED, Event.RETRY): State.QUEUED,
    (State.DEFERRED, Event.RETRY): State.QUEUED,
    (State.BOUNCED, Event.RETRY): State.QUEUED,
    (State.FAILED, Event.RETRY): State.QUEUED,
    (State.QUEUED, Event.EXPIRE): State.QUEUED,
    (State.DEFERRED, Event.EXPIRE): State.QUEUED,
    (State.HELD, Event.EXPIRE): State.QUEUED,
    (State.DELIVERED, Event.RETURN): State.BOUNCED,
    (State.QUEUED, Event.DROP): State.DROPPED,
    (State.DEFERRED, Event.DROP): State.DROPPED,
    (State.HELD, Event.DROP): State.DROPPED,
    (State.FAILED, Event.DROP): State.DROPPED,
}

TRANSITIONS: Final[dict[str, Machine]] = {"inbound": INBOUND, "outbound": OUTBOUND}

INITIAL: Final[dict[str, State]] = {"inbound": State.RECEIVED, "outbound": State.QUEUED}


def states(machine: Machine) -> list[State]:
    """The states that a machine knows, in the order of its table."""
    return list(dict.fromkeys([state for (state, _), to in machine.items() for state in (state, to)]))


def final_states(machine: Machine) -> list[State]:
    """The states in which a mail waits for nothing: retention counts from here. An operator may still bring some back."""
    working = {state for state, event in machine if event in (Event.CLAIM, Event.EXPIRE_LEASE)}
    return [state for state in states(machine) if state not in working and state is not State.HELD]


def step(machine: Machine, state: State, event: Event) -> State:
    """The state behind `event`. Raises `IllegalTransitionError` where `state` does not allow it."""
    try:
        return machine[state, event]
    except KeyError:
        raise IllegalTransitionError(f"a mail that is {state} can't {event}") from None


def diagram(name: str) -> str:
    """One machine as a Mermaid state diagram, as the docs show it."""
    machine = TRANSITIONS[name]
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL[name]}"]
    lines += [f"    {state} --> {to}: {event}" for (state, event), to in machine.items()]
    lines += [f"    {state} --> [*]" for state in final_states(machine)]
    return "\n".join(lines) + "\n"
