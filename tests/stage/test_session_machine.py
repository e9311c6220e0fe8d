"""Any order of commands, pipelined and cut anywhere: the session says what a model of RFC 5321 4.1.4 and RFC 3030 says, and
hands over the mails that the model has. No sockets; what the judge says may come at once or later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from responder.config import Limits, Listen
from tests.fuzz.wire import Talk, pieces

SIZE = 3000
LIMITS = Limits.model_validate(
    {
        "message_size": SIZE,
        "in_flight": 1_000_000,
        "recipients": 3,
        "errors": 1_000_000,
        "junk_commands": 1_000_000,
        "connection_rate": "off",
        "unknown_recipients": "off",
    }
)
LINES = st.lists(
    st.sampled_from(
        [b"", b".", b"..", b".x", b"Subject: x", b"x" * 998, b"\xc3\xa9", b"\x00", b"DATA", b"RSET", b"BDAT 3"]
    ),
    max_size=5,
)
CUTS = st.lists(st.integers(0, 4000), max_size=6)
CASES = st.sampled_from([str.upper, str.lower, str.title])


class SessionMachine(RuleBasedStateMachine):
    """What is said waits until `flush` sends it; what should be answered waits with it."""

    lmtp = False

    @initialize(late=st.booleans())
    def connect(self, late: bool) -> None:
        self.loop = asyncio.new_event_loop()

        async def begin() -> Talk:
            return Talk(LIMITS, Listen(protocol="lmtp") if self.lmtp else Listen(), late=late)

        self.talk = self.loop.run_until_complete(begin())
        self.pending = b""
        self.expected = ["220"]
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.greeted = self.ended = False
        self._clear()

    def _clear(self) -> None:
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.each: list[str] = []  # accepted RCPTs, one that came twice counts twice
        self.body = ""
        self.chunks: bytes | None = None

    def _say(self, line: str, *codes: str) -> None:
        self.pending += line.encode() + b"\r\n"
        self.expected += codes

    # -- commands ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.ended)
    @rule(verb=st.sampled_from(["EHLO", "HELO", "LHLO"]), name=st.sampled_from(["client.example", "[192.0.2.1]", ""]))
    def hello(self, verb: str, name: str) -> None:
        if (verb == "LHLO") is not self.lmtp:  # RFC 2033 4.1
            self._say(f"{verb} client.example", "500")
        elif not name:
            self._say(verb, "501")
        else:
            self._say(f"{verb} {name}", "250")
            self.greeted = True
            self._clear()

    @precondition(lambda self: not self.ended)
    @rule(names=st.lists(st.sampled_from("abc"), min_size=1, max_size=3), binary=st.booleans(), case=CASES)
    def envelope(self, names: list[str], binary: bool, case: Any) -> None:
        """As far as the message, from wherever the conversation is: else few would come so far."""
        if not self.greeted:
            self.hello("LHLO" if self.lmtp else "EHLO", "client.example")
        if self.sender is not None:
            self.rset(case)
        self.mail("a@client.example", " BODY=BINARYMIME" if binary else "", case)
        for name in names:
            self.rcpt(name, case)

    @precondition(lambda self: not self.ended)
    @rule(
        sender=st.sampled_from(["a@client.example", "", '"a b"@client.example']),
        parameters=st.sampled_from(
            ["", " SIZE=100", " BODY=8BITMIME", " BODY=BINARYMIME", f" SIZE={SIZE + 1}", " BODY=9BIT"]
        ),
        case=CASES,
    )
    def mail(self, sender: str, parameters: str, case: Any) -> None:
        line = f"{case('MAIL FROM')}:<{sender}>{parameters}"
        if not self.greeted or self.sender is not None:
            self._say(line, "503")
        elif "9BIT" in parameters:
            self._say(line, "501")
        elif str(SIZE + 1) in parameters:
            self._say(line, "552")
        else:
            self._say(line, "250")
            self.sender = sender
            self.body = parameters.rpartition("BODY=")[2] if "BODY" in parameters else ""

    @precondition(lambda self: not self.ended)
    @rule(name=st.sampled_from(["a", "b", "c", "d", "unknown"]), case=CASES)
    def rcpt(self, name: str, case: Any) -> None:
        line = f"{case('RCPT TO')}:<{name}@test.example>"
        if not self.greeted or self.sender is None or self.chunks is not None:
            self._say(line, "503")
        elif len(self.each) >= LIMITS.recipients:
            self._say(line, "452")
        elif name == "unknown":
            self._say(line, "550")
        else:
            self._say(line, "250")
            self.each.append(name)
            if name not in self.recipients:
                self.recipients.append(name)

    @precondition(lambda self: not self.ended)
    @rule(lines=LINES)
    def data(self, lines: list[bytes]) -> None:
        if not self.greeted or not self.recipients or self.chunks is not None or self.body == "BINARYMIME":
            self._say("DATA", "503")
            return
        self._say("DATA", "354")
        message = b"".join([line + b"\r\n" for line in lines])
        self.pending += (
            b"".join([(b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines]) + b".\r\n"
        )
        self._end(message)

    @precondition(lambda self: not self.ended)
    @rule(lines=LINES, last=st.booleans(), case=CASES)
    def bdat(self, lines: list[bytes], last: bool, case: Any) -> None:
        content = b"".join([line + b"\r\n" for line in lines])
        self.pending += f"{case('BDAT')} {len(content)}{' LAST' if last else ''}\r\n".encode() + content
        if not self.greeted or not self.recipients:  # RFC 3030 2: refused, and its octets are no commands
            self.expected.append("503")
            return
        kept = (self.chunks or b"") + content
        if len(kept) > SIZE:
            self.expected += ["552"] * (len(self.each) if last and self.lmtp else 1)
            self._clear()
        elif last:
            self._end(kept)
        else:
            self.expected.append("250")
            self.chunks = kept

    def _end(self, message: bytes) -> None:
        times = len(self.each) if self.lmtp else 1  # RFC 2033 4.2
        if len(message) > SIZE:
            self.expected += ["552"] * times
        else:
            self.expected += ["250"] * times
            self.mails.append((self.sender or "", list(self.recipients), message))
        self._clear()

    @precondition(lambda self: not self.ended)
    @rule(case=CASES)
    def rset(self, case: Any) -> None:
        self._say(case("RSET"), "250")
        self._clear()

    @precondition(lambda self: not self.ended)
    @rule(
        said=st.sampled_from(
            [
                ("NOOP", "250"),
                ("NOOP with text", "250"),
                ("VRFY somebody", "252"),
                ("VRFY", "501"),
                ("HELP", "214"),
                ("HELP MAIL", "214"),
                ("EXPN list", "502"),
                ("RSET now", "501"),
                ("DATA now", "501"),
                ("QUIT now", "501"),
                ("WHAT", "500"),
                ("", "500"),
                ("NOOP \x07", "500"),
                ("X" * 3000, "500"),
            ]
        )
    )
    def aside(self, said: tuple[str, str]) -> None:
        """What changes nothing, anywhere."""
        self._say(*said)

    @precondition(lambda self: not self.ended and len(self.mails) > 1)
    @rule()
    def quit(self) -> None:
        self._say("QUIT", "221")
        self.ended = True

    # -- the wire ------------------------------------------------------------------------------------------------------

    @rule(cuts=CUTS)
    def flush(self, cuts: list[int]) -> None:
        pending, self.pending = self.pending, b""
        for piece in pieces(pending, cuts):
            self.loop.run_until_complete(self.talk.bring(piece))
        said = [reply[:3].decode() for reply in self.talk.replies()]
        assert said == self.expected, self.talk.replies()[-3:]
        found = [
            (sender, [mailbox.partition("@")[0] for mailbox, _ in to], text)
            for sender, to, text in self.talk.judge.mails
        ]
        assert found == self.mails
        assert self.talk.wire.closed is self.ended

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        if hasattr(self, "talk"):
            assert self.talk.shared.budget.used <= 2 * SIZE + 4000

    def teardown(self) -> None:
        if hasattr(self, "talk"):
            self.flush([])
            self.loop.run_until_complete(self.talk.leave(politely=False))
            self.loop.close()


class LMTPMachine(SessionMachine):
    """The same of RFC 2033: LHLO, and a reply for each recipient."""

    lmtp = True


OFTEN = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSession = SessionMachine.TestCase
TestSession.settings = OFTEN
TestLMTP = LMTPMachine.TestCase
TestLMTP.settings = OFTEN


def test_model_is_held_against_the_session() -> None:
    """A model that expects something else is contradicted."""
    machine = SessionMachine()
    machine.connect(False)
    machine.rset(str.upper)
    machine.expected[-1] = "251"
    with pytest.raises(AssertionError):
        machine.flush([3])
    machine.expected[-1] = "250"
    machine.teardown()
