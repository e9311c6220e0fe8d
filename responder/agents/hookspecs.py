"""The hooks that a plugin may implement. This page is the whole extension surface.

A plugin is a module; each function of it that is marked with `@hookimpl` and named as one of these is called by the server. It
may leave out arguments that it does not need. docs/plugins.md has an example of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import argparse

    from responder.agents.base import Agent, AgentFunction
    from responder.agents.checks import Check, CheckFunction
    from responder.config import Config

hookspec = pluggy.HookspecMarker("responder")
hookimpl = pluggy.HookimplMarker("responder")

VERBS = frozenset(
    {
        "serve",
        "check",
        "plugins",
        "new",
        "password",
        "try",
        "queue",
        "suppress",
        "explain",
        "verify",
        "send",
        "dialect",
        "dkim",
    }
)
"""The server's own verbs, and those that it will have: no plugin may take one of these names."""


@dataclass(frozen=True, slots=True)
class Command:
    """A verb of the command line: `responder NAME ...`. `help` is what it does, in one sentence.

    `run(options, config)` gets the parsed options and the configuration in use, and returns the exit status: 0 or None for
    done, 1 the work failed, 2 bad usage. `add_arguments(parser)` adds the verb's own options; `--config FILE` it has anyway.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace, Config], int | None]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


@hookspec
def responder_agents() -> Mapping[str, type[Agent] | AgentFunction]:  # type: ignore[empty-body]
    """The agents of a plugin, by the name that `[inboxes.*] agent` uses: `Agent` subclasses or functions of a mail."""


@hookspec
def responder_checks() -> Mapping[str, type[Check] | CheckFunction]:  # type: ignore[empty-body]
    """The checks of a plugin, by the name that `[checks.NAME]` uses: `Check` subclasses, or functions with `@check`."""


@hookspec
def responder_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """The verbs that a plugin adds to the command line. Plugins are not loaded for the server's own verbs' sake."""


@hookspec
def responder_event(name: str, fields: Mapping[str, object]) -> None:
    """Called for each event that the log knows (docs/operating.md, "The log"), whatever `log.level` is.

    `fields` are what the event happened to: `id`, `inbox`, `reason` and the like. It is called in a thread of its own, a moment
    after the event, one event at a time. It may block, but where it takes longer than events come, some are left out; an
    exception is logged once. No text of a mail and no secret is in it.
    """
