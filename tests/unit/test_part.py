"""MIME parts."""

from __future__ import annotations

import time
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.mail.part import Part, attachment_part, filename, multipart, text_part
from responder.mail.write import well_formed


def reparsed(part: Part) -> EmailMessage:
    message = message_from_bytes(bytes(part), policy=default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def text_of(message: EmailMessage) -> str:
    """The text with LF; the modern policy itself would make a line end of U+2028."""
    octets = message.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets.decode().replace("\r\n", "\n")


def normalised(text: str) -> str:
    text = well_formed(text).replace("\r\n", "\n").replace("\r", "\n")
    return text if not text or text.endswith("\n") else text + "\n"


def assert_sendable(octets: bytes) -> None:
    assert octets.isascii() and b"\0" not in octets
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    assert all(len(line) < 998 for line in octets.split(b"\r\n"))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("", "7bit"),
        ("plain\n", "7bit"),
        ("x" * 997, "7bit"),
        ("x" * 998, "quoted-printable"),
        ("line\n" * 500, "7bit"),
        ("a\0b" + " plain" * 20, "quoted-printable"),
        ("für alle, die das hier lesen", "quoted-printable"),
        ("日本語" * 10, "base64"),
    ],
)
def test_shortest_encoding_that_smtp_carries_is_taken(text: str, encoding: str) -> None:
    part = text_part(text)
    assert_sendable(bytes(part))
    message = reparsed(part)
    assert message["Content-Transfer-Encoding"] == encoding
    assert (message.get_content_type(), message.get_content_charset()) == ("text/plain", "utf-8")
    assert text_of(message) == normalised(text)


@given(st.text(max_size=2000))
@example("a" * 5000)
@example(".\n..\nFrom x\n \t\n")
@example("=\n==20\n")
@example("\u2028\x85\x0b\x0c\x1c")
@example("\ud800\udfff \udfff")
@settings(max_examples=100)
def test_any_text_comes_back(text: str) -> None:
    part = text_part(text)
    assert_sendable(bytes(part))
    assert part.body.endswith(b"\r\n") or not text
    assert text_of(reparsed(part)) == normalised(text)


@given(st.text(max_size=300), st.text(max_size=60), st.binary(max_size=300))
@settings(max_examples=100)
def test_any_attachment_comes_back_under_a_harmless_name(name: str, content_type: str, content: bytes) -> None:
    part = attachment_part(name, content_type, content)
    assert_sendable(bytes(part))
    message = reparsed(part)
    assert message.get_payload(decode=True) == content
    assert message.get_content_disposition() == "attachment"
    assert message.get_filename() == filename(name)
    assert sorted(message.keys()) == ["Content-Disposition", "Content-Transfer-Encoding", "Content-Type"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\über.txt", "über.txt"),
        ("dir/", "dir"),
        ("..", "attachment"),
        ("/", "attachment"),
        ("", "attachment"),
        (" .profile ", "profile"),
        ('a"b.txt', "a_b.txt"),
        ("a\r\nContent-Type: x", "a Content-Type_ x"),
        ("photo\u202egpj.exe", "photo_gpj.exe"),
        ("x" * 10_000 + ".pdf", "x" * 236 + ".pdf"),
    ],
)
def test_filename_is_never_a_path(name: str, safe: str) -> None:
    assert filename(name) == safe


@given(st.text(max_size=600))
@settings(max_examples=100)
def test_filename_is_stable_and_bounded(name: str) -> None:
    safe = filename(name)
    assert 0 < len(safe.encode()) <= 240
    assert not set(safe) & set('/\\:"\r\n\0') and safe not in (".", "..")
    assert filename(safe) == safe


@pytest.mark.parametrize(
    ("given_type", "sent"),
    [
        ("application/pdf", "application/pdf"),
        ("Image/PNG; name=x", "image/png"),
        ("text/plain\r\nBcc: x", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("message/rfc822", "application/octet-stream"),
        ("multipart/mixed; boundary=x", "application/octet-stream"),
    ],
)
def test_content_type_of_an_attachment(given_type: str, sent: str) -> None:
    assert reparsed(attachment_part("a", given_type, b"x")).get_content_type() == sent


def test_boundary_that_occurs_in_a_part_is_not_taken() -> None:
    first = multipart("mixed", [text_part("a")], "<seed@x>")
    boundary = first.fields.split('"')[1]
    hostile = multipart("mixed", [text_part(f"a\n--{boundary}--\n"), text_part("b")], "<seed@x>")
    assert hostile.fields.split('"')[1] != boundary
    message = reparsed(hostile)
    assert [text_of(part) for part in message.iter_parts() if isinstance(part, EmailMessage)] == [
        f"a\n--{boundary}--\n",
        "b\n",
    ]
    assert multipart("mixed", [text_part("a")], "<seed@x>") == first


def test_large_parts_are_made_in_time() -> None:
    start = time.perf_counter()
    text_part("ü" * 1_000_000 + "\n" * 1_000_000)
    text_part("x\r" * 1_000_000)
    attachment_part("a", "application/pdf", bytes(5_000_000))
    filename("/" * 1_000_000)
    assert time.perf_counter() - start < 3
