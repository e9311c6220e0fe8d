"""Mailbox addresses: what is one (RFC 5321 4.1.2, RFC 6531), what two spellings of one share, and tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.mail.address import (
    Address,
    AddressError,
    domain_to_ascii,
    from_header,
    parse,
    split_tag,
    unquote,
)


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("a@example.org", "a", "example.org"),
        ("A.b@Example.ORG", "A.b", "example.org"),
        ("!#$%&'*+/=?^_`{|}~-@x.example", "!#$%&'*+/=?^_`{|}~-", "x.example"),
        ('"a b"@example.org', '"a b"', "example.org"),
        ('"a@b"@example.org', '"a@b"', "example.org"),
        (r'"\"\\"@example.org', r'"\"\\"', "example.org"),
        ('""@example.org', '""', "example.org"),
        ("a@localhost", "a", "localhost"),
        ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]"),
        ("jürgen@bücher.example", "jürgen", "xn--bcher-kva.example"),
        ("用户@例子.example", "用户", "xn--fsqu00a.example"),
        ("a@BÜCHER.example", "a", "xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "a", "xn--bcher-kva.example"),
        ("a@_tcp.example", "a", "_tcp.example"),
        ("a" * 64 + "@example.org", "a" * 64, "example.org"),
        ("a@" + "b" * 63 + ".example", "a", "b" * 63 + ".example"),
    ],
)
def test_address_is_read(text: str, local: str, domain: str) -> None:
    address = parse(text)
    assert (address.local, address.domain) == (local, domain)
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "@", "a@", "@example.org", "a@b@example.org", "a b@example.org", ".a@example.org", "a.@example.org",
        "a..b@example.org", '"a@example.org', 'a"b"@example.org', '"a"b@example.org', '"a\n"@example.org', '"\\\n"@example.org',
        "a@example..org", "a@.example.org", "a@example.org.", "a@-example.org", "a@example-.org", "a@exa mple.org",
        "a@exa_mple!.org", "a@[300]", "a@[192.0.2]", "a@[IPv6:zz]", "a@[::1]", "a\x00@example.org", "a@exam\x00ple.org",
        "a\r\n@example.org", "a@example.org\r\n", "a@example.org\n", "<a@example.org>", "a@\u2028.example", "a(b)@example.org",
        "a" * 65 + "@example.org", "ü" * 33 + "@example.org", "a@" + "b" * 64 + ".example", "a@" + "b." * 127 + "example",
        "a@xn--\u00fc.example", "a@\u0378.example",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(AddressError) as error:
        parse(text)
    assert len(text) < 4 or text not in str(error.value)
    assert str(error.value).isprintable()


def test_whole_address_has_254_octets_at_the_most() -> None:
    domain = ".".join(["b" * 61] * 3)
    assert len(domain) == 185
    parse(f"{'a' * 64}@{domain}.cc")
    with pytest.raises(AddressError, match="too long"):
        parse(f"{'a' * 64}@{domain}.{'c' * 5}")


@given(st.text(max_size=60) | st.text(alphabet='ab@."\\<>[]: \r\nü\x00', max_size=30))
def test_any_text_is_an_address_that_reads_back_or_an_error(text: str) -> None:
    try:
        address = parse(text)
    except AddressError:
        return
    assert parse(str(address)) == address
    assert address.domain == address.domain.lower() or address.domain.startswith("[")
    assert address.domain.isascii()
    assert not set("\r\n\x00<>") & set(str(address)) or address.local.startswith('"')
    assert "\r" not in str(address)
    assert "\n" not in str(address)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a@example.org", "A@EXAMPLE.org"),
        ('"a"@example.org', "a@example.org"),
        (r'"\a"@example.org', '"a"@example.org'),
        ("straße@example.org", "STRASSE@example.org"),
        ("a@bücher.example", "a@XN--BCHER-KVA.example"),
    ],
)
def test_two_spellings_of_a_mailbox_share_their_key(one: str, other: str) -> None:
    assert parse(one).key == parse(other).key


@pytest.mark.parametrize(("one", "other"), [("a@b.example", "a@c.example"), ("a+x@b.example", "a@b.example")])
def test_two_mailboxes_do_not(one: str, other: str) -> None:
    assert parse(one).key != parse(other).key


@pytest.mark.parametrize(
    ("local", "name", "tag"),
    [
        ("sales", "sales", ""),
        ("sales+summer", "sales", "summer"),
        ("sales+a+b", "sales", "a+b"),
        ("+sales", "+sales", ""),
        ("sales+", "sales", ""),
        ("", "", ""),
    ],
)
def test_tag_is_what_stands_behind_the_first_plus(local: str, name: str, tag: str) -> None:
    assert split_tag(local) == (name, tag)


@pytest.mark.parametrize(
    ("local", "plain"), [('"a b"', "a b"), (r'"a\"b"', 'a"b'), ("a", "a"), ('"', '"'), ('""', ""), (r'"\\"', "\\")]
)
def test_quotes_are_taken_away(local: str, plain: str) -> None:
    assert unquote(local) == plain


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a@example.org", [("", "a@example.org")]),
        ("Anna <a@example.org>, b@example.org", [("Anna", "a@example.org"), ("", "b@example.org")]),
        ('"Anna, B." <a@example.org>', [("Anna, B.", "a@example.org")]),
        ("undisclosed-recipients:;", []),
        ("no address here", []),
        ("", []),
    ],
)
def test_addresses_of_a_header_are_found(value: str, found: list[tuple[str, str]]) -> None:
    assert [(name, str(address)) for name, address in from_header(value)] == found


def test_malformed_mailbox_beside_a_good_one_is_never_found() -> None:
    # Python 3.13 gives the whole field up (CVE-2023-27043), older ones the bad part of it.
    assert [str(address) for _, address in from_header("bad <a@@b>, good <a@example.org>")] in ([], ["a@example.org"])


@given(st.text(max_size=200) | st.text(alphabet='ab@,;:<>()"\\ \r\n', max_size=200))
def test_header_that_is_nonsense_never_fails(value: str) -> None:
    for _, address in from_header(value):
        assert parse(str(address)) == address


def test_header_that_nests_without_end_is_nobodys() -> None:
    assert from_header("(" * 50_000 + "a@example.org") == []
    assert len(from_header(", ".join(["a@example.org"] * 100_000))) < 5000


def test_address_without_domain_prints_as_its_local_part() -> None:
    assert str(Address("postmaster", "")) == "postmaster"


def test_domain_is_the_same_in_every_form() -> None:
    forms = ("BÜCHER.Example", "bücher.example", "xn--bcher-kva.example", "bu\u0308cher.example", "bücher。example")
    assert {domain_to_ascii(form) for form in forms} == {"xn--bcher-kva.example"}
