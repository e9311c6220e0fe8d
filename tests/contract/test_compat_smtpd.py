"""One suite for two modules: the standard library's `smtpd` where there still is one (Python 3.11), and ours.

What stands here as expected is what both say. What ours does otherwise, and what it adds, is in test_compat_smtpd_own.py.
"""

from __future__ import annotations

import importlib
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client
from tests.support.waiting import Background

MODULES = ["ours", "stdlib"] if sys.version_info < (3, 12) else ["ours"]
FQDN = socket.getfqdn()
MAIL = b"Subject: x\r\n\r\nhello\r\n.a dot\r\n..two\r\n.\r\n\r\n\tend  \r\n"


@dataclass
class Old:
    """A `smtpd` module, and the loop that goes with it."""

    smtpd: Any
    asyncore: Any
    map: dict[int, Any] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def serve(self, kind: Any, *arguments: Any, **options: Any) -> int:
        """Make a server and have its loop turn in a thread; its port."""
        server = kind(("127.0.0.1", 0), *(arguments or (None,)), map=self.map, **options)
        port: int = server.socket.getsockname()[1]
        if self._thread is None:
            self._thread = threading.Thread(target=self._turn, daemon=True)
            self._thread.start()
        return port

    def _turn(self) -> None:
        while not self._over.is_set():
            self.asyncore.loop(timeout=0.02, map=self.map, count=1)
        self.asyncore.close_all(self.map)

    def end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(20)
            assert not self._thread.is_alive()


@pytest.fixture(params=MODULES)
def old(request: pytest.FixtureRequest) -> Iterator[Old]:
    if request.param == "stdlib":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = Old(importlib.import_module("smtpd"), importlib.import_module("asyncore"))
    else:
        smtpd, asyncore = (importlib.import_module(f"responder.compat.{name}") for name in ("smtpd", "asyncore"))
        found = Old(smtpd, asyncore)
    yield found
    found.end()


def keeping(old: Old, told: Callable[[Any], str | None] = lambda data: None) -> tuple[Any, list[Any]]:
    """A server class that keeps what it is given, and the list that it keeps it in."""
    kept: list[Any] = []

    class Server(old.smtpd.SMTPServer):  # type: ignore[misc, name-defined]
        def process_message(self, peer: Any, mailfrom: Any, rcpttos: Any, data: Any, **kwargs: Any) -> str | None:
            kept.append((peer[0], mailfrom, list(rcpttos), data, kwargs))
            return told(data)

    return Server, kept


def talk(port: int, lines: list[str]) -> list[str]:
    """Say each line and keep each reply, its lines joined by a bar."""
    said = []
    with Client(port, hello="NOOP") as client:
        for line in lines:
            code, text = client.say(line)
            said.append(f"{code} {text}".replace("\n", "|"))
    return said


HELP = "Supported commands: EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY"
MAIL_SYNTAX = "501 Syntax: MAIL FROM: <address>"
RCPT_SYNTAX = "501 Syntax: RCPT TO: <address>"
EXTENDED = " [SP <mail-parameters>]"
FIRST = "503 Error: send HELO first"
VERIFIED = "252 Cannot VRFY user, but will accept message and attempt delivery"
NOT_KNOWN = "parameters not recognized or not implemented"

DIALOGS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "hello": (
        {},
        [
            ("HELO", "501 Syntax: HELO hostname"),
            ("EHLO", "501 Syntax: EHLO hostname"),
            ("EHLO client.test", f"250 {FQDN}|SIZE 33554432|8BITMIME|HELP"),
            ("EHLO again.test", "503 Duplicate HELO/EHLO"),
            ("HELO again.test", "503 Duplicate HELO/EHLO"),
            ("QUIT now", "221 Bye"),
        ],
    ),
    "plain hello": (
        {},
        [
            ("MAIL FROM:<a@b.example>", FIRST),
            ("RCPT TO:<a@b.example>", FIRST),
            ("DATA", FIRST),
            ("helo client.test", f"250 {FQDN}"),
            ("MAIL", MAIL_SYNTAX),
            ("MAIL a@b.example", MAIL_SYNTAX),
            ("MAIL FROM:", MAIL_SYNTAX),
            ("MAIL FROM:<a@b.example> SIZE=10", MAIL_SYNTAX),
            ("RCPT TO:<c@d.example>", "503 Error: need MAIL command"),
            ("MAIL FROM:<a@b.example>", "250 OK"),
            ("MAIL FROM:<a@b.example>", "503 Error: nested MAIL command"),
            ("DATA", "503 Error: need RCPT command"),
            ("RCPT", RCPT_SYNTAX),
            ("RCPT c@d.example", RCPT_SYNTAX),
            ("RCPT TO:<c@d.example> NOTIFY=NEVER", RCPT_SYNTAX),
            ("RCPT TO: <c@d.example>", "250 OK"),
            ("RCPT TO:e@f.example", "250 OK"),
            ("DATA now", "501 Syntax: DATA"),
            ("RSET now", "501 Syntax: RSET"),
            ("RSET", "250 OK"),
            ("RCPT TO:<c@d.example>", "503 Error: need MAIL command"),
        ],
    ),
    "parameters": (
        {"data_size_limit": 1000},
        [
            ("EHLO client.test", f"250 {FQDN}|SIZE 1000|8BITMIME|HELP"),
            ("MAIL FROM:<a@b.example> SIZE=1001", "552 Error: message size exceeds fixed maximum message size"),
            ("MAIL FROM:<a@b.example> SIZE=x", MAIL_SYNTAX + EXTENDED),
            ("MAIL FROM:<a@b.example> BODY=9BIT", "501 Error: BODY can only be one of 7BIT, 8BITMIME"),
            ("MAIL FROM:<a@b.example> SMTPUTF8", f"555 MAIL FROM {NOT_KNOWN}"),
            ("MAIL FROM:<a@b.example> RET=FULL", f"555 MAIL FROM {NOT_KNOWN}"),
            ("MAIL FROM:<a@b.example> size=1000 body=8bitmime", "250 OK"),
            ("RCPT TO:<c@d.example> NOTIFY=NEVER", f"555 RCPT TO {NOT_KNOWN}"),
            ("RCPT TO:<c@d.example> =", RCPT_SYNTAX + EXTENDED),
        ],
    ),
    "text": (
        {"decode_data": True},
        [
            ("EHLO client.test", f"250 {FQDN}|SIZE 33554432|HELP"),
            ("MAIL FROM:<a@b.example> BODY=8BITMIME", f"555 MAIL FROM {NOT_KNOWN}"),
            ("MAIL FROM:<a@b.example> SIZE=5", "250 OK"),
        ],
    ),
    "utf8": (
        {"enable_SMTPUTF8": True, "data_size_limit": None},
        [
            ("EHLO client.test", f"250 {FQDN}|8BITMIME|SMTPUTF8|HELP"),
            ("MAIL FROM:<a@b.example> SMTPUTF8=1", "501 Error: SMTPUTF8 takes no arguments"),
            ("MAIL FROM:<günther@b.example> BODY=8BITMIME SMTPUTF8 SIZE=99999999", "250 OK"),
            ("RCPT TO:<jürgen@d.example>", "250 OK"),
        ],
    ),
    "others": (
        {},
        [
            ("NOOP", "250 OK"),
            ("NOOP hi", "501 Syntax: NOOP"),
            ("HELP", f"250 {HELP}"),
            ("HELP mail", "250 Syntax: MAIL FROM: <address>"),
            ("HELP VRFY", "250 Syntax: VRFY <address>"),
            ("HELP spam", f"501 {HELP}"),
            ("VRFY", "501 Syntax: VRFY <address>"),
            ("VRFY a@b.example", VERIFIED),
            ("VRFY root", VERIFIED),
            ("EXPN list", "502 EXPN not implemented"),
            ("SPAM x", '500 Error: command "SPAM" not recognized'),
            ("", "500 Error: bad syntax"),
            ("HELO x", f"250 {FQDN}"),
            ("NOOP " + "x" * 508, "500 Error: line too long"),
            ("NOOP " + "x" * 507, "501 Syntax: NOOP"),
            ("QUIT", "221 Bye"),
        ],
    ),
    "longer with extensions": (
        {"enable_SMTPUTF8": True},
        [
            ("EHLO x", f"250 {FQDN}|SIZE 33554432|8BITMIME|SMTPUTF8|HELP"),
            ("HELP MAIL", f"250 Syntax: MAIL FROM: <address>{EXTENDED}"),
            ("MAIL " + "x" * (512 + 26 + 10 - 5 + 1), "500 Error: line too long"),
            ("MAIL " + "x" * (512 + 26 + 10 - 5), MAIL_SYNTAX + EXTENDED),
            ("NOOP " + "x" * 508, "500 Error: line too long"),
        ],
    ),
}


@pytest.mark.parametrize("name", DIALOGS)
def test_dialog_when_spoken_then_each_reply_is_the_old_one(old: Old, name: str) -> None:
    options, dialog = DIALOGS[name]
    server, _ = keeping(old)
    port = old.serve(server, **options)
    assert talk(port, [line for line, _ in dialog]) == [reply for _, reply in dialog]


def test_connection_when_made_then_the_banner_is_the_old_one(old: Old) -> None:
    port = old.serve(keeping(old)[0])
    with Client(port) as client:
        assert client.banner == (220, f"{FQDN} Python SMTP proxy version 0.3")


DATA: dict[str, tuple[bytes, bytes]] = {
    "dots": (MAIL, b"Subject: x\n\nhello\n.a dot\n..two\n.\n\n\tend  "),
    "one line": (b"hello\r\n", b"hello"),
    "empty line": (b"\r\n", b""),
    "lines at the end": (b"\r\nhello\r\n\r\n\r\n", b"\nhello\n\n"),
    "no header": (b"\r\n\r\n\r\n", b"\n\n"),
    "utf8": ("grün €\r\n".encode(), "grün €".encode()),
    "long": (b"x" * 100_000 + b"\r\n" + b"y" * 100_000 + b"\r\n", b"x" * 100_000 + b"\n" + b"y" * 100_000),
    "NUL": (b"a\0b\r\n", b"a\0b"),
    "line separators": ("a\u2028b\x0bc\x85\r\n".encode(), "a\u2028b\x0bc\x85".encode()),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("decode", [False, True], ids=["octets", "text"])
def test_message_when_taken_then_its_data_is_as_it_was(old: Old, name: str, decode: bool) -> None:
    content, expected = DATA[name]
    server, kept = keeping(old)
    port = old.serve(server, decode_data=decode)
    with Client(port) as client:
        assert client.mail("a@B.Example", ["C@d.example", "e@f.example"], content) == (250, "OK")
    options: dict[str, Any] = {} if decode else {"mail_options": [], "rcpt_options": []}
    data = expected.decode() if decode else expected
    assert kept == [("127.0.0.1", "a@B.Example", ["C@d.example", "e@f.example"], data, options)]


def test_options_when_given_then_they_come_in_upper_case(old: Old) -> None:
    server, kept = keeping(old)
    port = old.serve(server, enable_SMTPUTF8=True)
    with Client(port) as client:
        assert client.say("MAIL FROM:<ü@b.example> body=8bitmime size=20 smtputf8")[0] == 250
        assert client.say("RCPT TO:<c@d.example>")[0] == 250
        assert client.say("DATA")[0] == 354
        client.send(b"hello\r\n.\r\n")
        assert client.reply() == (250, "OK")
    assert kept[0][1] == "ü@b.example"
    assert kept[0][4] == {"mail_options": ["BODY=8BITMIME", "SIZE=20", "SMTPUTF8"], "rcpt_options": []}


def test_null_reverse_path_when_given_then_it_comes_as_chevrons(old: Old) -> None:
    server, kept = keeping(old)
    with Client(old.serve(server)) as client:
        assert client.mail("", ["c@d.example"], b"hello\r\n") == (250, "OK")
    assert kept[0][1] == "<>"


def test_local_part_when_it_stands_alone_then_it_is_taken(old: Old) -> None:
    server, kept = keeping(old)
    with Client(old.serve(server)) as client:
        assert client.mail("root", ["postmaster"], b"hello\r\n") == (250, "OK")
    assert kept[0][1:3] == ("root", ["postmaster"])


@pytest.mark.parametrize("told", ["550 No such user", "250 Kept as 7", "452 4.3.1 full", ""])
def test_status_when_returned_then_it_is_the_reply(old: Old, told: str) -> None:
    server, _ = keeping(old, lambda data: told)
    with Client(old.serve(server)) as client:
        code, _, text = (told or "250 OK").partition(" ")
        for _ in range(2):  # the session goes on
            assert client.mail("a@b.example", ["c@d.example"], b"hello\r\n") == (int(code), text)


@pytest.mark.parametrize(("octets", "code"), [(100, 250), (101, 552)])
def test_size_limit_when_reached_then_the_last_line_end_does_not_count(old: Old, octets: int, code: int) -> None:
    server, kept = keeping(old)
    with Client(old.serve(server, data_size_limit=100)) as client:
        reply = client.mail("a@b.example", ["c@d.example"], b"x" * octets + b"\r\n")
    assert reply == ((250, "OK") if code == 250 else (552, "Error: Too much mail data"))
    assert len(kept) == (code == 250)


def test_recipients_when_a_message_is_over_then_they_are_forgotten_and_the_data_kept(old: Old) -> None:
    channels: list[Any] = []

    class Channel(old.smtpd.SMTPChannel):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            channels.append(self)
            super().__init__(*args, **kwargs)

    server, kept = keeping(old)
    server.channel_class = Channel
    with Client(old.serve(server, decode_data=True)) as client:
        client.mail("a@b.example", ["c@d.example"], b"one\r\n")
        [channel] = channels
        assert channel.smtp_server.__class__ is server
        assert channel.peer == channel.addr == channel.conn.getpeername()
        assert (channel.seen_greeting, channel.fqdn) == ("client.test", FQDN)
        assert (channel.smtp_state, channel.mailfrom, channel.rcpttos) == (channel.COMMAND, None, [])
        assert (channel.received_data, channel.received_lines) == ("one", [])
        client.say("MAIL FROM:<b@b.example>")
        client.say("RCPT TO:<d@d.example>")
        assert (channel.mailfrom, channel.rcpttos) == ("b@b.example", ["d@d.example"])
        with pytest.warns(DeprecationWarning, match="attribute"):
            assert channel._SMTPChannel__mailfrom == "b@b.example"
        with pytest.warns(DeprecationWarning, match="attribute"):
            channel._SMTPChannel__rcpttos = ["e@d.example"]
        client.say("DATA")
        assert channel.smtp_state == channel.DATA
        client.send(b"two\r\n.\r\n")
        assert client.reply() == (250, "OK")
        client.say("RSET")
        assert channel.received_data == ""
    assert [(one[2], one[3]) for one in kept] == [(["c@d.example"], "one"), (["e@d.example"], "two")]


def test_channel_when_the_program_brings_its_own_then_its_verbs_lines_and_replies_are_used(old: Old) -> None:
    """What people did to `smtpd`: AUTH with its own lines, recipients refused at RCPT, replies watched, EHLO extended."""

    class Channel(old.smtpd.SMTPChannel):  # type: ignore[misc, name-defined]
        AUTH = 2

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.said: list[str] = []
            self.who = ""
            super().__init__(*args, **kwargs)

        def push(self, msg: str) -> None:
            self.said.append(msg)
            super().push(msg)

        def smtp_EHLO(self, arg: str) -> None:
            self.push("250-mx.test\r\n250-AUTH LOGIN\r\n250 HELP")
            self.seen_greeting = arg
            self.extended_smtp = True

        def smtp_AUTH(self, arg: str) -> None:
            self.smtp_state = self.AUTH
            self.push("334 VXNlcm5hbWU6")

        def found_terminator(self) -> None:
            if self.smtp_state == self.AUTH:
                line = self._emptystring.join(self.received_lines)
                self.received_lines: list[Any] = []  # type: ignore[no-redef,unused-ignore]
                self.who = line if isinstance(line, str) else line.decode()
                self.smtp_state = self.COMMAND
                self.push("235 hello")
                return
            super().found_terminator()

        def smtp_RCPT(self, arg: str) -> None:
            if "nobody" in arg:
                self.push("550 no such user")
            else:
                super().smtp_RCPT(arg)

        def smtp_WHO(self, arg: str) -> None:
            self.push(f"250 {self.who} {len(self.said)}")

        def smtp_QUIT(self, arg: str) -> None:
            self.push("221 see you")
            self.close_when_done()

    server, kept = keeping(old)
    server.channel_class = Channel
    port = old.serve(server)
    with Client(port) as client:
        assert client.hello == (250, "mx.test\nAUTH LOGIN\nHELP")
        assert client.say("AUTH LOGIN") == (334, "VXNlcm5hbWU6")
        assert client.say("YW5u") == (235, "hello")
        assert client.say("WHO") == (250, "YW5u 4")
        client.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<nobody@d.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        assert [client.reply()[0] for _ in range(4)] == [250, 550, 250, 354]
        client.send(b"hello\r\n.\r\nQUIT\r\n")
        assert client.reply() == (250, "OK")
        assert client.reply() == (221, "see you")
        assert client.reply() == (0, "")
    assert [one[1:4] for one in kept] == [("a@b.example", ["c@d.example"], b"hello")]


def test_state_when_a_program_makes_it_nonsense_then_it_is_told_so(old: Old) -> None:
    class Channel(old.smtpd.SMTPChannel):  # type: ignore[misc, name-defined]
        def smtp_BREAK(self, arg: str) -> None:
            self.smtp_state = "NONSENSE"
            self.push("250 broken")

    server, _ = keeping(old)
    server.channel_class = Channel
    assert talk(old.serve(server), ["BREAK", "NOOP"]) == ["250 broken", "451 Internal confusion"]


@pytest.mark.parametrize("decode", [False, True], ids=["octets", "text"])
def test_debugging_server_when_a_message_comes_then_it_prints_what_it_printed(
    old: Old, decode: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    port = old.serve(old.smtpd.DebuggingServer, decode_data=decode)
    with Client(port) as client:
        client.say("MAIL FROM:<a@b.example> SIZE=30")
        client.say("RCPT TO:<c@d.example>")
        client.say("DATA")
        client.send(b"From: test\r\n\r\nh\xc3\xa9llo 'x'\r\n\r\nend\r\n.\r\n")
        assert client.reply() == (250, "OK")
    if decode:
        expected = "From: test\nX-Peer: 127.0.0.1\n\nhéllo 'x'\n\nend\n"
    else:
        expected = "mail options: ['SIZE=30']\nb'From: test'\nb'X-Peer: 127.0.0.1'\nb''\n"
        expected += "b\"h\\xc3\\xa9llo 'x'\"\nb''\nb'end'\n"
    fence = "---------- MESSAGE FOLLOWS ----------\n"
    assert capsys.readouterr().out == f"{fence}{expected}------------ END MESSAGE ------------\n"


@pytest.mark.parametrize(
    ("script", "heard"),
    [
        ({}, (250, "OK")),
        ({"RCPT": [None, "550 5.1.1 no"]}, (250, "OK")),
        ({"DOT": "554 5.6.0 no"}, (554, "5.6.0 no")),
        ({"MAIL": "450 later"}, (450, "later")),
    ],
)
def test_pure_proxy_when_a_message_comes_then_the_host_behind_gets_it_and_the_client_hears_what_became_of_it(
    old: Old, script: dict[str, Any], heard: tuple[int, str]
) -> None:
    """The original says 250 whatever became of it."""
    with Background() as background:
        sink = background.enter(SMTPSink(script))
        port = old.serve(old.smtpd.PureProxy, ("127.0.0.1", sink.port), decode_data=True)
        with Client(port) as client:
            reply = client.mail("a@b.example", ["c@d.example", "e@f.example"], MAIL)
    assert reply == (heard if old.smtpd.__name__.startswith("responder") else (250, "OK"))
    taken = [(one.reverse_path, one.recipients, one.content) for one in sink.transactions]
    content = MAIL.replace(b"x\r\n\r\n", b"x\r\nX-Peer: 127.0.0.1\r\n\r\n")
    recipients = ["c@d.example"] if "RCPT" in script else ["c@d.example", "e@f.example"]
    assert taken == ([] if {"DOT", "MAIL"} & set(script) else [("a@b.example", recipients, content)])


def test_pure_proxy_when_nobody_is_behind_it_then_the_client_hears_so(old: Old) -> None:
    """The original says 250, and the mail is lost."""
    port = old.serve(old.smtpd.PureProxy, ("127.0.0.1", 1), decode_data=True)
    with Client(port) as client:
        reply = client.mail("a@b.example", ["c@d.example"], b"no header, no empty line\r\n")
    assert reply == (
        (451, "4.4.1 The host behind does not take it now")
        if old.smtpd.__name__.startswith("responder")
        else (250, "OK")
    )


def test_server_when_made_then_it_listens_and_tells_where(old: Old) -> None:
    server = old.smtpd.SMTPServer(("127.0.0.1", 0), ("127.0.0.1", 25), map=old.map)
    try:
        port = server.socket.getsockname()[1]
        assert list(old.map.values()) == [server]
        assert (server.addr, server.accepting) == (("127.0.0.1", 0), True)
        assert f"{type(server).__module__}.SMTPServer listening 127.0.0.1:0" in repr(server)
        with pytest.raises(OSError, match="in use"):
            old.smtpd.SMTPServer(("127.0.0.1", port), None, map=old.map)
        assert list(old.map.values()) == [server]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    finally:
        server.close()
    assert old.map == {}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_text_and_utf8_when_both_are_asked_for_then_it_is_refused(old: Old) -> None:
    with pytest.raises(ValueError, match="decode_data and enable_SMTPUTF8"):
        old.smtpd.SMTPServer(("127.0.0.1", 0), None, map=old.map, enable_SMTPUTF8=True, decode_data=True)
    with pytest.raises(ValueError, match="PureProxy does not support SMTPUTF8"):
        old.smtpd.PureProxy(("127.0.0.1", 0), None, map=old.map, enable_SMTPUTF8=True)
    assert old.map == {}


def test_debug_stream_when_set_then_it_tells_of_peer_and_commands(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    stream = io.StringIO()
    monkeypatch.setattr(old.smtpd, "DEBUGSTREAM", stream)
    server, _ = keeping(old)
    with Client(old.serve(server, decode_data=True)) as client:
        client.mail("a@b.example", ["c@d.example"], b"hello\r\n")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("Server started at ")
    assert lines[1:3] == ["\tLocal addr: ('127.0.0.1', 0)", "\tRemote addr:None"]
    assert lines[3].startswith("Incoming connection from ('127.0.0.1', ")
    assert lines[4].startswith("Peer: ('127.0.0.1', ")
    assert lines[5:] == [
        "Data: 'EHLO client.test'",
        "Data: 'MAIL FROM:<a@b.example>'",
        "===> MAIL FROM:<a@b.example>",
        "sender: a@b.example",
        "Data: 'RCPT TO:<c@d.example>'",
        "===> RCPT TO:<c@d.example>",
        "recips: ['c@d.example']",
        "Data: 'DATA'",
        "Data: 'hello'",
    ]


def test_loop_when_nothing_is_open_then_it_returns(old: Old) -> None:
    old.asyncore.loop(map=old.map)
    old.asyncore.loop(timeout=0.01, use_poll=True, map=old.map, count=3)
