"""Tests of agents and checks: an inbox, or a door, without a network, for pytest and without it.

A mail goes the whole way: accepted by a real store, judged by the gate, answered by the agent, composed and stored. Only SMTP is
left out, and time stands still until the test moves it.

    def test_shout(inbox):                         # the fixture comes with the package
        box = inbox("shout")
        outcome = box.receive("hello", sender="ann@example.com")
        assert outcome.text == "HELLO\\n"

    def test_no_friday(door):                      # as does this one, for checks
        assert door("no-friday").helo("friday.example") == Refuse("Not on Fridays")

Without pytest: `with Inbox(Shout) as box: ...`, `with Door(NoFriday) as door: ...`. This module is loaded by every run of pytest
where the package is installed, so what it needs is loaded when it is first used.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from responder.agents.load import PluginError
    from responder.testing.door import Door
    from responder.testing.fixture import MakeDoor, MakeInbox, door, inbox, pytest_addoption
    from responder.testing.inbox import Inbox
    from responder.testing.outcome import Outcome, Sent

__all__ = ["Door", "Inbox", "MakeDoor", "MakeInbox", "Outcome", "PluginError", "Sent"]

_PLACES = {
    "Door": "responder.testing.door",
    "Inbox": "responder.testing.inbox",
    "Outcome": "responder.testing.outcome",
    "PluginError": "responder.agents.load",
    "Sent": "responder.testing.outcome",
}

with suppress(ImportError):  # no pytest: `Inbox` works without
    from responder.testing.fixture import MakeDoor, MakeInbox, door, inbox, pytest_addoption  # noqa: F401 - pytest finds them here


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
