"""Runs agents and contains them: whatever an agent does, what comes out is an answer, silence, or a described failure."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from responder.agents.answers import Answer, Distribute, Forward, GiveUp, HandOver, Reply, TryLater
from responder.agents.base import Agent, Bounce, Mail
from responder.agents.load import AgentType, PluginError, one_line
from responder.agents.threads import BusyError, Threads
from responder.config.errors import dotted
from responder.observe import event

TRACEBACK = 4000  # characters of an agent's traceback that `explain` keeps, from its end
MAX_ANSWER = 10 * 1024 * 1024  # characters and octets of one answer, all parts together
GRACE = 1.0  # seconds that an agent which took too long gets to clean up in
SPARE = 256  # threads in place of those in which an agent hangs
MAX_TAG = 40  # characters: with the inbox's name in front it must fit into a local part (RFC 5321 4.5.3.1.1)
MAX_INTERVAL = 366 * 86400.0  # seconds


class AgentError(Exception):
    """An agent failed. `reason` is one line for history, `detail` its traceback."""

    def __init__(self, reason: str, detail: str = "", *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.final = final  # no further attempt will help


@dataclass(frozen=True, slots=True)
class Inbox:
    """One inbox of the configuration with its agent, built and ready."""

    name: str
    type: AgentType
    agent: Agent
    kind: str
    interval: float
    timeout: float
    isolated: bool = False
    concurrency: int = 16


class Host:
    """Runs the agents of a configuration. Synchronous ones run in threads: one for each run that may be under way at a time,
    and `SPARE` in place of those that hang."""

    def __init__(self, threads: int) -> None:
        self._threads = Threads(threads + SPARE)
        self._left_behind: set[asyncio.Task[Any]] = set()

    def close(self) -> None:
        """Let go of the threads; one that hangs in an agent does not hold us up."""
        self._threads.close()

    @property
    def stuck(self) -> int:
        """How many runs go on that nobody waits for any more, or still does."""
        return len(self._left_behind) + self._threads.busy

    async def start(self, inboxes: Collection[Inbox]) -> None:
        """Start the agents of a configuration. Raises `PluginError`."""
        for inbox in inboxes:
            inbox.agent.context.open()
            await inbox.agent.start()

    async def retire(self, inboxes: Collection[Inbox], patience: float) -> None:
        """Stop the agents of a configuration that is replaced."""
        for inbox in inboxes:
            await inbox.agent.stop()
            await inbox.agent.context.close()

    async def bounced(self, inbox: Inbox, bounce: Bounce) -> None:
        """Tell an agent of a bounce. Never raises."""
        await inbox.agent.bounced(bounce)

    async def run(self, inbox: Inbox, mail: Mail) -> Answer:
        """The agent's answer, checked. Raises `TryLater` (the agent's own) and `AgentError` for all else.

        It runs in a task of its own: one that cancels itself, or that goes on when it is cancelled, holds up nobody else.
        """
        task = asyncio.create_task(self._contained(inbox.agent, mail))
        try:
            done, _ = await asyncio.wait((task,), timeout=inbox.timeout)
            if not done:
                task.cancel()
                await asyncio.wait((task,), timeout=GRACE)
        finally:
            if not task.done():  # we are being cancelled ourselves, or it does not end: then we go on without it
                task.cancel()
                self._left_behind.add(task)
                task.add_done_callback(self._left_behind.discard)
        if not done:
            if not task.done():
                event("agent does not end", level=logging.WARNING, id=mail.id, inbox=inbox.name)
            where = task.result()[1] if task.done() and not task.cancelled() else None
            raise AgentError(f"the agent took longer than {inbox.timeout:g} s", _trace(where) if where else "")
        if task.cancelled():  # by itself: cancelled, and then returned without a pause
            raise AgentError("the agent cancelled its own task")
        answer, error = task.result()
        if isinstance(error, TryLater):
            raise _wish(error)
        if isinstance(error, GiveUp):
            raise AgentError(f"the agent gave up: {one_line(error)}", final=True)
        if isinstance(error, BusyError):
            raise AgentError(str(error))
        if error is not None:
            raise AgentError(f"the agent raised {type(error).__name__}: {one_line(error)}", _trace(error)) from None
        try:
            return check(answer)
        except AgentError:
            raise
        except Exception as mistake:  # a `Reply` that holds what no `Reply` may hold
            reason = f"the agent's answer can't be read: {type(mistake).__name__}: {one_line(mistake)}"
            raise AgentError(reason, _trace(mistake)) from None

    async def _contained(self, agent: Agent, mail: Mail) -> tuple[object, BaseException | None]:
        """What the agent returned, or what it raised, `SystemExit` and its own cancellation included: out of a task, these
        would end the server."""
        try:
            return await self._call(agent, mail), None
        except BaseException as error:
            return None, error

    async def _call(self, agent: Agent, mail: Mail) -> object:
        function = agent.answer
        if inspect.iscoroutinefunction(function):
            return await function(mail)
        result, error = await self._threads.run(partial(function, mail))
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result


def build(
    name: str, agents: Mapping[str, AgentType], agent: str, settings: Mapping[str, Any]
) -> tuple[AgentType, Agent]:
    """An inbox's agent, with its settings validated. Raises `PluginError`: one line with the key and the reason."""
    kind = agents.get(agent)
    if kind is None:
        known = ", ".join(agents) or "none: is `plugins` set to the folder they are in?"
        raise PluginError(f'{dotted(("inboxes", name, "agent"))}: there is no agent "{agent}" (there are: {known})')
    try:
        validated: BaseModel = kind.settings.model_validate(dict(settings))
    except ValidationError as error:
        raise PluginError(_invalid(kind, name, error)) from None
    except Exception as error:  # a validator that raises what pydantic doesn't expect
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise PluginError(f"{dotted(('inboxes', name, 'settings'))}: {reason}") from error
    try:
        return kind, kind.build(validated)
    except (Exception, SystemExit) as error:
        reason = f'the agent "{agent}" does not start: {type(error).__name__}: {one_line(error)}'
        raise PluginError(f"{dotted(('inboxes', name))}: {reason}") from error


def _invalid(kind: AgentType, name: str, error: ValidationError) -> str:
    """What is wrong with an agent's settings: the first key, and the reason. No value is repeated: it may be a secret."""
    found = error.errors(include_url=False, include_input=False)
    first = found[0]
    key = dotted(("inboxes", name, "settings", *first["loc"]))
    if first["type"] == "extra_forbidden":
        reason = f"unknown key; known here: {', '.join(kind.settings.model_fields) or 'none'}"
    elif first["type"] == "missing":
        reason = "is required"
    else:
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{key}: {reason}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def check(answer: object) -> Answer:
    """An agent's result, as it may be used: text becomes a `Reply`, empty text silence. Raises `AgentError`."""
    if isinstance(answer, str):
        answer = Reply(text=answer)
    if answer is None:
        return None
    if isinstance(answer, HandOver):
        return answer
    if isinstance(answer, Distribute):
        return _check_distribute(answer)
    if isinstance(answer, Forward):
        if isinstance(answer.to, str) or not all(isinstance(target, str) for target in answer.to):
            raise AgentError("the agent's Forward holds something else than a list of addresses in to")
        if answer.subject_prefix is not None and not isinstance(answer.subject_prefix, str):
            raise AgentError("the agent's Forward holds something else than text in subject_prefix")
        return answer
    if not isinstance(answer, Reply):
        raise AgentError(
            f"the agent returned a {type(answer).__name__}; allowed are Reply, Forward, HandOver, Distribute, str and None"
        )
    _check_fields(answer)
    if not answer.text.strip() and not answer.html.strip() and not answer.attachments:
        return None
    size = len(answer.text) + len(answer.html) + sum(len(attachment.data) for attachment in answer.attachments)
    if size > MAX_ANSWER:
        raise AgentError(f"the agent's answer is too large: {size} octets, {MAX_ANSWER} are allowed")
    return answer


def _check_fields(answer: Reply) -> None:
    """Python checks no types: what an agent put into its Reply may be anything. Raises `AgentError`."""
    if not isinstance(answer.text, str) or not isinstance(answer.html, str):
        raise AgentError("the agent's Reply holds something else than text in text or html")
    for name in ("subject", "from_"):
        if getattr(answer, name) is not None and not isinstance(getattr(answer, name), str):
            raise AgentError(f"the agent's Reply holds something else than text in {name}")
    if not isinstance(answer.handle, str) or not isinstance(answer.tag, str) or not _TAG.fullmatch(answer.tag):
        raise AgentError(f"the agent's Reply needs a tag of up to {MAX_TAG} letters, digits, dots and hyphens")
    if answer.interval is not None and not (
        isinstance(answer.interval, int | float) and 0 <= answer.interval <= MAX_INTERVAL
    ):
        raise AgentError("the agent's Reply holds something else than seconds in interval")
    if not isinstance(answer.headers, Mapping) or not all(
        isinstance(part, str) for field in answer.headers.items() for part in field
    ):
        raise AgentError("the agent's Reply holds something else than a table of texts in headers")
    if not isinstance(answer.attachments, list | tuple) or not all(_is_file(file) for file in answer.attachments):
        raise AgentError(
            "the agent's Reply holds something else than a list of Attachments (text, text, bytes) in attachments"
        )


def _check_distribute(answer: Distribute) -> Distribute:
    if isinstance(answer.to, str) or not all(isinstance(target, str) for target in answer.to):
        raise AgentError("the agent's Distribute holds something else than a list of addresses in to")
    if not isinstance(answer.name, str) or not isinstance(answer.subject_prefix, str | None):
        raise AgentError("the agent's Distribute holds something else than text in name or subject_prefix")
    if not isinstance(answer.one_click, Mapping) or not all(
        isinstance(part, str) for link in answer.one_click.items() for part in link
    ):
        raise AgentError("the agent's Distribute holds something else than a table of texts in one_click")
    return answer


def _is_file(file: object) -> bool:
    """Whether it can be sent as a file; one that came with a mail can, too."""
    return (
        isinstance(getattr(file, "name", None), str)
        and isinstance(getattr(file, "content_type", None), str)
        and isinstance(getattr(file, "data", None), bytes | bytearray)
    )


def _wish(wish: TryLater) -> TryLater:
    """The agent's wish as one of our own: a subclass may hold anything in `seconds`. Raises `AgentError`."""
    try:
        return TryLater(wish.seconds)
    except Exception as error:
        raise AgentError(f"the agent's TryLater names no time: {type(error).__name__}", _trace(error)) from None


def _trace(error: BaseException) -> str:
    """The traceback from where the agent begins: how we came to call it is nothing to its author."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))[-TRACEBACK:]


_TAG = re.compile(rf"[A-Za-z0-9.-]{{0,{MAX_TAG}}}")
_HERE = str(Path(__file__).parent)
