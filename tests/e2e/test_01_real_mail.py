"""Real mail: 200 mails by three clients in, one answer each at the real MX of their sender's domain.

    smtplib ------------------------.
    swaks --------------------------+--> Responder --> DNS: sender.example MX? --> Postfix (MX of sender.example) --> Maildir
    smtplib --> Postfix (an MTA) ---'                                                  ^
                    '--- its own bounces of what Responder refuses --------------------'

Each mail that was accepted has exactly one answer in the Maildir, with all that an answer has to carry; each that was refused
has none, but a bounce where an MTA had taken it.
"""

from __future__ import annotations

import re
import smtplib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.conftest import find_peer
from tests.support.answers import check_answer, delivery_status, text_of
from tests.support.dns_server import DNSServer
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, running
from tests.support.submission import message, settled
from tests.support.waiting import Background, until

pytestmark = pytest.mark.peer("postfix", "swaks")

MAILS = 200
SENDERS = 20
RECIPIENTS = {
    "echo": "echo@test.example",
    "time": "current-time@test.example",
    "no inbox": "nobody@test.example",
    "no domain": "echo@elsewhere.example",
}
REFUSALS = {"no inbox": (550, "5.1.1"), "no domain": (550, "5.7.1")}
SUBJECTS = {  # as it is sent: what stands behind `Re: `
    "Question {}": "Question {}",
    "Re: AW: [list] Re[2]: Question {}": "[list] Question {}",
    "=?utf-8?Q?Sv:_G=C3=BCnther_fragt?= {}": "Günther fragt {}",
}
TIME = re.compile(r"It is \w+, \d\d \w+ \d{4}, \d\d:\d\d:\d\d \(UTC, UTC\+0000\)\.\n")


@dataclass(frozen=True)
class Sent:
    """One of the 200."""

    number: int

    @property
    def client(self) -> str:
        return ("postfix", "swaks", "smtplib")[self.number % 3]

    @property
    def kind(self) -> str:
        return ["echo", "echo", "echo", "echo", "time", "time", "time", "no inbox", "no domain", "no inbox"][
            self.number // 3 % 10
        ]

    @property
    def sender(self) -> str:
        return f"user{self.number % SENDERS}@sender.example"

    @property
    def id(self) -> str:
        return f"<{self.number}.{self.client}@sender.example>"

    @property
    def references(self) -> list[str]:
        return [f"<root.{self.number}@sender.example>", f"<second.{self.number}@sender.example>"][: self.number % 3]

    @property
    def subjects(self) -> tuple[str, str]:
        sent, answered = list(SUBJECTS.items())[self.number % len(SUBJECTS)]
        return sent.format(self.number), answered.format(self.number)

    @property
    def text(self) -> str:
        return f"Mail {self.number}.\n.a dot in front\n..two of them\n.\nSchöne Grüße\n"

    @property
    def content(self) -> bytes:
        fields = [
            f"Message-ID: {self.id}",
            "Date: Sat, 21 Nov 2026 02:00:00 +0000",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Transfer-Encoding: 8bit",
        ]
        if self.references:
            fields.append(f"References: {' '.join(self.references)}")
        return message(f"A user <{self.sender}>", RECIPIENTS[self.kind], self.subjects[0], self.text, *fields)


def test_each_accepted_mail_of_three_clients_has_one_answer_at_its_senders_mx(tmp_path: Path) -> None:
    with Background() as background, Postfix("mx.sender.example", domains=["sender.example"]) as mx:
        dns = background.enter(
            DNSServer(
                {"sender.example": {"MX": [[10, "mx.sender.example"]]}, "mx.sender.example": {"A": ["127.0.0.1"]}}
            )
        )
        config = configuration(
            delivery={
                "transport": "mx",
                "port": mx.port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
            },
            reply={"per_sender": "30/10m", "per_conversation": "20/10m"},
        )
        with (
            running(tmp_path, config) as server,
            Postfix("mta.sender.example", routes={"sender.example": mx.port, "*": server.port}) as mta,
        ):
            sent = [Sent(number) for number in range(MAILS)]
            with ThreadPoolExecutor(3) as pool:
                swaks = pool.map(lambda one: _by_swaks(server.port, one), [s for s in sent if s.client == "swaks"])
                direct = pool.submit(_by_smtplib, server.port, [s for s in sent if s.client == "smtplib"])
                _by_mta(mta.port, [s for s in sent if s.client == "postfix"])
                replies = dict(swaks) | direct.result()
            _check_refusals(replies)

            accepted = [s for s in sent if s.kind not in REFUSALS]
            bounced = [s for s in sent if s.kind in REFUSALS and s.client == "postfix"]
            stats = settled(server, 90, mails=len(accepted))
            assert stats == {"inbound": {"ANSWERED": len(accepted)}, "outbound": {"DELIVERED": len(accepted)}}
            until(lambda: mta.is_empty and mx.is_empty, 60, lambda: f"mail is stuck:\n{mta.log}\n{mx.log}")
            mails = mx.mails()

        answers = [mail for mail in mails if mail.get_content_type() != "multipart/report"]
        _check_answers(answers, accepted)
        _check_bounces([mail for mail in mails if mail.get_content_type() == "multipart/report"], bounced)
        assert dns.queries["sender.example", "MX"] >= 1
        _check_log(server)


def _by_mta(port: int, sent: list[Sent]) -> None:
    """The MTA takes all: what Responder refuses is its business."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        for one in sent:
            assert client.sendmail(one.sender, [RECIPIENTS[one.kind]], one.content, ["BODY=8BITMIME"]) == {}


def _by_smtplib(port: int, sent: list[Sent]) -> dict[Sent, tuple[int, str]]:
    """What was said to each: the reply to RCPT where that refused, (250, "") for the rest."""
    replies = {}
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        for one in sent:
            try:
                client.sendmail(one.sender, [RECIPIENTS[one.kind]], one.content, ["BODY=8BITMIME"])
            except smtplib.SMTPRecipientsRefused as error:
                [(code, text)] = error.recipients.values()
                replies[one] = code, text.decode()
            else:
                replies[one] = 250, ""
    return replies


def _by_swaks(port: int, one: Sent) -> tuple[Sent, tuple[int, str]]:
    command = [find_peer("swaks") or "swaks", "--server", f"127.0.0.1:{port}", "--ehlo", "client.sender.example"]
    command += ["--from", one.sender, "--to", RECIPIENTS[one.kind], "--data", "-", "--suppress-data", "--timeout", "30"]
    done = subprocess.run(command, input=one.content, capture_output=True, timeout=60, check=False)
    output = done.stdout.decode("utf-8", "replace")
    if refused := re.search(r"^<\*\* (\d{3}) (.*)$", output, re.MULTILINE):
        assert done.returncode == 24, output  # swaks: error with RCPT
        return one, (int(refused[1]), refused[2])
    assert done.returncode == 0, output + done.stderr.decode()
    return one, (250, "")


def _check_refusals(replies: dict[Sent, tuple[int, str]]) -> None:
    for one, (code, text) in replies.items():
        assert (code, text.split(" ")[0]) == REFUSALS.get(one.kind, (250, "")), (one, text)


def _check_answers(answers: list[EmailMessage], accepted: list[Sent]) -> None:
    by_original: dict[str, list[EmailMessage]] = {}
    for mail in answers:
        by_original.setdefault(mail["In-Reply-To"], []).append(mail)
    assert sorted(by_original) == sorted(one.id for one in accepted)
    assert len({mail["Message-ID"] for mail in answers}) == len(accepted)
    for one in accepted:
        [mail] = by_original[one.id]
        check_answer(
            mail,
            inbox=RECIPIENTS[one.kind],
            to=one.sender,
            hostname="mx.test.example",
            message_id=one.id,
            references=one.references,
            subject=one.subjects[1],
        )
        assert mail["X-Original-To"] == one.sender
        assert re.fullmatch(r"<bounces\+[0-9a-z]{18}@test\.example>", mail["Return-Path"])
        if one.kind == "echo":
            assert text_of(mail) == f"You wrote:\n\n{one.text}"
        else:
            assert TIME.fullmatch(text_of(mail))


def _check_bounces(reports: list[EmailMessage], bounced: list[Sent]) -> None:
    """The MTA tells its own users what Responder refused: one report each, with Responder's code."""
    said = []
    for report in reports:
        assert report["Return-Path"] == "<>"
        _, recipient = delivery_status(report)
        said.append((report["To"], recipient["Final-Recipient"].partition("; ")[2], recipient["Status"]))
    expected = [(one.sender, RECIPIENTS[one.kind], REFUSALS[one.kind][1]) for one in bounced]
    assert sorted(said) == sorted(expected)


def _check_log(server: ServerProcess) -> None:
    log = server.log.read_text()
    assert "Traceback" not in log and " error " not in log and " warning " not in log
