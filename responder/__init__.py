"""Responder: an e-mail agent server.

How a mail walks, and where each step lives:

    client --SMTP--> responder.inbound --> responder.intake ==commit==> 250
        the store wakes
    responder.answering: gate -> route -> agent -> compose ==one commit==
        the store wakes
    responder.delivery: MX -> session -> outcome ==commit==> delivered | deferred | bounced | failed

A stage never calls the next one: it commits, and the store wakes whoever waits.

This module is what a plugin author imports.
"""

from responder.agents.answers import Answer, Distribute, Forward, GiveUp, HandOver, Reply, TryLater
from responder.agents.base import Agent, Authentication, Bounce, Mail, Thread, agent
from responder.agents.checks import Check, Client, Defer, Mark, Refuse, check
from responder.agents.confirm import Confirmation
from responder.agents.context import Context
from responder.agents.exchange import answer_from_json, mail_to_json
from responder.agents.hookspecs import Command, hookimpl
from responder.mail.compose import Attachment

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
    "agent",
    "answer_from_json",
    "check",
    "hookimpl",
    "mail_to_json",
]
