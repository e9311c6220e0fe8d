"""What our `smtpd` does that the old one did not: safety, several clients at once, and how its loop begins and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from responder.compat import asyncore, smtpd
from responder.compat.arguments import main
from tests.support.server import ROOT, environment, free_port
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client
from tests.support.waiting import Background, greeting, until

SENDER, RECIPIENTS = "a@b.example", ["c@d.example"]
LOCALHOST = ("127.0.0.1", 0)


class Loop:
    """A loop in a thread, over a map of its own."""

    def __init__(self) -> None:
        self.map: dict[int, Any] = {}
        self.ended: list[BaseException | None] = []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def _run(self) -> None:
        try:
            smtpd.serve_forever(map=self.map)
        except BaseException as error:
            self.ended.append(error)
        else:
            self.ended.append(None)

    def join(self) -> BaseException | None:
        """How the loop ended."""
        self.thread.join(20)
        assert not self.thread.is_alive(), "the loop goes on"
        return self.ended[0]


@pytest.fixture
def loop() -> Iterator[Loop]:
    found = Loop()
    yield found
    asyncore.close_all(found.map)
    if found.thread.ident is not None:
        found.thread.join(20)
        assert not found.thread.is_alive(), "the loop goes on"
    until(lambda: "smtpd" not in {one.name for one in threading.enumerate()}, 20, "a network thread is left")


def server(loop: Loop, told: Callable[..., Any], kind: Any = smtpd.SMTPServer, **options: Any) -> tuple[Any, int]:
    """A server whose messages go to `told(peer, mailfrom, rcpttos, data)`, and its port."""

    class Server(kind):  # type: ignore[misc]
        def process_message(self, peer: Any, mailfrom: Any, rcpttos: Any, data: Any, **kwargs: Any) -> Any:
            return told(peer, mailfrom, rcpttos, data)

    made = Server(LOCALHOST, None, map=loop.map, **options)
    return made, made.socket.getsockname()[1]


# -- threads ---------------------------------------------------------------------------------------------------------------


def test_message_when_it_blocks_then_other_clients_are_served_up_to_their_own(loop: Loop) -> None:
    go, busy = threading.Event(), threading.Event()
    order: list[bytes] = []

    def slow(peer: Any, mailfrom: Any, rcpttos: Any, data: bytes) -> None:
        order.append(data)
        busy.set()
        assert go.wait(20)

    _, port = server(loop, slow)
    loop.start()
    with Client(port) as first, Client(port) as second:
        for command in ("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
            first.say(command)
        first.send(b"one\r\n.\r\nNOOP\r\n")
        assert busy.wait(20)
        with Client(port) as third:
            assert third.say("HELP")[0] == 250
        for command in ("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
            assert second.say(command)[0] in (250, 354)
        second.send(b"two\r\n.\r\n")
        assert order == [b"one"]
        go.set()
        assert [first.reply(), first.reply(), second.reply()] == [(250, "OK")] * 3
    assert order == [b"one", b"two"]


def test_messages_when_many_come_at_once_then_they_are_taken_one_at_a_time_in_the_thread_that_serves(
    loop: Loop,
) -> None:
    inside, threads, most = [0], set(), [0]

    def count(*_: Any) -> None:
        threads.add(threading.current_thread())
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        inside[0] -= 1

    _, port = server(loop, count)

    def send() -> None:
        with Client(port) as client:
            for _ in range(20):
                assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "OK")

    loop.start()
    clients = [threading.Thread(target=send) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(20)
    assert most == [1]
    assert threads == {loop.thread}


def test_channel_of_the_program_when_used_then_all_of_it_runs_in_the_thread_that_serves(loop: Loop) -> None:
    threads = set()

    class Channel(smtpd.SMTPChannel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            threads.add(threading.current_thread())
            super().__init__(*args, **kwargs)

        def push(self, msg: str) -> None:
            threads.add(threading.current_thread())
            super().push(msg)

        def close(self) -> None:
            threads.add(threading.current_thread())
            super().close()

    made, port = server(loop, lambda *_: None)
    type(made).channel_class = Channel
    loop.start()
    with Client(port) as client:
        client.send(
            b"x" * 3000
            + b"\r\nNOOP\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\ny\r\n.\r\nNOOP\r\n"
        )
        assert [client.reply()[0] for _ in range(7)] == [500, 250, 250, 250, 354, 554, 250]
    until(lambda: len(loop.map) == 1, 10, "the channel stays in the map")
    assert threads == {loop.thread}


# -- errors ----------------------------------------------------------------------------------------------------------------


def test_exception_when_a_message_raises_it_then_the_client_is_told_to_try_again_and_the_server_goes_on(
    loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("secret")

    _, port = server(loop, fail)
    loop.start()
    for _ in range(2):
        with Client(port) as client:
            assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (451, "Requested action aborted: error in processing")
            assert client.reply() == (0, "")
    told = capsys.readouterr().out
    assert told.count("error: uncaptured python exception, closing channel <responder.compat.channel.SMTPChannel") == 2
    assert "(<class 'ValueError'>:secret [" in told


def test_exception_when_the_program_handles_errors_itself_then_its_way_is_taken(loop: Loop) -> None:
    class Channel(smtpd.SMTPChannel):
        def smtp_FAIL(self, arg: str | None) -> None:
            raise LookupError

        def handle_error(self) -> None:
            self.push(f"550 {sys.exc_info()[0]}")

    made, port = server(loop, lambda *_: None)
    type(made).channel_class = Channel
    loop.start()
    with Client(port) as client:
        assert client.say("FAIL") == (550, "<class 'LookupError'>")
        assert client.say("NOOP") == (250, "OK")


def test_process_message_when_it_is_missing_then_the_mail_is_not_taken(
    loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    made = smtpd.SMTPServer(LOCALHOST, None, map=loop.map)
    loop.start()
    with Client(made.socket.getsockname()[1]) as client:
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n")[0] == 451
    assert "NotImplementedError" in capsys.readouterr().out


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncore.ExitNow("enough")])
def test_exception_when_it_is_one_that_ends_then_the_loop_ends_with_it_and_the_mail_is_not_taken(
    loop: Loop, error: BaseException
) -> None:
    def leave(*_: Any) -> None:
        raise error

    _, port = server(loop, leave)
    loop.start()
    with Client(port) as client:
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n")[0] == 451
        assert client.reply() == (0, "")
    assert loop.join() is error
    assert len(loop.map) >= 1, "nothing was closed: the program may serve again"


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"a\nb", b"a\rb", b"a\r\n.\nb", b"a\n.\r\nb", b"a\n.\nMAIL FROM:<x@y.example>", b"a\r.\r"]
)
def test_line_end_when_it_is_half_a_one_then_the_message_is_refused_and_ends_nowhere_else(
    loop: Loop, content: bytes
) -> None:
    kept: list[Any] = []
    _, port = server(loop, lambda *told: kept.append(told))
    loop.start()
    with Client(port) as client:
        for command in ("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
            client.say(command)
        client.send(content + b"\r\n.\r\n")
        assert client.reply() == (554, "Bare CR or LF in the message (RFC 5321 2.3.8)")
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "OK")
    assert [one[3] for one in kept] == [b"x"]


@pytest.mark.parametrize("line", [b"NO\0OP", b"HELP \x1b[2J", b"VRFY \xff", b"MAIL\rFROM:<a@b.example>", b"\x80"])
def test_command_when_it_holds_controls_or_no_text_then_it_is_no_command(loop: Loop, line: bytes) -> None:
    _, port = server(loop, lambda *_: None)
    loop.start()
    with Client(port) as client:
        client.send(line + b"\r\nNOOP\r\n")
        assert [client.reply(), client.reply()] == [(500, "Error: bad syntax"), (250, "OK")]


@pytest.mark.parametrize(
    "path",
    [
        "<a b@c.example>",
        "<a@b@c.example>",
        "<a@-.example>",
        "<@>",
        "<a..b@c.example>",
        f"<{'x' * 65}@c.example>",
        "<a@b",
    ],
)
def test_address_when_it_is_none_then_it_is_refused(loop: Loop, path: str) -> None:
    _, port = server(loop, lambda *_: None)
    loop.start()
    with Client(port) as client:
        assert client.say(f"MAIL FROM:{path}")[0] == 501
        client.say("MAIL FROM:<a@b.example>")
        assert client.say(f"RCPT TO:{path}")[0] == 501
        assert client.say("RCPT TO:<>")[0] == 501


def test_address_when_it_is_not_ascii_then_smtputf8_must_have_been_said(loop: Loop) -> None:
    _, port = server(loop, lambda *_: None, enable_SMTPUTF8=True)
    loop.start()
    with Client(port) as client:
        assert client.say("MAIL FROM:<ü@b.example>")[0] == 553
        assert client.say("MAIL FROM:<a@b.example>")[0] == 250
        assert client.say("RCPT TO:<ü@b.example>")[0] == 553


def test_text_when_it_is_not_utf8_then_the_message_is_refused_and_the_session_goes_on(loop: Loop) -> None:
    kept: list[Any] = []
    _, port = server(loop, lambda *told: kept.append(told), decode_data=True)
    loop.start()
    with Client(port) as client:
        assert client.mail(SENDER, RECIPIENTS, b"\xff\r\n") == (554, "Error: the message is not UTF-8")
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "OK")
    assert [one[3] for one in kept] == ["x"]


def test_message_when_too_big_then_the_session_goes_on_behind_it(loop: Loop) -> None:
    kept: list[Any] = []
    _, port = server(loop, lambda *told: kept.append(told), data_size_limit=1000)
    loop.start()
    with Client(port) as client:
        assert client.mail(SENDER, RECIPIENTS, b"x" * 2_000_000 + b"\r\n") == (552, "Error: Too much mail data")
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "OK")
        assert client.mail(SENDER, RECIPIENTS, b"") == (250, "OK")
    assert [one[3] for one in kept] == [b"x", b""]


def test_line_when_it_never_ends_then_it_is_refused_once(loop: Loop) -> None:
    _, port = server(loop, lambda *_: None)
    loop.start()
    with Client(port) as client:
        client.send(b"x" * 100_000 + b"\r\nNOOP\r\n")
        assert [client.reply(), client.reply()] == [(500, "Error: line too long"), (250, "OK")]


def test_status_when_it_is_not_ascii_then_it_is_said_as_well_as_it_can_be(loop: Loop) -> None:
    _, port = server(loop, lambda *_: "250 schön")
    loop.start()
    with Client(port) as client:
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "sch?n")
        assert client.say("ÄÖ") == (500, 'Error: command "??" not recognized')


# -- beginning and end -----------------------------------------------------------------------------------------------------


def test_server_when_closed_from_another_thread_then_the_loop_ends_and_the_port_is_free(loop: Loop) -> None:
    made, port = server(loop, lambda *_: None)
    loop.start()
    with Client(port) as client:
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "OK")
        made.close()
        again = smtpd.SMTPServer(("127.0.0.1", port), None, map={})
        again.close()
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "OK")  # open sessions go on
        assert loop.thread.is_alive()
        assert client.say("QUIT") == (221, "Bye")
    assert loop.join() is None


def test_server_when_it_closes_itself_in_a_message_then_that_is_still_answered(loop: Loop) -> None:
    def once(*_: Any) -> str:
        asyncore.close_all(loop.map)
        return "250 the last one"

    _, port = server(loop, once)
    loop.start()
    with Client(port) as client:
        assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "the last one")
        assert client.reply() == (0, "")
    assert loop.join() is None
    assert loop.map == {}


def test_close_all_when_messages_wait_then_their_clients_are_told_to_try_again(loop: Loop) -> None:
    busy, go = threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        busy.set()
        assert go.wait(20)

    _, port = server(loop, slow)
    loop.start()
    with Client(port) as first, Client(port) as second:
        for client in (first, second):
            for command in ("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
                client.say(command)
        first.send(b"one\r\n.\r\n")
        assert busy.wait(20)
        second.send(b"two\r\n.\r\n")
        with Client(port):  # behind the second's octets: they are in the queue by now
            asyncore.close_all(loop.map)
        assert second.reply()[0] in (451, 421)
        go.set()
        assert first.reply() == (250, "OK")
    assert loop.join() is None


def test_servers_when_there_are_several_then_one_loop_serves_them_and_those_that_come_later(loop: Loop) -> None:
    taken: list[Any] = []
    later: list[Any] = []

    def take(*told: Any) -> None:
        taken.append(told[3])
        if told[3] == b"more":
            later.append(server(loop, take))

    made = [server(loop, take) for _ in range(3)]
    loop.start()
    for number, (_, port) in enumerate(made):
        with Client(port) as client:
            assert client.mail(SENDER, RECIPIENTS, b"%d\r\n" % number) == (250, "OK")
    with Client(made[0][1]) as client:
        client.mail(SENDER, RECIPIENTS, b"more\r\n")
    with Client(later[0][1]) as client:
        assert client.mail(SENDER, RECIPIENTS, b"late\r\n") == (250, "OK")
    assert taken == [b"0", b"1", b"2", b"more", b"late"]
    for one, _ in [*made, *later]:
        one.close()
    assert loop.join() is None


def test_client_when_it_leaves_in_the_middle_then_nothing_of_it_is_left(loop: Loop) -> None:
    kept: list[Any] = []
    _, port = server(loop, lambda *told: kept.append(told))
    loop.start()
    for end in (b"", b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nhalf a mess"):
        with Client(port) as client:
            client.send(end)
    until(lambda: len(loop.map) == 1, 10, "a channel stays in the map")
    assert kept == []


def test_handle_accepted_when_the_program_turns_a_client_away_then_it_is_gone(loop: Loop) -> None:
    class Choosy(smtpd.SMTPServer):
        def handle_accepted(self, conn: Any, addr: Any) -> None:
            conn.close()

    made = Choosy(LOCALHOST, None, map=loop.map)
    loop.start()
    with socket.create_connection(("127.0.0.1", made.socket.getsockname()[1]), timeout=20) as client:
        assert client.recv(100) == b""


def test_channel_when_made_over_another_socket_then_it_says_why_not(loop: Loop) -> None:
    made, _ = server(loop, lambda *_: None)
    with socket.socket() as other, pytest.raises(TypeError, match="handle_accepted"):
        smtpd.SMTPChannel(made, other, None)
    made.close()


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", *arguments, "-c", textwrap.dedent(program)]
    return subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_page_when_its_program_is_run_then_it_does_what_it_says() -> None:
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "compat.md").read_text(encoding="utf-8"), re.DOTALL)
    port = free_port()
    assert "8025" in program
    with run(program.replace("8025", str(port))) as process:
        assert process.stdout is not None
        until(lambda: greeting(port), 20, "the program does not serve")
        with Client(port) as client:
            assert client.mail(SENDER, RECIPIENTS, b"x\r\n") == (250, "OK")
            assert client.mail(SENDER, RECIPIENTS, b"") == (554, "Nothing in it")
        os.kill(process.pid, signal.SIGINT)
        lines = process.stdout.read().splitlines()
    assert lines[:2] == [f"{SENDER} {RECIPIENTS} 1", f"{SENDER} {RECIPIENTS} 0"]
    assert lines[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a message"])
def test_interrupt_when_it_comes_then_it_is_raised_where_the_loop_was_called(busy: bool) -> None:
    program = """
        import time
        from responder.compat import smtpd
        class Server(smtpd.SMTPServer):
            def process_message(self, *args, **kwargs):
                print("busy")
                time.sleep(60)
        server = Server(("127.0.0.1", 0), None)
        print(server.socket.getsockname()[1])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("interrupted")
    """
    with run(program) as process:
        assert process.stdout is not None
        with Client(int(process.stdout.readline())) as client:
            if busy:
                for command in ("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
                    client.say(command)
                client.send(b"x\r\n.\r\n")
                assert process.stdout.readline() == "busy\n"
            os.kill(process.pid, signal.SIGINT)
            assert process.stdout.read() == "interrupted\n"
            assert process.wait(20) == 0
            if busy:
                assert client.reply()[0] in (0, 451), "a mail that was not taken must not be acknowledged"


def test_module_when_run_as_a_program_then_it_serves_a_class_until_interrupted() -> None:
    command = [sys.executable, "-u", "-m", "responder.compat.smtpd", "-n", "-d", "-s", "1000", "-c", "DebuggingServer"]
    port = free_port()
    process = subprocess.Popen(
        [*command, f"127.0.0.1:{port}"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("DebuggingServer started at ")
        with Client(port) as client:
            assert client.hello[1].split("\n")[1:] == ["SIZE 1000", "8BITMIME", "HELP"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    "arguments",
    [["nowhere"], ["localhost:x"], ["-c", "Nothing"], ["-c", "os.path"], ["-s", "x"], ["a:1", "b:2", "c:3"]],
)
def test_arguments_when_wrong_then_it_says_so_with_status_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_arguments_when_the_address_cannot_be_had_then_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(LOCALHOST)
        taken.listen()
        assert main(["-n", f"127.0.0.1:{taken.getsockname()[1]}"]) == 1
    assert "in use" in capsys.readouterr().err
    assert asyncore.socket_map == {}


def test_asyncore_when_asked_for_more_then_it_says_what_it_is() -> None:
    with pytest.raises(AttributeError, match="smtpd servers only"):
        asyncore.dispatcher  # noqa: B018


# -- proxies ---------------------------------------------------------------------------------------------------------------


def test_pure_proxy_when_it_takes_octets_then_they_arrive_as_they_came_and_a_refusal_is_logged(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(smtpd, "event", lambda name, **fields: logged.append((name, fields)))
    content = b"Subject: x\r\n\r\ngr\xc3\xbcn \xff\r\n.dot\r\n"
    with Background() as background:
        sink = background.enter(SMTPSink({"RCPT": [None, "550 5.1.1 no"]}))
        proxy = smtpd.PureProxy(LOCALHOST, ("127.0.0.1", sink.port), map=loop.map)
        loop.start()
        with Client(proxy.socket.getsockname()[1]) as client:
            assert client.mail(SENDER, [*RECIPIENTS, "gone@d.example"], content) == (250, "OK")
    [taken] = sink.transactions
    assert taken.content == content.replace(b"x\r\n\r\n", b"x\r\nX-Peer: 127.0.0.1\r\n\r\n")
    [(name, fields)] = logged
    assert (name, fields["recipients"]) == ("lost", 1)
    assert "gone@d.example" in fields["refused"]


@pytest.mark.parametrize(
    ("replies", "heard"),
    [
        (["550 5.1.1 no", "550 5.1.1 no"], (550, "5.1.1 no")),
        (["550 5.1.1 no", "451 4.2.0 later"], (451, "4.2.0 later")),
        (None, (451, "4.4.1 The host behind does not take it now")),
    ],
)
def test_pure_proxy_when_the_host_behind_takes_it_for_nobody_then_the_client_hears_so(
    loop: Loop, replies: list[str] | None, heard: tuple[int, str]
) -> None:
    with Background() as background:
        sink = background.enter(SMTPSink({"RCPT": replies or []}))
        port = sink.port if replies else free_port()
        proxy = smtpd.PureProxy(LOCALHOST, ("127.0.0.1", port), map=loop.map)
        loop.start()
        with Client(proxy.socket.getsockname()[1]) as client:
            assert client.mail(SENDER, ["a@d.example", "b@d.example"], b"Subject: x\r\n\r\nx\r\n") == heard
    assert not sink.transactions


def test_mailman_proxy_when_there_is_no_mailman_then_it_says_so_at_once(loop: Loop) -> None:
    with pytest.raises(ImportError, match="MailmanProxy needs the package Mailman"):
        smtpd.MailmanProxy(LOCALHOST, None, map=loop.map)
    assert loop.map == {}


def test_mailman_proxy_when_there_is_one_then_lists_get_their_mail_and_the_host_behind_the_rest(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued: list[Any] = []
    utils, message, lists = (ModuleType(f"Mailman.{name}") for name in ("Utils", "Message", "MailList"))

    class Message(dict[str, str]):
        def __init__(self, file: Any) -> None:
            self.text = file.read()

        def Enqueue(self, mlist: str, **how: int) -> None:
            queued.append((mlist, how, self.get("Subject"), self["From"], self.text))

    vars(utils)["list_exists"] = lambda name: name == "talk"
    vars(message)["Message"] = Message
    vars(lists)["MailList"] = lambda name, lock: name
    for name, module in {"": ModuleType("Mailman"), ".Utils": utils, ".Message": message, ".MailList": lists}.items():
        monkeypatch.setitem(sys.modules, f"Mailman{name}", module)
    with Background() as background:
        sink = background.enter(SMTPSink())
        proxy = smtpd.MailmanProxy(LOCALHOST, ("127.0.0.1", sink.port), map=loop.map, decode_data=True)
        loop.start()
        recipients = [
            "Talk@d.example",
            "talk-owner@d.example",
            "talk-x@d.example",
            "talk-join@d.example",
            "ann@d.example",
        ]
        with Client(proxy.socket.getsockname()[1]) as client:
            assert client.mail(SENDER, recipients, b"Hello\r\n") == (250, "OK")
    assert [one.recipients for one in sink.transactions] == [["talk-x@d.example", "ann@d.example"]]
    assert queued == [
        ("talk", {"tolist": 1}, None, SENDER, "Hello"),
        ("talk", {"toowner": 1}, None, SENDER, "Hello"),
        ("talk", {"torequest": 1}, "subscribe", SENDER, "Hello"),
    ]


def test_program_when_its_database_belongs_to_the_main_thread_then_messages_may_use_it(tmp_path: Path) -> None:
    program = f"""
        import sqlite3, smtplib, threading
        from responder.compat import smtpd
        base = sqlite3.connect({str(tmp_path / "mails.db")!r})
        base.execute("create table mail (data)")
        class Server(smtpd.SMTPServer):
            def process_message(self, peer, mailfrom, rcpttos, data, **kwargs):
                base.execute("insert into mail values (?)", (data,))
                base.commit()
                self.close()
        server = Server(("127.0.0.1", 0), None)
        def send():
            with smtplib.SMTP(*server.socket.getsockname()) as client:
                client.sendmail("a@b.example", ["c@d.example"], "hello")
        thread = threading.Thread(target=send)
        thread.start()
        smtpd.serve_forever()
        thread.join()
        print(base.execute("select data from mail").fetchall())
    """
    with run(program) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "[(b'hello',)]\n"
