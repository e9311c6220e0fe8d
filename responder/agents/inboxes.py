"""One inbox of the configuration with its agent: what it is, and how the agent is built from the operator's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from responder.agents.base import Agent
from responder.agents.registry import AgentType, PluginError, one_line
from responder.config.errors import dotted


@dataclass(frozen=True, slots=True, eq=False)
class Inbox:
    """One inbox of the configuration with its agent, built and ready. Each is itself only: a reload makes new ones.

    `timeout` is in seconds, `memory` in octets of one of its worker processes. `settings` are the agent's as the operator wrote
    them, and `agents` all that there are, by name: what another process needs to build the agent, and those that it wraps.
    """

    name: str
    type: AgentType
    agent: Agent
    kind: str
    interval: float
    timeout: float
    isolated: bool = False
    concurrency: int = 16
    memory: int = 512 << 20
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    agents: Mapping[str, AgentType] = field(default_factory=dict, repr=False)


def build(
    name: str, agents: Mapping[str, AgentType], agent: str, settings: Mapping[str, Any]
) -> tuple[AgentType, Agent]:
    """An inbox's agent, with its settings validated. Raises `PluginError`: one line with the key and the reason."""
    kind = agents.get(agent)
    if kind is None:
        known = ", ".join(agents) or "none: is `plugins` set to the folder they are in?"
        raise PluginError(f'{dotted(("inboxes", name, "agent"))}: there is no agent "{agent}" (there are: {known})')
    validated = validate(kind.settings, settings, ("inboxes", name, "settings"))
    try:
        return kind, kind.build(validated)
    except (Exception, SystemExit) as error:
        reason = f'the agent "{agent}" does not start: {type(error).__name__}: {one_line(error)}'
        raise PluginError(f"{dotted(('inboxes', name))}: {reason}") from error


def validate(model: type[BaseModel], settings: Mapping[str, Any], path: tuple[str, ...]) -> BaseModel:
    """What an operator wrote at `path`, as the plugin's own model. Raises `PluginError`."""
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        raise PluginError(_invalid(model, path, error)) from None
    except Exception as error:  # a validator that raises what pydantic doesn't expect
        raise PluginError(f"{dotted(path)}: {type(error).__name__}: {one_line(error)}") from error


def _invalid(model: type[BaseModel], path: tuple[str, ...], error: ValidationError) -> str:
    """What is wrong with a plugin's settings: the first key, and the reason. No value is repeated: it may be a secret."""
    found = error.errors(include_url=False, include_input=False)
    first = found[0]
    key = dotted((*path, *first["loc"]))
    if first["type"] == "extra_forbidden":
        reason = f"unknown key; known here: {', '.join(model.model_fields) or 'none'}"
    elif first["type"] == "missing":
        reason = "is required"
    else:
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{key}: {reason}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
