"""Finding plugins: files in the operator's folders, and installed entry points of the group `responder`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict

from responder.agents.base import Agent, Mail
from responder.agents.checks import Check
from responder.agents.files import fresh, import_file, staying
from responder.agents.hookspecs import Command
from responder.agents.registry import (
    AgentType,
    CheckType,
    PluginError,
    Registered,
    agent_type,
    check_type,
    one_line,
    register,
)
from responder.observe import Observer

__all__ = [
    "AgentType",
    "CheckType",
    "PluginError",
    "Plugins",
    "load",
    "load_plugins",
    "one_line",
    "stand_in_checks",
    "stand_ins",
]

GROUP = "responder"


@dataclass(frozen=True, slots=True)
class Plugins:
    """What all plugins bring, by name; `origins` are those of the commands. `broken` are the plugins that can't be used and
    were skipped: one line each."""

    agents: Mapping[str, AgentType] = field(default_factory=dict)
    commands: Mapping[str, Command] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    observers: tuple[Observer, ...] = ()
    broken: tuple[str, ...] = ()
    checks: Mapping[str, CheckType] = field(default_factory=dict)


def load(folders: Sequence[Path]) -> dict[str, AgentType]:
    """Every agent there is, by name. Raises `PluginError`: see `load_plugins`."""
    return dict(load_plugins(folders).agents)


def load_plugins(folders: Sequence[Path], *, skip_broken: bool = False) -> Plugins:
    """Everything that plugins bring. A file in a folder takes the place of an installed module of the same file name.

    Files are read afresh each time, what they import from their folder too. Raises `PluginError` for a folder that is missing,
    a plugin that can't be used (its import fails, an unknown hook, something that is no agent), and a name that is registered
    twice; then the modules of before stay. With `skip_broken` such a plugin is left out and named, and of two that register one
    name the second is; only the folders must be there.
    """
    files = _files(folders)
    with staying(), fresh([folder.resolve() for folder in folders]):
        return _load(files, skip_broken)


def stand_ins(plugins: Plugins, wanted: Iterable[str]) -> dict[str, AgentType]:
    """The agents, and where plugins are broken one in place of each that is wanted and not there: it may well be in one of
    them. It fails, so that the mail is kept and tried again rather than refused or lost."""
    agents = dict(plugins.agents)
    for name in wanted if plugins.broken else ():
        agents.setdefault(name, _stand_in(name, plugins.broken))
    return agents


def _stand_in(name: str, broken: Sequence[str]) -> AgentType:
    reason = f"its plugin is broken: {'; '.join(broken)}"

    class StandIn(Agent):
        """Stands in for an agent whose plugin can't be used."""

        Settings = _AnySettings
        reads_automatic_mail = True  # a forwarder's mail must not fall silent meanwhile

        async def answer(self, mail: Mail) -> NoReturn:
            raise PluginBroken(reason)

    return agent_type(name, StandIn, "a broken plugin", "")


def stand_in_checks(plugins: Plugins, wanted: Iterable[str]) -> dict[str, CheckType]:
    """The checks, and where plugins are broken one in place of each that is wanted and not there. It fails at MAIL, where its
    table's `failure` decides."""
    checks = dict(plugins.checks)
    for name in wanted if plugins.broken else ():
        checks.setdefault(name, _stand_in_check(name, plugins.broken))
    return checks


def _stand_in_check(name: str, broken: Sequence[str]) -> CheckType:
    reason = f"its plugin is broken: {'; '.join(broken)}"

    class StandIn(Check):
        """Stands in for a check whose plugin can't be used."""

        Settings = _AnySettings

        async def mail(self, *said: object) -> NoReturn:
            raise PluginBroken(reason)

    return check_type(name, StandIn, "a broken plugin", "")


class PluginBroken(Exception):  # noqa: N818 - history shows the name
    """The agent or check asked for is in a plugin that can't be used."""


class _AnySettings(BaseModel):
    model_config = ConfigDict(extra="allow")


def _load(files: dict[str, Path], skip_broken: bool) -> Plugins:
    sources: list[tuple[str, Path | str, Callable[[], Any]]] = [
        (str(path), path, partial(import_file, path)) for path in files.values()
    ]
    sources += [
        (f"{entry.value} ({entry.dist.name})" if entry.dist else entry.value, entry.value, entry.load)
        for entry in _installed()
        if entry.value.rpartition(".")[2] not in files
    ]
    agents: dict[str, AgentType] = {}
    commands: dict[str, Command] = {}
    origins: dict[str, str] = {}
    observers: list[Observer] = []
    broken: list[str] = []
    checks: dict[str, CheckType] = {}
    for origin, source, importer in sources:
        try:
            found = register(origin, source, importer)
            _check_names(found, origin, agents, checks, origins)
        except PluginError as error:
            if not skip_broken:
                raise
            broken.append(str(error))
            continue
        agents |= {agent.name: agent for agent in found.agents}
        checks |= {check.name: check for check in found.checks}
        commands |= {command.name: command for command in found.commands}
        origins |= {command.name: origin for command in found.commands}
        observers += found.observers
    return Plugins(
        agents=dict(sorted(agents.items())),
        commands=dict(sorted(commands.items())),
        origins=origins,
        observers=tuple(observers),
        broken=tuple(broken),
        checks=dict(sorted(checks.items())),
    )


def _check_names(
    found: Registered,
    origin: str,
    agents: Mapping[str, AgentType],
    checks: Mapping[str, CheckType],
    commands: Mapping[str, str],
) -> None:
    """Whether the names are new, and each is there once. Raises `PluginError`."""
    there = {("agent", name): agent.origin for name, agent in agents.items()}
    there |= {("check", name): check.origin for name, check in checks.items()}
    there |= {("command", name): place for name, place in commands.items()}
    new = [("agent", agent.name) for agent in found.agents] + [("check", check.name) for check in found.checks]
    for key in [*new, *(("command", one.name) for one in found.commands)]:
        if key in there:
            raise PluginError(f'{origin}: the {key[0]} "{key[1]}" is already there, from {there[key]}')
        there[key] = origin


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            reason = "no such plugin folder" if isinstance(error, FileNotFoundError) else error.strerror
            raise PluginError(f"{folder}: {reason}") from None
        for path in paths:
            if path.suffix != ".py" or path.name.startswith(("_", ".", "test_")) or path.stem == "conftest":
                continue
            if path.stem in found and found[path.stem].resolve() != path.resolve():
                raise PluginError(f"{path}: there is already a plugin {found[path.stem]}")
            found[path.stem] = path
    return found


def _installed() -> list[EntryPoint]:
    """Entry points, each module once: one that registers several agents may be named by each of them."""
    found = {entry.value: entry for entry in entry_points(group=GROUP)}
    return sorted(found.values(), key=lambda entry: entry.value)
