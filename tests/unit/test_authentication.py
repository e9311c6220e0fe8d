"""What sender authentication is made of, each for itself: bodies, fields, policies, forged results; and hostile ones of each."""

from __future__ import annotations

import hashlib
import re
import time
from itertools import chain

import authres  # type: ignore[import-untyped]
import pytest
from dkim.canonicalization import Relaxed, Simple  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.authentication import dmarc, forged
from responder.authentication.arc import Chain
from responder.authentication.dkim import Checked
from responder.authentication.dmarc import Record, RecordError, Verdict, choose, evaluate, gravest, parse
from responder.authentication.forged import strip_forged
from responder.authentication.keys import RefusedError
from responder.authentication.keys import parse as parse_key
from responder.authentication.results import field
from responder.authentication.section import MAX_SECTION, Field, Section, canonical, without_signature
from responder.authentication.spf import SPF
from responder.mail.automatic import Verdicts
from responder.mail.bodyhash import BodyHash
from responder.mail.suffix import organisational

HOST = "mx.example.net"

# ---- bodies


def dkimpy(content: bytes, relaxed: bool) -> bytes:
    return bytes((Relaxed if relaxed else Simple).canonicalize_body(content))


BODY = st.lists(st.sampled_from([b"a", b" ", b"\t", b"\r\n", b"\r\n", b"\r", b"\n", b"  ", b"bc"]), max_size=40).map(
    b"".join
)


@given(BODY, st.booleans(), st.integers(1, 7), st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=1500, deadline=None)
def test_body_when_hashed_in_pieces_then_it_is_as_dkimpy_has_it(
    content: bytes, relaxed: bool, piece: int, limits: list[int]
) -> None:
    found = BodyHash(relaxed, limits).run(b"head\r\n" + content, 6, piece)
    expected = dkimpy(content, relaxed)
    assert found.length == len(expected)
    assert found.digests[None] == hashlib.sha256(expected).digest()
    for limit in limits:
        if limit <= len(expected):
            assert found.digests[limit] == hashlib.sha256(expected[:limit]).digest()
        else:
            assert limit not in found.digests


@pytest.mark.parametrize(
    "content",
    [
        b"\r\n" * 6_000_000,
        b" " * 12_000_000,
        b" \t" * 6_000_000,
        b"a " * 6_000_000,
        b" \r\n" * 4_000_000,
        b"\r" * 12_000_000,
    ],
    ids=["line ends", "spaces", "both", "words", "blank lines", "bare CRs"],
)
@pytest.mark.parametrize("relaxed", [True, False])
def test_body_when_hostile_then_its_hash_takes_linear_time(content: bytes, relaxed: bool) -> None:
    began = time.process_time()
    BodyHash(relaxed).run(content, 0)
    assert time.process_time() - began < 3


# ---- fields


def test_section_when_equal_fields_then_they_are_taken_from_the_bottom() -> None:
    section = Section(b"A: 1\r\nB: 2\r\nA: 3\r\n 4\r\n\r\nbody")
    assert section.body == 24
    assert list(section.signed([b"a", b"c", b"a", b"a", b"b"], relaxed=True)) == [b"a:3 4\r\n", b"a:1\r\n", b"b:2\r\n"]
    assert list(section.signed([b"a"], relaxed=False)) == [b"A: 3\r\n 4\r\n"]


def test_section_when_a_line_is_no_field_then_nothing_behind_it_joins_the_one_before() -> None:
    section = Section(b"A: 1\r\ngarbage\r\n more\r\nB : 2\r\n\r\n")
    assert section.fields == [Field(b"A", b" 1\r\n"), Field(b"B ", b" 2\r\n")]
    assert section.all(b"b") and canonical(section.fields[1], True) == b"b:2\r\n"


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        (b"", False),
        (b"\r\nbody", False),
        (b"\nbody", False),
        (b"A: 1", False),
        (b"A: " + b"x" * MAX_SECTION + b"\r\n\r\n", True),
        (b"A: 1\r\n" * 9000 + b"\r\nbody", False),
        (b"A: 1\r\n" * 10001 + b"\r\nbody", True),
    ],
)
def test_section_when_too_long_then_it_says_so(content: bytes, cut: bool) -> None:
    section = Section(content)
    assert section.cut == cut
    assert cut or content[section.body :] in (b"", b"body")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" a=1; b=xyz; c=2\r\n", b" a=1; b=; c=2\r\n"),
        (b" a=1;\r\n b = x\r\n yz\r\n", b" a=1;\r\n b ="),
        (b" bh=1; b=", b" bh=1; b="),
        (b" bh=b=1", b" bh=b=1"),
    ],
)
def test_signature_when_left_out_then_only_the_value_of_b_is(value: bytes, expected: bytes) -> None:
    assert without_signature(Field(b"X", value)).value == expected


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_section_when_any_octets_then_it_never_fails(content: bytes) -> None:
    section = Section(content)
    assert 0 <= section.body <= len(content)
    list(section.signed([field.key for field in section.fields] * 2, relaxed=True))


@given(st.one_of(st.binary(max_size=200), st.text(alphabet="vkphst=;:DKIM1 rsaed25519AQ", max_size=80).map(str.encode)))
@settings(max_examples=500, deadline=None)
def test_key_when_any_octets_then_it_is_refused_in_good_order(record: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_key(record)


# ---- DMARC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v=DMARC1; p=none", Record("none", "none")),
        ("v=DMARC1;p=reject", Record("reject", "reject")),
        ("v=DMARC1; p=Quarantine; sp=none; adkim=s; aspf=S;", Record("quarantine", "none", True, True)),
        (" v = DMARC1 ; p = reject ; rua=mailto:a@example.org", Record("reject", "reject")),
        ("v=DMARC1; p=reject; sp=bogus; adkim=x", Record("reject", "reject")),
        ("v=DMARC1; p=bogus; rua=mailto:a@example.org", Record("none", "none")),
        ("v=DMARC1; rua=mailto:a@example.org", Record("none", "none")),
        ("v=DMARC1; p=reject; pct=50", Record("reject", "reject", testing=True)),
        ("v=DMARC1; p=reject; pct=0", Record("reject", "reject", testing=True)),
        ("v=DMARC1; p=reject; pct=100", Record("reject", "reject")),
        ("v=DMARC1; p=reject; pct=x", Record("reject", "reject")),
        ("v=DMARC1; p=reject; t=y", Record("reject", "reject", testing=True)),
        ("v=DMARC1; p=reject; garbage; =; a b=c", Record("reject", "reject")),
    ],
)
def test_record_when_read_then_unknown_parts_are_passed_over(text: str, expected: Record) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=DMARC2; p=none",
        "p=reject; v=DMARC1",
        "v=dmarc1; p=none",
        "v=DMARC1",
        "v=DMARC1; p=none; p=reject",
        "v=DMARC11; p=none",
    ],
)
def test_record_when_malformed_then_it_is_none(text: str) -> None:
    with pytest.raises(RecordError):
        parse(text)


def test_records_when_several_or_of_others_then_none_is_chosen() -> None:
    one, other = b"v=DMARC1; p=reject", b"v=DMARC1; p=none"
    assert choose([b"v=spf1 -all", one, b"\xff"]) == Record("reject", "reject")
    assert choose([one, other]) is None
    assert choose([]) is None
    assert choose([one + b"; x=" + b"y" * 5000]) is None


@pytest.mark.parametrize(
    ("record", "subdomain", "expected"),
    [
        (Record("reject", "none"), False, "reject"),
        (Record("reject", "none"), True, "none"),
        (Record("reject", "reject", testing=True), False, "quarantine"),
        (Record("quarantine", "none", testing=True), False, "none"),
        (Record("none", "none", testing=True), False, "none"),
    ],
)
def test_record_when_asked_then_testing_is_one_step_milder(record: Record, subdomain: bool, expected: str) -> None:
    assert record.asks(subdomain) == expected


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.org", "example.org"),
        ("a.b.example.org", "example.org"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("com", "com"),
        ("me.github.io", "me.github.io"),
        ("a.unknown-suffix", "a.unknown-suffix"),
        ("xn--bcher-kva.example.org", "example.org"),
    ],
)
def test_organisational_domain_when_asked_then_the_public_suffix_list_decides(domain: str, expected: str) -> None:
    assert organisational(domain) == expected


RELAXED, STRICT = Record("reject", "reject"), Record("reject", "reject", True, True)


@pytest.mark.parametrize(
    ("record", "spf", "dkim", "expected"),
    [
        (RELAXED, ("pass", "example.org"), [], "pass"),
        (RELAXED, ("pass", "bounce.example.org"), [], "pass"),
        (STRICT, ("pass", "bounce.example.org"), [], "fail"),
        (RELAXED, ("softfail", "example.org"), [], "fail"),
        (RELAXED, ("none", ""), [("pass", "a.example.org")], "pass"),
        (STRICT, ("none", ""), [("pass", "a.example.org")], "fail"),
        (RELAXED, ("none", ""), [("fail", "example.org"), ("pass", "example.org")], "pass"),
        (RELAXED, ("pass", "other.example"), [("pass", "example.com")], "fail"),
        (RELAXED, ("temperror", "example.org"), [], "temperror"),
        (RELAXED, ("temperror", "example.org"), [("pass", "example.org")], "pass"),
        (RELAXED, ("temperror", "other.example"), [("temperror", "other.example")], "fail"),
        (RELAXED, ("none", ""), [("policy", "example.org"), ("neutral", "example.org")], "fail"),
        (RELAXED, ("pass", "org"), [("pass", "org")], "fail"),
    ],
)
def test_alignment_when_spf_and_dkim_are_weighed_then_only_the_authors_domain_counts(
    record: Record, spf: tuple[str, str], dkim: list[tuple[str, str]], expected: str
) -> None:
    assert evaluate("example.org", record, False, spf, dkim).result == expected


def test_gravest_when_several_authors_then_a_failing_one_decides() -> None:
    passed, mild, hard = Verdict("pass", "a", "reject"), Verdict("fail", "b", "none"), Verdict("fail", "c", "reject")
    assert gravest([passed, mild, hard]) == hard
    assert gravest([passed, Verdict("temperror", "d")]).result == "temperror"


@given(
    st.one_of(st.text(max_size=200), st.text(alphabet="vpsDMARC1=;rejctnoqua ", max_size=60).map("v=DMARC1;".__add__))
)
@settings(max_examples=1000, deadline=None)
def test_record_when_any_text_then_it_is_read_or_refused(text: str) -> None:
    try:
        record = parse(text)
    except RecordError:
        return
    assert record.policy in dmarc.POLICIES and record.subdomains in dmarc.POLICIES


def test_record_when_hostile_then_it_takes_linear_time() -> None:
    began = time.process_time()
    for text in (
        "v=DMARC1; p=none;" + " " * 4000,
        "v=DMARC1; p=none" + ";" * 4000,
        "v=DMARC1; p=reject; " + "a=" + " =" * 1900,
    ):
        choose([text.encode()])
    assert time.process_time() - began < 0.5


# ---- forged results

OWN = b"Authentication-Results: mx.example.net; dkim=pass\r\n"
REST = b"From: a@example.org\r\n\r\nAuthentication-Results: mx.example.net; body=text\r\n"


@pytest.mark.parametrize(
    "forgery",
    [
        OWN,
        OWN.upper(),
        OWN + OWN,
        b"authentication-results:mx.example.net;dkim=pass\r\n",
        b"Authentication-Results : mx.example.net; dkim=pass\r\n",
        b"Authentication-Results:\r\n\tMX.example.NET;\r\n dkim=pass\r\n",
        b'Authentication-Results: "mx.example.net"; dkim=pass\r\n',
        b'Authentication-Results: "mx\\.example.net" 1; dkim=pass\r\n',
        b"Authentication-Results: (a (nested; one)) mx.example.net 1; dkim=pass\r\n",
        b"Authentication-Results: (x) (\\) ;) mx.example.net(y); dkim=pass\r\n",
        b"Authentication-Results: mx.example.net.; dkim=pass\r\n",
        b"Authentication-Results: mx.example.net\r\n",
        b"Authentication-Results: (open mx.example.net; dkim=pass\r\n",
        b'Authentication-Results: "open mx.example.net; dkim=pass\r\n',
        b"Authentication-Results: mx.example.net; dkim=pass\n",
        b"X: y\rAuthentication-Results: mx.example.net; dkim=pass\r\n",
        b"Authentication-Results: mx.example.net;\rFrom: ceo@bank.example\r\n",
        b"Authentication-Results: \x0cmx.example.net\x00; dkim=pass\r\n",
        b"Authentication-Results: =?utf-8?q?mx=2Eexample.net?=; dkim=pass\r\n",
    ],
)
def test_forged_results_when_of_this_host_then_they_are_removed(forgery: bytes) -> None:
    kept = b"X: y\r\n" if forgery.startswith(b"X") else b""
    assert strip_forged(forgery + REST, HOST) == kept + REST
    assert strip_forged(b"A: b\r\n" + forgery + REST, HOST) == b"A: b\r\n" + kept + REST


@pytest.mark.parametrize(
    "other",
    [
        b"Authentication-Results: mx.example.com; dkim=pass header.d=mx.example.net\r\n",
        b"Authentication-Results: amx.example.net; dkim=pass\r\n",
        b"Authentication-Results: (mx.example.net) mx.example.com; dkim=pass\r\n",
        b"ARC-Authentication-Results: i=1; mx.example.net; dkim=pass\r\n",
        b"X-Authentication-Results: mx.example.net; dkim=pass\r\n",
        b"Subject: Authentication-Results: mx.example.net\r\n",
        b"Subject: x\r\n Authentication-Results: mx.example.net\r\n",
        b"Authentication-Results: ; dkim=pass\r\n",
        b"",
    ],
)
def test_results_when_of_others_then_they_stay(other: bytes) -> None:
    assert strip_forged(other + REST, HOST) == other + REST


@pytest.mark.parametrize(
    "between", [b"", b" folded\r", b"Authentication-Results: y; z\r", b"\r\n Authentication-Results: y\r"]
)
def test_forged_results_when_behind_a_bare_cr_in_those_of_others_then_they_are_removed(between: bytes) -> None:
    other = b"Authentication-Results: x; y=z\r" + between
    for line in (OWN, b"Authentication-Results:\r mx.example.net; dkim=pass\r\n", OWN[:-2] + b"\r \tfolded\r\n"):
        assert strip_forged(other + line + REST, HOST) == other.rstrip(b"\r") + b"\r\n" + REST


HEAP = [OWN, OWN.lower(), b"A: b\r\n", b" folded\r\n", b"Authentication-Results: x; y=z\r\n", b"(", b'"', b"\r", b"\n"]


@given(st.lists(st.sampled_from(HEAP), max_size=12))
@settings(max_examples=500, deadline=None)
def test_forged_results_when_in_any_heap_then_none_is_left_for_any_reader(pieces: list[bytes]) -> None:
    import email

    found = strip_forged(b"".join(chain(pieces, [b"\r\n\r\nbody"])), HOST)
    for value in email.message_from_bytes(found).get_all("Authentication-Results", []):
        assert not re.match(r"\s*mx\.example\.net\s*;", str(value), re.IGNORECASE)


@pytest.mark.parametrize(
    "hostile",
    [
        OWN * 20_000,
        b"Authentication-Results: " + b"(" * 900_000,
        b"Authentication-Results: " + b'"\\' * 400_000,
        b"authentication-results" * 40_000,
        b"Authentication-Results: (" * 30_000,
        b"Authentication-Results: (\r" * 30_000,
        b'Authentication-Results: "\r' * 30_000,
    ],
    ids=["own", "brackets", "quotes", "names", "fields", "fields behind bare CRs", "quotes behind bare CRs"],
)
def test_forged_results_when_very_many_then_removing_takes_linear_time(hostile: bytes) -> None:
    began = time.process_time()
    strip_forged(hostile + b"\r\n" + REST, HOST)
    assert time.process_time() - began < 2


def test_forged_results_when_none_then_the_very_message_comes_back() -> None:
    content = b"From: a@example.org\r\n\r\n" + b"x" * 1000
    assert strip_forged(content, HOST) is content
    assert forged.NAME == b"authentication-results"


# ---- our own results

TEXT = st.text(max_size=60)


@given(TEXT, TEXT, TEXT, TEXT, TEXT.filter(bool))
@settings(max_examples=500, deadline=None)
def test_field_when_clients_say_anything_then_it_stays_one_field_with_our_words(
    domain: str, selector: str, start: str, path: str, user: str
) -> None:
    made = field(
        HOST,
        SPF("fail", "mailfrom", domain),
        [Checked("fail", "bad signature", domain, selector, "rsa-sha256", start)],
        Chain("pass", "", (domain,), (b"",)),
        Verdict("fail", domain, "reject"),
        reverse_path=path,
        user=user,
    )
    lines = made.decode("ascii").split("\r\n")
    assert lines.pop() == ""
    assert lines[0] == f"Authentication-Results: {HOST};"
    assert [line[:9] for line in lines[1:]] == ["\tauth=pas", "\tspf=fail", "\tdkim=fai", "\tarc=pass", "\tdmarc=fa"]
    read = authres.AuthenticationResultsHeader.parse(" ".join(line.strip() for line in lines))
    assert [(one.method, one.result) for one in read.results] == [
        ("auth", "pass"),
        ("spf", "fail"),
        ("dkim", "fail"),
        ("arc", "pass"),
        ("dmarc", "fail"),
    ]


@pytest.mark.parametrize(
    "hostile", ['a" (x)', "a\r\nX: y", "a;dmarc=pass", "a\\", "(", "a b", "é", "a@b@c", "a\x00", "x" * 300]
)
def test_field_when_a_value_is_odd_then_it_is_left_out(hostile: str) -> None:
    made = field(HOST, SPF("none", "mailfrom", hostile), [], None, None, reverse_path=hostile, user=hostile)
    assert made == f"Authentication-Results: {HOST};\r\n\tauth=pass;\r\n\tspf=none;\r\n\tdkim=none\r\n".encode()


# ---- verdicts


@pytest.mark.parametrize(
    "verdicts",
    [
        Verdicts(),
        Verdicts(spf="pass"),
        Verdicts("pass", "fail", "pass", "none", "fail", True, "a.example", ("b.example", "c.example")),
    ],
)
def test_verdicts_when_kept_then_they_come_back(verdicts: Verdicts) -> None:
    assert Verdicts.from_json(verdicts.to_json()) == verdicts
    assert Verdicts().to_json() == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"new": 1}', '{"dkim_domains": 5}'])
def test_verdicts_when_not_understood_then_there_are_none(text: str) -> None:
    assert Verdicts.from_json(text) == Verdicts()
