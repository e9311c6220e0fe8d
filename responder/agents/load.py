"""Finding plugins: files in the operator's folders, and installed entry points of the group `responder`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import pluggy
from pydantic import BaseModel

from responder.agents import hookspecs
from responder.agents.answers import Answer
from responder.agents.base import Agent, Kind, Mail
from responder.agents.files import fresh, import_file

GROUP = "responder"


class PluginError(Exception):
    """A plugin that can't be used; one line that names it and the reason."""


@dataclass(frozen=True, slots=True)
class AgentType:
    """An agent that may be given to inboxes. `build` makes one from its validated settings; `source` is the plugin file, or
    the module of an installed one."""

    name: str
    origin: str
    source: Path | str
    settings: type[BaseModel]
    kind: str
    interval: float
    reads_automatic_mail: bool
    isolated: bool
    summary: str
    build: Callable[[BaseModel], Agent]


def load(folders: Sequence[Path]) -> dict[str, AgentType]:
    """Every agent there is, by name. A file in a folder takes the place of an installed module of the same file name.

    Files are read afresh each time, what they import from their folder too. Raises `PluginError` for a folder that is
    missing, a plugin that fails to import, and a name that is registered twice; then the modules of before stay.
    """
    files = _files(folders)
    with fresh([folder.resolve() for folder in folders]):
        return _load(files)


def _load(files: dict[str, Path]) -> dict[str, AgentType]:
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    modules: list[tuple[str, Path | str, Callable[[], Any]]] = [
        (str(path), path, partial(import_file, path)) for path in files.values()
    ]
    modules += [
        (f"{entry.value} ({entry.dist.name})" if entry.dist else entry.value, entry.value, entry.load)
        for entry in _installed()
        if entry.value.rpartition(".")[2] not in files
    ]
    found: dict[str, AgentType] = {}
    for origin, source, importer in modules:
        for agent in _agents_of(plugins, origin, source, importer):
            if agent.name in found:
                raise PluginError(
                    f'{origin}: the agent "{agent.name}" is already there, from {found[agent.name].origin}'
                )
            found[agent.name] = agent
    return dict(sorted(found.items()))


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


def _agents_of(
    plugins: pluggy.PluginManager, origin: str, source: Path | str, importer: Callable[[], Any]
) -> list[AgentType]:
    """What one plugin registers, by its hook and by `@agent` functions."""
    try:
        module = importer()
        plugins.register(module, name=origin)
        plugins.check_pending()
        named = _hooked(plugins, module) + [
            (member.__responder_agent__, member)
            for member in vars(module).values()
            if inspect.isfunction(member) and hasattr(member, "__responder_agent__")
        ]
        if not named:
            raise PluginError(
                "it registers no agent: write `responder_agents` with @hookimpl, or a function with @agent"
            )
        # One thing under two names of the module is still one.
        distinct = {(name, id(thing)): (name, thing) for name, thing in named}.values()
        return [_agent_type(name, thing, origin, source) for name, thing in distinct]
    except PluginError as error:
        raise PluginError(f"{origin}: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin that ends the program at its import, too
        raise PluginError(f"{origin}: {type(error).__name__}: {one_line(error)}") from error


def _hooked(plugins: pluggy.PluginManager, module: object) -> list[tuple[object, object]]:
    """What the hook of one module returns."""
    hook = getattr(module, "responder_agents", None)
    if hook is None or plugins.parse_hookimpl_opts(module, "responder_agents") is None:
        return []
    agents = hook()
    if not isinstance(agents, Mapping):
        if inspect.iscoroutine(agents):
            agents.close()
        raise PluginError(f"responder_agents must return a dict of agents, not {type(agents).__name__}")
    return list(agents.items())


def _agent_type(name: object, thing: object, origin: str, source: Path | str) -> AgentType:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise PluginError(f"an agent's name must be a text, not {name!r}")
    if inspect.isfunction(thing):
        thing = _as_class(thing)
    if not inspect.isclass(thing) or not issubclass(thing, Agent):
        raise PluginError(f'"{name}" must be a subclass of responder.Agent or a function, not {type(thing).__name__}')
    if not (inspect.isclass(thing.Settings) and issubclass(thing.Settings, BaseModel)):
        raise PluginError(f'the Settings of "{name}" must be a pydantic model')
    if thing.kind not in get_args(Kind):
        raise PluginError(f'the kind of "{name}" must be one of {", ".join(get_args(Kind))}')
    if not isinstance(thing.interval, int | float) or not 0 <= thing.interval < math.inf:
        raise PluginError(f'the interval of "{name}" must be a number of seconds')
    if thing.answer is Agent.answer:
        raise PluginError(f'"{name}" has no method `answer`')
    return AgentType(
        name=name,
        origin=origin,
        source=source,
        settings=thing.Settings,
        kind=thing.kind,
        interval=thing.interval,
        reads_automatic_mail=bool(thing.reads_automatic_mail),
        isolated=bool(thing.isolated),
        summary=(inspect.getdoc(thing) or "").partition("\n")[0],
        build=thing,
    )


def _as_class(function: FunctionType) -> type[Agent]:
    """A function of a mail, or of a mail and a context, as an agent like any other. Raises `PluginError`."""
    wanted = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    with_context = len(wanted) > 1 and wanted[1].default is inspect.Parameter.empty

    if inspect.iscoroutinefunction(function):

        async def answer(self: Agent, mail: Mail) -> Answer:
            result: Answer = await (function(mail, self.context) if with_context else function(mail))
            return result

    else:

        def answer(self: Agent, mail: Mail) -> Answer:  # type: ignore[misc]
            result: Answer = function(mail, self.context) if with_context else function(mail)
            return result

    traits = getattr(function, "__responder_traits__", {})
    return type(function.__name__, (Agent,), {"__doc__": function.__doc__, "answer": answer, **traits})


def one_line(error: BaseException) -> str:
    """What an exception says of itself, whatever it is."""
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return "(it does not say what)"
