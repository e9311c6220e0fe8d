"""What one configuration comes to: domains, inboxes and their agents, the gate's policy. Built whole, replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from responder.agents.host import Inbox, build
from responder.agents.load import AgentType
from responder.agents.router import Router
from responder.config import Config
from responder.config import Inbox as InboxTable
from responder.mail.automatic import Policy

DAY = 86400.0
PERSONAL_INTERVAL = 7 * DAY  # RFC 5230 4.1: the default, and a day at least


@dataclass(frozen=True, slots=True)
class Setup:
    """Replaced whole by a reload; an item that is under way ends on the one that it began with."""

    config: Config
    router: Router
    inboxes: Mapping[str, Inbox]
    policy: Policy


def set_up(config: Config, agents: Mapping[str, AgentType]) -> Setup:
    """Build every inbox's agent. Raises `PluginError`: one line that names the key and the reason."""
    router = Router(config.inboxes, config.domains)
    inboxes = {}
    for name, table in config.inboxes.items():
        kind, agent = build(name, agents, table.agent, table.settings)
        role = table.kind or kind.kind
        inboxes[name] = Inbox(
            name=name,
            type=kind,
            agent=agent,
            kind=role,
            interval=interval(table, role, kind.interval, config.reply.interval),
            timeout=table.timeout or config.answering.timeout,
            isolated=kind.isolated if table.isolated is None else table.isolated,
            concurrency=table.concurrency or config.answering.per_inbox,
        )
    policy = Policy(
        hostname=config.hostname,
        is_ours=router.is_ours,
        is_bounce=router.is_bounce,
        answer_postmaster=config.reply.answer_postmaster,
        spam_headers=config.reply.trusted_spam_headers,
    )
    return Setup(config, router, inboxes, policy)


def interval(table: InboxTable, role: str, agents: float, default: float) -> float:
    """Seconds between two answers to one sender: the inbox's, else the agent's, else the default; an inbox that answers in
    a person's or group's name does so once a day at the most (RFC 5230 4.1)."""
    if role == "service":
        return table.interval if table.interval is not None else agents or default
    chosen = table.interval if table.interval is not None else agents or default or PERSONAL_INTERVAL
    return max(chosen, DAY)
