"""The arguments of MAIL and RCPT: paths and parameters (RFC 5321 4.1.1, 4.1.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.mail.address import parse
from responder.mail.envelope import EnvelopeError, PathError, parse_path


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
