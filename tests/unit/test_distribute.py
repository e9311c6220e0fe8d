"""A mail as a mailing list sends it on: which fields it has, what each member gets besides, and that no text of it makes more."""

from __future__ import annotations

import re
import time
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.mail.address import Address, parse
from responder.mail.automatic import Policy, Stops, judge
from responder.mail.distribute import MAX_URL, REPLACED, compose_distribution, list_id, member_head
from responder.mail.headers import Headers

LIST = parse("garden@example.org")
SENDER = parse("bounce@example.net")
MESSAGE_ID = "<auto.0123456789abcdefgh.0@mx.example.org>"
URL = "https://lists.example.org/leave?m=0123456789"

MAIL = (
    b"Return-Path: <bounce@example.net>\r\n"
    b"Received: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"DKIM-Signature: v=1; d=example.net;\r\n b=abc\r\n"
    b"Authentication-Results: c; dkim=pass\r\n"
    b"X-Responder-Loop: other@example.com\r\n"
    b"X-Loop: elsewhere\r\n"
    b"List-Id: <old.example.net>\r\n"
    b"List-Unsubscribe: <https://example.net/>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"List-Whatever: x\r\n"
    b"Precedence: bulk\r\n"
    b"Approved: s3cret\r\n"
    b"Errors-To: x@example.net\r\n"
    b"Return-Receipt-To: x@example.net\r\n"
    b"Disposition-Notification-To: x@example.net\r\n"
    b"From: =?iso-8859-1?q?J=FCrgen?= <j@example.net>\r\n"
    b"Sender: office@example.net\r\n"
    b"To: garden@example.org\r\n"
    b"Cc: Bob <bob@example.com>\r\n"
    b"Bcc: secret@example.com\r\n"
    b"Subject: =?iso-8859-1?q?Ros=E9?=\r\n at noon\r\n"
    b"Message-ID: <1@example.net>\r\n"
    b"In-Reply-To: <0@example.com>\r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"Content-Type: multipart/mixed; boundary=x\r\n"
    b"\r\n"
    b"--x\r\nContent-Type: text/html\r\n\r\n<p>\xff\0  \r\n.\r\n--x--\r\n no end"
)


def distribute(
    raw: bytes,
    *,
    inbox: Address = LIST,
    name: str = "Garden club",
    sender: Address | None = SENDER,
    prefix: str | None = None,
    discussion: bool = True,
) -> bytes:
    return compose_distribution(
        raw,
        inbox=inbox,
        name=name,
        author_sender=sender,
        message_id=MESSAGE_ID,
        date=1700000000.0,
        subject_prefix=prefix,
        discussion=discussion,
    )


def read(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, policy=default)


def test_post_of_a_discussion_has_exactly_these_fields() -> None:
    assert distribute(MAIL) == (
        b"X-Responder-Loop: garden@example.org\r\n"
        b"List-Id: Garden club <garden.example.org>\r\n"
        b"List-Post: <mailto:garden@example.org>\r\n"
        b"List-Help: <mailto:garden+help@example.org>\r\n"
        b"List-Subscribe: <mailto:garden+subscribe@example.org>\r\n"
        b"List-Owner: <mailto:garden+owner@example.org>\r\n"
        b"Precedence: list\r\n"
        b"Received: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"X-Responder-Loop: other@example.com\r\n"
        b"X-Loop: elsewhere\r\n"
        b"From: =?utf-8?q?J=C3=BCrgen_via_Garden_club?= <garden@example.org>\r\n"
        b"To: garden@example.org\r\n"
        b"Cc: Bob <bob@example.com>,\r\n =?utf-8?b?SsO8cmdlbg==?= <j@example.net>\r\n"
        b"Subject: [garden] =?iso-8859-1?q?Ros=E9?=\r\n at noon\r\n"
        b"Message-ID: <1@example.net>\r\n"
        b"In-Reply-To: <0@example.com>\r\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"Content-Type: multipart/mixed; boundary=x\r\n"
        b"Reply-To: garden@example.org\r\n"
        b"\r\n"
        b"--x\r\nContent-Type: text/html\r\n\r\n<p>\xff\0  \r\n.\r\n--x--\r\n no end"
    )


def test_announcement_leads_to_its_author_and_takes_no_posts() -> None:
    message = read(distribute(MAIL, discussion=False))
    assert message["List-Post"] == "NO (only its owners may post)"
    assert message["Reply-To"] == "j@example.net"
    assert message["Cc"] == "Bob <bob@example.com>"
    own = read(distribute(b"From: a@x.org\r\nReply-To: Desk <desk@x.org>\r\n\r\n", discussion=False))
    assert own["Reply-To"] == "Desk <desk@x.org>"
    nobody = read(distribute(b"From: nobody\r\n\r\n", discussion=False, sender=None))
    assert nobody["Reply-To"] is None


@pytest.mark.parametrize(
    ("fields", "copied"),
    [
        (b"From: Ann <ann@x.org>\r\n", "Ann <ann@x.org>"),
        (b"From: ann@x.org\r\nReply-To: Desk <desk@x.org>\r\n", "Desk <desk@x.org>"),
        (b"From: ann@x.org\r\nReply-To: garden@example.org\r\n", None),
        (b"From: ann@x.org\r\nTo: ANN@X.org, garden@example.org\r\n", None),
        (b"From: ann@x.org\r\nCc: b@x.org,\r\n Ann <ann@x.org>\r\n", "b@x.org, Ann <ann@x.org>"),
        (b"From: ann@x.org\r\nCc: b@x.org,\r\nCc: c@x.org\r\n", "b@x.org, c@x.org, ann@x.org"),
        (b"From: ann@x.org\r\nCc:\r\n", "ann@x.org"),
        (b"From: Garden <garden@example.org>\r\n", None),
        (b"From: nobody\r\n", None),
    ],
)
def test_author_can_be_reached_by_a_reply_to_all(fields: bytes, copied: str | None) -> None:
    message = read(distribute(fields + b"\r\n"))
    assert message["Reply-To"] == "garden@example.org"
    assert message["Cc"] == copied


@pytest.mark.parametrize(
    ("prefix", "subject", "sent"),
    [
        (None, b"Hello", "[garden] Hello"),
        (None, b"Re: [Garden] Hello", "Re: [Garden] Hello"),
        ("", b"Hello", "Hello"),
        ("Beet & Blüte:", b"Hello", "Beet & Blüte: Hello"),
        ("a\r\nBcc: x@y.org", b"Hello", "a Bcc: x@y.org Hello"),
    ],
)
def test_subject_is_prefixed_once(prefix: str | None, subject: bytes, sent: str) -> None:
    once = distribute(b"Subject: " + subject + b"\r\n\r\n", prefix=prefix)
    assert read(once)["Subject"] == sent
    assert read(distribute(once, prefix=prefix))["Subject"] == sent


@pytest.mark.parametrize(
    ("inbox", "name", "field"),
    [
        ("garden@example.org", "", "<garden.example.org>"),
        ("Garden+x@example.org", "", "<garden.example.org>"),
        ("garden@example.org", "Beet, Blüte & Co", "=?utf-8?b?QmVldCwgQmzDvHRlICYgQ28=?= <garden.example.org>"),
        ("garden@example.org", 'a "b" <c>\r\nX: y', '"a \\"b\\" <c> X: y" <garden.example.org>'),
        ("größe@example.org", "", "<gr%C3%B6sse.example.org>"),
        ('"a b"@example.org', "", "<a%20b.example.org>"),
        ('"a..b"@example.org', "", "<a%2E%2Eb.example.org>"),
    ],
)
def test_list_has_one_identifier(inbox: str, name: str, field: str) -> None:
    out = distribute(b"\r\n", inbox=parse(inbox), name=name)
    assert Headers.parse(out).all("List-Id") == [field]
    assert list_id(parse(inbox)) == field.rpartition("<")[2].rstrip(">")


def test_addresses_of_the_list_are_urls_whatever_its_name_is() -> None:
    headers = Headers.parse(distribute(b"\r\n", inbox=parse('"a?b&c d"@example.org')))
    assert headers.get("List-Post") == "<mailto:%22a%3Fb%26c%20d%22@example.org>"
    assert headers.get("List-Help") == "<mailto:%22a%3Fb%26c%20d+help%22@example.org>"


def test_copy_that_comes_back_is_known() -> None:
    policy = Policy("mx.example.org", lambda _: False)
    copy = Headers.parse(distribute(MAIL, inbox=parse("garden+x@example.org")))
    again = judge(reverse_path="a@x.org", recipient=LIST, headers=copy, personal=False, policy=policy)
    assert again is not None
    assert (again.code, again.stops) == ("loop-marker", Stops.ALL)
    elsewhere = judge(reverse_path="a@x.org", recipient=parse("b@x.net"), headers=copy, personal=False, policy=policy)
    assert elsewhere is not None


# -- the fields of one member ------------------------------------------------------------------------------------------


def test_member_leaves_by_one_click_or_by_mail() -> None:
    assert member_head(LIST, "t0ken", URL) == (
        f"List-Unsubscribe: <{URL}>,\r\n <mailto:garden+unsubscribe-t0ken@example.org>\r\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    )
    assert member_head(LIST) == "List-Unsubscribe: <mailto:garden+unsubscribe@example.org>\r\n"
    assert member_head(parse("garden+x@example.org")) == member_head(LIST)


@pytest.mark.parametrize(
    "url",
    [
        "http://lists.example.org/x",
        "HTTPS://",
        "https:///x",
        "https://user@example.org/x",
        "https://user:word@example.org/x",
        "https://example.org/a b",
        "https://example.org/a\r\nBcc: x@y.org",
        "https://example.org/a\n",
        "https://example.org/>,<mailto:x@y.org",
        "https://example.org/\u00e9",
        "https://example.org:99999/",
        "https://[::1/x",
        "mailto:a@b.org",
        "javascript:alert(1)",
        "https://example.org/" + "x" * MAX_URL,
    ],
)
def test_bad_one_click_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        member_head(LIST, "", url)


@pytest.mark.parametrize("token", ["a b", "a\r\nb", "a@b", "é", "a>", "x" * 60, "%41"])
def test_bad_token_is_refused(token: str) -> None:
    with pytest.raises(ValueError):
        member_head(LIST, token)


@given(
    st.text(max_size=30), st.text(max_size=60).map(lambda text: f"https://example.org/{text}") | st.text(max_size=60)
)
@example("", "https://example.org/\r\n\r\nbody")
@settings(max_examples=300)
def test_head_is_two_fields_or_an_error(token: str, url: str) -> None:
    try:
        head = member_head(LIST, token, url)
    except ValueError:
        return
    message = read(head.encode("ascii") + b"Subject: x\r\n\r\nbody")
    assert set(message.keys()) <= {"List-Unsubscribe", "List-Unsubscribe-Post", "Subject"}
    assert message["Subject"] == "x"
    assert message.get_content() == "body"
    urls = re.findall(r"<([^<>]*)>", message["List-Unsubscribe"])
    assert urls[-1].startswith("mailto:garden+unsubscribe")
    assert len(urls) == (2 if url else 1)
    assert (message["List-Unsubscribe-Post"] is not None) == bool(url)
    assert max(map(len, head.split("\r\n"))) < 998


# -- whatever comes in -------------------------------------------------------------------------------------------------

OURS = ("X-Responder-Loop", "List-Id", "List-Post", "List-Help", "List-Subscribe", "List-Owner", "Precedence")
LINES = st.lists(
    st.sampled_from(
        [
            b"From: a@x.org",
            b"From: =?utf-8?q?a=0D=0ABcc:_x=40y?= <a@x.org>",
            b"Subject: =?utf-8?q?x",
            b"Reply-To: <",
            b"Cc: (open",
            b'Cc: "open',
            b"Cc: a@x.org,",
            b"cc : b@x.org",
            b"List-Id: <x>",
            b"LIST-POST : x",
            b"Precedence: bulk",
            b" folded",
            b"\t",
            b"junk",
            b"",
        ]
    )
    | st.binary(max_size=12),
    max_size=10,
)


@given(
    LINES,
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\r\n"]),
    st.binary(max_size=40),
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
    st.booleans(),
)
@example([b"Cc: x", b"\r"], b"\n", b"", "\r\nX: y", "\0", True)
@settings(max_examples=300)
def test_whatever_comes_in_is_one_mail_of_the_list(
    lines: list[bytes], end: bytes, body: bytes, name: str, prefix: str | None, discussion: bool
) -> None:
    raw = end.join(lines) + end + end + body
    out = distribute(raw, name=name, prefix=prefix, discussion=discussion)
    assert out.count(b"\r") == out.count(b"\n") == out.count(b"\r\n")
    section = out.partition(b"\r\n\r\n")[0]
    assert b"\0" not in section
    for line in section.split(b"\r\n"):
        assert line[:1] in (b" ", b"\t") or b":" in line
    headers = Headers.parse(out)
    assert [name for name in headers if name.startswith("list-")] == [one.lower() for one in OURS[1:6]]
    for field in OURS[1:]:
        assert len(headers.all(field)) == 1, field
    assert headers.get("X-Responder-Loop") == "garden@example.org"
    for field in ("From", "Date", "Message-ID"):
        assert len(headers.all(field)) == 1, field
    assert headers.get("From").endswith("<garden@example.org>")
    if discussion:
        assert headers.all("Reply-To") == ["garden@example.org"]
    assert not (REPLACED - {"precedence"}) & set(headers)
    # No name is there that was neither ours nor a name of the mail's.
    known = {line.partition(b":")[0].strip().lower().decode("latin-1") for line in re.split(rb"[\r\n]+", raw)}
    assert set(headers) <= known | {one.lower() for one in OURS} | {
        *("from", "reply-to", "cc", "subject", "date", "message-id")
    }


@pytest.mark.parametrize("unit", [b"\r", b"\n", b"a", b"a:\n", b"Cc: a@b\n", b"\r\n", b" ", b"To: a@b\r\n", b":"])
def test_large_mails_pass_in_time(unit: bytes) -> None:
    raw = unit * (4_000_000 // len(unit))
    start = time.perf_counter()
    distribute(raw)
    distribute(b"Subject: x\r\n" + raw)
    distribute(b"To: x\r\n\r\n" + raw)
    assert time.perf_counter() - start < 5
