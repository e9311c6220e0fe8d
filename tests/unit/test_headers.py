"""Header fields without a parse: names, folding, words of RFC 2047, and nothing that gets out of its line."""

from __future__ import annotations

from email.header import Header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.mail.headers import MAX_SECTION, MAX_VALUE, Headers, clean, decode_text, split_section

MAIL = (
    b"Received: one\r\n\tby two\r\nSubject: first\r\nRECEIVED: two\r\nX-Empty:\r\nX-Spaces :   a  \r\nnonsense\r\n"
    b"To: a@example.org,\r\n b@example.org\r\n\r\nSubject: body\r\n"
)


def test_fields_are_found_without_case_in_their_order() -> None:
    headers = Headers.parse(MAIL)
    assert headers.get("subject") == "first"
    assert headers.all("Received") == ["one\tby two", "two"]
    assert headers.get("TO") == "a@example.org, b@example.org"
    assert headers.get("x-empty", "default") == ""
    assert headers.get("X-Spaces") == "a"
    assert headers.get("x-none", "default") == "default"
    assert list(headers) == ["received", "subject", "x-empty", "x-spaces", "to"]
    assert len(headers) == 6
    assert "Subject" in headers
    assert "nonsense" not in headers
    assert 5 not in headers


@pytest.mark.parametrize(
    ("content", "section"),
    [
        (b"A: b\r\n\r\nbody", b"A: b"),
        (b"A: b\n\nbody", b"A: b"),
        (b"\r\nbody: no\r\n\r\n", b""),
        (b"\nbody: no", b""),
        (b"", b""),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"A: b\r\n \r\nC: d\r\n\r\n", b"A: b\r\n \r\nC: d"),
    ],
)
def test_section_ends_at_the_first_empty_line(content: bytes, section: bytes) -> None:
    assert split_section(content) == section


def test_section_without_end_is_cut() -> None:
    assert len(split_section(b"A: b\r\n" * MAX_SECTION)) == MAX_SECTION


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?gr=C3=BC=C3=9Fe?=", "grüße"),
        ("=?utf-8?b?Z3LDvMOfZQ==?= =?utf-8?b?IQ==?=", "grüße!"),
        ("=?iso-8859-1?q?caf=E9?= and more", "café and more"),
        ("=?no-such-charset?q?a?=", "a"),
        ("=?utf-8?q?broken=ZZ?=", "broken=ZZ"),
        ("=?utf-8?b?!!!?=", ""),
        ("=?idna?q?a?=", "a"),
        ("=?utf-8?q?=FF?=", "\ufffd"),
        ("=?utf-8?q?a=0D=0ABcc:_x@example.org?=", "a Bcc: x@example.org"),
        ("=?utf-8?q?a=00b=1B[2J?=", "a b [2J"),
        ("=?utf-8?q?a=E2=80=A8b?=", "a b"),
    ],
)
def test_words_are_decoded_and_cleaned(value: str, text: str) -> None:
    assert decode_text(value) in (text, value)
    if "=?utf-8?b?!!!?=" not in value:
        assert decode_text(value) == text


@given(st.text(max_size=100))
def test_word_of_any_text_comes_back_as_one_line(text: str) -> None:
    encoded = Header(text.encode("utf-8", "replace").decode(), "utf-8", maxlinelen=10_000).encode(linesep="")
    found = decode_text(encoded)
    assert not set(found) & set("\r\n\x00\x85\u2028\u2029")
    if text.isprintable() and text == text.strip():
        assert found == text


@given(st.text(max_size=200) | st.text(alphabet="=?utf-8qbB_Zz0/+\r\n\x00 ", max_size=200))
def test_any_value_becomes_one_line_and_never_fails(value: str) -> None:
    for text in (decode_text(value), clean(value)):
        assert not set(text) & set("\r\n\x00\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
        text.encode()  # no lone surrogate


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"A", b":", b" ", b"\r\n", b"\n", b"\t", b"\xff"])).map(b"".join)
)
def test_any_bytes_are_headers_and_never_fail(content: bytes) -> None:
    headers = Headers.parse(content)
    for name in headers:
        assert name == name.lower()
        assert "\n" not in headers.get(name)
        assert headers.text(name) == decode_text(headers.get(name))


def test_section_of_many_lines_is_cut_at_a_field_that_is_whole() -> None:
    some = "".join(f"X-{number}: y\r\n" for number in range(9_999))
    headers = Headers.parse(f"{some}From: a@b\r\n\r\nbody\r\n".encode())
    assert (headers.cut, headers.get("from"), len(headers)) == (False, "a@b", 10_000)
    headers = Headers.parse(f"{some}To: c@d\r\nFrom: a@b\r\nX: y\r\n\r\nbody\r\n".encode())
    assert (headers.cut, headers.get("from"), headers.get("to"), len(headers)) == (True, "", "c@d", 10_000)


def test_long_value_is_cut_before_it_is_decoded() -> None:
    assert len(decode_text("=?utf-8?q?a?= " * 10_000)) <= MAX_VALUE
    assert len(decode_text("x" * 10 * MAX_VALUE)) == MAX_VALUE
