"""CPython's own tests of `smtpd`, run against ours: the file `test/test_smtpd.py` of Python 3.11, where that is installed.

Its tests speak to a channel over a socket that is none, line by line. Here such a socket feeds a session of ours, on an event
loop that turns until the session waits for more. What ours does otherwise, and on purpose, is listed below with its reason.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
import sysconfig
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from responder.clock import SystemClock
from responder.compat import asyncore, channel, smtpd
from responder.compat.network import LIMITS, Network
from responder.compat.session import Messages, OldSession
from responder.config import Listen
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.sessions import Sessions

FILE = Path(sysconfig.get_path("stdlib")) / "test" / "test_smtpd.py"

pytestmark = [
    pytest.mark.skipif(
        sys.version_info >= (3, 12) or not FILE.exists(), reason="CPython's test_smtpd is not installed"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BARE = "it sends bare line feeds in a message: refused, as they are what SMTP smuggling is made of"
LONG = "its local part is longer than the 64 octets of RFC 5321 4.5.3.1.1"
NO_ANGLES = "a quoted local part with a space needs its angle brackets (RFC 5321 4.1.2)"
DIFFERENT = {
    "DebuggingServerTest.test_process_message_with_decode_data_true": BARE,
    "DebuggingServerTest.test_process_message_with_decode_data_false": BARE,
    "DebuggingServerTest.test_process_message_with_enable_SMTPUTF8_true": BARE,
    "DebuggingServerTest.test_process_SMTPUTF8_message_with_enable_SMTPUTF8_true": BARE,
    **{
        f"SMTPDChannel{kind}Test.{name}": reason
        for kind in ("", "IPv6")
        for name, reason in {
            "test_MAIL_command_limit_extended_with_SIZE": LONG,
            "test_MAIL_quoted_localpart_no_angles": NO_ANGLES,
            "test_MAIL_quoted_localpart_with_size_no_angles": NO_ANGLES,
        }.items()
    },
    "SMTPDChannelTestWithEnableSMTPUTF8True.test_MAIL_command_limit_extended_with_SIZE_and_SMTPUTF8": LONG,
    "SMTPDChannelTestWithEnableSMTPUTF8True.test_multiple_emails_with_extended_command_length": LONG,
    "MiscTestCase.test__all__": "ours names MailmanProxy and serve_forever too",
}


class FakeSocket:
    """A connection as the tests know it: lines are queued, the last reply is looked at. Also what a channel of ours speaks to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lines: list[bytes] = []
        self.last = b""
        self._loop = loop
        self._session: Any = None

    def queue_recv(self, line: bytes) -> None:
        self.lines.append(line)

    def attach(self, channel: Any) -> None:
        clock = SystemClock()
        shared = Sessions("test", LIMITS, Gatekeeper(LIMITS, clock), Messages(), clock)
        network = SimpleNamespace(here=True, submit=self._submit)

        async def make() -> None:
            self._session = OldSession(shared, shared.profile(Listen()), channel.smtp_server, cast(Network, network))

        self._loop.run_until_complete(make())
        self._session.channel = channel
        self._session.transport = FakeTransport()

    def _submit(self, call: Callable[[], None]) -> asyncio.Future[None]:
        done = self._loop.create_future()
        call()
        done.set_result(None)
        return done

    def feed(self) -> None:
        async def run() -> None:
            self._session.data_received(self.lines.pop(0) + b"\r\n")
            while self._session._waiting:
                await asyncio.sleep(0)

        self._loop.run_until_complete(run())

    def say(self, octets: bytes) -> None:
        self.last = octets

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return 0

    def getpeername(self) -> tuple[str, str]:
        return "peer-address", "peer-port"


class FakeTransport:
    def write(self, octets: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def adapted(loop: asyncio.AbstractEventLoop) -> SimpleNamespace:
    """Our module, with the parts of `asyncore` that the tests reach through."""

    class Accepting(smtpd.SMTPServer):
        def accept(self) -> tuple[FakeSocket, str]:
            return FakeSocket(loop), "c"

        def handle_accept(self) -> None:
            self.handle_accepted(*self.accept())

    class Debugging(Accepting, smtpd.DebuggingServer):
        pass

    class Channel(smtpd.SMTPChannel):
        error: BaseException | None = None

        def handle_error(self) -> None:
            self.error = sys.exc_info()[1]

        def handle_read(self) -> None:
            self.conn.feed()
            if self.error is not None:
                raise self.error

    return SimpleNamespace(
        SMTPServer=Accepting, DebuggingServer=Debugging, SMTPChannel=Channel, DEBUGSTREAM=None, __all__=smtpd.__all__
    )


def load(loop: asyncio.AbstractEventLoop) -> ModuleType:
    warnings_helper = importlib.import_module("test.support.warnings_helper")
    modules = {"smtpd": adapted(loop), "asyncore": SimpleNamespace(close_all=asyncore.close_all)}
    spec = importlib.util.spec_from_file_location("cpython_test_smtpd", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings_helper, "import_deprecated", lambda name: modules[name])
        spec.loader.exec_module(module)
    return module


def names() -> list[str]:
    """The tests of the file, by reading it: it cannot be imported where there is no `smtpd`."""
    if sys.version_info >= (3, 12) or not FILE.exists():
        return []
    loop = asyncio.new_event_loop()
    try:
        module = load(loop)
    finally:
        loop.close()
    loader = unittest.TestLoader()
    kinds = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, unittest.TestCase)]
    return [f"{kind.__name__}.{name}" for kind in kinds for name in loader.getTestCaseNames(kind)]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(channel, "own_name", lambda: "")  # as the tests' socket module says
    loop = asyncio.new_event_loop()
    yield load(loop)
    loop.close()


@pytest.mark.parametrize("name", names())
def test_cpython_when_it_tests_ours_then_it_is_content(module: ModuleType, name: str) -> None:
    kind, _, method = name.partition(".")
    result = unittest.TestResult()
    vars(module)[kind](method).run(result)
    if result.skipped:
        pytest.skip(result.skipped[0][1])
    told = "".join(text for _, text in [*result.failures, *result.errors])
    assert bool(told) == (name in DIFFERENT), told or f"no longer different: {DIFFERENT[name]}"
