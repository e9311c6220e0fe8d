"""The pytest fixtures `inbox` and `door`. They name agents and checks as a configuration does: by the plugin folders, and what is
installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from responder.agents.base import Agent, AgentFunction
    from responder.agents.checks import Check, CheckFunction
    from responder.testing.door import Door
    from responder.testing.inbox import Inbox

OPTION = "responder_plugins"


class MakeInbox(Protocol):
    """What the fixture gives to a test."""

    def __call__(
        self, agent: str | type[Agent] | AgentFunction, keys: Mapping[str, Any] | None = None, /, **settings: Any
    ) -> Inbox:
        """An inbox with that agent: by its name, its class, or a function of a mail. `keys` are those of `[inboxes.NAME]`
        (`kind`, `targets`, `timeout` ...), `settings` are the agent's own. Raises `PluginError` where they don't fit."""
        ...


class MakeDoor(Protocol):
    """What the fixture `door` gives to a test."""

    def __call__(
        self,
        check: str | type[Check] | CheckFunction,
        settings: Mapping[str, Any] | None = None,
        /,
        *,
        peer: str = "192.0.2.1",
        user: str = "",
        tls: str = "",
    ) -> Door:
        """A connection of that client to a server with that check: by its name, its class, or a function. Raises `PluginError`
        where the settings don't fit."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """The folders that agents are named from; without any, the test's own folder."""
    parser.addini(
        OPTION, "folders of plugin files, for the fixtures `inbox` and `door` (default: the test's own)", "paths"
    )


@pytest.fixture
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeInbox]:
    """Makes inboxes that answer without a network; they are closed when the test ends."""
    from responder.testing.inbox import Inbox

    folders: list[Path] = request.config.getini(OPTION) or [request.path.parent]
    with ExitStack() as stack:

        def make(
            agent: str | type[Agent] | AgentFunction, keys: Mapping[str, Any] | None = None, /, **settings: Any
        ) -> Inbox:
            number = len(list(tmp_path.glob("inbox-*")))
            return stack.enter_context(
                Inbox(agent, settings, keys=keys, plugins=folders, folder=tmp_path / f"inbox-{number}")
            )

        yield make


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[MakeDoor]:
    """Makes connections to a check; they are closed when the test ends."""
    from responder.testing.door import Door

    folders: list[Path] = request.config.getini(OPTION) or [request.path.parent]
    with ExitStack() as stack:

        def make(
            check: str | type[Check] | CheckFunction,
            settings: Mapping[str, Any] | None = None,
            /,
            *,
            peer: str = "192.0.2.1",
            user: str = "",
            tls: str = "",
        ) -> Door:
            return stack.enter_context(Door(check, settings, peer=peer, user=user, tls=tls, plugins=folders))

        yield make
