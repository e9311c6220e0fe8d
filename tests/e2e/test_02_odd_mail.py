"""Odd mail: all that Python's own e-mail parser is tested with, twice: as it is, and with its line ends made CRLF.

    raw socket --> Responder --> echo     --> answer  --> scripted sink (MX of sender.example)
                            '--> forward  --> forward --> the same sink (MX of target.example)
                            '--> debug    --> prints it, stays silent

Each mail is refused with 5xx or accepted; each that was accepted comes to one end for each of its three recipients.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.support.answers import THREAD, check_answer, names, parse
from tests.support.dns_server import DNSServer
from tests.support.server import configuration, running
from tests.support.smtp_sink import SMTPSink, Transaction
from tests.support.submission import Client, queue, settled
from tests.support.waiting import Background

INBOXES = ("echo", "debug", "forward")
LINE_END = re.compile(rb"\r\n|\r|\n")


def _samples() -> list[Path]:
    """The interpreter's own samples of mail, pictures and sounds; none where it came without its tests."""
    try:
        spec = importlib.util.find_spec("test.test_email")
    except ModuleNotFoundError:
        return []
    if spec is None or spec.origin is None:
        return []
    return sorted(file for file in (Path(spec.origin).parent / "data").iterdir() if file.is_file())


SAMPLES = _samples()


@pytest.mark.skipif(not SAMPLES, reason="this Python came without its own tests (test.test_email)")
@pytest.mark.parametrize("line_ends", ["as they are", "CRLF"])
def test_odd_mail_is_refused_or_comes_to_one_end_for_each_recipient(tmp_path: Path, line_ends: str) -> None:
    with Background() as background:
        sink = background.enter(SMTPSink())
        host = {"MX": [[10, "mx.example"]]}
        dns = background.enter(
            DNSServer({"sender.example": host, "target.example": host, "mx.example": {"A": ["127.0.0.1"]}})
        )
        config = configuration(
            inboxes={
                "echo": {"agent": "echo"},
                "debug": {"agent": "debug"},
                "forward": {"agent": "forward", "targets": ["team@target.example"]},
            },
            delivery={
                "transport": "mx",
                "port": sink.port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
            },
        )
        with running(tmp_path, config) as server:
            contents = [sample.read_bytes() for sample in SAMPLES]
            if line_ends == "CRLF":
                contents = [LINE_END.sub(b"\r\n", content) for content in contents]
            with Client(server.port) as client:
                replies = [
                    client.mail(_sender(number), [f"{inbox}@test.example" for inbox in INBOXES], content)
                    for number, content in enumerate(contents)
                ]
            # 250 or a refusal for what the mail itself is, never a word of trouble
            bare = [re.search(rb"\r(?!\n)|(?<!\r)\n", content) is not None for content in contents]
            assert [code for code, _ in replies] == [554 if one else 250 for one in bare], replies
            accepted = [number for number, (code, _) in enumerate(replies) if code == 250]

            stats = settled(server, 60, mails=len(INBOXES) * len(accepted))
            items = queue(
                server, "list", "--limit", "100000", *[f"--state={s}" for side in stats.values() for s in side]
            )
            _check_ends([item for item in items if item["direction"] == "inbound"], accepted)
            assert set(stats["outbound"]) <= {"DELIVERED"}
            with Client(server.port) as client:
                assert client.say("NOOP")[0] == 250
            log = server.log.read_text()
            assert not re.search(r"Traceback|stage failed| error | warning |agent failed", log), log
        printed = server.output.read_text()

    if line_ends == "CRLF":
        assert len(accepted) == len(SAMPLES)
        assert sum(item["kind"] == "echo" and item["state"] == "ANSWERED" for item in items) >= 25
    assert printed.count("---------- MESSAGE FOLLOWS ----------\n") == len(accepted)
    assert not re.search(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", printed)
    _check_silence([item for item in items if item["kind"] == "echo" and item["state"] == "SILENT"], contents)
    _check_answers(sink.transactions, items, contents)
    _check_forwards(sink.transactions, items)


def _sender(number: int) -> str:
    return f"odd.{number}@sender.example"


def _check_ends(inbound: list[dict[str, Any]], accepted: list[int]) -> None:
    """Every (mail, recipient) once, and each with an end that is the mail's own doing."""
    expected = Counter((_sender(number), f"{inbox}@test.example") for number in accepted for inbox in INBOXES)
    assert Counter((item["sender"], item["recipient"]) for item in inbound) == expected
    for item in inbound:
        # A sample that bears no From, or a sign of automatic mail, is not answered; nothing stops a forward.
        assert (
            item["state"]
            in {"echo": ("ANSWERED", "SILENT"), "debug": ("SILENT",), "forward": ("ANSWERED",)}[item["kind"]]
        ), item
        assert item["attempts"] == 1


def _check_silence(silent: list[dict[str, Any]], contents: list[bytes]) -> None:
    """A sample that is not answered has no author whom an answer could mean, or is a program's mail."""
    for item in silent:
        head = contents[_number(item["sender"])].partition(b"\r\n\r\n")[0]
        reason = item["reason"].partition(":")[0]
        if reason == "no-from":
            assert not re.search(rb"^From:.*[\w>]@[\w]", head, re.MULTILINE | re.IGNORECASE), head
        else:
            sign = {
                "precedence": rb"^Precedence: (bulk|list|junk)",
                "list-sender": rb"^From:.*(-(owner|request)@|<?owner-)",
                "mailer-daemon": rb"^From:.*MAILER-DAEMON@",
                "postmaster": rb"^From:.*postmaster@",
                "multipart-report": rb"^Content-Type: multipart/report",
            }[reason]
            assert re.search(sign, head, re.MULTILINE | re.IGNORECASE), (reason, head)


def _number(sender: str) -> int:
    return int(sender.partition("@")[0].removeprefix("odd."))


def _check_answers(transactions: list[Transaction], items: list[dict[str, Any]], contents: list[bytes]) -> None:
    answered = [item["sender"] for item in items if item["kind"] == "echo" and item["state"] == "ANSWERED"]
    answers = [one for one in transactions if one.recipients != ["team@target.example"]]
    assert sorted(to for one in answers for to in one.recipients) == sorted(answered)
    for one in answers:
        [to] = one.recipients
        mail = parse(one.content)
        original = parse(contents[_number(to)])
        has_id = re.search(r"<[^<>\s@]+@[^<>\s@]+>", str(original.get("Message-ID", ""))) is not None
        assert has_id == (not THREAD.isdisjoint(names(mail)))
        check_answer(
            mail,
            inbox="echo@test.example",
            to=to,
            hostname="mx.test.example",
            message_id=mail["In-Reply-To"] if has_id else "",
            references=mail["References"].split()[:-1] if has_id else (),
        )
        _check_octets(one.content)


def _check_forwards(transactions: list[Transaction], items: list[dict[str, Any]]) -> None:
    forwards = [one for one in transactions if one.recipients == ["team@target.example"]]
    assert len(forwards) == sum(item["kind"] == "forward" and item["direction"] == "inbound" for item in items)
    for one in forwards:
        mail = parse(one.content)
        for name in ("From", "Reply-To", "Subject", "X-Responder-Loop", "Date", "Message-ID"):
            assert len(mail.get_all(name, [])) == 1, (name, mail.items())
        assert _author(mail) == "forward@test.example"
        assert mail["Subject"].startswith("[forward@]")
        assert mail["X-Responder-Loop"] == "forward@test.example"
        _check_octets(one.content)


def _author(mail: EmailMessage) -> str:
    [address] = mail["From"].addresses
    return str(address.addr_spec)


def _check_octets(content: bytes) -> None:
    """What no next host may misread: bare line ends, NUL in a header, lines past the limit in what we wrote."""
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", content) is None
    assert b"\0" not in content.partition(b"\r\n\r\n")[0]
