"""What one plugin brings, looked at: agents, checks, verbs and observers. All that is wrong with it is one line."""

from __future__ import annotations

import inspect
import math
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import pluggy
from pydantic import BaseModel

from responder.agents import hookspecs
from responder.agents.answers import Answer
from responder.agents.base import Agent, Kind, Mail
from responder.agents.checks import ARGUMENTS, STEPS, Check, Step, as_class
from responder.agents.hookspecs import VERBS, Command
from responder.observe import Observer

PROJECT = "responder"


NEEDS = ("targets", "upstream", "addresses")  # keys of an inbox that an agent may not be able to do without


class PluginError(Exception):
    """A plugin that can't be used; one line that names it and the reason."""


@dataclass(frozen=True, slots=True)
class AgentType:
    """An agent that may be given to inboxes. `build` makes one from its validated settings; `source` is the plugin file, or
    the module of an installed one; "" where no other process could find it, so that it is never isolated."""

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
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckType:
    """A check that `[checks.NAME]` may name. `steps` are those that it has a method for: it is asked at no other. `source` is as
    an agent's."""

    name: str
    origin: str
    source: Path | str
    settings: type[BaseModel]
    steps: tuple[Step, ...]
    summary: str
    build: Callable[[BaseModel], Check]


@dataclass(frozen=True, slots=True)
class Registered:
    """What one plugin brings."""

    agents: tuple[AgentType, ...]
    commands: tuple[Command, ...]
    observers: tuple[Observer, ...]
    checks: tuple[CheckType, ...] = ()


def register(origin: str, source: Path | str, importer: Callable[[], Any]) -> Registered:
    """Import a plugin and ask its hooks. Raises `PluginError`."""
    try:
        return _register(origin, source, importer())
    except PluginError as error:
        raise PluginError(f"{origin}: {error}") from None
    except BaseException as error:  # a plugin that ends the program at its import, too
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # Ctrl-C; in another thread, as at a reload, it is the plugin's own
        raise PluginError(f"{origin}: {type(error).__name__}: {one_line(error)}") from error


def _register(origin: str, source: Path | str, module: Any) -> Registered:
    plugins = pluggy.PluginManager(PROJECT)
    plugins.add_hookspecs(hookspecs)
    _check_hooks(plugins, module)
    plugins.register(module, name=origin)
    agents = _named(plugins.hook.responder_agents, "agents", module, "__responder_agent__")
    checks = _named(plugins.hook.responder_checks, "checks", module, "__responder_check__")
    found = Registered(
        agents=tuple(agent_type(name, thing, origin, source) for name, thing in agents),
        commands=tuple(_commands(plugins)),
        observers=tuple(_observers(plugins, origin)),
        checks=tuple(check_type(name, thing, origin, source) for name, thing in checks),
    )
    if not (found.agents or found.commands or found.observers or found.checks):
        raise PluginError(
            "it registers no agent (nor anything else): write `responder_agents` with @hookimpl, or a function with @agent"
        )
    return found


def _check_hooks(plugins: pluggy.PluginManager, module: Any) -> None:
    """Whether the hooks that a module means to implement are there, with these arguments. Raises `PluginError`."""
    known = {name: spec for name, spec in vars(hookspecs).items() if hasattr(spec, f"{PROJECT}_spec")}
    for name, member in vars(module).items():
        options = plugins.parse_hookimpl_opts(module, name) if inspect.isroutine(member) else None
        if options is None:
            continue
        hook = options.get("specname") or name
        if hook not in known:
            raise PluginError(f"unknown hook '{hook}' (there are: {', '.join(known)})")
        if options.get("hookwrapper") or options.get("wrapper"):
            raise PluginError(f"{hook} can't be a wrapper")
        allowed = inspect.signature(known[hook]).parameters
        wanted = [
            argument.name
            for argument in inspect.signature(member).parameters.values()
            if argument.kind is not argument.KEYWORD_ONLY and argument.default is argument.empty
        ]
        for argument in wanted:
            if argument not in allowed:
                raise PluginError(f"{hook} has no argument '{argument}' (it has: {', '.join(allowed) or 'none'})")


def _named(hook: pluggy.HookCaller, things: str, module: Any, mark: str) -> list[tuple[object, object]]:
    """What a hook returns by name, and the functions of the module that are marked so. One thing under two names of the module
    is still one."""
    found: list[tuple[object, object]] = []
    for table in _results(hook):
        if not isinstance(table, Mapping):
            raise PluginError(f"{hook.name} must return a dict of {things}, not {type(table).__name__}")
        found += table.items()
    members = [member for member in vars(module).values() if inspect.isfunction(member) and hasattr(member, mark)]
    found += [(getattr(member, mark), member) for member in members]
    return list({(name, id(thing)): (name, thing) for name, thing in found}.values())


def _commands(plugins: pluggy.PluginManager) -> list[Command]:
    found: list[Command] = []
    for commands in _results(plugins.hook.responder_commands):
        if not isinstance(commands, list | tuple) or not all(isinstance(one, Command) for one in commands):
            raise PluginError("responder_commands must return a list of Command")
        found += commands
    for command in found:
        if not isinstance(command.name, str) or not _VERB.fullmatch(command.name):
            raise PluginError(f"a verb is of lower-case letters, digits and hyphens, not {command.name!r}")
        if command.name in VERBS:
            raise PluginError(f'"{command.name}" is one of the server\'s own verbs')
        if not isinstance(command.help, str) or not callable(command.run) or not callable(command.add_arguments):
            raise PluginError(f'the Command "{command.name}" needs a text as help, and functions')
    return found


def _results(hook: pluggy.HookCaller) -> list[object]:
    """What each implementation of a hook returns, None included."""
    results = [implementation.function() for implementation in hook.get_hookimpls()]
    for result in results:
        if inspect.iscoroutine(result):
            result.close()
    return results


def _observers(plugins: pluggy.PluginManager, origin: str) -> list[Observer]:
    return [_observer(found, origin) for found in plugins.hook.responder_event.get_hookimpls()]


def _observer(implementation: pluggy.HookImpl, origin: str) -> Observer:
    function, wanted = implementation.function, implementation.argnames
    if inspect.iscoroutinefunction(function):
        raise PluginError("responder_event must be a plain function: it is called in a thread of its own")

    def observe(name: str, fields: Mapping[str, object]) -> None:
        values = {"name": name, "fields": fields}
        function(*[values[argument] for argument in wanted])

    return Observer(origin, observe)


def agent_type(name: object, thing: object, origin: str, source: Path | str) -> AgentType:
    """An agent's class, or a function of a mail, under a name. Raises `PluginError` for what is none."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise PluginError(f"an agent's name must be a text, not {name!r}")
    if inspect.isfunction(thing):
        thing = _as_class(name, thing)
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
    if inspect.isgeneratorfunction(thing.answer) or inspect.isasyncgenfunction(thing.answer):
        raise PluginError(f'"{name}" has to `return` its answer, not to `yield` it')
    if isinstance(thing.needs, str) or not set(thing.needs) <= set(NEEDS):
        raise PluginError(f'what "{name}" needs must be among {", ".join(NEEDS)}')
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
        needs=tuple(thing.needs),
    )


def _as_class(name: str, function: FunctionType) -> type[Agent]:
    """A function of a mail, or of a mail and a context, as an agent like any other. Raises `PluginError`."""
    signature = inspect.signature(function)
    wanted = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    with_context = len(wanted) > 1 and wanted[1].default is inspect.Parameter.empty
    try:
        signature.bind(*range(1 + with_context))
    except TypeError as error:
        raise PluginError(f'the function of "{name}" is called with a mail, or a mail and a context: {error}') from None
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f'"{name}" has to `return` its answer, not to `yield` it')

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


def check_type(name: object, thing: object, origin: str, source: Path | str) -> CheckType:
    """A check's class, or a function that is one step of it, under a name. Raises `PluginError` for what is none."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise PluginError(f"a check's name must be a text, not {name!r}")
    if inspect.isfunction(thing):
        step = getattr(thing, "__responder_step__", None)
        if step not in STEPS:
            raise PluginError(
                f'the function of "{name}" needs @check("{name}", STEP), a step out of {", ".join(STEPS)}'
            )
        _fits(name, step, thing, *range(ARGUMENTS[step]))
        thing = as_class(thing, step)
    if not inspect.isclass(thing) or not issubclass(thing, Check):
        raise PluginError(f'"{name}" must be a subclass of responder.Check or a function, not {type(thing).__name__}')
    if not (inspect.isclass(thing.Settings) and issubclass(thing.Settings, BaseModel)):
        raise PluginError(f'the Settings of "{name}" must be a pydantic model')
    steps = tuple(step for step in STEPS if getattr(thing, step) is not getattr(Check, step))
    if not steps:
        raise PluginError(f'"{name}" has no step: it needs one of the methods {", ".join(STEPS)}')
    for step in steps:
        _fits(name, step, getattr(thing, step), "self", *range(ARGUMENTS[step]))
    summary = (inspect.getdoc(thing) or "").partition("\n")[0]
    return CheckType(name, origin, source, thing.Settings, steps, summary, thing)


def _fits(name: str, step: Step, method: Callable[..., Any], *arguments: object) -> None:
    """Whether a step can be asked: by a call with its arguments, and with what it returns. Raises `PluginError`."""
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise PluginError(f'"{name}" has to `return` what it finds, not to `yield` it')
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError as error:
        wanted = ", ".join(list(inspect.signature(getattr(Check, step)).parameters)[1:])
        raise PluginError(f'{step} of "{name}" is called with ({wanted}): {error}') from None


def one_line(error: BaseException) -> str:
    """What an exception says of itself, whatever it is."""
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return "(it does not say what)"


_VERB = re.compile(r"[a-z][a-z0-9-]{0,31}")
