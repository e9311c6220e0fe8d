"""An inbox without a network: gate, agent and composer over a real store, one mail at a time, from plain synchronous code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from responder.agents.base import Agent, AgentFunction, Bounce
from responder.agents.context import MAIL_ID, BlockingState
from responder.agents.host import AgentError, Host
from responder.agents.load import AgentType, PluginError, load_plugins
from responder.agents.registry import agent_type
from responder.answering.setup import equip, set_up
from responder.answering.stage import Answering
from responder.config import Config, ConfigError, parse_duration
from responder.config.errors import explain
from responder.mail import address as addresses
from responder.mail.headers import Headers
from responder.mail.lifecycle import State
from responder.mail.thread import message_id as id_of
from responder.store.records import InboundItem, NewMail, Settlement
from responder.store.sqlite import SQLiteStore
from responder.testing.background import PATIENCE, Loop
from responder.testing.clock import StandingClock
from responder.testing.letter import File, write_letter
from responder.testing.outcome import Outcome, Sent

DOMAIN = "example.org"
SENDER = "ann@example.com"


class Inbox:
    """An inbox of `example.org` with one agent, started and ready. Close it, or use it in a `with` block.

    `agent` is a name (found in the folders of `plugins`, and among what is installed), an `Agent` class, or a function of a
    mail. `settings` are the agent's own, `keys` those of `[inboxes.NAME]`. Raises `PluginError` where they don't fit.
    """

    def __init__(
        self,
        agent: str | type[Agent] | AgentFunction,
        settings: Mapping[str, Any] | None = None,
        *,
        keys: Mapping[str, Any] | None = None,
        plugins: Sequence[Path] = (),
        folder: Path | None = None,
    ) -> None:
        self.clock = StandingClock()
        name, agents = _agents(agent, plugins)
        self.address = f"{name}@{DOMAIN}"
        setup = set_up(_configured(name, agents[name], settings or {}, keys or {}), agents)
        self._inbox = setup.inboxes[name]
        self._temporary = TemporaryDirectory() if folder is None else None
        place = folder or Path(self._temporary.name if self._temporary else "")
        place.mkdir(parents=True, exist_ok=True)
        self._loop = Loop()
        self._patience = self._inbox.timeout + PATIENCE
        self._host = _Host(4)
        self._store = SQLiteStore(place / "responder.db", self.clock)
        self._stage = Answering(setup, self._store, self._host, self.clock)
        try:
            self._loop.run(self._store.open(), PATIENCE)
            equip(setup, self._store, self.clock)
            self._loop.run(self._host.start([self._inbox]), self._patience)
        except BaseException:
            self._close()
            raise

    @property
    def agent(self) -> Agent:
        """The agent itself."""
        return self._inbox.agent

    @property
    def state(self) -> BlockingState:
        """What the agent remembers: `get`, `set`, `add`, `increment`, `delete`, `items`."""
        return self.agent.context.blocking.state

    @property
    def now(self) -> datetime:
        """The time in the test, in UTC."""
        return self.agent.context.now()

    def advance(self, time: str | float) -> None:
        """Let time pass: seconds, or a duration such as "2h" or "7d"."""
        self._loop.call(self.clock.advance, parse_duration(time))

    def receive(
        self,
        text: str = "",
        *,
        sender: str = SENDER,
        from_: str | None = None,
        to: str | None = None,
        tag: str = "",
        subject: str = "Hello",
        html: str = "",
        attachments: Sequence[File] = (),
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Outcome:
        """A mail comes in, and the agent is run once; what became of it.

        `sender` is the reverse-path, `from_` the From header (the sender), `to` the recipient (the inbox, with `+tag`); files
        are (name, content type, octets). `headers` come on top, or in place of those of the same name. `raw` is a whole mail.
        """
        recipient = addresses.from_header(to)[0][1] if to else addresses.parse(self._tagged(tag))
        number = self.clock.new_id()
        content = raw
        if content is None:
            content = write_letter(
                text,
                sender=from_ if from_ is not None else sender,
                to=to or str(recipient),
                subject=subject,
                date=self.now,
                message_id=f"<{number}@client.example>",
                html=html,
                attachments=attachments,
                headers=headers,
            )
        mail = NewMail(
            id=number,
            received_at=self.clock.now(),
            reverse_path=sender,
            peer="192.0.2.1",
            helo="client.example",
            message_id=id_of(Headers.parse(content)),
            content=content,
            recipients=((str(recipient), self._inbox.name),),
        )
        self._loop.run(self._store.accept(mail), PATIENCE)
        return self.turn(f"{number}.0")

    def turn(self, item: str) -> Outcome:
        """Run the agent on a mail that is due; `Outcome.later` calls it."""
        return self._loop.run(self._turn(item), self._patience)

    def bounce(
        self, recipient: str, *, permanent: bool = True, status: str = "5.1.1", text: str = "no such user"
    ) -> None:
        """Tell the agent that a message to one of its recipients did not arrive."""
        self._loop.run(self._host.bounced(self._inbox, Bounce(recipient, permanent, status, text)), self._patience)

    def close(self) -> None:
        """Stop the agent."""
        try:
            self._loop.run(self._host.retire([self._inbox], self._patience), self._patience)
        finally:
            self._close()

    def __enter__(self) -> Inbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tagged(self, tag: str) -> str:
        local, _, domain = self.address.partition("@")
        return f"{local}+{tag}@{domain}" if tag else self.address

    async def _turn(self, item: str) -> Outcome:
        claimed, _ = await self._stage.claim("test", 100)
        ended: dict[str, Settlement] = {}
        for one in claimed:
            ended[one.id] = await self._handle(one)
        if item not in ended:
            raise AssertionError("the mail is not due: let time pass with `advance`, or use `Outcome.later`")
        [view] = [view for view in await self._store.items(list(State)) if view.id == item]
        settlement = ended[item]
        contents = dict(settlement.contents)
        sent = [
            Sent(one.kind, one.recipient, one.reverse_path, one.head.encode() + contents[one.content_id])
            for one in (settlement.outbound if view.state is State.ANSWERED else ())
        ]
        error = self._host.errors.pop(item, "")
        return Outcome(self, item, view.state, view.reason, error, view.due_at, sent)

    async def _handle(self, item: InboundItem) -> Settlement:
        settlement = await self._stage.handle(item)
        await self._stage.settle(item, settlement)
        return settlement

    def _close(self) -> None:
        self._host.close()
        self._loop.run(self._store.close(), PATIENCE)
        self._loop.close()
        if self._temporary is not None:
            self._temporary.cleanup()


class _Host(Host):
    """Keeps the traceback of each failure: history has that of the last attempt only."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.errors: dict[str, str] = {}

    async def run(self, *given: Any, **more: Any) -> Any:
        MAIL_ID.set(given[1].id)  # the standing clock tells a run by it
        try:
            return await super().run(*given, **more)
        except AgentError as error:
            self.errors[given[1].id] = error.detail
            raise


def _agents(agent: str | type[Agent] | AgentFunction, folders: Sequence[Path]) -> tuple[str, dict[str, AgentType]]:
    """The inbox's name, and the agents that it may have; its own is under that name. Raises `PluginError`."""
    if isinstance(agent, str):
        plugins = load_plugins(folders, skip_broken=True)
        if agent not in plugins.agents:
            told = "; ".join(plugins.broken) or f"there are: {', '.join(plugins.agents) or 'none'}"
            raise PluginError(f'there is no agent "{agent}" ({told})')
        return agent, dict(plugins.agents)
    marked: str = getattr(agent, "__responder_agent__", "")
    name = marked or re.sub(r"[^a-z0-9]+", "-", getattr(agent, "__name__", "agent").lower()).strip("-") or "agent"
    return name, {name: agent_type(name, agent, str(getattr(agent, "__module__", "")), "")}


def _configured(name: str, agent: AgentType, settings: Mapping[str, Any], keys: Mapping[str, Any]) -> Config:
    """The configuration of the one inbox. Raises `PluginError`."""
    own: dict[str, Any] = {"agent": name, "settings": dict(settings)}
    if not agent.source:
        own["isolated"] = False  # a class of the test's own: no other process could find it
    table = {
        "hostname": f"mx.{DOMAIN}",
        "domains": [DOMAIN],
        "inboxes": {name: own | dict(keys)},
        "authentication": {"mode": "off"},
    }
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        raise PluginError(str(ConfigError.of(explain(error, lambda _: "inbox")))) from None
