"""The hooks that a plugin may implement. This page is the whole extension surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from responder.agents.base import Agent, AgentFunction

hookspec = pluggy.HookspecMarker("responder")
hookimpl = pluggy.HookimplMarker("responder")


@hookspec
def responder_agents() -> dict[str, type[Agent] | AgentFunction]:  # type: ignore[empty-body]
    """The agents of a plugin, by the name that `[inboxes.*] agent` uses: `Agent` subclasses or functions of a mail."""
