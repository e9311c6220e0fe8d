"""The arguments of MAIL and RCPT: paths and parameters (RFC 5321 4.1.1, 4.1.2)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.mail.address import parse
from responder.mail.envelope import (
    EnvelopeError,
    LongPathError,
    PathError,
    Wish,
    from_xtext,
    parse_envid,
    parse_path,
    parse_wish,
)


@pytest.mark.parametrize(
    ("argument", "text", "parameters"),
    [
        ("FROM:<a@example.org>", "a@example.org", {}),
        ("from:<a@example.org>", "a@example.org", {}),
        ("FROM: <a@example.org>", "a@example.org", {}),
        ("FROM:a@example.org", "a@example.org", {}),
        ("FROM:<>", "", {}),
        ("FROM:<> BODY=8BITMIME", "", {"BODY": "8BITMIME"}),
        ("FROM:<a@example.org> SIZE=5 smtputf8", "a@example.org", {"SIZE": "5", "SMTPUTF8": None}),
        ("FROM:<a@example.org>  \t X-y=a+2b", "a@example.org", {"X-Y": "a+2b"}),
        ('FROM:<"a > b"@example.org> SIZE=1', '"a > b"@example.org', {"SIZE": "1"}),
        (r'FROM:<"a\" b"@example.org>', r'"a\" b"@example.org', {}),
        ("FROM:<@one.example,@two.example:a@example.org>", "a@example.org", {}),
        ("FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]", {}),
        ("FROM:<a@example.org> ", "a@example.org", {}),
    ],
)
def test_path_is_read(argument: str, text: str, parameters: dict[str, str | None]) -> None:
    path = parse_path("FROM", argument)
    assert (path.text, path.parameters) == (text, parameters)
    assert (path.address is None) is (text == "")


@pytest.mark.parametrize(
    "argument",
    [
        "", "FROM", "FROM:", "FROM: ", "TO:<a@example.org>", "FROM:<a@example.org", "FROM:a@example.org>", "FROM<a@example.org>",
        "FROM:<a@example.org>x", "FROM:<a@example.org>SIZE=1", "FROM:<<a@example.org>>", "FROM:<a@example.org> SIZE=",
        "FROM:<a@example.org> =1", "FROM:<a@example.org> A=1=2", "FROM:<a@example.org> A A", "FROM:<a@example.org> a=1 A=1",
        "FROM:<a@example.org> é=1", "FROM:<a@example.org> -A", 'FROM:<"a@example.org>', "FROM:<a@example.org> \x00",
        "FROM:<a@example.org> A=\x7f",
    ],
)  # fmt: skip
def test_what_breaks_the_grammar_is_no_path(argument: str) -> None:
    with pytest.raises(EnvelopeError) as error:
        parse_path("FROM", argument)
    assert not isinstance(error.value, PathError)


@pytest.mark.parametrize(
    "argument",
    [
        "FROM:<a>",
        "FROM:<a@>",
        "FROM:<@a>",
        "FROM:<a@b@c>",
        "FROM:<@a,b:c@d.example>",
        "FROM:<Postmaster>",
        "FROM:<a b@c.example>",
    ],
)
def test_what_has_no_address_in_it_is_told_apart(argument: str) -> None:
    with pytest.raises(PathError):
        parse_path("FROM", argument)


@pytest.mark.parametrize("text", ["<Postmaster>", "<POSTMASTER>", "postmaster"])
def test_postmaster_needs_no_domain_as_a_recipient(text: str) -> None:
    path = parse_path("TO", f"TO:{text}")
    assert path.address is not None
    assert (path.address.local, path.address.domain) == ("postmaster", "")


@given(st.text(max_size=80) | st.text(alphabet='FROM:<>@," \\=abü\r\n\x00', max_size=40))
def test_any_argument_is_a_path_or_an_error_that_does_not_repeat_it(argument: str) -> None:
    said = []
    for text in (argument, f"FROM:{argument}", f"FROM:<{argument}>"):
        try:
            path = parse_path("FROM", text)
        except EnvelopeError as error:
            said.append(str(error))
            continue
        if path.address is not None:
            assert parse(path.text) == path.address
    assert len(argument) < 12 or not any(argument in one for one in said)


LOCALS = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\.[a-z0-9]{1,10}){0,2}", fullmatch=True)
QUOTED = st.from_regex(r'"([ !#-\[\]-~]|\\[ -~]){0,20}"', fullmatch=True)
DOMAINS = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5}){1,2}", fullmatch=True)
PARAMETERS = st.dictionaries(
    st.from_regex(r"[A-Z0-9][A-Z0-9-]{0,10}", fullmatch=True),
    st.none() | st.from_regex(r"[!-<>-~]{1,20}", fullmatch=True),
    max_size=4,
)


@given(LOCALS | QUOTED, DOMAINS, PARAMETERS, st.sampled_from(["", "@one.example:", "@one.example,@two.example:"]))
def test_what_the_grammar_allows_is_read_back(
    local: str, domain: str, parameters: dict[str, str | None], route: str
) -> None:
    words = "".join(f" {name}" if value is None else f" {name}={value}" for name, value in parameters.items())
    path = parse_path("TO", f"TO:<{route}{local}@{domain}>{words}")
    assert path.address is not None
    assert (path.address.local, path.address.domain, path.parameters) == (local, domain, parameters)


def test_hostile_argument_costs_no_more_than_its_length() -> None:
    """A regular expression that goes back and forth would not end within the test's time."""
    for text in (
        'TO:<"' + "\\" * 200_000,
        "TO:<" + '"a' * 100_000,
        "TO:<" + "@a," * 100_000,
        "TO:<a@b> " + "A=" * 100_000,
    ):
        with pytest.raises(EnvelopeError):
            parse_path("TO", text)


@pytest.mark.parametrize(
    ("parameters", "wish"),
    [
        ({}, Wish()),
        ({"NOTIFY": "never"}, Wish("NEVER")),
        ({"NOTIFY": "Delay,SUCCESS"}, Wish("SUCCESS,DELAY")),
        ({"ORCPT": "rfc822;Bob+2BTag@example.net"}, Wish("", "rfc822;Bob+2BTag@example.net")),
        ({"ORCPT": r"utf-8;j\x{FC}r\x{2B}gen@example.net"}, Wish("", r"utf-8;j\x{FC}r\x{2B}gen@example.net")),
        ({"ORCPT": "UTF-8;jürgen@example.net", "NOTIFY": "FAILURE"}, Wish("FAILURE", r"UTF-8;j\x{FC}rgen@example.net")),
    ],
)
def test_wish_is_read(parameters: dict[str, str | None], wish: Wish) -> None:
    assert parse_wish(parameters, utf8=True) == wish


def test_parameter_that_is_none_of_rcpt_is_told_apart() -> None:
    assert parse_wish({"NOTIFY": "NEVER", "SIZE": "5"}, utf8=False) is None


@pytest.mark.parametrize("notify", ["", "NEVER,DELAY", "SUCCESS,SUCCESS", "SUCCESS,", "SUCCES", "ſUCCESS"])
def test_notify_that_is_malformed_is_an_error(notify: str) -> None:
    with pytest.raises(EnvelopeError):
        parse_wish({"NOTIFY": notify}, utf8=True)


@pytest.mark.parametrize(
    ("notify", "success", "failure"),
    [
        ("", False, True),
        ("NEVER", False, False),
        ("SUCCESS", True, False),
        ("DELAY", False, False),
        ("SUCCESS,FAILURE", True, True),
    ],
)
def test_wish_says_what_is_told(notify: str, success: bool, failure: bool) -> None:
    assert (Wish(notify).success, Wish(notify).failure) == (success, failure)


@given(st.text(max_size=60), st.booleans())
def test_any_orcpt_is_one_that_any_host_can_take_or_an_error(value: str, utf8: bool) -> None:
    for text in (value, f"rfc822;{value}", f"utf-8;{value}"):
        try:
            wish = parse_wish({"ORCPT": text}, utf8=utf8)
        except EnvelopeError:
            continue
        assert wish is not None
        assert re.fullmatch(r"[A-Za-z0-9-]+;[!-<>-~]+", wish.orcpt)
        assert len(wish.orcpt) <= 500
        assert from_xtext(wish.orcpt).isprintable()
        assert parse_wish({"ORCPT": wish.orcpt}, utf8=False) == wish


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30))
def test_xtext_is_read_back(text: str) -> None:
    coded = "".join([c if c not in "+= " else f"+{ord(c):02X}" for c in text])
    assert parse_envid(coded) == coded
    assert from_xtext(coded) == text


@pytest.mark.parametrize("octets", [255, 256, 257])
def test_path_has_at_most_256_octets_with_its_brackets(octets: int) -> None:
    argument = f"FROM:<{'ü' * 20}@" + "abcd." * 42 + "a" * (octets - 253) + ">"
    assert len(argument.encode()) == octets + 5
    if octets <= 256:
        assert parse_path("FROM", argument).address is not None
    else:
        with pytest.raises(LongPathError):
            parse_path("FROM", argument)
