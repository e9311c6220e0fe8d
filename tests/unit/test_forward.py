"""Forwarded mails: the header is edited, the body is not."""

from __future__ import annotations

import time
from email import message_from_bytes
from email.message import Message
from email.policy import compat32, default
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.mail.address import Address, parse
from responder.mail.forward import REMOVED, compose_forward
from responder.mail.headers import Headers

INBOX = parse("support@example.org")
SENDER = parse("bounce@example.net")
MESSAGE_ID = "<auto.0123456789abcdefgh.0@mx.example.org>"

MAIL = (
    b"Return-Path: <bounce@example.net>\r\n"
    b"Received: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"Received: from b by c\r\n"
    b"DKIM-Signature: v=1; d=example.net;\r\n b=abc\r\n"
    b"ARC-Seal: i=1\r\n"
    b"Authentication-Results: c; dkim=pass\r\n"
    b"From: =?iso-8859-1?q?J=FCrgen?= <j@example.net>\r\n"
    b"Sender: list@example.net\r\n"
    b"To: support@example.org,\r\n other@example.org\r\n"
    b"Bcc: secret@example.org\r\n"
    b"Disposition-Notification-To: j@example.net\r\n"
    b"Subject: =?iso-8859-1?q?caf=E9?=\r\n at noon\r\n"
    b"Message-ID: <1@example.net>\r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"Content-Type: multipart/mixed; boundary=x\r\n"
    b"\r\n"
    b"--x\r\nContent-Type: text/html\r\n\r\n<p>\xff\0  \r\n.\r\n--x--\r\n no end"
)


def forward(raw: bytes, *, inbox: Address = INBOX, sender: Address | None = SENDER, prefix: str | None = None) -> bytes:
    return compose_forward(
        raw, inbox=inbox, sender=sender, message_id=MESSAGE_ID, date=1700000000.0, subject_prefix=prefix
    )


def section(raw: bytes) -> bytes:
    return raw.partition(b"\r\n\r\n")[0]


def test_only_these_fields_are_edited() -> None:
    assert forward(MAIL) == (
        b"X-Responder-Loop: support@example.org\r\n"
        b"Received: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"Received: from b by c\r\n"
        b"From: =?utf-8?q?J=C3=BCrgen_via_support?= <support@example.org>\r\n"
        b"To: support@example.org,\r\n other@example.org\r\n"
        b"Subject: [support@] =?iso-8859-1?q?caf=E9?=\r\n at noon\r\n"
        b"Message-ID: <1@example.net>\r\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"Content-Type: multipart/mixed; boundary=x\r\n"
        b"Reply-To: j@example.net\r\n"
        b"\r\n"
        b"--x\r\nContent-Type: text/html\r\n\r\n<p>\xff\0  \r\n.\r\n--x--\r\n no end"
    )


def test_reply_to_of_the_sender_stays() -> None:
    out = forward(b"From: a@x.org\r\nReply-To: Desk\r\n <desk@x.org>\r\nReply-To: z@x.org\r\n\r\n")
    assert out.count(b"Reply-To:") == 1 and b"Reply-To: Desk\r\n <desk@x.org>\r\n" in out


@pytest.mark.parametrize(
    ("mail", "sender", "reply_to"),
    [
        (b"From: a@x.org\r\nReply-To: nobody\r\n\r\n", SENDER, "a@x.org"),
        (b"From: undisclosed\r\n\r\n", SENDER, "bounce@example.net"),
        (b"From: undisclosed\r\n\r\n", None, None),
        (b"Reply-To: broken\r\n\r\n", None, None),
        (b"From: " + b"(" * 4000 + b"\r\n\r\n", SENDER, "bounce@example.net"),
    ],
)
def test_reply_to_leads_to_whom_there_is(mail: bytes, sender: Address | None, reply_to: str | None) -> None:
    message = message_from_bytes(forward(mail, sender=sender))
    assert message["Reply-To"] == reply_to
    assert message["From"].endswith("<support@example.org>")


@pytest.mark.parametrize(
    ("author", "name"),
    [
        (b"Alice <a@x.org>", "Alice via support"),
        (b"a@x.org", "a@x.org via support"),
        (b"=?utf-8?b?DQpCY2M6IHhAeQ0K?= <a@x.org>", "Bcc: x@y via support"),
        (b"J\xfcrgen <a@x.org>", "Jürgen via support"),
        (b"", "bounce@example.net via support"),
    ],
)
def test_display_name_tells_whom_the_mail_is_from(author: bytes, name: str) -> None:
    message = message_from_bytes(forward(b"From: " + author + b"\r\n\r\n"), policy=default)
    (mailbox,) = message["From"].addresses
    assert (mailbox.display_name, mailbox.addr_spec) == (name, "support@example.org")


@pytest.mark.parametrize(
    ("subject", "prefix", "sent"),
    [
        (b"Subject: Hello\r\n", None, "[support@] Hello"),
        (b"", None, "[support@]"),
        (b"Subject:\r\n", None, "[support@]"),
        (b"Subject: Re: [Support@] Hello\r\n", None, "Re: [Support@] Hello"),
        (b"Subject: =?utf-8?q?=5Bsupport=40=5D?= Hello\r\n", None, "[support@] Hello"),
        (b"Subject: Hello\r\n", "", "Hello"),
        (b"Subject: Hello\r\n", "Für uns: ", "Für uns: Hello"),
        (b"Subject: =?utf-8?q?=C3=A9?= e\r\n", "Für uns:", "Für uns: é e"),
        (b"Subject:\r\n Hello\r\nSubject: other\r\n", "a\r\nBcc: x", "a Bcc: x Hello"),
    ],
)
def test_subject_is_prefixed_once(subject: bytes, prefix: str | None, sent: str) -> None:
    message = message_from_bytes(forward(subject + b"\r\n", prefix=prefix), policy=default)
    assert message.get_all("Subject") == [sent]
    again = message_from_bytes(forward(forward(subject + b"\r\n", prefix=prefix), prefix=prefix), policy=default)
    assert again["Subject"] == sent


def test_subject_of_unknown_charset_keeps_its_octets() -> None:
    out = forward(b"Subject: =?x-mac?q?=80?= \xff\xfe\r\n\r\n")
    assert b"Subject: [support@] =?x-mac?q?=80?= \xff\xfe\r\n" in out


def test_long_subject_gets_no_longer_line() -> None:
    out = forward(b"Subject: " + b"x" * 980 + b"\r\n\r\n")
    assert b"Subject: [support@]\r\n " + b"x" * 980 + b"\r\n" in out


def test_missing_date_and_message_id_are_added() -> None:
    message = message_from_bytes(forward(b"Message-ID: \r\nTo: x\r\n\r\n"))
    assert message.get_all("Message-ID") == [MESSAGE_ID]
    assert message["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"


def test_marks_of_other_inboxes_stay_and_ours_is_on_top() -> None:
    out = forward(forward(b"To: x\r\n\r\n", inbox=parse("other@example.org")))
    assert Headers.parse(out).all("X-Responder-Loop") == ["support@example.org", "other@example.org"]


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\nbody", b"body"),
        (b"no header at all", b"no header at all\r\n"),
        (b"no header\r\nat all\r\n\r\nmore\r\n", b"no header\r\nat all\r\n\r\nmore\r\n"),
        (b" leading space: x\r\n\r\nmore", b" leading space: x\r\n\r\nmore"),
        (b"To: x", b""),
        (b"To: x\r\n", b""),
        (b"From bob Mon Jan 1\r\nTo: x\r\n\r\nbody", b"body"),
        (b">From bob Mon Jan 1\nTo: x\n\nbody\n", b"body\r\n"),
        (b"To: x\n\na\r\nb\nc\r\r\nd\re", b"a\r\nb\r\nc\r\nd\r\ne"),
        (b"To: x\r\nnot a field\r\nCc: y\r\n\r\nbody", b"not a field\r\nCc: y\r\n\r\nbody"),
        (b"To: x\r\n\n\r\nbody", b"\r\nbody"),
        (b"To: x\r\r\n\r\r\nbody", b"body"),
        (b"Received : a\r\nTo\t: x\r\n\r\nbody", b"body"),
    ],
)
def test_odd_mails_keep_their_body(raw: bytes, body: bytes) -> None:
    out = forward(raw)
    assert out.partition(b"\r\n\r\n")[2] == body
    for policy in (default, compat32):
        message: Message = message_from_bytes(out, policy=policy)
        assert not message.defects
        assert message["X-Responder-Loop"] == "support@example.org"


def test_bare_carriage_return_makes_no_new_field() -> None:
    out = forward(b"Subject: x\rBcc: y@z\rFrom: q\r\nTo: a\0b\r\n\r\n")
    assert b"Subject: [support@] x Bcc: y@z From: q\r\n" in out and b"To: a b\r\n" in out


def interpreter_mails() -> list[Path]:
    """The mails that the interpreter's own tests use, where they are installed."""
    try:
        package = import_module("test.test_email")
    except ImportError:
        return []
    return sorted(Path(str(package.__file__)).with_name("data").glob("msg_*.txt"))


def test_mails_of_the_interpreter_are_installed() -> None:
    if not interpreter_mails():
        pytest.skip("the interpreter comes without test.test_email")
    assert len(interpreter_mails()) > 40


@pytest.mark.parametrize("path", interpreter_mails(), ids=lambda path: path.name)
def test_mail_of_the_interpreter_goes_through(path: Path) -> None:
    raw = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    out = forward(raw)
    assert out == forward(raw.replace(b"\r\n", b"\n"))  # a file with bare LF makes the same mail
    before, after = message_from_bytes(raw), message_from_bytes(out)
    edited = {"from", "reply-to", "subject", "date", "message-id", "x-responder-loop", *REMOVED}
    kept = [(name, value) for name, value in before.items() if name.lower() not in edited and name]
    assert [(name, value) for name, value in after.items() if name.lower() not in edited] == kept
    assert not REMOVED & {name.lower() for name in after}
    for name in ("From", "Subject", "Date", "Message-ID", "X-Responder-Loop"):
        assert len(after.get_all(name, [])) == 1
    body = out.partition(b"\r\n\r\n")[2]
    if (
        before.defects and not before.is_multipart()
    ):  # no empty line, or no header: what the parser then takes for the body
        assert body == str(before.get_payload()).encode("ascii", "surrogateescape")
    else:
        assert body == raw.partition(b"\r\n\r\n")[2]
    assert [part.get_content_type() for part in after.walk()] == [part.get_content_type() for part in before.walk()]


LINES = st.lists(
    st.sampled_from(
        [
            b"From: a@x.org",
            b"Subject: =?utf-8?q?x",
            b"Reply-To: <",
            b" folded",
            b"\t",
            b"Sender:",
            b"bcc : x",
            b"junk",
            b"",
        ]
    )
    | st.binary(max_size=12),
    max_size=8,
)


@given(LINES, st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\r\n"]), st.binary(max_size=40))
@example([b"Subject: x", b"\r"], b"\n", b"")
@settings(max_examples=200)
def test_whatever_comes_in_is_one_mail_with_our_fields(lines: list[bytes], end: bytes, body: bytes) -> None:
    out = forward(end.join(lines) + end + end + body)
    assert out.count(b"\r") == out.count(b"\n") == out.count(b"\r\n")
    assert b"\0" not in section(out)
    headers = Headers.parse(out)
    assert headers.get("X-Responder-Loop") == "support@example.org"
    for name in ("From", "Subject", "Date", "Message-ID"):
        assert len(headers.all(name)) == 1
    assert headers.get("From").endswith("<support@example.org>")
    assert not REMOVED & set(headers)
    for line in section(out).split(b"\r\n"):
        assert line[:1] in (b" ", b"\t") or b":" in line
    assert not message_from_bytes(out).defects or b"Content-Type" in out


@pytest.mark.parametrize("unit", [b"\r", b"\n", b"a", b"a:\n", b"\r\n", b" ", b"From x\n", b"a:\r\n b\r\n", b":"])
def test_large_mails_pass_in_time(unit: bytes) -> None:
    raw = unit * (4_000_000 // len(unit))
    start = time.perf_counter()
    forward(raw)
    forward(b"Subject: x\r\n" + raw)
    forward(b"To: x\r\n\r\n" + raw)
    assert time.perf_counter() - start < 5
