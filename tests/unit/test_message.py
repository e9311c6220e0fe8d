"""Reading a mail for agents: what is text, what is a file, and that nothing a sender writes costs much or raises."""

from __future__ import annotations

import importlib.util
import os
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.decoding import MAX_SLOW, decode_body, decode_charset
from responder.mail.html import MAX_HTML, to_text
from responder.mail.message import (
    MAX_NAME,
    MAX_PART_HEADER,
    MAX_PARTS,
    UNNAMED,
    Message,
    clean_name,
)


def read_all(message: Message) -> None:
    """Ask for everything there is, and hold the promises that each property makes."""
    assert message.subject.isprintable()
    assert "\r" not in message.text + message.html
    assert (message.text + message.html).encode() is not None  # no lone surrogates
    assert message.message_id == "" or (message.message_id[0] + message.message_id[-1] == "<>")
    assert message.message_id.isprintable()
    assert message.date is None or message.date.tzinfo is not None
    for attachment in message.attachments:
        assert attachment.size == len(attachment.data)
        is_safe(attachment.name)


def is_safe(name: str) -> None:
    assert name
    assert name == os.path.basename(name)
    assert not name.startswith(".")
    assert ".." not in name and "\\" not in name and ":" not in name
    assert name.isprintable()
    assert len(name.encode()) <= MAX_NAME


def part(header: bytes, body: bytes) -> bytes:
    return b"--b\r\n" + (header + b"\r\n" if header else b"") + b"\r\n" + body + b"\r\n"


def multipart(*parts: bytes, subtype: bytes = b"mixed") -> Message:
    return Message(
        b"Content-Type: multipart/" + subtype + b'; boundary="b"\r\n\r\npreamble\r\n' + b"".join(parts) + b"--b--\r\n"
    )


def test_plain_mail_is_its_body() -> None:
    message = Message(b"Subject: =?utf-8?q?h=C3=A9?=\r\n\r\none\r\ntwo\rthree\r\n")
    assert message.text == "one\ntwo\nthree\n"
    assert message.subject == "hé"
    assert message.html == ""
    assert message.attachments == []


@pytest.mark.parametrize("raw", [b"", b"\n", b"\r\n\r\n", b"no header", b"A:", b"\x00\xff", b"A: b\n\nc"])
def test_fragment_of_a_mail_is_read_as_far_as_it_goes(raw: bytes) -> None:
    read_all(Message(raw))


def test_alternative_gives_both_texts_and_no_attachment() -> None:
    message = multipart(
        part(b"Content-Type: text/plain", b"plain"),
        part(b"Content-Type: text/html", b"<p>html"),
        subtype=b"alternative",
    )
    assert (message.text, message.html, message.attachments) == ("plain", "<p>html", [])


def test_html_is_turned_into_text_where_the_plain_part_is_missing_or_blank() -> None:
    html = part(b"Content-Type: text/html", b"<p>one<p>two")
    assert multipart(html).text == "one\n\ntwo"
    assert multipart(part(b"Content-Type: text/plain", b" \r\n"), html).text == "one\n\ntwo"


def test_text_that_is_attached_is_no_body() -> None:
    attached = part(b"Content-Disposition: attachment", b"file")
    named = part(b'Content-Type: text/plain; name="notes.txt"', b"file")
    message = multipart(attached, named, part(b"", b"body"))
    assert message.text == "body"
    assert [(a.name, a.data) for a in message.attachments] == [(UNNAMED, b"file"), ("notes.txt", b"file")]


def test_second_text_is_kept_as_an_attachment() -> None:
    message = multipart(part(b"", b"first"), part(b"", b"second"))
    assert message.text == "first"
    assert [a.data for a in message.attachments] == [b"second"]


def test_message_inside_the_message_is_one_attachment() -> None:
    inner = b'Content-Type: multipart/mixed; boundary="c"\r\n\r\n--c\r\n\r\ninner text\r\n--c--'
    message = multipart(part(b"Content-Type: message/rfc822", inner), part(b"", b"outer"))
    assert message.text == "outer"
    assert [(a.content_type, a.data) for a in message.attachments] == [("message/rfc822", inner)]


def test_digest_holds_messages_where_no_type_is_given() -> None:
    message = multipart(part(b"", b"Subject: x\r\n\r\ny"), subtype=b"digest")
    assert [a.content_type for a in message.attachments] == ["message/rfc822"]


def test_nested_multipart_ends_with_its_parent() -> None:
    inner = part(
        b"Content-Type: multipart/alternative; boundary=bb", b"--bb\r\n\r\ntext\r\n--bb\r\nContent-Type: a/b\r\n\r\nx"
    )
    message = multipart(inner, part(b"Content-Type: image/png", b"png"))
    assert message.text == "text"
    assert [a.data for a in message.attachments] == [b"x", b"png"]


def test_missing_end_and_empty_parts_are_read() -> None:
    message = Message(b"Content-Type: multipart/mixed; boundary=b\n\n--b\n--b\n\n\n--b  \n\nlast\n")
    assert message.text == ""
    assert [a.data for a in message.attachments] == [b"last\n"]


def test_text_without_an_empty_line_before_it_is_kept() -> None:
    assert Message(b"Subject: a\nno field\n\nmore").text == "no field\n\nmore"
    assert multipart(b"--b\r\nwords\r\n\r\nmore\r\n").text == "words\n\nmore"
    assert multipart(b"--b\r\nContent-Type: text/html\r\n<p>words\r\n").text == "words"


@pytest.mark.parametrize(
    "kind", [b"multipart/mixed", b"multipart/mixed; boundary=other", b'multipart/mixed; boundary=""']
)
def test_multipart_without_its_boundary_is_text(kind: bytes) -> None:
    assert Message(b"Content-Type: " + kind + b"\r\n\r\nwords").text == "words"


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'attachment; filename="report.pdf"', "report.pdf"),
        (b'attachment; filename="=?utf-8?b?w6kucGRm?="', "é.pdf"),
        (b"attachment; filename*=utf-8''%C3%A9%2Fb.pdf", "b.pdf"),
        (b"attachment; filename*0*=utf-8''%C3%A9; filename*1=x.pdf", "éx.pdf"),
        (b'attachment; filename="../../etc/passwd"', "passwd"),
        (rb'attachment; filename="C:\\Users\\ann\\a.doc"', "a.doc"),
        (b'attachment; filename=".bashrc"', "bashrc"),
        (b'attachment; filename=".."', UNNAMED),
        (b'attachment; filename="a/"', "a"),
        (b'attachment; filename=""', UNNAMED),
        (b"attachment; filename*=nonsense''%ff", "ÿ"),
        (b"attachment", UNNAMED),
    ],
)
def test_attachment_name_is_decoded_and_never_a_path(disposition: bytes, name: str) -> None:
    [attachment] = multipart(part(b"Content-Disposition: " + disposition, b"x")).attachments
    if name != "ÿ":  # what an unknown charset leaves is not promised, only that it is safe
        assert attachment.name == name
    is_safe(attachment.name)


def test_long_name_keeps_its_ending() -> None:
    name = clean_name("é" * 500 + ".pdf")
    is_safe(name)
    assert name.endswith("é.pdf")


@given(st.text(st.sampled_from("ab./\\: \x00\n\u202e\udc80é.🙂"), max_size=300) | st.text(max_size=100))
def test_no_name_is_ever_a_path(name: str) -> None:
    is_safe(clean_name(name))


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("base64", b"aGVsbG8=", b"hello"),
        ("base64", b"aGVs\r\nbG8", b"hello"),
        ("base64", b"aGVsbG8x!!!\xff", b"hello1"),
        ("base64", b"a", b""),
        ("base64", b"", b""),
        ("quoted-printable", b"a=3D=\r\nb=C3=A9", "a=bé".encode()),
        ("quoted-printable", b"100=% =Z", b"100=% =Z"),
        ("8bit", b"\xff", b"\xff"),
        ("x-unknown", b"abc", b"abc"),
    ],
)
def test_transfer_encoding_is_undone_as_far_as_it_goes(encoding: str, body: bytes, expected: bytes) -> None:
    assert decode_body(body, encoding) == expected


@pytest.mark.parametrize(
    ("charset", "body", "expected"),
    [
        ("utf-8", b"\xc3\xa9", "é"),
        ("", b"\xc3\xa9", "é"),
        ("us-ascii", b"\xe9", "é"),
        ("ISO-8859-15", b"\xa4", "€"),
        ("utf-8", b"a\xff", "a\ufffd"),
        ("x-no-such", b"\xe9", "é"),
        ("hex", b"41", "41"),
        ("unicode_escape", rb"\ud800", r"\ud800"),
        ("punycode", b"a-b", "a-b"),
        ("a\x00b", b"\xe9", "é"),
        ("../x", b"\xe9", "é"),
        ("utf-7", b"+2AA-x", "\ufffdx"),
        ("gb2312", b"\xc4\xe3", "你"),
    ],
)
def test_charset_is_undone_or_read_as_latin_1(charset: str, body: bytes, expected: str) -> None:
    assert decode_charset(body, charset) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"<a@b>", "<a@b>"),
        (b" (x) <a@b> <c@d>", "<a@b>"),
        (b"\r\n <a@b>", "<a@b>"),
        (b"a@b", "<a@b>"),
        (b"<a b@c>", ""),
        (b"<\xc3\xa9@b>", ""),
        (b"", ""),
    ],
)
def test_message_id_is_clean(value: bytes, expected: str) -> None:
    assert Message(b"Message-ID: " + value + b"\r\n\r\n").message_id == expected


def test_date_has_a_time_zone_or_is_none() -> None:
    assert Message(b"Date: Mon, 1 Jan 2024 00:00:00 +0100\r\n\r\n").date == datetime(2023, 12, 31, 23, tzinfo=UTC)
    assert Message(b"Date: Mon, 1 Jan 2024 00:00:00 -0000\r\n\r\n").date == datetime(2024, 1, 1, tzinfo=UTC)
    for odd in (b"", b"yesterday", b"Mon, 99 Jan 99999 99:99:99 +9999", b"1 Jan 2024 00:00:00 +99999999999"):
        date = Message(b"Date: " + odd + b"\r\n\r\n").date
        assert date is None or date.utcoffset() is not None


def nested(levels: int) -> bytes:
    return b"".join([b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--x%d\r\n" % (n, n) for n in range(levels)])


ONE = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"
HOSTILE = {
    "10,000 parts": ONE + b"--x\r\n\r\na\r\n" * 10_000,
    "500 levels": nested(500) + b"\r\ndeep",
    "5,000 levels and many lines": nested(5000) + b"\r\n" * 1_000_000,
    "one boundary for all levels": (ONE + b"--x\r\n") * 5000,
    "almost boundaries": ONE + b"\r\n--x " * 500_000,
    "parameters": ONE + (b"--x\r\nContent-Type: a/b" + b";" * 3000 + b'\r\nContent-Disposition: a; b="' + b"=?a?q?x" * 500
                         + b"\r\n\r\na\r\n") * 500,
    "continuations": ONE + (b"--x\r\nContent-Disposition: a;" + b"filename*0*=b;" * 200 + b"\r\n\r\na\r\n") * 500,
    "headers only": ONE + b"--x\r\n" + b"A: b\r\n" * 300_000,
    "encoded words": b"Subject: " + b"=?a?q?x" * 100_000 + b"\r\n\r\n",
    "HTML": b"Content-Type: text/html\r\n\r\n" + b"<a <!--" * 300_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mail_is_read_in_little_time(name: str) -> None:
    message = Message(HOSTILE[name])
    begin = time.process_time()
    read_all(message)
    assert time.process_time() - begin < 1.5  # it takes under 0.3 s; quadratic ways take minutes
    assert len(message.attachments) <= MAX_PARTS + 20


def test_part_limit_keeps_what_follows_in_the_last_part() -> None:
    message = Message(ONE + b"--x\r\n\r\na\r\n" * (MAX_PARTS + 5))
    assert message.text == "a"
    assert len(message.attachments) == MAX_PARTS - 1
    assert message.attachments[-1].data.count(b"--x") == 5


def _samples() -> list[Path]:
    try:
        spec = importlib.util.find_spec("test.test_email")
    except ModuleNotFoundError:
        return []
    if spec is None or spec.origin is None:
        return []
    return sorted((Path(spec.origin).parent / "data").glob("*.txt"))


@pytest.mark.skipif(not _samples(), reason="this interpreter comes without the mails of its own tests")
@pytest.mark.parametrize("path", _samples(), ids=lambda path: str(path.name))
def test_mails_of_the_interpreters_own_tests_are_read(path: Path) -> None:
    read_all(Message(path.read_bytes()))


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.just("\n"), max_size=80)


@settings(max_examples=60, deadline=timedelta(seconds=2))
@given(TEXTS, TEXTS, st.lists(st.binary(max_size=60), max_size=3))
def test_what_the_standard_library_writes_is_read_back(text: str, html: str, files: list[bytes]) -> None:
    written = EmailMessage(policy=SMTP)
    written.set_content(text + "\n.")
    written.add_alternative(html, subtype="html")
    for number, data in enumerate(files):
        written.add_attachment(data, maintype="application", subtype="x", filename=f"é{number}.bin")
    message = Message(written.as_bytes())
    assert message.text == text + "\n.\n"
    assert message.html.rstrip("\n") == html.rstrip("\n")
    assert [(a.name, a.data) for a in message.attachments] == [(f"é{n}.bin", data) for n, data in enumerate(files)]


PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"--b", b"--b--", b"Content-Type: multipart/mixed; boundary=b", b"Content-Type: text/html",
     b"Content-Transfer-Encoding: base64", b"Content-Disposition: attachment; filename*0=", b'"', b";", b"\x00", b"\xff",
     b"charset=utf-7", b"<p>", b"+2AA-", b"=?utf-8?q?=0A?="]
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(PIECES | st.binary(max_size=8), max_size=30).map(b"".join))
def test_no_octets_make_it_fail(raw: bytes) -> None:
    read_all(Message(raw))


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a</p><p>b</p>", "a\n\nb"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<div>a</div><div><br></div><div>b<br></div><div>c</div>", "a\n\nb\nc"),
        ("  a \n\t b <b> c</b>d", "a b cd"),
        ("<ul><li>a</li><li>b</ul>", "- a\n- b"),
        ("<table><tr><td>1<td>2</tr><tr><td>3</table>", "1 2\n3"),
        ('see <a href="http://x.example/?a=1&amp;b=2">here</a>.', "see here <http://x.example/?a=1&b=2>."),
        ("<a href='mailto:a@b.c'>a@b.c</a>", "a@b.c"),
        ("<a href=http://a.b>http://a.b</a>", "http://a.b"),
        ("<a href='javascript:x'>a</a> <a href=#b>b</a> <a>c</a>", "a b c"),
        ("<a href='http://a.b\r\nX: y'>a</a>", "a <http://a.bX:y>"),
        ('<a href="http://a.b"><img src=x alt="Logo"></a>', "Logo <http://a.b>"),
        ("<script>if (a<b) '<p>'</script>a<style>p{}</style>b<title>t</title>", "ab"),
        ("a<!-- <p>x --><!DOCTYPE html><?php x?><![endif]>b", "ab"),
        ("1 < 2 <3 &lt;b&gt; &amp;amp; &eacute; &#233; &#xE9; &nope;", "1 < 2 <3 <b> &amp; é é é &nope;"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("a<blockquote>b<p>c<blockquote>d</blockquote></blockquote>e", "a\n\n> b\n>\n> c\n>\n> > d\n\ne"),
        ("<pre>  a\n    b  c</pre>", "  a\n    b  c"),
        ("<p title='a>b' x=it's>c", "c"),
        ("a<b", "a"),
        ("a</", "a"),
        ("", ""),
    ],
)
def test_html_becomes_text(html: str, text: str) -> None:
    assert to_text(html) == text


HOSTILE_HTML = [
    "<!--", "<a ", "&#", "<", "</", "<![", "<?", '<a x="', '<a x=">"', "<a =", "<a>", "<blockquote>a", "<li>", "<p>a", "&amp;",
    "<script>", "<style></style>", "<a href=http://a>b</a>", "<pre>\n", "<a href='' ", " <a <b> ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE_HTML)
def test_hostile_html_takes_linear_time(piece: str) -> None:
    begin = time.process_time()
    to_text(piece * (1_000_000 // len(piece)))
    assert time.process_time() - begin < 1  # it takes up to 0.2 s


def test_html_beyond_the_limit_is_left_out() -> None:
    assert len(to_text("a" * (MAX_HTML + 5))) == MAX_HTML


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([*HOSTILE_HTML, ">", "/", '"', "'", "=", "\n", "x", "</pre>", "</a>", "-->"]), max_size=30)
)
def test_html_never_fails_and_leaves_no_blank_ends(pieces: list[str]) -> None:
    text = to_text("".join(pieces))
    assert "\r" not in text
    assert all(line == line.rstrip() for line in text.split("\n"))


def test_text_in_a_charset_that_is_slow_to_read_is_cut() -> None:
    body = b"\xff" * (MAX_SLOW + 1000)  # no character of windows-1255, so each octet is a replacement of its own
    assert len(decode_charset(body, "windows-1255")) == MAX_SLOW
    assert len(decode_charset(body, "iso-8859-1")) == len(body)
    assert decode_charset(b"x" * (MAX_SLOW + 1000), "utf-8") == "x" * (MAX_SLOW + 1000)


def test_part_with_endless_fields_costs_no_more_than_a_bound() -> None:
    """What stands in a part's header section behind the bound is not looked at: 500 such parts took seconds."""
    filler = b"X-Filler: " + b"x" * 60 + b"\r\n"

    def named(before: int) -> str:
        part = filler * before + b"Content-Disposition: attachment; filename=far.txt\r\n\r\nbody\r\n"
        raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n" + part + b"--b--\r\n"
        return " ".join(attachment.name for attachment in Message(raw).attachments)

    assert MAX_PART_HEADER <= 8192
    assert named(MAX_PART_HEADER // len(filler) // 2) == "far.txt"
    assert "far.txt" not in named(MAX_PART_HEADER // len(filler) + 1)
