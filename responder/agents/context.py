"""What the server gives an agent besides the mail: a log, a clock, an HTTP client, and state that outlives restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from responder.clock import Clock

if TYPE_CHECKING:
    import httpx

    from responder.agents.base import Agent

T = TypeVar("T")
Builder = Callable[[str, Mapping[str, Any]], "Agent"]
JSON = Any  # what `json.dumps` takes: None, bool, int, float, str, list, dict with str keys

HTTP_TIMEOUT = 10.0  # seconds for each step of a request: connect, send, each pause in what comes back
MAIL_ID: ContextVar[str] = ContextVar("responder_mail_id", default="")
"""The mail that is being answered in this task or thread: log lines carry it."""


class State(Protocol):
    """Durable values by key, of one inbox. Values are JSON; keys are texts of at most 512 characters, values of 1 MiB.

    Within `answer` a run sees its own writes, and they are stored in the transaction that stores its answer, silence or
    wish to be run later: a run that fails leaves nothing. Where another mail's run has meanwhile changed a key that this one
    read (with `get`, `add` or `increment`), nothing of this run is stored, and it is done again. Outside of `answer` each
    write is durable on return.
    """

    async def get(self, key: str, default: JSON = None) -> JSON:
        """The value of a key, or `default` where there is none or it has expired."""
        ...

    async def set(self, key: str, value: JSON, *, expires: float | None = None) -> None:
        """Store a value, for `expires` seconds where that is given. Raises `ValueError` for what is no JSON or too large."""
        ...

    async def add(self, key: str, value: JSON, *, expires: float | None = None) -> bool:
        """Store a value where the key has none. Whether it was stored."""
        ...

    async def increment(self, key: str, by: int = 1, *, expires: float | None = None) -> int:
        """Add to a number (0 where there is none), and return it. `expires` counts from the first increment."""
        ...

    async def delete(self, key: str) -> None:
        """Forget a key, if it is there."""
        ...

    async def items(self, prefix: str = "") -> dict[str, JSON]:
        """All keys that begin with `prefix`, in order, with their values. A look: what it finds does not guard the run."""
        ...


class Context:
    """One inbox's surroundings, for its agent. `http` and `state` are for `async` code; plain functions, which run in a thread,
    find the same under `blocking`."""

    def __init__(self, inbox: str, state: State, clock: Clock, build: Builder | None = None) -> None:
        self.inbox = inbox
        self.state = state
        self.clock = clock
        self._build = build
        self._inner: list[Agent] = []
        self.log: logging.LoggerAdapter[logging.Logger] = _Log(inbox)
        self.blocking = Blocking(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._http: httpx.AsyncClient | None = None

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self.clock.now(), UTC)

    @property
    def http(self) -> httpx.AsyncClient:
        """An HTTP client with time-outs (`HTTP_TIMEOUT`) that follows no redirects, made when it is first asked for."""
        if self._http is None:
            import httpx  # 0.1 s that only those pay who ask

            self._http = httpx.AsyncClient(timeout=HTTP_TIMEOUT, headers=_http_headers())
        return self._http

    async def agent(self, name: str, settings: Mapping[str, Any] | None = None) -> Agent:
        """Another agent, built and started with this inbox's surroundings: for agents that wrap one. It is stopped along with
        the one that asked for it. Raises `LookupError` where there is none of that name, `ValueError` for its settings."""
        if self._build is None:
            raise LookupError("there is no other agent here")
        agent = self._build(name, settings or {})
        agent.context = self
        await agent.start()
        self._inner.append(agent)
        return agent

    def open(self) -> None:
        """Begin to serve plain functions: called on the event loop that `http` and `state` belong to."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Stop the agents that were asked for, and let go of all connections."""
        for agent in reversed(self._inner):
            await agent.stop()
        client, self._http = self._http, None
        if client is not None:
            await client.aclose()
        self.blocking.close()

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the event loop and wait for it, in another thread."""
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the agent has not been started")
        if asyncio._get_running_loop() is self._loop:  # it would wait for itself, and the server for it, for ever
            coroutine.close()
            raise RuntimeError("context.blocking is for plain functions: in async code it is `await context.state...`")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class Blocking:
    """The context for plain functions: each call returns when it is done."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._http: httpx.Client | None = None
        self.state = BlockingState(context)

    @property
    def http(self) -> httpx.Client:
        """As `Context.http`, for plain functions."""
        if self._http is None:
            import httpx

            self._http = httpx.Client(timeout=HTTP_TIMEOUT, headers=_http_headers())
        return self._http

    def close(self) -> None:
        """Let go of all connections."""
        client, self._http = self._http, None
        if client is not None:
            client.close()


class BlockingState:
    """`State` for plain functions. See there."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, key: str, default: JSON = None) -> JSON:
        return self._context.wait_for(self._context.state.get(key, default))

    def set(self, key: str, value: JSON, *, expires: float | None = None) -> None:
        self._context.wait_for(self._context.state.set(key, value, expires=expires))

    def add(self, key: str, value: JSON, *, expires: float | None = None) -> bool:
        return self._context.wait_for(self._context.state.add(key, value, expires=expires))

    def increment(self, key: str, by: int = 1, *, expires: float | None = None) -> int:
        return self._context.wait_for(self._context.state.increment(key, by, expires=expires))

    def delete(self, key: str) -> None:
        self._context.wait_for(self._context.state.delete(key))

    def items(self, prefix: str = "") -> dict[str, JSON]:
        return self._context.wait_for(self._context.state.items(prefix))


class _Log(logging.LoggerAdapter[logging.Logger]):
    """An agent's log lines: `agent` events with the inbox and the mail's id."""

    def __init__(self, inbox: str) -> None:
        logger = logging.getLogger(LOGGER)
        logger.setLevel(logging.DEBUG)  # the server's own level decides
        super().__init__(logger, {})
        self._inbox = inbox

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        fields: Mapping[str, object] = {"inbox": self._inbox, "id": MAIL_ID.get() or None}
        return msg, {**kwargs, "extra": {"fields": fields}}


LOGGER = "responder.agent"


def _http_headers() -> dict[str, str]:
    return {"User-Agent": "Responder"}
