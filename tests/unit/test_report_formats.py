"""Bounces of systems that have formats of their own, written after what they send; and our own weighing marks in them."""

from __future__ import annotations

import pytest

from responder.answering.returns import reason_of
from responder.mail.report import bounce_of, complaint_of, names, shows

ANN = "ann@far.example"
PATH = "bounces+0123456789abcdefgh@test.example"


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def letter(sender: str, subject: str, body: str) -> bytes:
    return crlf(f"From: {sender}\nTo: {PATH}\nSubject: {subject}\n\n{body}")


def multi(
    sender: str, subject: str, words: str, status: str, header: str = f"Return-Path: <{PATH}>\nSubject: x\n"
) -> bytes:
    return crlf(
        f"From: {sender}\nTo: {PATH}\nSubject: {subject}\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        f"--b\nContent-Type: text/plain\n\n{words}\n--b\nContent-Type: message/delivery-status\n\n{status}\n"
        f"--b\nContent-Type: text/rfc822-headers\n\n{header}\n--b--\n"
    )


FORMATS: dict[str, tuple[bytes, tuple[bool, str], str]] = {
    "Exchange Online": (
        multi(
            "Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@far.example>",
            "Undeliverable: hello",
            "Your message to ann@far.example couldn't be delivered.",
            "Reporting-MTA: dns;AM0PR01MB0001.eurprd01.prod.exchangelabs.com\n\n"
            "Final-Recipient: rfc822;ann@far.example\nAction: failed\nStatus: 5.1.10\n"
            "Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient ann@far.example not found by SMTP"
            " address lookup\n",
        ),
        (True, "5.1.10"),
        "no-such-user",
    ),
    "Gmail": (
        multi(
            "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
            "Delivery Status Notification (Failure)",
            "** Address not found **\n\nYour message wasn't delivered to ann@far.example",
            "Reporting-MTA: dns; googlemail.com\nArrival-Date: Mon, 15 Nov 2027 10:00:00 -0800 (PST)\n\n"
            "Final-Recipient: rfc822; ann@far.example\nAction: failed\nStatus: 5.1.1\n"
            "Remote-MTA: dns; gmail-smtp-in.l.google.com.\n"
            "Diagnostic-Code: smtp; 550-5.1.1 The email account that you tried to reach does not exist. Please try\n"
            " 550-5.1.1 double-checking the recipient's email address for typos or\n"
            " 550 5.1.1  https://support.google.com/mail/?p=NoSuchUser - gsmtp\n",
        ),
        (True, "5.1.1"),
        "no-such-user",
    ),
    "Sendmail": (
        multi(
            "Mail Delivery Subsystem <MAILER-DAEMON@far.example>",
            "Returned mail: see transcript for details",
            "   ----- The following addresses had permanent fatal errors -----\n<ann@far.example>\n"
            "    (reason: 552 5.2.2 Over quota)",
            "Reporting-MTA: dns; far.example\n\nFinal-Recipient: RFC822; ann@far.example\nAction: failed\nStatus: 5.2.2\n"
            "Diagnostic-Code: SMTP; 552 5.2.2 Over quota\n",
        ),
        (True, "5.2.2"),
        "mailbox-full",
    ),
    "Yahoo": (
        letter(
            "MAILER-DAEMON@yahoo.example",
            "Failure Notice",
            "Sorry, we were unable to deliver your message to the following address.\n\n<ann@far.example>:\n"
            "554: delivery error: dd This user doesn't have a yahoo.com account (ann@far.example) [0]\n\n"
            f"--- Below this line is a copy of the message.\n\nReturn-Path: <{PATH}>\nSubject: hello\n",
        ),
        (True, "5.0.0"),
        "no-such-user",
    ),
    "Exim": (
        letter(
            "Mail Delivery System <Mailer-Daemon@mx.far.example>",
            "Mail delivery failed: returning message to sender",
            "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered"
            " to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n"
            "  ann@far.example\n    Unrouteable address\n\n"
            "------ This is a copy of the message, including all the headers. ------\n\n"
            f"Return-path: <{PATH}>\nSubject: hello\n",
        ),
        (True, ""),
        "no-such-user",
    ),
    "qmail": (
        letter(
            "MAILER-DAEMON@mx.far.example",
            "failure notice",
            "Hi. This is the qmail-send program at mx.far.example.\nI'm afraid I wasn't able to deliver your message to the"
            " following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<ann@far.example>:\n"
            "Sorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\n"
            f"Return-Path: <{PATH}>\nSubject: hello\n",
        ),
        (True, "5.1.1"),
        "no-such-user",
    ),
    "Postfix, delayed": (
        multi(
            "Mail Delivery System <MAILER-DAEMON@far.example>",
            "Delayed Mail (still being retried)",
            "####################################################################\n# THIS IS A WARNING ONLY.",
            "Reporting-MTA: dns; far.example\n\nFinal-Recipient: rfc822; ann@far.example\nAction: delayed\nStatus: 4.4.1\n"
            "Diagnostic-Code: X-Postfix; connect to mx.behind.example: Connection timed out\n"
            "Will-Retry-Until: Sat, 20 Nov 2027 10:00:00 +0000 (UTC)\n",
        ),
        (False, "4.4.1"),
        "unreachable",
    ),
    "Amazon SES": (
        multi(
            "MAILER-DAEMON@amazonses.com",
            "Delivery Status Notification (Failure)",
            "An error occurred while trying to deliver the mail to the following recipients:\nann@far.example",
            "Reporting-MTA: dns; a1-1.smtp-out.amazonses.com\n\nAction: failed\nFinal-Recipient: rfc822; ann@far.example\n"
            "Diagnostic-Code: smtp; 550 5.1.1 <ann@far.example>: Recipient address rejected: User unknown in relay recipient"
            " table\nStatus: 5.1.1\n",
        ),
        (True, "5.1.1"),
        "no-such-user",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_bounce_is_read_for_what_it_says_and_whom_it_names(name: str) -> None:
    content, said, reason = FORMATS[name]
    found = bounce_of(content, ANN)
    assert found is not None
    assert found[:2] == said
    assert reason_of(found[1], found[2]) == reason
    assert names(content, ANN) and not names(content, "bob@far.example")
    assert shows(content, PATH) and not shows(content, "bounces+ffffffffffffffffff@test.example")
    assert complaint_of(content) == ""


def test_own_header_of_a_report_shows_nothing() -> None:
    """It is written to the bounce address: that proves no more than that its writer knows it."""
    assert not shows(letter("MAILER-DAEMON@far.example", "failure notice", "<bob@far.example>:\nno\n"), PATH)
