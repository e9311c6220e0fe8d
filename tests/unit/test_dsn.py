"""The notification about undelivered mail, re-parsed by the standard library."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.mail.address import Address, parse
from responder.mail.dsn import MAX_DIAGNOSTIC, MAX_SECTION, ReportedRecipient, compose_dsn

ALICE = parse("alice@example.net")
BOB = parse("bob@remote.example")
MESSAGE_ID = "<dsn.0123456789abcdefgh@mx.example.org>"
ORIGINAL = (
    b"Received: from a\r\n by b\r\n"
    b"From: Alice <alice@example.net>\r\nTo: bob@remote.example\r\nSubject: Hello\r\nMessage-ID: <1@example.net>\r\n"
    b"\r\nthe body stays here\r\n"
)
REFUSED = ReportedRecipient(BOB, "5.1.1", "550 5.1.1 No such user", "mx.remote.example", 1700000100.0)


def dsn(*failed: ReportedRecipient, original: bytes = ORIGINAL, to: Address = ALICE) -> bytes:
    return compose_dsn(
        reporting_mta="mx.example.org",
        postmaster=parse("mailer-daemon@example.org"),
        to=to,
        recipients=failed or (REFUSED,),
        original=original,
        arrival=1700000000.0,
        now=1700000200.0,
        message_id=MESSAGE_ID,
    )


def reparsed(raw: bytes) -> tuple[EmailMessage, str, list[dict[str, str]], str]:
    """The message, its words, its status blocks and the header section that it carries."""
    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n") and b"\0" not in raw
    assert all(len(line) < 998 for line in raw.split(b"\r\n"))
    message = message_from_bytes(raw, policy=default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    words, status, header = message.iter_parts()
    assert isinstance(words, EmailMessage) and isinstance(header, EmailMessage)
    assert [part.get_content_type() for part in (words, status, header)] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    blocks = [{name: str(value) for name, value in block.items()} for block in status.get_payload()]  # type: ignore[union-attr]
    octets = header.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return message, words.get_content(), blocks, octets.decode()


def test_failed_delivery_is_reported_field_by_field() -> None:
    raw = dsn()
    assert raw.isascii()
    message, words, blocks, header = reparsed(raw)
    assert list(message.keys()) == [
        *("Date", "From", "To", "Subject", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"),
        *("X-Auto-Response-Suppress", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    ]
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["From"] == "Mail Delivery System <mailer-daemon@example.org>"
    assert message["To"] == "alice@example.net"
    assert message["Message-ID"] == MESSAGE_ID
    assert message["In-Reply-To"] == message["References"] == "<1@example.net>"
    assert blocks == [
        {"Reporting-MTA": "dns; mx.example.org", "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000"},
        {
            "Final-Recipient": "rfc822; bob@remote.example",
            "Action": "failed",
            "Status": "5.1.1",
            "Remote-MTA": "dns; mx.remote.example",
            "Diagnostic-Code": "smtp; 550 5.1.1 No such user",
            "Last-Attempt-Date": "Tue, 14 Nov 2023 22:15:00 +0000",
        },
    ]
    assert "<bob@remote.example>" in words and "the host mx.remote.example said: 550 5.1.1 No such user" in words
    assert header.startswith("Received: from a\r\n by b\r\n") and header.endswith("<1@example.net>\r\n")
    assert b"the body stays here" not in raw


def test_failure_without_a_remote_host_says_so() -> None:
    _, words, blocks, _ = reparsed(
        dsn(ReportedRecipient(BOB, "4.4.7", "expired after 5 days"), ReportedRecipient(ALICE))
    )
    assert blocks[1] == {
        "Final-Recipient": "rfc822; bob@remote.example",
        "Action": "failed",
        "Status": "4.4.7",
        "Diagnostic-Code": "x-responder; expired after 5 days",
    }
    assert blocks[2] == {"Final-Recipient": "rfc822; alice@example.net", "Action": "failed", "Status": "5.0.0"}
    assert "expired after 5 days" in words and "no reason was given" in words


@pytest.mark.parametrize("status", ["", "5", "2.0.0", "5.1.1\r\nX: y", "5.1.1000", "550", "5.1.١"])
def test_status_that_is_none_becomes_unspecified(status: str) -> None:
    assert reparsed(dsn(ReportedRecipient(BOB, status)))[2][1]["Status"] == "5.0.0"


def test_address_that_is_not_ascii_is_downgraded_and_readable() -> None:
    raw = dsn(ReportedRecipient(parse("jürgen+a@remote.example")))
    assert raw.isascii()
    _, words, blocks, _ = reparsed(raw)
    assert blocks[1]["Final-Recipient"] == r"utf-8; j\x{FC}rgen\x{2B}a@remote.example"
    assert "<jürgen+a@remote.example>" in words


def test_sender_that_is_not_ascii_is_written_raw() -> None:
    assert "To: grüße@example.net\r\n".encode() in dsn(to=parse("grüße@example.net"))


def test_original_without_message_id_then_no_threading_fields() -> None:
    message, *_ = reparsed(dsn(original=b"Subject: x\r\n\r\n"))
    assert "In-Reply-To" not in message and "References" not in message


def test_long_header_section_is_cut_behind_a_field() -> None:
    field = b"X-Filler: " + b"y" * 80 + b"\r\n folded\r\n"
    raw = dsn(original=b"Subject: Hello\r\n" + field * 5000 + b"\r\n")
    header = reparsed(raw)[3].encode()
    assert MAX_SECTION - 200 < len(header) <= MAX_SECTION
    assert header.startswith(b"Subject: Hello\r\n") and header.endswith(field)


@pytest.mark.parametrize(
    "original",
    [
        b"",
        b"\r\n",
        b"no header",
        b"Subject: \xff\xfe\0\r\n\r\n",
        b"A: b\rC: d\n\n",
        b"X: " + b"y" * 100_000,
        b"A: " + b"b " * 600,
    ],
)
def test_odd_originals_are_reported_too(original: bytes) -> None:
    raw = dsn(original=original)
    assert raw.isascii()
    assert len(reparsed(raw)[2]) == 2


@given(st.text(max_size=300), st.text(max_size=40), st.text(max_size=12))
@example("550-a\r\n550 b\r\n\r\nFinal-Recipient: rfc822; x@y\r\n", "mx\r\nX: y", "5.1.1")
@example("x" * 10_000, "m" * 10_000, "5.1.1")
@example("\x1b[31m\xff\ud800\u2028Bcc: x", "mx", "5.1.1")
@example("--=_boundary--", "mx", "5.1.1")
@settings(max_examples=150, deadline=None)
def test_no_reply_of_a_remote_host_breaks_the_report(diagnostic: str, host: str, status: str) -> None:
    raw = dsn(ReportedRecipient(BOB, status, diagnostic, host, 1.0), REFUSED)
    assert raw.isascii() and len(raw) < 12_000
    message, words, blocks, header = reparsed(raw)
    assert len(message.keys()) == 12
    assert len(blocks) == 3
    allowed = {"Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date"}
    assert {"Final-Recipient", "Action", "Status"} <= set(blocks[1]) <= allowed
    assert blocks[1]["Final-Recipient"] == "rfc822; bob@remote.example"
    code = blocks[1].get("Diagnostic-Code", "")
    assert len(code) <= MAX_DIAGNOSTIC + 13 and not re.search(r"[\x00-\x1f\x7f]", code)
    assert blocks[2]["Remote-MTA"] == "dns; mx.remote.example"
    assert "It will not be tried again." in words
    assert header.startswith("Received: from a")


def test_nothing_failed_or_no_message_id_is_an_error() -> None:
    arguments = {"reporting_mta": "x", "postmaster": BOB, "to": ALICE, "original": b"", "arrival": 0.0, "now": 0.0}
    with pytest.raises(ValueError, match="recipient"):
        compose_dsn(recipients=[], message_id=MESSAGE_ID, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Message-ID"):
        compose_dsn(recipients=[REFUSED], message_id="x", **arguments)  # type: ignore[arg-type]
