"""The way in without a network: one check, asked as a session asks it, from plain synchronous code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NoReturn

from responder.agents.base import Mail
from responder.agents.checks import Check, CheckFunction, Client, Finding, Objection, Step
from responder.agents.context import BlockingState
from responder.agents.guards import Found, Guard, Guards, States, build
from responder.agents.load import PluginError, load_plugins
from responder.agents.registry import CheckType, check_type
from responder.answering.memory import InboxState
from responder.config import Check as CheckTable
from responder.config import parse_duration
from responder.mail import address as addresses
from responder.store.sqlite import SQLiteStore
from responder.testing.background import PATIENCE, Loop
from responder.testing.clock import StandingClock
from responder.testing.letter import File, write_letter

RECIPIENT = "inbox@example.org"
SENDER = "ann@example.com"


class Door:
    """One connection to a server with one check, started and ready. Close it, or use it in a `with` block.

    `check` is a name (found in the folders of `plugins`, and among what is installed), a `Check` class, or a function with
    `@check`. What the check raises comes out of the call that asked it. Raises `PluginError` where the settings don't fit.
    """

    def __init__(
        self,
        check: str | type[Check] | CheckFunction,
        settings: Mapping[str, Any] | None = None,
        *,
        peer: str = "192.0.2.1",
        user: str = "",
        tls: str = "",
        plugins: Sequence[Path] = (),
    ) -> None:
        self.clock = StandingClock()
        kind = _kind(check, plugins)
        self._guard = build(kind.name, CheckTable(settings=dict(settings or {})), {kind.name: kind})
        self._guards = _Guards([self._guard])
        self._folder = TemporaryDirectory()
        self._store = SQLiteStore(Path(self._folder.name) / "responder.db", self.clock)
        self._loop = Loop()
        self._peer, self._user, self._tls = peer, user, tls
        self.hang_up()
        try:
            self._loop.run(self._store.open(), PATIENCE)
            self._guards.equip(lambda name: InboxState(f".checks.{name}", self._store, self.clock), self.clock)
            self._loop.run(self._guards.start(), PATIENCE)
        except BaseException:
            self._close()
            raise

    @property
    def check(self) -> Check:
        """The check itself."""
        return self._guard.check

    @property
    def state(self) -> BlockingState:
        """What the check remembers beyond a connection: `get`, `set`, `add`, `increment`, `delete`, `items`."""
        return self.check.context.blocking.state

    def hang_up(self) -> None:
        """The client leaves, and comes again: another connection."""
        self.client = Client(self.clock.new_id(), self._peer, tls=self._tls, user=self._user)
        self._states: States = {}

    def advance(self, time: str | float) -> None:
        """Let time pass: seconds, or a duration such as "2h" or "7d"."""
        self._loop.call(self.clock.advance, parse_duration(time))

    def connect(self) -> Objection | None:
        """A client comes; the objection to it."""
        return self._ask("connect").objection

    def helo(self, name: str = "client.example") -> Objection | None:
        """It says who it is."""
        self.client = replace(self.client, helo=name, protocol="ESMTP")
        return self._ask("helo", name).objection

    def mail(self, sender: str = SENDER, **parameters: str | None) -> Objection | None:
        """It begins a mail of that reverse-path; `parameters` are those of MAIL: `SIZE="1000"`."""
        self.client = replace(self.client, sender=sender, recipients=())
        return self._ask("mail", sender, parameters).objection

    def rcpt(self, recipient: str = RECIPIENT) -> Objection | None:
        """It names a recipient, who is one of the mail's where nothing is objected."""
        found = self._ask("rcpt", recipient).objection
        if found is None:
            self.client = replace(self.client, recipients=(*self.client.recipients, recipient))
        return found

    def data(
        self,
        text: str = "",
        *,
        subject: str = "Hello",
        html: str = "",
        attachments: Sequence[File] = (),
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Finding:
        """It sends the message, to be had as `Inbox.receive` has it, or as the octets `raw`; what the check finds."""
        sender = self.client.sender if self.client.sender is not None else SENDER
        to = self.client.recipients or (RECIPIENT,)
        self.client = replace(self.client, sender=sender, recipients=to)
        number = self.clock.new_id()
        if raw is None:
            raw = write_letter(
                text,
                sender=sender or SENDER,
                to=", ".join(to),
                subject=subject,
                date=self.check.context.now(),
                message_id=f"<{number}@client.example>",
                html=html,
                attachments=attachments,
                headers=headers,
            )
        recipient = addresses.parse(to[0])
        mail = Mail(raw, id=number, inbox=recipient.local, recipient=recipient, sender=sender, peer=self._peer)
        found = self._ask("data", mail)
        return found.marks[0][1] if found.marks else found.objection

    def close(self) -> None:
        """Stop the check."""
        try:
            self._loop.run(self._guards.stop(), PATIENCE)
        finally:
            self._close()

    def __enter__(self) -> Door:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, step: Step, *said: object) -> Found:
        return self._loop.run(self._guards.ask(step, self.client, self._states, *said), PATIENCE)

    def _close(self) -> None:
        self._loop.run(self._store.close(), PATIENCE)
        self._loop.close()
        self._folder.cleanup()


class _Guards(Guards):
    """Lets a failure out, where the server would contain it."""

    def _report(self, guard: Guard, step: Step, client: Client, error: Exception) -> NoReturn:
        raise error.__cause__ or error


def _kind(check: str | type[Check] | CheckFunction, folders: Sequence[Path]) -> CheckType:
    """The check that is meant. Raises `PluginError`."""
    if isinstance(check, str):
        plugins = load_plugins(folders, skip_broken=True)
        if check not in plugins.checks:
            told = "; ".join(plugins.broken) or f"there are: {', '.join(plugins.checks) or 'none'}"
            raise PluginError(f'there is no check "{check}" ({told})')
        return plugins.checks[check]
    marked: str = getattr(check, "__responder_check__", "")
    name = marked or re.sub(r"[^a-z0-9]+", "-", getattr(check, "__name__", "check").lower()).strip("-") or "check"
    return check_type(name, check, str(getattr(check, "__module__", "")), "")
