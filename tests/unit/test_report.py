"""Bounces read: reports by RFC 3464 as mail systems write them, letters of older ones, and mails that are neither."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.address import parse
from responder.mail.dsn import ReportedRecipient, compose_dsn
from responder.mail.report import MAX_MAIL, MAX_REPORTS, MAX_TEXT, Report, bounce_of, parse_report

WHO = "ann@example.net"


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def own(*failed: ReportedRecipient, original: bytes = b"Subject: x\r\n\r\n") -> bytes:
    return compose_dsn(
        reporting_mta="mx.example.org",
        postmaster=parse("postmaster@example.org"),
        to=parse("bounces+x@example.org"),
        recipients=failed,
        original=original,
        arrival=1700000000.0,
        now=1700000100.0,
        message_id="<auto.0123456789abcdefgh@mx.example.org>",
    )


# Postfix, word for word as it came to a bounce address from the Debian package that tests/e2e/test_21_proxy.py runs.
POSTFIX = crlf("""\
Received: by mta.example.com (Postfix)
\tid 83046216931; Sat, 21 Nov 2026 05:28:41 +0000 (UTC)
Date: Sat, 21 Nov 2026 05:28:41 +0000 (UTC)
From: Mail Delivery System <MAILER-DAEMON@mta.example.com>
Subject: Undelivered Mail Returned to Sender
To: bounces+x@example.org
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="7F49A2168F1.1795238921/mta.example.com"
Content-Transfer-Encoding: 8bit
Message-Id: <20261121052841.83046216931@mta.example.com>

This is a MIME-encapsulated message.

--7F49A2168F1.1795238921/mta.example.com
Content-Description: Notification
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

This is the mail system at host mta.example.com.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.

                   The mail system

<ann@example.net>: host 127.0.0.1[127.0.0.1] said: 550 5.1.1 no such user (in
    reply to RCPT TO command)

--7F49A2168F1.1795238921/mta.example.com
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mta.example.com
X-Postfix-Queue-ID: 7F49A2168F1
X-Postfix-Sender: rfc822; bounces+x@example.org
Arrival-Date: Sat, 21 Nov 2026 05:28:41 +0000 (UTC)

Final-Recipient: rfc822; ann@example.net
Original-Recipient: rfc822;ann@example.net
Action: failed
Status: 5.1.1
Remote-MTA: dns; 127.0.0.1
Diagnostic-Code: smtp; 550 5.1.1 no such user

--7F49A2168F1.1795238921/mta.example.com
Content-Description: Undelivered Message
Content-Type: message/rfc822
Content-Transfer-Encoding: 8bit

Return-Path: <bounces+x@example.org>
Received: from client.test (unknown [127.0.0.1])
\tby mta.example.com (Postfix) with ESMTP id 7F49A2168F1
\tfor <ann@example.net>; Sat, 21 Nov 2026 05:28:41 +0000 (UTC)
From: garden@example.org
To: ann@example.net
Subject: hello
Message-Id: <20261121052841.7F49A2168F1@mta.example.com>
Date: Sat, 21 Nov 2026 05:28:41 +0000 (UTC)

See <other@example.net>, 550 5.7.1 is a code.

--7F49A2168F1.1795238921/mta.example.com--
""")


def status(*groups: str, kind: str = "delivery-status", encoding: str = "7bit") -> bytes:
    """A report with these groups of fields."""
    body = "\n".join(["Reporting-MTA: dns; a.example\n", *groups])
    return crlf(
        "From: <>\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n"
        f"--b\n\nSorry.\n--b\nContent-Type: message/{kind}\nContent-Transfer-Encoding: {encoding}\n\n{body}\n--b--\n"
    )


# The letters below are written after the formats that these systems document; they are not recordings.

QMAIL = crlf("""\
From: MAILER-DAEMON@mail.example.net
Subject: failure notice

Hi. This is the qmail-send program at mail.example.net.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<ann@example.net>:
Sorry, no mailbox here by that name. (#5.1.1)

<bob@example.net>:
192.0.2.1 does not like recipient.
Remote host said: 550 mailbox is full
Giving up on 192.0.2.1.

--- Below this line is a copy of the message.

From: carl@example.com
To: ann@example.net

<carl@example.com>: 550 5.9.9 is not meant
""")

EXIM = crlf("""\
X-Failed-Recipients: ann@example.net
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@exim.example>
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  ann@example.net
    SMTP error from remote mail server after RCPT TO:<ann@example.net>:
    550 5.1.1 Unknown user

------ This is a copy of the message, including all the headers. ------

From: carl@example.com
""")

EXIM_DELAY = crlf("""\
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@exim.example>
Subject: Warning: message 1abcde-000123-Ab delayed 24 hours

This message was created automatically by mail delivery software.
A message that you sent has not yet been delivered to one or more of its
recipients after more than 24 hours on the queue on exim.example.

The address to which the message has not yet been delivered is:

  ann@example.net
    Delay reason: Connection refused

No action is required on your part. Delivery attempts will continue for
some time, and this warning may be repeated at intervals if the message
remains undelivered.
""")

SENDMAIL = crlf("""\
From: Mail Delivery Subsystem <MAILER-DAEMON@sendmail.example>
Subject: Returned mail: see transcript for details

   ----- The following addresses had permanent fatal errors -----
<ann@example.net>
    (reason: 550 5.1.1 User unknown)

   ----- Transcript of session follows -----
... while talking to mx.example.net.:
""")

EXCHANGE = crlf("""\
From: Microsoft Exchange <postmaster@exchange.example>
Subject: Undeliverable: hello
Content-Type: text/html

<p>Delivery has failed to these recipients or distribution lists:</p>
<p>ann@example.net<br>The e-mail address you entered couldn't be found. #550 5.1.1 RESOLVER.ADR</p>
""")


def test_our_own_notification_is_read_back() -> None:
    content = own(
        ReportedRecipient(parse(WHO), "5.1.1", "550 5.1.1 who?", "mx.example.net", 1700000050.0),
        ReportedRecipient(parse("größe@example.net"), "", "no answer"),
    )
    assert parse_report(content) == [
        Report(WHO, "failed", "5.1.1", "550 5.1.1 who?"),
        Report("größe@example.net", "failed", "5.0.0", "no answer"),
    ]
    assert bounce_of(content, "ANN@Example.net") == (True, "5.1.1", "550 5.1.1 who?")


def test_mail_that_was_put_off_until_its_end_is_permanent() -> None:
    content = own(ReportedRecipient(parse(WHO), "4.4.7", "451 later", "mx.example.net"))
    assert bounce_of(content, WHO) == (True, "4.4.7", "451 later")


def test_postfix_is_read() -> None:
    assert parse_report(POSTFIX) == [Report(WHO, "failed", "5.1.1", "550 5.1.1 no such user", WHO)]


@pytest.mark.parametrize(
    ("action", "code", "said"),
    [
        ("failed", "5.1.1", (True, "5.1.1", "why")),
        ("Failed (really)", "5.1.1", (True, "5.1.1", "why")),
        ("failure", "4.4.7", (True, "4.4.7", "why")),
        ("delayed", "4.4.1", (False, "4.4.1", "why")),
        ("delivered", "2.0.0", None),
        ("relayed", "2.0.0", None),
        ("expanded", "2.0.0", None),
        ("", "5.2.2", (True, "5.2.2", "why")),
        ("strange", "4.2.2", (False, "4.2.2", "why")),
        ("strange", "x", (False, "", "why")),
    ],
)
def test_action_decides_and_the_status_where_there_is_none(
    action: str, code: str, said: tuple[bool, str, str] | None
) -> None:
    content = status(f"Final-Recipient: rfc822; {WHO}\nAction: {action}\nStatus: {code}\nDiagnostic-Code: x; why\n")
    assert bounce_of(content, WHO) == said


def test_each_recipient_has_a_report_of_its_own() -> None:
    content = status(
        "Final-Recipient: rfc822;bob@example.net\nAction: delivered\nStatus: 2.0.0\n",
        f"Final-Recipient: RFC822 ; <{WHO}>\nAction: failed\nStatus: 5.0.0 (no)\n",
        "Final-Recipient: rfc822; carl@example.net\nAction: delayed\nStatus: 4.0.0\n",
    )
    assert [(report.recipient, report.action) for report in parse_report(content)] == [
        ("bob@example.net", "delivered"),
        (WHO, "failed"),
        ("carl@example.net", "delayed"),
    ]
    assert bounce_of(content, "bob@example.net") is None
    assert bounce_of(content, WHO) == (True, "5.0.0", "5.0.0 (no)")
    assert bounce_of(content, "carl@example.net") == (False, "4.0.0", "4.0.0")


def test_report_of_an_address_behind_counts_for_whom_it_was_sent_to() -> None:
    behind = status("Final-Recipient: rfc822; ann@behind.example\nAction: failed\nStatus: 5.1.1\n")
    assert bounce_of(behind, WHO) == (True, "5.1.1", "5.1.1")
    named = status(
        "Final-Recipient: rfc822; x@behind.example\nAction: failed\nStatus: 5.1.1\n",
        f"Original-Recipient: rfc822; {WHO}\nFinal-Recipient: rfc822; y@behind.example\nAction: delayed\nStatus: 4.1.1\n",
    )
    assert bounce_of(named, WHO) == (False, "4.1.1", "4.1.1")


@pytest.mark.parametrize(
    "content",
    [
        status("Final-Recipient: utf-8; gr\\x{F6}\\x{DF}e@example.net\nAction: failed\nStatus: 5.1.1\n"),
        status("Final-Recipient: utf-8; größe@example.net\nAction: failed\nStatus: 5.1.1\n", kind="global-delivery-status"),
        status(
            "Final-Recipient: utf-8; gr=C3=B6=C3=9Fe@example.net\nAction: failed\nStatus: 5.1.1\n",
            encoding="quoted-printable",
        ),
    ],
)  # fmt: skip
def test_international_recipient_is_read(content: bytes) -> None:
    [report] = parse_report(content)
    assert report.recipient == "größe@example.net"


def test_missing_blank_line_and_line_feeds_do_no_harm() -> None:
    content = status(f"Final-Recipient: rfc822; {WHO}\nAction: failed\nStatus: 5.1.1").replace(
        b"a.example\r\n\r\n", b"a.example\r\n"
    )
    assert [report.action for report in parse_report(content)] == ["failed"]
    assert parse_report(content.replace(b"\r\n", b"\n")) == parse_report(content)


@pytest.mark.parametrize(
    ("content", "reports"),
    [
        (
            QMAIL,
            [
                (WHO, "failed", "5.1.1", "Sorry, no mailbox here by that name. (#5.1.1)"),
                (
                    "bob@example.net",
                    "failed",
                    "5.0.0",
                    "192.0.2.1 does not like recipient. Remote host said: 550 mailbox is full Giving up on 192.0.2.1.",
                ),
            ],
        ),
        (
            EXIM,
            [
                (
                    WHO,
                    "failed",
                    "5.1.1",
                    f"SMTP error from remote mail server after RCPT TO:<{WHO}>: 550 5.1.1 Unknown user",
                )
            ],
        ),
        (EXIM_DELAY, [(WHO, "delayed", "", "Delay reason: Connection refused")]),
        (SENDMAIL, [(WHO, "failed", "5.1.1", "(reason: 550 5.1.1 User unknown)")]),
    ],
    ids=["qmail", "exim", "exim-delay", "sendmail"],
)
def test_letter_of_an_older_system_is_read(content: bytes, reports: list[tuple[str, str, str, str]]) -> None:
    assert [(one.recipient, one.action, one.status, one.text) for one in parse_report(content)] == reports


def test_letter_in_html_is_read() -> None:
    [report] = parse_report(EXCHANGE)
    assert (report.recipient, report.action, report.status) == (WHO, "failed", "5.1.1")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"From: ann@example.net\r\nSubject: Out of office\r\nAuto-Submitted: auto-replied\r\n\r\n550 5.1.1 is the code.\r\n"
        b"ann@example.net could not be delivered\r\n",
        b"From: ann@example.net\r\n\r\nPlease unsubscribe me, ann@example.net\r\n",
        b"From: Mailer-Daemon@x.org\r\n\r\nHello\r\n",
        b"From: Mailer-Daemon@x.org\r\n\r\nann@example.net has a new telephone\r\n",
        crlf(
            "From: postmaster@x.org\nContent-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n"
            "--b\n\nann@example.net\nThe message was displayed. It could not be delivered 550\n"
            "--b\nContent-Type: message/disposition-notification\n\n"
            "Final-Recipient: rfc822; ann@example.net\nDisposition: manual-action/x; displayed\n--b--\n"
        ),
        crlf(
            "From: fbl@x.org\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n"
            "--b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\n--b--\n"
        ),
    ],
    ids=["empty", "vacation", "person", "no-address", "no-word", "receipt", "complaint"],
)
def test_what_is_no_bounce_counts_as_none(content: bytes) -> None:
    assert parse_report(content) == []
    assert bounce_of(content, WHO) is None


def test_only_the_beginning_of_a_mail_is_read() -> None:
    content = status(f"Final-Recipient: rfc822; {WHO}\nAction: failed\nStatus: 5.1.1\n")
    assert len(parse_report(content)) == 1
    assert parse_report(content.replace(b"Sorry.", b"Sorry. " * (MAX_MAIL // 7 + 1))) == []


def test_unclear_letter_is_never_permanent() -> None:
    content = b"From: Mailer-Daemon@x.org\r\nSubject: hello\r\n\r\nann@example.net:\r\n   it is 450 or so\r\n"
    assert bounce_of(content, WHO) == (False, "4.0.0", "it is 450 or so")


def test_text_is_one_short_line() -> None:
    content = status(
        f"Final-Recipient: rfc822; {WHO}\nAction: failed\nDiagnostic-Code: smtp; 550 \x1b[2J\n\t{'x' * 2000}\n"
    )
    [report] = parse_report(content)
    assert report.text.isprintable()
    assert len(report.text) <= MAX_TEXT
    assert report.text.startswith("550 [2J xxx")


# -- whatever comes in -------------------------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from(
        [
            "From: Mailer-Daemon@x.org\n",
            "X-Failed-Recipients: a@b.org, <c@d.org>, x\n",
            "Content-Type: multipart/report; boundary=b\n",
            "Content-Type: message/delivery-status\n",
            "\n",
            "--b\n",
            "--b--\n",
            "Final-Recipient: rfc822; a@b.org\n",
            "Final-Recipient: utf-8; \\x{FFFFFF}\\x{D800}\\x{0}@b.org\n",
            "Original-Recipient: ;;\n",
            "Action: failed\n",
            "Status: 5.999.999\n",
            "Diagnostic-Code: ;\n",
            "<a@b.org>:\n",
            "Hi. This is the qmail-send program\n",
            "550 5.1.1 permanent error\n",
        ]
    )
    | st.text(max_size=10),
    max_size=25,
)


@given(PIECES, st.text(max_size=20))
@settings(max_examples=400)
def test_nothing_that_comes_in_fails(pieces: list[str], recipient: str) -> None:
    content = "".join(pieces).encode("utf-8", "surrogatepass")
    for report in parse_report(content):
        for text in (report.recipient, report.status, report.text, report.original):
            assert text.isprintable()
            assert len(text) <= MAX_TEXT
    bounce_of(content, recipient)


@pytest.mark.parametrize(
    "unit",
    [
        b"Final-Recipient: rfc822; a@b.org\r\nAction: failed\r\n\r\n",
        b"\n",
        b"\n \t",
        b"a@b.org\n",
        b"550 5.1.1 ",
        b"(",
        b"a@",
        b"<a@b.org>: 550 no\n\n",
        b"will  be ",
        b"delivery a ",
    ],
)
def test_large_bounces_are_read_in_time_and_bounded(unit: bytes) -> None:
    raw = unit * (4_000_000 // len(unit))
    head = b"From: Mailer-Daemon@x.org\r\n"
    start = time.perf_counter()
    for content in (
        head + b"Content-Type: message/delivery-status\r\n\r\n" + raw,
        head + b"\r\n" + raw,
        head + b"X-Failed-Recipients: " + raw,
        raw,
    ):
        assert len(parse_report(content)) <= MAX_REPORTS
    assert time.perf_counter() - start < 2
