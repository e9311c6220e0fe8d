"""Responder: an e-mail agent server.

How a mail walks, and where each step lives:

    client --SMTP--> responder.inbound --> responder.intake ==commit==> 250
        the store wakes
    responder.answering: gate -> route -> agent -> compose ==one commit==
        the store wakes
    responder.delivery: MX -> session -> outcome ==commit==> delivered | deferred | bounced | failed

A stage never calls the next one: it commits, and the store wakes whoever waits.

This module is what a plugin author imports, and a program that asks about addresses (`verify`).
"""

from typing import TYPE_CHECKING, Any

from responder.agents.answers import Answer, Distribute, Forward, GiveUp, HandOver, Reply, TryLater
from responder.agents.base import Agent, Authentication, Bounce, Mail, Thread, agent
from responder.agents.checks import Check, Client, Defer, Mark, Refuse, check
from responder.agents.confirm import Confirmation
from responder.agents.context import Context
from responder.agents.exchange import answer_from_json, mail_to_json
from responder.agents.hookspecs import Command, hookimpl
from responder.mail.compose import Attachment

if TYPE_CHECKING:
    from responder.outbound.verifying.verification import Verification
    from responder.outbound.verifying.verify import verify, verify_all

__all__ = [
    "Agent",
    "Answer",
    "Attachment",
    "Authentication",
    "Bounce",
    "Check",
    "Client",
    "Command",
    "Confirmation",
    "Context",
    "Defer",
    "Distribute",
    "Forward",
    "GiveUp",
    "HandOver",
    "Mail",
    "Mark",
    "Refuse",
    "Reply",
    "Thread",
    "TryLater",
    "Verification",
    "agent",
    "answer_from_json",
    "check",
    "hookimpl",
    "mail_to_json",
    "verify",
    "verify_all",
]


def __getattr__(name: str) -> Any:
    """`verify` brings the network's libraries along, which no plugin has to wait for: it is loaded when it is used."""
    if name in ("Verification", "verify", "verify_all"):
        from responder.outbound.verifying import verify as face

        return getattr(face, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
