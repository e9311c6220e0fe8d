"""Header fields as they are sent."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import default

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.address import Address, parse
from responder.mail.headers import clean
from responder.mail.write import (
    MAX_NAME,
    MAX_TEXT,
    encoded_words,
    format_date,
    line_text,
    mailbox_field,
    needs_smtputf8,
    plain_field,
    text_field,
    well_formed,
)

WORD = re.compile(r"=\?utf-8\?[qb]\?[^ ?]*\?=")


def reparsed(field: str) -> tuple[str, str]:
    """The only field's name and value, as the standard library's modern policy reads it."""
    message = message_from_bytes(field.encode() + b"\r\nbody", policy=default)
    assert message.get_payload() == "body"
    ((name, value),) = message.items()
    return name, str(value)


def assert_sendable(field: str) -> None:
    assert field.endswith("\r\n")
    lines = field[:-2].split("\r\n")
    assert not re.search(r"[\r\n\x00]", "".join(lines))
    assert all(line[0] == " " and line.strip() for line in lines[1:])
    assert all(len(line) < 998 for line in lines)
    for line in lines:
        words = WORD.findall(line)
        assert all(len(word) <= 75 for word in words)
        assert not words or len(line) <= 76


def test_ascii_stays_plain() -> None:
    assert text_field("Subject", "Hello, world") == "Subject: Hello, world\r\n"


def test_only_the_words_that_need_it_are_encoded() -> None:
    field = text_field("Subject", "Re: for Jürgen Größe and me")
    assert field.startswith("Subject: Re: for =?utf-8?") and field.endswith("?= and me\r\n")
    assert reparsed(field)[1] == "Re: for Jürgen Größe and me"


def test_long_ascii_is_folded_at_spaces() -> None:
    text = " ".join(["seventeen letters"] * 25)
    field = text_field("Subject", text)
    assert max(map(len, field.split("\r\n"))) <= 76
    assert reparsed(field)[1] == text


@pytest.mark.parametrize(
    "text", ["=?utf-8?q?Bcc:_x?=", "a =?b", "a" * MAX_TEXT, "é" * MAX_TEXT, "😀" * 120, "x  é  y", "é é", "日本"]
)
def test_text_comes_back_as_it_was(text: str) -> None:
    field = text_field("Subject", text)
    assert_sendable(field)
    assert reparsed(field)[1] == text
    assert str(make_header(decode_header(field[9:-2].replace("\r\n", "")))) == text


def test_injected_line_breaks_become_a_space() -> None:
    assert text_field("Subject", "a\r\nBcc: x@y.z\r\n\r\nbody\x00") == "Subject: a Bcc: x@y.z body\r\n"


def test_too_long_a_text_is_cut() -> None:
    assert len(reparsed(text_field("Subject", "word " * 1_000_000))[1]) <= MAX_TEXT


@given(st.text(max_size=300))
@settings(max_examples=150)
def test_any_text_makes_one_field(text: str) -> None:
    field = text_field("Subject", text)
    assert_sendable(field)
    assert field.isascii()
    name, value = reparsed(field)
    assert name == "Subject"
    assert value == clean(well_formed(text))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(28, 75))
@settings(max_examples=100)
def test_encoded_words_hold_whole_characters(text: str, first: int) -> None:
    words = encoded_words(text, first)
    assert len(words[0]) <= first
    assert all(len(word) <= 75 and WORD.fullmatch(word) for word in words)
    octets = [octets for word in words for octets, _ in decode_header(word)]
    assert (
        "".join([one.decode() if isinstance(one, bytes) else one for one in octets]) == text
    )  # no character is divided


def test_the_shorter_encoding_is_taken() -> None:
    assert encoded_words("für") == ["=?utf-8?b?ZsO8cg==?="]
    assert encoded_words("für alle, die das lesen") == ["=?utf-8?q?f=C3=BCr_alle=2C_die_das_lesen?="]
    assert encoded_words("日本")[0].startswith("=?utf-8?b?")


@pytest.mark.parametrize(
    ("display", "value"),
    [
        ("", "a@x.org"),
        ("Echo Bot", "Echo Bot <a@x.org>"),
        ("Doe, Jane", '"Doe, Jane" <a@x.org>'),
        ('a "b" \\', '"a \\"b\\" \\\\" <a@x.org>'),
        ("J.", '"J." <a@x.org>'),
    ],
)
def test_mailbox_field(display: str, value: str) -> None:
    assert mailbox_field("From", display, parse("a@x.org")) == f"From: {value}\r\n"


@given(st.text(max_size=250))
@settings(max_examples=150)
def test_any_display_name_leaves_one_mailbox(display: str) -> None:
    field = mailbox_field("From", display, parse("a@x.org"))
    assert_sendable(field)
    message = message_from_bytes(field.encode() + b"\r\n", policy=default)
    (mailbox,) = message["From"].addresses
    assert mailbox.addr_spec == "a@x.org"
    shown = line_text(display, MAX_NAME)
    if not shown.isascii():  # the modern policy of Python 3.11 shows the space between two encoded words of a name
        value = field.removeprefix("From: ").replace("\r\n", "").removesuffix(" <a@x.org>")
        assert str(make_header(decode_header(value))) == shown
    elif "=?" not in shown:
        assert mailbox.display_name == shown


def test_utf8_address_is_written_raw_and_is_told() -> None:
    plain, other = parse("a@x.org"), parse("grüße@x.org")
    assert mailbox_field("To", "", other) == "To: grüße@x.org\r\n"
    assert needs_smtputf8(plain, other) and not needs_smtputf8(plain, parse("a@bücher.example"))


def test_address_with_controls_is_refused() -> None:
    with pytest.raises(ValueError, match="control"):
        mailbox_field("To", "", Address("a\r\nBcc: b", "x.org"))


def test_plain_field_is_ascii_and_folded() -> None:
    field = plain_field("Diagnostic-Code", "smtp; 550 nö\r\n" + "really " * 1000)
    assert field.isascii() and len(field) < 1100 and max(map(len, field.split("\r\n"))) <= 76
    assert field.startswith("Diagnostic-Code: smtp; 550 n? really")


def test_dates_are_utc() -> None:
    assert format_date(0) == "Thu, 01 Jan 1970 00:00:00 +0000"
    assert format_date(1709210096.9) == "Thu, 29 Feb 2024 12:34:56 +0000"


def test_surrogates_are_joined_or_replaced() -> None:
    assert well_formed("a\ud83d\ude00b\ud83dc") == "a😀b\ufffdc"
    assert text_field("Subject", "\udcff").isascii()
