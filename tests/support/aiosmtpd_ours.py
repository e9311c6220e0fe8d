"""Puts our session in the place of aiosmtpd's `SMTP`, so that aiosmtpd's own tests run against it: a pytest plugin.

    python -m pytest -p tests.support.aiosmtpd_ours .../aiosmtpd/tests/test_smtp.py

`Server` takes the arguments of aiosmtpd's class and asks its handler's hooks (`handle_MAIL`, `handle_DATA` ...), as far as they
speak of what a session of ours asks its handler, too. Of replies the codes are compared: texts are everybody's own. What it can't
carry over makes tests fail; `docs/aiosmtpd.md` has their list, with a reason for each.
"""

from __future__ import annotations

import os
import socket
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path as FilePath
from typing import Any, Literal
from unittest import mock
from weakref import WeakSet

import aiosmtpd.controller
import aiosmtpd.lmtp
import aiosmtpd.smtp
import pytest
from aiosmtpd.smtp import LoginPassword, syntax
from aiosmtpd.testing.statuscodes import SMTP_STATUS_CODES, StatusCode

from responder.clock import SystemClock
from responder.config import Limits, Listen
from responder.inbound import replies
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.login.sasl import Claim, Login, Plain
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions
from responder.mail.envelope import Path

TESTS = FilePath(aiosmtpd.__file__).parent / "tests"
SIZE = 33554432  # octets: aiosmtpd's default
NO_LIMIT = 1 << 29


class Code(StatusCode):
    """What aiosmtpd's tests expect of a reply: here its code is what counts, as texts are everybody's own."""

    __hash__ = tuple.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and other[:1] == self[:1]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __call__(self, *arguments: bytes) -> Code:
        return Code(self.code, self.mesg % arguments)


class Hooks:
    """The handler of our session: aiosmtpd's hooks."""

    def __init__(self, server: Server, handler: Any) -> None:
        self._server = server
        self._handler = handler

    async def ask(self, name: str, *arguments: Any) -> Reply | None:
        hook = getattr(self._handler, f"handle_{name}", None)
        if hook is None:
            return None
        said = await hook(self._server, self._server.session, self._server.envelope, *arguments)
        return reply_of(said) if isinstance(said, str) else None

    def connected(self, session: Transaction) -> None:
        return None

    def hello(self, session: Transaction, name: str) -> Any:
        return None

    async def sender(self, session: Transaction, path: Path) -> Reply:
        options = [n if v is None else f"{n}={v}" for n, v in path.parameters.items()]
        return await self.ask("MAIL", path.text, options) or replies.SENDER_OK

    async def recipient(self, session: Transaction, path: Path) -> Recipient:
        reply = await self.ask("RCPT", path.text, []) or replies.RECIPIENT_OK
        return Recipient(reply, path.text if "@" in path.text else f"{path.text}@localhost", "inbox")

    async def message(self, session: Transaction, content: bytes) -> Reply:
        self._server.envelope.content = content.decode() if self._server.decodes else content
        self._server.envelope.original_content = content
        return await self.ask("DATA") or Reply(250, "", "OK")


def reply_of(said: str) -> Reply:
    """`250 OK` as a reply."""
    code, _, text = said.partition(" ")
    return Reply(int(code), "", text)


SERVERS: WeakSet[Server] = WeakSet()
"""The sessions of this process."""


class Callbacks:
    """Who logs in: aiosmtpd's `auth_callback` or `authenticator`. Implements `Login`."""

    mechanisms = ("PLAIN", "LOGIN")

    def __init__(self, server: Server, callback: Any, authenticator: Any) -> None:
        self._server = server
        self._callback = callback
        self._authenticator = authenticator

    def begin(self, session: Any, mechanism: str) -> Any:
        kinds: dict[str, Any] = {"PLAIN": Plain, "LOGIN": Login}
        return kinds[mechanism]() if mechanism in kinds else replies.LOGIN_UNKNOWN

    def refusal(self, session: Any) -> None:
        return None

    async def judge(self, session: Any, mechanism: str, claim: Claim | None) -> Reply:
        if claim is None:
            return replies.LOGIN_FAILED
        name, password = claim.name.encode(), (claim.password or "").encode()
        if self._authenticator is not None:
            envelope = self._server.envelope
            found = self._authenticator(
                self._server, session.session, envelope, mechanism, LoginPassword(name, password)
            )
            if found.success:
                session.session.authenticated, session.session.auth_data = True, found.auth_data
                return replies.LOGIN_OK
            return reply_of(found.message) if found.message else replies.LOGIN_FAILED
        good = self._callback is not None and self._callback(mechanism, name, password)
        return replies.LOGIN_OK if good else replies.LOGIN_FAILED


class Server(Session):
    """Our session, made as aiosmtpd makes its own."""

    protocol_name: Literal["smtp", "lmtp"] = "smtp"

    def __init__(
        self,
        handler: Any,
        *,
        data_size_limit: int | None = SIZE,
        decode_data: bool = False,
        hostname: str | None = None,
        tls_context: Any = None,
        timeout: float = 300,
        auth_required: bool = False,
        auth_require_tls: bool = True,
        auth_callback: Any = None,
        authenticator: Any = None,
        command_call_limit: int | dict[str, int] | None = None,
        **_: Any,
    ) -> None:
        clock = SystemClock()
        most = command_call_limit if isinstance(command_call_limit, int) else 1000
        limits = Limits(
            message_size=data_size_limit or NO_LIMIT, junk_commands=most, idle=timeout, connection_rate=None
        )
        hooks = Hooks(self, handler)
        shared = Sessions(hostname or socket.getfqdn(), limits, Gatekeeper(limits, clock), hooks, clock)
        shared.login = Callbacks(self, auth_callback, authenticator)
        if tls_context is not None:
            shared.certificate = types.SimpleNamespace(context=tls_context)  # type: ignore[assignment]
        listen = Listen(protocol=self.protocol_name, auth="required" if auth_required else "offered")
        super().__init__(shared, shared.profile(listen))
        self.decodes = decode_data
        self._hooks = hooks
        SERVERS.add(self)
        self._writer: Any = Writer(self)
        if not auth_require_tls:
            self.tls = "as if"  # ours lets nobody log in in the clear (RFC 4954 4)

    @syntax("VRFY <address>")
    async def smtp_VRFY(self, argument: str) -> Reply | None:  # ours asks nobody
        """What tests use to look at the envelope."""
        return await self._hooks.ask("VRFY", argument) or super().smtp_VRFY(argument)

    def connection_lost(self, error: Exception | None) -> None:
        self._writer.close()
        super().connection_lost(error)


class Writer:
    """What tests watch to see that a connection was closed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.transport: Any = types.SimpleNamespace(is_closing=lambda: server._closing)

    def close(self) -> None:
        """The connection is over."""


class LMTPServer(Server):
    """The same for `aiosmtpd.lmtp.LMTP`."""

    protocol_name = "lmtp"


class Mocker:
    """What these tests use of pytest-mock."""

    Mock = mock.Mock
    MagicMock = mock.MagicMock

    def __init__(self) -> None:
        self._stack = ExitStack()

    @property
    def patch(self) -> Any:
        return Patcher(self._stack)

    def spy(self, target: object, name: str) -> Any:
        return self._stack.enter_context(mock.patch.object(target, name, wraps=getattr(target, name)))

    def stop(self) -> None:
        self._stack.close()


class Patcher:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._stack.enter_context(mock.patch(*arguments, **options))

    def object(self, *arguments: Any, **options: Any) -> Any:
        return self._stack.enter_context(mock.patch.object(*arguments, **options))


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


_cancel_tasks = aiosmtpd.controller.BaseController.cancel_tasks


def _cut(controller: Any, stop_loop: bool = True) -> None:
    """A controller that stops cancels tasks, which aiosmtpd's sessions are and ours are not: cut these."""
    for server in list(SERVERS):
        if server.transport is not None and server.loop is controller.loop:
            server.transport.abort()
    _cancel_tasks(controller, stop_loop)


def _stand_in() -> None:
    """Before aiosmtpd's tests are imported: what they import is ours, and what else they need is here."""
    resources: Any = types.ModuleType("pkg_resources")  # of setuptools, which has dropped it
    resources.resource_filename = lambda package, name: str(TESTS.joinpath(*package.split(".")[2:], name))
    plugin: Any = types.ModuleType("pytest_mock")
    plugin.MockFixture = Mocker
    sys.modules |= {"pkg_resources": resources, "pytest_mock": plugin}
    if (
        os.environ.get("AIOSMTPD_THEIRS") != "1"
    ):  # how many of them pass with aiosmtpd's own class shows what is not our doing
        setattr(aiosmtpd.controller, "SMTP", Server)  # noqa: B010 - it does not export what it imports
        aiosmtpd.smtp.SMTP = Server  # type: ignore[misc,assignment,unused-ignore]
        aiosmtpd.lmtp.LMTP = LMTPServer  # type: ignore[misc,assignment,unused-ignore]
        aiosmtpd.controller.BaseController.cancel_tasks = _cut  # type: ignore[method-assign,assignment]
        for name, status in list(vars(SMTP_STATUS_CODES).items()):
            if isinstance(status, StatusCode):
                setattr(SMTP_STATUS_CODES, name, Code(*status))


def pytest_configure() -> None:
    """A free port: aiosmtpd's tests would all take 8025."""
    from aiosmtpd.tests import conftest

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conftest.HostPort.__new__.__defaults__ = ("127.0.0.1", port)
    conftest.Global.SrvAddr = conftest.HostPort()
    socket.setdefaulttimeout(3)  # a client that waits for what never comes fails


_stand_in()
