"""Finding plugins: files in the operator's folders, and installed entry points of the group `responder`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from pydantic import BaseModel

from responder.agents import hookspecs
from responder.agents.base import Agent, NoSettings

GROUP = "responder"


class PluginError(Exception):
    """A plugin that can't be used; one line that names it and the reason."""


@dataclass(frozen=True, slots=True)
class AgentType:
    """An agent that may be given to inboxes. `build` makes one from its validated settings."""

    name: str
    origin: str
    settings: type[BaseModel]
    kind: str
    interval: float
    reads_automatic_mail: bool
    summary: str
    build: Callable[[BaseModel], Any]


def load(folders: Sequence[Path]) -> dict[str, AgentType]:
    """Every agent there is, by name. A file in a folder takes the place of an installed module of the same file name.

    Raises `PluginError` for a folder that is missing, a plugin that fails to import, and a name that is registered twice.
    """
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    files = _files(folders)
    modules: list[tuple[str, Callable[[], Any]]] = [(str(path), partial(_import_file, path)) for path in files.values()]
    modules += [
        (f"{entry.value} ({entry.dist.name})" if entry.dist else entry.value, entry.load)
        for entry in _installed()
        if entry.value.rpartition(".")[2] not in files
    ]
    found: dict[str, AgentType] = {}
    for origin, importer in modules:
        for agent in _agents_of(plugins, origin, importer):
            if agent.name in found:
                raise PluginError(
                    f'{origin}: the agent "{agent.name}" is already there, from {found[agent.name].origin}'
                )
            found[agent.name] = agent
    return dict(sorted(found.items()))


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise PluginError(f"{folder}: no such plugin folder")
        for path in sorted(folder.glob("*.py")):
            if path.name.startswith(("_", "test_")) or path.stem == "conftest":
                continue
            if path.stem in found and found[path.stem].resolve() != path.resolve():
                raise PluginError(f"{path}: there is already a plugin {found[path.stem]}")
            found[path.stem] = path
    return found


def _installed() -> list[EntryPoint]:
    """Entry points, each module once: one that registers several agents may be named by each of them."""
    found = {entry.value: entry for entry in entry_points(group=GROUP)}
    return sorted(found.values(), key=lambda entry: entry.value)


def _import_file(path: Path) -> ModuleType:
    """A plugin file as a module of its own, read afresh: a reload sees what the file says now."""
    name = f"responder_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where pydantic and dataclasses look up the annotations of what the module defines
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _agents_of(plugins: pluggy.PluginManager, origin: str, importer: Callable[[], Any]) -> list[AgentType]:
    """What one plugin registers, by its hook and by `@agent` functions."""
    try:
        module = importer()
        plugins.register(module, name=origin)
        plugins.check_pending()
        named: list[tuple[str, object]] = []
        hook = getattr(module, "responder_agents", None)
        if hook is not None and plugins.parse_hookimpl_opts(module, "responder_agents") is not None:
            named += list(hook().items())
        named += [
            (member.__responder_agent__, member)
            for member in vars(module).values()
            if inspect.isfunction(member) and hasattr(member, "__responder_agent__")
        ]
        if not named:
            raise PluginError(
                "it registers no agent: write `responder_agents` with @hookimpl, or a function with @agent"
            )
        return [_agent_type(name, thing, origin) for name, thing in named]
    except PluginError as error:
        raise PluginError(f"{origin}: {error}") from None
    except (Exception, SystemExit) as error:
        raise PluginError(f"{origin}: {type(error).__name__}: {_one_line(error)}") from error


def _agent_type(name: object, thing: object, origin: str) -> AgentType:
    if not isinstance(name, str) or not name:
        raise PluginError(f"an agent's name must be a text, not {name!r}")
    summary = (inspect.getdoc(thing) or "").partition("\n")[0]
    if inspect.isclass(thing) and issubclass(thing, Agent):
        if not (inspect.isclass(thing.Settings) and issubclass(thing.Settings, BaseModel)):
            raise PluginError(f'the Settings of "{name}" must be a pydantic model')
        return AgentType(
            name, origin, thing.Settings, thing.kind, thing.interval, thing.reads_automatic_mail, summary, thing
        )
    if inspect.isfunction(thing):
        return AgentType(name, origin, NoSettings, "service", 0.0, False, summary, lambda _: thing)
    raise PluginError(f'"{name}" must be a subclass of responder.Agent or a function, not {type(thing).__name__}')


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
