"""The answer, re-parsed as a receiver would."""

from __future__ import annotations

import email.message
from collections.abc import Callable
from email import message_from_bytes
from email.policy import compat32, default
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.mail.address import Address, parse
from responder.mail.compose import ALLOWED_EXTRA_HEADERS, Attachment, Body, compose_answer
from responder.mail.headers import Headers, clean
from responder.mail.thread import base_subject
from responder.mail.write import MAX_TEXT, well_formed

INBOX = parse("echo@example.org")
ALICE = parse("alice@example.net")
ORIGINAL = Headers.parse(
    b"From: Alice <alice@example.net>\r\nTo: echo@example.org\r\nSubject: AW: Hello\r\n"
    b"Message-ID: <2@example.net>\r\nReferences: <1@example.net>\r\n\r\nHi\r\n"
)
MESSAGE_ID = "<auto.0123456789abcdefgh.0@mx.example.org>"
ALWAYS = [
    "Date",
    "From",
    "To",
    "Subject",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "X-Responder-Loop",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
]


def answer(
    body: Body | str = "Hi\n",
    original: Headers = ORIGINAL,
    *,
    inbox: Address = INBOX,
    to: Address = ALICE,
    personal: bool = False,
    name: str = "",
    subject: str | None = None,
    extra: tuple[tuple[str, str], ...] = (),
) -> bytes:
    return compose_answer(
        body=Body(body) if isinstance(body, str) else body,
        original=original,
        inbox=inbox,
        inbox_name=name,
        to=to,
        message_id=MESSAGE_ID,
        date=1700000000.5,
        personal=personal,
        subject=subject,
        extra_headers=extra,
    )


def texts(message: email.message.Message) -> list[str]:
    """The text parts, decoded, with LF."""
    found = []
    for part in message.walk():
        if part.get_content_maintype() == "text":
            octets = part.get_payload(decode=True)
            assert isinstance(octets, bytes)
            found.append(octets.decode().replace("\r\n", "\n"))
    return found


def normalised(text: str) -> str:
    text = well_formed(text).replace("\r\n", "\n").replace("\r", "\n")
    return text if not text or text.endswith("\n") else text + "\n"


def test_short_answer_is_exactly_this() -> None:
    assert answer("Hello\n.\n", name="Echo") == (
        b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"From: Echo <echo@example.org>\r\n"
        b"To: alice@example.net\r\n"
        b"Subject: Re: Hello\r\n"
        b"Message-ID: <auto.0123456789abcdefgh.0@mx.example.org>\r\n"
        b"In-Reply-To: <2@example.net>\r\n"
        b"References: <1@example.net> <2@example.net>\r\n"
        b"Auto-Submitted: auto-replied\r\n"
        b"X-Auto-Response-Suppress: All\r\n"
        b"X-Responder-Loop: echo@example.org\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"Hello\r\n.\r\n"
    )


@pytest.mark.parametrize(
    ("personal", "subject", "sent"),
    [
        (False, None, "Re: Hello"),
        (True, None, "Auto: Hello"),
        (False, "Your order\r\nBcc: x@y", "Your order Bcc: x@y"),
        (True, "", "Auto: Hello"),
        (False, " \n ", "Re: Hello"),
    ],
)
def test_subject(personal: bool, subject: str | None, sent: str) -> None:
    assert message_from_bytes(answer(personal=personal, subject=subject), policy=default)["Subject"] == sent


def test_original_without_subject_and_message_id_then_neither_is_invented() -> None:
    message = message_from_bytes(answer(original=Headers([])), policy=default)
    assert message["Subject"] == "Re:"
    assert list(message.keys()) == [name for name in ALWAYS if name not in ("In-Reply-To", "References")]


def test_html_is_an_alternative_and_files_are_mixed() -> None:
    files = (Attachment("ü.pdf", "application/pdf", b"%PDF\0"), Attachment("../b.bin", "", b""))
    raw = answer(Body("Text ü\n", "<p>Text ü</p>\n", files))
    assert raw == answer(Body("Text ü\n", "<p>Text ü</p>\n", files))
    message = message_from_bytes(raw, policy=default)
    assert isinstance(message, email.message.EmailMessage)
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "application/pdf",
        "application/octet-stream",
    ]
    assert texts(message) == ["Text ü\n", "<p>Text ü</p>\n"]
    attachments = [(part.get_filename(), part.get_payload(decode=True)) for part in message.iter_attachments()]
    assert attachments == [("ü.pdf", b"%PDF\0"), ("b.bin", b"")]


def test_blank_text_beside_html_is_left_out() -> None:
    message = message_from_bytes(answer(Body(" \n", "<p>x</p>")), policy=default)
    assert message.get_content_type() == "text/html"


def test_address_that_is_not_ascii_makes_utf8_headers() -> None:
    raw = answer(inbox=parse("grüße@example.org"), to=parse("jürgen@example.net"), name="Grüße")
    assert "From: =?utf-8?b?R3LDvMOfZQ==?= <grüße@example.org>\r\nTo: jürgen@example.net\r\n".encode() in raw
    assert "X-Responder-Loop: grüße@example.org\r\n".encode() in raw


def test_allowed_extra_header_is_added() -> None:
    message = message_from_bytes(
        answer(extra=(("Organization", "Exämple\r\nBcc: x"), ("X-Priority", "5"))), policy=default
    )
    assert message["Organization"] == "Exämple Bcc: x"
    assert message["X-Priority"] == "5"
    assert len(message.keys()) == len(ALWAYS) + 2


@pytest.mark.parametrize(
    "name",
    [
        "Bcc",
        "To",
        "Reply-To",
        "Subject",
        "Sender",
        "Content-Type",
        "List-Id",
        "Auto-Submitted",
        "X-Mailer ",
        "a\r\nBcc",
        "",
    ],
)
def test_other_extra_header_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        answer(extra=((name, "x"),))
    assert repr(name) in str(caught.value)


def test_extra_header_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="X-MAILER"):
        answer(extra=(("x-mailer", "a"), ("X-MAILER", "b")))


def test_allowed_headers_are_lower_case_and_none_of_ours() -> None:
    assert all(name == name.lower() for name in ALLOWED_EXTRA_HEADERS)
    assert not ALLOWED_EXTRA_HEADERS & {name.lower() for name in ALWAYS}


@pytest.mark.parametrize("bad", ["", "a@b", "<a b@c>", "<a@b>\r\nBcc: x", "<a@b><c@d>"])
def test_message_id_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="Message-ID"):
        compose_answer(
            body=Body("x"), original=ORIGINAL, inbox=INBOX, to=ALICE, message_id=bad, date=0.0, personal=False
        )


def hostile_values() -> st.SearchStrategy[bytes]:
    words = [
        *(
            b"Hello",
            b"\r\n ",
            b"\r",
            b"\n ",
            b"\0",
            b"\xff\xfe",
            "é".encode(),
            b"Re: ",
            b"<a@b>",
            b"<",
            b">",
            b"@",
            b" ",
        ),
        b"=?utf-8?q?a=0D=0ABcc:_x=40y?=",
        b"=?utf-8?b?DQpCY2M6IHhAeQ0KDQpib2R5?=",
        b"=?utf-7?q?+AAo-?=",
        b"=?x-unknown?q?=80?=",
        b"=?utf-8?q?",
        b"\xe2\x80\xa8",
    ]
    return st.lists(st.sampled_from(words) | st.binary(max_size=6), max_size=8).map(b"".join)


@given(
    values=st.lists(hostile_values(), min_size=4, max_size=4),
    text=st.text(max_size=300),
    html=st.text(max_size=100),
    subject=st.none() | st.text(max_size=200),
    name=st.text(max_size=80),
    files=st.lists(
        st.builds(Attachment, st.text(max_size=40), st.text(max_size=20), st.binary(max_size=40)), max_size=2
    ),
)
@example([b"=?utf-8?q?a=0D=0ABcc:_x=40y=0D=0A=0D=0Abody?=", b"<a@b>", b"", b""], "t", "", None, "", [])
@example([b"x", b"<a@b>", b"<c@d>\r\nBcc: x", b"<e@f>"], "--=_\n", "<", "\r\nBcc: x", "a\r\nBcc: x@y", [])
@settings(max_examples=150, deadline=None)
def test_whatever_comes_in_the_answer_is_one_clean_mail(
    values: list[bytes], text: str, html: str, subject: str | None, name: str, files: list[Attachment]
) -> None:
    names = (b"Subject", b"Message-ID", b"References", b"In-Reply-To")
    raw_original = b"".join([b"%s: %s\r\n" % field for field in zip(names, values, strict=True)]) + b"\r\n"
    original = Headers.parse(raw_original)
    raw = answer(Body(text, html, tuple(files)), original, subject=subject, name=name)

    assert raw.endswith(b"\r\n") and raw.isascii() and b"\0" not in raw
    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
    assert all(len(line) < 998 for line in raw.split(b"\r\n"))
    for policy in (default, compat32):
        parser: Callable[..., email.message.Message] = message_from_bytes
        message = parser(raw, policy=policy)
        threading = ["In-Reply-To", "References"] if "In-Reply-To" in message else []
        assert list(message.keys()) == [
            key for key in ALWAYS if key in threading or key not in ("In-Reply-To", "References")
        ]
        assert message["To"] == "alice@example.net"
        sent = [part for part in (text if text.strip() or not html else None, html or None) if part is not None]
        assert texts(message)[: len(sent)] == [normalised(part) for part in sent]
        kinds = [part.get_content_disposition() for part in message.walk()]
        assert kinds.count("attachment") == len(files)
    modern = message_from_bytes(raw, policy=default)
    (mailbox,) = modern["From"].addresses
    assert mailbox.addr_spec == "echo@example.org"
    assert parsedate_to_datetime(str(modern["Date"])).timestamp() == 1700000000
    shown = str(modern["Subject"])
    if subject is None or not clean(well_formed(subject)):
        expected = clean(f"Re: {base_subject(original.text('Subject'))}")
    else:
        expected = clean(well_formed(subject))
    assert len(shown) <= MAX_TEXT
    assert shown == expected


def test_hostile_original_does_not_make_a_large_answer() -> None:
    long = Headers(
        [("Subject", "é" * 1_000_000), ("Message-ID", "<a@b>"), ("References", "<x@y> " * 9 + "<r@s>\t" * 90_000)]
    )
    assert len(answer(original=long)) < 12_000
