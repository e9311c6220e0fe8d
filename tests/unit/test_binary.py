"""What came by BDAT made fit for DATA: whatever the mail, a parser finds the same parts with the same contents."""

from __future__ import annotations

import contextlib
import quopri
import time
from base64 import b64encode
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from responder.inbound.data import has_bare_line_end
from responder.mail.binary import MAX_DEPTH, MIMEError, with_line_ends, without_binary
from responder.outbound.smtp.wire import blocks, canonical

LEAF = b"Content-Type: application/x; name=y\r\nContent-Transfer-Encoding: binary\r\nX: z\r\n\r\n"


def test_leaf_becomes_base64_and_says_so() -> None:
    assert without_binary(LEAF + b"\0\n\r") == (
        b"Content-Type: application/x; name=y\r\nContent-Transfer-Encoding: base64\r\nX: z\r\n\r\nAAoN"
    )


@pytest.mark.parametrize(
    "mail",
    [
        b"",
        b"\r\n",
        b"\r\nbody\r\n",
        b"Subject: x\r\n\r\ntext\r\n",
        b"Subject: x\r\n\r\n\xff\xfe 8-bit\r\n",
        b"Subject: no body\r\n",
        b"no field\r\n\r\ntext\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\nAAo=\r\n",
        b"Content-Transfer-Encoding: x-own\r\n\r\ntext\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b--\r\nepilogue\r\n",
    ],
)
def test_mail_that_needs_nothing_stays_as_it_is(mail: bytes) -> None:
    assert without_binary(mail) == mail


def test_octets_that_no_line_can_hold_are_coded_whatever_the_part_says_of_itself() -> None:
    for body in (b"a\nb\r\n", b"a\rb\r\n", b"\0\r\n", b"x" * 999 + b"\r\n"):
        for field in (b"", b"Content-Transfer-Encoding: 7bit\r\n", b"content-transfer-encoding : 8BIT (comment)\r\n"):
            made = message_from_bytes(without_binary(b"Subject: x\r\n" + field + b"\r\n" + body))
            assert (made["Content-Transfer-Encoding"], made.get_payload(decode=True)) == ("base64", body)
            assert len(made.get_all("Content-Transfer-Encoding", [])) == 1


def test_message_within_is_walked_into_never_coded() -> None:
    inner = b"Subject: in\r\n" + LEAF + b"\r\0\n"
    mail = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\n" + inner
    made = without_binary(mail)
    assert made.startswith(b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: in\r\n")
    assert made.endswith(b"base64\r\nX: z\r\n\r\nDQAK")


def test_report_that_is_said_to_be_binary_stays_readable() -> None:
    mail = (
        b"Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: binary\r\n\r\nReporting-MTA: dns; x\r\n"
    )
    assert without_binary(mail) == mail.replace(b"binary", b"7bit")


@pytest.mark.parametrize(
    "mail",
    [
        b"Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\n--b--\r\n",
        b'Content-Type: multipart/mixed; boundary=""\r\n\r\n--\r\n\r\n----\r\n',
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\nno part\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nno end\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b--\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\n\r\nbare\r\n--b--\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: base64\r\n\r\nLS1i\r\n",
        b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\nx\r\n",
        b"Content-Transfer-Encoding: binary\r\nContent-Transfer-Encoding: 7bit\r\n\r\nx\r\n",
        b"X: " + b"y" * (1 << 20),
    ],
)
def test_structure_that_is_none_is_refused(mail: bytes) -> None:
    with pytest.raises(MIMEError):
        without_binary(mail)


def test_too_deep_and_too_many_are_refused() -> None:
    deep = b"Content-Type: message/rfc822\r\n\r\n" * (MAX_DEPTH + 1) + b"\r\nx\r\n"
    with pytest.raises(MIMEError):
        without_binary(deep)
    many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 10_001 + b"--b--\r\n"
    with pytest.raises(MIMEError):
        without_binary(many)


@dataclass
class Tree:
    """An entity as it is built: what stands in it is known."""

    kind: str
    encoding: str
    content: bytes = b""
    parts: tuple[Tree, ...] = ()

    def leaves(self) -> list[bytes]:
        return [self.content] if not self.parts else [leaf for part in self.parts for leaf in part.leaves()]

    def write(self, depth: int = 0) -> bytes:
        fields = f"Content-Type: {self.kind}"
        if self.kind.startswith("multipart/"):
            mark = f"mark-{depth}-{len(self.parts)}"
            body = b"".join([f"\r\n--{mark}\r\n".encode() + part.write(depth + 1) for part in self.parts])
            body = b"preamble" + body + f"\r\n--{mark}--\r\n".encode()
            fields += f'; boundary="{mark}"'
        elif self.parts:
            body = self.parts[0].write(depth + 1)
        elif self.encoding == "base64":
            body = b64encode(self.content)
        elif self.encoding == "quoted-printable":
            body = quopri.encodestring(self.content, quotetabs=True).replace(b"\n", b"\r\n")
        else:
            body = self.content
        coding = f"Content-Transfer-Encoding: {self.encoding}\r\n" if self.encoding else ""
        return f"{fields}\r\n{coding}\r\n".encode() + body


ANY = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b"\0", b".", b"--", b"--mark", b"a", b"\xff", b"Content-Type: x", b" " * 99]
    ),
    max_size=20,
).map(b"".join) | st.binary(max_size=60)
LEAVES = st.builds(
    Tree,
    st.sampled_from(["text/plain", "application/octet-stream", "image/png; name=x", "nonsense"]),
    st.sampled_from(["", "7bit", "8bit", "binary", "BINARY", "base64"]),
    ANY,
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda parts, encoding: Tree("multipart/mixed", encoding, b"", tuple(parts)),
        st.lists(inner, min_size=1, max_size=3),
        st.sampled_from(["", "binary", "8bit"]),
    )
    | st.builds(lambda part, encoding: Tree("message/rfc822", encoding, b"", (part,)), inner, st.sampled_from(["", "binary"])),
    max_leaves=6,
)  # fmt: skip


def found_leaves(message: Message) -> list[bytes]:
    payload = message.get_payload()
    if isinstance(payload, list):
        return [leaf for part in payload if isinstance(part, Message) for leaf in found_leaves(part)]
    octets = message.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return [octets]


@given(TREES)
@example(
    Tree("multipart/mixed", "binary", b"", (Tree("text/plain", "binary", b"\r\n--mark\r"), Tree("x/y", "", b"a\r\n")))
)
@settings(max_examples=400, deadline=None)
def test_any_tree_then_a_parser_finds_the_same_leaves_in_what_needs_no_binarymime(tree: Tree) -> None:
    mail = b"MIME-Version: 1.0\r\n" + tree.write() + b"\r\n"
    if not tree.parts:
        tree.content += b"\r\n" if tree.encoding != "base64" else b""
    elif tree.kind == "message/rfc822":
        assume(False)
    made = without_binary(mail)
    assert not has_bare_line_end(made)
    assert b"\0" not in made
    assert found_leaves(message_from_bytes(made)) == tree.leaves()
    assert without_binary(made) == made


SCRAPS = [b"Content-Type: multipart/x; boundary=b", b"\r\n", b"--b", b"--", b"\n", b"\0", LEAF]


@given(st.binary(max_size=300) | st.lists(st.sampled_from(SCRAPS), max_size=30).map(b"".join))
@settings(max_examples=400)
def test_any_octets_are_a_mail_or_an_error(content: bytes) -> None:
    try:
        made = without_binary(content)
    except MIMEError:
        return
    assert without_binary(made) == made


def test_hostile_mail_costs_no_more_than_its_length() -> None:
    began = time.process_time()
    for mail in (
        b"Content-Type: multipart/x; boundary=b\r\n\r\n" + b"\r\n--" * 500_000,
        b"Content-Type: multipart/x; boundary=b\r\n\r\n" + b"\r\n--b " * 300_000,
        b"Content-Type: multipart/x; boundary=b\r\n\r\n--b" + b" " * 2_000_000,
        b"Content-Type: multipart/x" + b"; boundary" * 90_000 + b"\r\n\r\nx",
        b"A:" + b"\r\n " * 300_000 + b"\r\n\r\nx",
        b"Content-Type: message/rfc822\r\n\r\n" * MAX_DEPTH + b"\0" * 2_000_000,
        b"\r\n" + b"x" * 3_000_000,
    ):
        with contextlib.suppress(MIMEError):
            without_binary(mail)
    assert time.process_time() - began < 5


# -- line ends made whole ----------------------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"\0", b"a", b"MAIL FROM:<x@y>", b"DATA"]), max_size=40
)


@given(PIECES.map(b"".join))
def test_line_ends_are_whole_behind_it_and_nothing_else_is_touched(content: bytes) -> None:
    made = with_line_ends(content)
    assert not has_bare_line_end(made)
    assert with_line_ends(made) == made
    assert made.replace(b"\r\n", b"") == content.replace(b"\r", b"").replace(b"\n", b"")


def test_line_ends_of_a_mail_of_nothing_else_do_not_take_long() -> None:
    """It is done in the event loop."""
    began = time.process_time()
    assert len(with_line_ends(b"\n" * 25_000_000)) == 50_000_000
    assert time.process_time() - began < 1


ENDS = [
    a + b"." + b
    for a in (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\0")
    for b in (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\0\n")
]


@given(PIECES.map(b"".join))
@example(b"\n.\nMAIL FROM:<x@y>")
@example(b"a\r.\rMAIL FROM:<x@y>")
@example(b"a\n.\r\nMAIL FROM:<x@y>")
@example(b"\0.\r\nMAIL FROM:<x@y>")
@example(b"a\r\0\n.\0\r\nMAIL FROM:<x@y>")
def test_made_whole_and_sent_on_then_no_host_finds_an_end_in_it(content: bytes) -> None:
    """However carelessly a host downstream looks for the end: what leaves has its dots stuffed, and no CR or LF alone."""
    stored = with_line_ends(b"Subject: x\r\n\r\n" + content + b"\r\n")
    wire = b"".join([block for block, _ in blocks(canonical(stored))])
    assert wire.endswith(b"\r\n.\r\n")
    assert not any(end in wire[:-3] for end in ENDS)
