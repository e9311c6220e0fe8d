"""A pytest plugin under which aiosmtpd's own tests meet our session in place of `aiosmtpd.smtp.SMTP`.

What those tests fix that is no behaviour of a session is bent here: ports are free ones, replies are compared by their code (the
words are a dialect's), and the two packages that their conftest wants besides are stood in for. What they tell their server by
arguments becomes our configuration where we have such a thing.
"""

from __future__ import annotations

import socket
import sys
import types
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosmtpd.controller
import aiosmtpd.smtp
import pytest
from aiosmtpd.testing.statuscodes import StatusCode

from responder.clock import SystemClock
from responder.config import Limits, Listen
from responder.inbound import replies
from responder.inbound.limits import Gatekeeper
from responder.inbound.replies import Reply
from responder.inbound.sasl import Claim, Login, Mechanism, Plain
from responder.inbound.session import Session
from responder.inbound.sessions import Recipient, Sessions
from responder.mail.envelope import Path as MailPath
from tests.support.server import free_port

SIZE = 33554432  # octets: aiosmtpd's default
PATIENCE = 5.0  # seconds that one of their clients waits: some of their tests would wait for ever


class Ours(Session):
    """Our session, made as theirs is."""

    def __init__(self, handler: Any, **settings: Any) -> None:
        limits = Limits.model_validate({"message_size": settings.get("data_size_limit") or SIZE})
        clock = SystemClock()
        name = settings.get("hostname") or "mx.test.example"
        shared = Sessions(name, limits, Gatekeeper(limits, clock), Hooks(self, handler, settings), clock)
        auth = "required" if settings.get("auth_required") else "offered"
        if not settings.get("auth_require_tls", True):
            shared.login = Users(settings)  # type: ignore[assignment]
        super().__init__(shared, shared.profile(Listen.model_validate({"auth": auth})))
        if shared.login is not None:
            self.tls = "TLSv1.3 as if"  # ours takes no password in the clear
        self.timeout = settings.get("timeout")

    def connection_made(self, transport: Any) -> None:
        transport.transport = transport  # as a StreamWriter has one
        self._writer = transport
        super().connection_made(transport)

    def smtp_VRFY(self, argument: str) -> Any:  # type: ignore[override]
        hook = getattr(self._handler.theirs, "handle_VRFY", None)
        if hook is None:
            return super().smtp_VRFY(argument)
        return _later(hook(self, self.session, self.envelope, argument))


async def _later(work: Any) -> Reply:
    return reply_of(await work)


def reply_of(status: str) -> Reply:
    """`250 OK` as we have it."""
    code, _, text = status.partition(" ")
    return Reply(int(code), "", text)


class Hooks:
    """Their handler's hooks as our handler."""

    def __init__(self, session: Ours, theirs: Any, settings: dict[str, Any]) -> None:
        self.session = session
        self.theirs = theirs
        self.settings = settings

    def connected(self, session: Any) -> None:
        return None

    def hello(self, session: Any, name: str) -> Any:
        hook = getattr(self.theirs, "handle_HELO", None)
        return None if hook is None else self._hello(hook, name)

    async def _hello(self, hook: Any, name: str) -> Reply | None:
        reply = reply_of(await hook(self.session, self.session.session, self.session.envelope, name))
        return None if reply.accepted else reply

    def sender(self, session: Any, path: MailPath) -> Any:
        hook = getattr(self.theirs, "handle_MAIL", None)
        if hook is None:
            return replies.SENDER_OK
        return _later(hook(session, session.session, session.envelope, path.text, []))

    def recipient(self, session: Any, path: MailPath) -> Recipient:
        return Recipient(replies.RECIPIENT_OK, f"{path.text}", "any")

    async def message(self, session: Any, content: bytes) -> Reply:
        envelope = session.envelope
        envelope.original_content = content
        envelope.content = content.decode("utf-8", "surrogateescape") if self.settings.get("decode_data") else content
        hook = getattr(self.theirs, "handle_DATA", None)
        return replies.queued("x") if hook is None else reply_of(await hook(session, session.session, envelope))


class Users:
    """Their `auth_callback` or `authenticator` as our logins."""

    mechanisms = ("PLAIN", "LOGIN")

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def begin(self, session: Any, mechanism: str) -> Mechanism | Reply:
        dialogs = {"PLAIN": Plain, "LOGIN": Login}
        return dialogs[mechanism]() if mechanism in dialogs else replies.LOGIN_UNKNOWN

    def refusal(self, session: Any) -> Reply | None:
        return None

    async def judge(self, session: Any, mechanism: str, claim: Claim | None) -> Reply:
        if claim is None or claim.password is None:
            return replies.LOGIN_FAILED
        name, password = claim.name.encode(), claim.password.encode()
        if "authenticator" in self._settings:
            found = self._settings["authenticator"](
                session, session.session, session.envelope, mechanism, (name, password)
            )
            session.session.authenticated, session.session.auth_data = found.success, found.auth_data
            if not found.success and found.message:
                return reply_of(found.message)
            good = found.success
        else:
            good = self._settings["auth_callback"](mechanism, name, password)
        return replies.LOGIN_OK if good else replies.LOGIN_FAILED


class Mocker:
    """As much of pytest-mock as their tests use."""

    Mock = unittest.mock.Mock

    def __init__(self) -> None:
        self._patches: list[Any] = []

    def patch(self, target: str, **options: Any) -> Any:
        return self._start(unittest.mock.patch(target, **options))

    def spy(self, thing: Any, name: str) -> Any:
        return self._start(unittest.mock.patch.object(thing, name, wraps=getattr(thing, name)))

    def _start(self, patch: Any) -> Any:
        self._patches.append(patch)
        return patch.start()

    def stop(self) -> None:
        for patch in reversed(self._patches):
            patch.stop()


@pytest.fixture
def mocker() -> Iterator[Mocker]:
    it = Mocker()
    yield it
    it.stop()


@pytest.fixture(scope="session")
def session_mocker() -> Iterator[Mocker]:
    it = Mocker()
    yield it
    it.stop()


def _same_code(self: StatusCode, other: object) -> bool:
    return isinstance(other, tuple) and len(other) == 2 and self.code == other[0]


def _on_a_free_port(self: Any, handler: Any, hostname: Any = None, port: int = 8025, loop: Any = None, **more: Any) -> None:
    _original(self, handler, "127.0.0.1", free_port() if port == 8025 else port, loop, **more)


_original = aiosmtpd.controller.InetMixin.__init__


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Put ours in the place of theirs, before a test is imported."""
    socket.setdefaulttimeout(PATIENCE)
    sys.modules["pytest_mock"] = types.SimpleNamespace(MockFixture=Mocker)  # type: ignore[assignment]
    resources = types.SimpleNamespace(resource_filename=lambda package, name: str(Path(package) / name))
    sys.modules["pkg_resources"] = resources  # type: ignore[assignment]
    aiosmtpd.smtp.SMTP = aiosmtpd.controller.SMTP = Ours  # type: ignore[misc,attr-defined]
    aiosmtpd.controller.InetMixin.__init__ = _on_a_free_port  # type: ignore[method-assign]
    StatusCode.__eq__ = _same_code  # type: ignore[method-assign,assignment]
    StatusCode.__ne__ = lambda self, other: not _same_code(self, other)  # type: ignore[method-assign,assignment]
