"""Asks the checks of a configuration, and contains them: whatever one does, what comes out is an objection, marks, or nothing.

They are asked one after the other, in the order of the file, while the client waits; the first objection ends it. One that fails
or takes too long is judged by its table's `failure`. An `async` check runs on the event loop under the watchdog's eyes, a plain
one in a thread.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from responder.agents.answers import TryLater
from responder.agents.attempts import BLOCKED, Attempts, Bench, DivertedError
from responder.agents.checks import STEPS, Check, Client, Defer, Finding, Mark, Objection, Refuse, Step, field_name
from responder.agents.context import LOGGER, MAIL_ID, Context, State
from responder.agents.inboxes import validate
from responder.agents.registry import CheckType, PluginError, one_line
from responder.agents.results import AgentError
from responder.agents.threads import Threads
from responder.clock import Clock
from responder.config import Check as CheckTable
from responder.config.errors import dotted
from responder.observe import event

THREADS = 64  # plain steps that run at a time; others wait for their turn, within their time
SPARE = 64  # threads in place of those in which a check hangs
START = 30.0  # seconds that one check gets to start in
STOP = 5.0  # seconds that one check gets to stop in
TRACEBACKS = 60.0  # seconds between two tracebacks of one check: a client could fill the log with them

FAILED: Final = Defer("Cannot do that now, try again later", 451, "4.3.0")
"""What a client hears where a check has failed, and its table says so."""

States = dict[str, dict[str, Any]]
"""What each check remembers of one connection."""


@dataclass(slots=True, eq=False)
class Guard:
    """One `[checks.NAME]` with its check, built. `timeout` is in seconds; `lenient`: what it fails at passes."""

    name: str
    type: CheckType
    check: Check
    timeout: float
    lenient: bool
    bench: Bench = field(init=False, repr=False)
    traced: float = field(init=False, default=-TRACEBACKS, repr=False)

    def __post_init__(self) -> None:
        self.bench = Bench(f"checks.{self.name}")
        self.bench.elsewhere = False  # there are no processes for it: it is interrupted each time


@dataclass(frozen=True, slots=True)
class Found:
    """What the checks have found at one step: an objection and whose it is, or the marks of those that made some."""

    objection: Objection | None = None
    check: str = ""
    marks: tuple[tuple[str, Mark], ...] = ()


NOTHING: Final = Found()


def build(name: str, table: CheckTable, checks: Mapping[str, CheckType]) -> Guard:
    """The check of `[checks.NAME]`, with its settings validated. Raises `PluginError`: one line with the key and the reason."""
    wanted = table.check or name
    kind = checks.get(wanted)
    if kind is None:
        known = ", ".join(checks) or "none: is `plugins` set to the folder they are in?"
        key = dotted(("checks", name, "check")) if table.check else dotted(("checks", name))
        raise PluginError(f'{key}: there is no check "{wanted}" (there are: {known})')
    validated = validate(kind.settings, table.settings, ("checks", name, "settings"))
    try:
        built = kind.build(validated)
        for one in built.fields:
            field_name(one)
    except (Exception, SystemExit) as error:
        reason = f'the check "{wanted}" does not start: {type(error).__name__}: {one_line(error)}'
        raise PluginError(f"{dotted(('checks', name))}: {reason}") from error
    return Guard(name, kind, built, table.timeout, table.failure == "ignore")


class Guards:
    """All checks of a configuration, in the order of its file. A reload makes new ones."""

    def __init__(self, guards: Sequence[Guard] = ()) -> None:
        self._guards = tuple(guards)
        self._asked = {step: tuple(guard for guard in guards if step in guard.type.steps) for step in STEPS}
        self.steps = frozenset(step for step, asked in self._asked.items() if asked)
        self.fields = frozenset(name for guard in guards for name in guard.check.fields)
        self._threads = Threads(THREADS + SPARE)
        self._attempts = Attempts(self._threads)
        self._room = asyncio.Semaphore(THREADS)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __iter__(self) -> Iterator[Guard]:
        return iter(self._guards)

    def __len__(self) -> int:
        return len(self._guards)

    @property
    def stuck(self) -> int:
        """How many of their calls go on that nobody waits for any more."""
        return self._attempts.stuck

    def equip(self, state: Callable[[str], State], clock: Clock) -> None:
        """Give every check its context; `state` makes what the one of that name remembers."""
        self._clock = clock
        for guard in self._guards:
            guard.check.context = Context(guard.bench.name, state(guard.name), clock)
            guard.check.context.log = _Log(guard.name)

    async def start(self) -> None:
        """Start them, one after the other. Raises `PluginError`, one line, where one fails; then those that did are stopped."""
        started: list[Guard] = []
        try:
            for guard in self._guards:
                guard.check.context.open()
                started.append(guard)
                try:
                    await self._attempts.run(guard.bench, guard.check.start, seconds=START)
                except (AgentError, TryLater, DivertedError) as error:
                    reason = _reason(guard, error)
                    key = dotted(("checks", guard.name))
                    raise PluginError(f'{key}: the check "{guard.type.name}" does not start: {reason}') from error
        except BaseException:  # we may be being cancelled ourselves
            await self._stop(started)
            raise

    async def stop(self, patience: float = 0.0) -> None:
        """Stop them: once nobody is being asked any more, or after `patience` seconds. Never raises for what a check does."""
        if self._running and patience:
            waiting = asyncio.ensure_future(self._idle.wait())
            await asyncio.wait((waiting,), timeout=patience)
            waiting.cancel()
        await self._stop(self._guards)

    async def _stop(self, guards: Sequence[Guard]) -> None:
        for guard in guards:
            for step in (guard.check.stop, guard.check.context.close):
                try:
                    await self._attempts.run(Bench(guard.bench.name), step, seconds=STOP)
                except (AgentError, TryLater, DivertedError) as error:
                    event("check did not stop", level=logging.WARNING, check=guard.name, reason=_reason(guard, error))
        self._threads.close()

    async def ask(self, step: Step, client: Client, states: States, *said: object) -> Found:
        """Ask those that are asked at this step. `states` are this connection's; `said` is what the step is about.

        Never raises, but where it is cancelled.
        """
        marks: list[tuple[str, Mark]] = []
        self._running += 1
        self._idle.clear()
        try:
            for guard in self._asked[step]:
                found = await self._ask(guard, step, client, states, said)
                if isinstance(found, Mark):
                    marks.append((guard.name, found))
                elif found is not None:
                    return Found(found, guard.name)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
        return Found(marks=tuple(marks)) if marks else NOTHING

    async def _ask(self, guard: Guard, step: Step, client: Client, states: States, said: tuple[object, ...]) -> Finding:
        """What one check finds; where it fails, what its table says of that."""
        method = getattr(guard.check, step)
        client = replace(client, state=states.setdefault(guard.name, {}))
        error: Exception
        try:
            if inspect.iscoroutinefunction(method):
                return _judged(step, await self._attempt(guard, method, client, *said))
            async with asyncio.timeout(guard.timeout):
                await self._room.acquire()
            try:
                return _judged(step, await self._attempt(guard, method, client, *said))
            finally:
                self._room.release()
        except Exception as failure:  # its own, contained; or what it returned holds what nothing said may hold
            error = failure
        self._report(guard, step, client, error)
        return None if guard.lenient else FAILED

    async def _attempt(self, guard: Guard, method: Callable[..., Any], client: Client, *said: object) -> object:
        return await self._attempts.run(guard.bench, method, client, *said, seconds=guard.timeout, mail=client.id)

    def _report(self, guard: Guard, step: Step, client: Client, error: Exception) -> None:
        """Log a failure, its traceback once in a while."""
        now = self._clock.monotonic()
        told = None
        if now - guard.traced >= TRACEBACKS and error.__cause__ is not None:
            guard.traced, told = now, error.__cause__
        event(
            "check failed",
            level=logging.WARNING,
            error=told,
            check=guard.name,
            step=step,
            peer=client.peer,
            id=client.id,
            reason=_reason(guard, error),
            then="passed" if guard.lenient else "deferred",
        )


def _judged(step: Step, found: object) -> Finding:
    """What a check returned, as it may be used. Raises `AgentError`, `ValueError`."""
    if found is None:
        return None
    # Built anew: a subclass may hold anything.
    if isinstance(found, Refuse):
        return Refuse(found.text, found.code, found.enhanced)
    if isinstance(found, Defer):
        return Defer(found.text, found.code, found.enhanced)
    if isinstance(found, Mark) and step == "data":
        return Mark(found.fields, found.note)
    allowed = "Refuse, Defer, Mark and None" if step == "data" else "Refuse, Defer and None"
    raise AgentError(f"the agent returned a {type(found).__name__}; allowed are {allowed}")


def _reason(guard: Guard, error: Exception) -> str:
    """Why a check has failed, in one line."""
    if isinstance(error, TimeoutError):
        return f"no thread was free for {guard.timeout:g} s"
    if isinstance(error, TryLater):
        return "the check raised TryLater, which is for agents: return Defer"
    text = one_line(error)
    if text == BLOCKED:
        return f"{text.partition(':')[0].replace('the agent', 'the check')}: make it a plain def"
    return text.replace("the agent", "the check", 1)


class _Log(logging.LoggerAdapter[logging.Logger]):
    """A check's log lines: `agent` events with its name and the connection's id."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(LOGGER), {})
        self._name = name

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        fields: Mapping[str, object] = {"check": self._name, "id": MAIL_ID.get() or None}
        return msg, {**kwargs, "extra": {"fields": fields}}
