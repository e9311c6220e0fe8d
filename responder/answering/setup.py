"""What one configuration comes to: domains, inboxes and their agents, the gate's policy. Built whole, replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from responder.agents.base import Agent
from responder.agents.context import Context
from responder.agents.guards import Guards
from responder.agents.guards import build as build_check
from responder.agents.host import Inbox, build
from responder.agents.load import AgentType, CheckType, PluginError, Plugins
from responder.agents.router import Router
from responder.answering.memory import InboxState
from responder.clock import Clock
from responder.config import Config
from responder.config import Inbox as InboxTable
from responder.config.errors import dotted
from responder.mail.address import Address, AddressError, parse
from responder.mail.automatic import Policy
from responder.store.base import Store

DAY = 86400.0
PROCESSES = 4  # worker processes of an isolated inbox, where nothing else is said: each is a Python of its own
PERSONAL_INTERVAL = 7 * DAY  # RFC 5230 4.1: the default, and a day at least


@dataclass(frozen=True, slots=True)
class Setup:
    """Replaced whole by a reload; an item that is under way ends on the one that it began with."""

    config: Config
    router: Router
    inboxes: Mapping[str, Inbox]
    agents: Mapping[str, AgentType]
    policy: Policy
    policies: Mapping[str, Policy]  # of inboxes that answer for several addresses
    rooms: Mapping[str, int]  # how many runs of inboxes that do not have the default
    checks: Guards = field(default_factory=Guards)
    plugins: Plugins = field(default_factory=Plugins)  # what else they bring: observers, and what was skipped


def set_up(
    config: Config, agents: Mapping[str, AgentType], checks: Mapping[str, CheckType] = MappingProxyType({})
) -> Setup:
    """Build every inbox's agent, and every check. Raises `PluginError`: one line that names the key and the reason."""
    router = Router(config.inboxes, config.domains)
    inboxes = {}
    for name, table in config.inboxes.items():
        kind, agent = build(name, agents, table.agent, table.settings)
        for key in kind.needs:
            if not getattr(table, key):
                raise PluginError(f'{dotted(("inboxes", name, key))}: is required by the agent "{kind.name}"')
        role = table.kind or kind.kind
        isolated = kind.isolated if table.isolated is None else table.isolated
        usual = min(PROCESSES, config.answering.per_inbox) if isolated else config.answering.per_inbox
        inboxes[name] = Inbox(
            name=name,
            type=kind,
            agent=agent,
            kind=role,
            interval=interval(table, role, kind.interval, config.reply.interval),
            timeout=table.timeout or config.answering.timeout,
            isolated=isolated,
            concurrency=table.concurrency or usual,
            memory=config.answering.memory,
            settings=table.settings,
            agents=agents,
        )
    policy = Policy(
        hostname=config.hostname,
        is_ours=router.is_ours,
        is_bounce=router.is_bounce,
        answer_postmaster=config.reply.answer_postmaster,
        spam_headers=config.reply.trusted_spam_headers,
    )
    own = {name: own_addresses(config.inboxes[name], inbox) for name, inbox in inboxes.items()}
    return Setup(
        config=config,
        router=router,
        inboxes=inboxes,
        agents=agents,
        policy=policy,
        policies={name: replace(policy, same_inbox=partial(_same, keys)) for name, keys in own.items() if keys},
        rooms={
            name: inbox.concurrency
            for name, inbox in inboxes.items()
            if inbox.concurrency != config.answering.per_inbox
        },
        checks=Guards([build_check(name, table, checks) for name, table in config.checks.items()]),
    )


def equip(setup: Setup, store: Store, clock: Clock) -> None:
    """Give every agent and check its context: what it may use from `start` on."""
    for name, inbox in setup.inboxes.items():
        inbox.agent.context = Context(name, InboxState(name, store, clock), clock, partial(_inner, setup, name))
    # No inbox has such a name: what a check remembers is its own.
    setup.checks.equip(lambda name: InboxState(f".checks.{name}", store, clock), clock)


def own_addresses(table: InboxTable, inbox: Inbox) -> frozenset[str]:
    """What an inbox answers for besides its own name, as the operator and its agent say. Raises `PluginError`."""
    keys = [address.key for address in table.addresses]
    for text in inbox.agent.addresses:
        try:
            keys.append(parse(text).key)
        except (AddressError, TypeError, AttributeError):
            raise PluginError(
                f"{dotted(('inboxes', inbox.name))}: its agent's addresses hold what is no address"
            ) from None
    return frozenset(keys)


def _same(keys: frozenset[str], written: Address, recipient: Address) -> bool:
    return written.key in keys


def _inner(setup: Setup, inbox: str, name: str, settings: Mapping[str, Any]) -> Agent:
    """Another agent for the agent of an inbox: see `Context.agent`."""
    if name not in setup.agents:
        raise LookupError(f'there is no agent "{name}" (there are: {", ".join(setup.agents)})')
    try:
        return build(inbox, setup.agents, name, settings)[1]
    except PluginError as error:
        raise ValueError(str(error)) from error


def interval(table: InboxTable, role: str, agents: float, default: float) -> float:
    """Seconds between two answers to one sender: the inbox's, else the agent's, else the default; an inbox that answers in
    a person's or group's name does so once a day at the most (RFC 5230 4.1)."""
    if role == "service":
        return table.interval if table.interval is not None else agents or default
    chosen = table.interval if table.interval is not None else agents or default or PERSONAL_INTERVAL
    return max(chosen, DAY)
