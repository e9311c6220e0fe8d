"""The pytest fixture `inbox`. It names agents as a configuration does: by the plugin folders, and what is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from responder.agents.base import Agent, AgentFunction
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """The folders that agents are named from; without any, the test's own folder."""
    parser.addini(OPTION, "folders of plugin files, for the fixture `inbox` (default: the test's own)", "paths")


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
