"""Which octets become a mail: what the session takes, held against a reader that goes through the stream once, octet by octet and
without any of our code, over thousands of streams of almost-ends, commands and chunks, cut anywhere."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.config import Limits, Listen
from tests.fuzz.wire import Talk, pieces

SIZE = 400
EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@client.example>\r\n"
BINARY = b"MAIL FROM:<a@client.example> BODY=BINARYMIME\r\n"
RCPT = b"RCPT TO:<c@test.example>\r\n"
BEGIN = EHLO + MAIL + RCPT

ENDS = [
    a + dot + b
    for a in (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\r\n\0", b"\n\0", b"")
    for dot in (b".", b"..", b"\0.")
    for b in (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\0\r\n")
]
INNER = b"MAIL FROM:<eve@evil.example>\r\nRCPT TO:<c@test.example>\r\n"
CHUNK = st.tuples(
    st.integers(0, 40) | st.sampled_from([2, 5, 66, 300, 500]),
    st.sampled_from([b"", b" LAST", b" last", b" LAST ", b" MORE"]),
).map(lambda found: b"BDAT %d%s\r\n" % found)
PIECE = st.one_of(
    st.sampled_from(ENDS),
    st.sampled_from(
        [b"DATA\r\n", b"DATA\r\n", b"DATA\n", MAIL, RCPT, BINARY, INNER, b"RSET\r\n", b"NOOP\r\n", b"\r\n.\r\n"]
    ),
    st.sampled_from([b"x", b"\r", b"\n", b"\r\n", b"\0", b"x" * 150, b"Subject: x\r\n\r\n", b"DATA\r", b"BDAT\t5\r\n"]),
    st.sampled_from([MAIL + RCPT + b"DATA\r\n", MAIL + RCPT, BINARY + RCPT, INNER + b"DATA\r\n"]),
    CHUNK,
)
STREAM = st.lists(PIECE, max_size=25).map(b"".join)
CUTS = st.lists(st.integers(0, 800), max_size=8)


class Read(NamedTuple):
    """What a stream comes to."""

    codes: list[str]
    mails: list[tuple[str, bytes]]
    ended: bool


class Reader:
    """RFC 5321 and RFC 3030 as they are written, and no more of them than the streams here have."""

    def __init__(self, stream: bytes, normalise: bool) -> None:
        self.stream, self.at, self.normalise = stream, 0, normalise
        self.codes = ["220"]
        self.mails: list[tuple[str, bytes]] = []
        self.greeted = self.ended = False
        self.clear()

    def clear(self) -> None:
        self.sender = ""
        self.binary = self.named = False
        self.chunks: bytes | None = None

    def read(self) -> Read:
        while not self.ended and self.command():
            pass
        return Read(self.codes, self.mails, self.ended)

    def say(self, code: int) -> None:
        self.codes.append(str(code))

    def command(self) -> bool:
        """One command with all that belongs to it; False where it is not whole."""
        line = b""
        while not line.endswith(b"\n"):
            if self.at == len(self.stream):
                return False
            line += self.stream[self.at : self.at + 1]
            self.at += 1
        line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        verb, _, argument = line.partition(b" ")
        argument = argument.strip(b" ")
        if verb.startswith(b"BDAT"):
            return self.chunk(verb, argument)
        if verb not in (b"EHLO", b"MAIL", b"RCPT", b"DATA", b"RSET", b"NOOP") or re.search(rb"[\0-\x1f]", argument):
            self.say(500)
        elif verb == b"EHLO":
            self.greeted = bool(argument) or self.greeted
            self.say(250)
            self.clear()
        elif verb == b"MAIL":
            self.mail(argument)
        elif verb == b"RCPT":
            self.recipient(argument)
        elif verb == b"DATA":
            return self.data(argument)
        elif verb == b"RSET":
            self.say(501 if argument else 250)
            if not argument:
                self.clear()
        else:
            self.say(250)
        return True

    def mail(self, argument: bytes) -> None:
        found = re.fullmatch(rb"FROM:<([a-z]+@[a-z.]+)>( BODY=BINARYMIME)?", argument)
        if not self.greeted or self.sender:
            self.say(503)
        elif found is None:
            self.say(501)
        else:
            self.sender, self.binary = found[1].decode(), found[2] is not None
            self.say(250)

    def recipient(self, argument: bytes) -> None:
        if not self.sender or self.chunks is not None:
            self.say(503)
        elif argument != b"TO:<c@test.example>":
            self.say(501)
        else:
            self.named = True
            self.say(250)

    def data(self, argument: bytes) -> bool:
        if argument or not self.named or self.chunks is not None or self.binary:
            self.say(501 if argument else 503)
            return True
        self.say(354)
        content, line = b"", b""
        while line != b".\r\n":
            content += line[1:] if line.startswith(b".") else line
            line = b""
            while not line.endswith(b"\r\n"):
                if self.at == len(self.stream):
                    return False
                line += self.stream[self.at : self.at + 1]
                self.at += 1
        self.take(content)
        return True

    def chunk(self, verb: bytes, argument: bytes) -> bool:
        found = re.fullmatch(rb"([0-9]+)(?: +([Ll][Aa][Ss][Tt]))?", argument)
        if verb != b"BDAT" or found is None:
            self.say(501)
            self.ended = True
            return True
        size, last = int(found[1]), found[2] is not None
        if self.at + size > len(self.stream):
            return False
        octets = self.stream[self.at : self.at + size]
        self.at += size
        if not self.named:
            self.say(503)
        elif len(self.chunks or b"") + size > SIZE:
            self.say(552)
            self.clear()
        elif last:
            self.take((self.chunks or b"") + octets, chunked=True)
        else:
            self.chunks = (self.chunks or b"") + octets
            self.say(250)
        return True

    def take(self, content: bytes, *, chunked: bool = False) -> None:
        if chunked and content and not content.endswith(b"\r\n"):
            content += b"\r\n"
        if len(content) > SIZE:
            self.say(552)
        elif not self.binary and self.bare(content) and not self.normalise:
            self.say(554)
        else:
            if not self.binary:
                content = self.whole(content)
            self.say(552 if len(content) > SIZE else 250)
            if len(content) <= SIZE:
                self.mails.append((self.sender, content))
        self.clear()

    @staticmethod
    def bare(content: bytes) -> bool:
        return any(octet in content.replace(b"\r\n", b"") for octet in b"\r\n")

    @staticmethod
    def whole(content: bytes) -> bytes:
        made, at = b"", 0
        while at < len(content):
            octet = content[at : at + 1]
            at += 2 if content[at : at + 2] == b"\r\n" else 1
            made += b"\r\n" if octet in (b"\r", b"\n") else octet
        return made


def taken(stream: bytes, cuts: list[int], *, normalise: bool, late: bool) -> Read:
    """What our session makes of it."""
    limits = Limits.model_validate(
        {
            "message_size": SIZE,
            "in_flight": 100_000,
            "errors": 1_000_000,
            "junk_commands": 1_000_000,
            "bare_line_ends": "normalise" if normalise else "refuse",
        }
    )

    async def talk() -> Read:
        one = Talk(limits, Listen(), late=late)
        for piece in pieces(stream, cuts):
            await one.bring(piece)
        mails = [(sender, content) for sender, _, content in one.judge.mails]
        found = Read([reply[:3].decode() for reply in one.replies()], mails, one.wire.closed)
        await one.leave(politely=False)
        return found

    return asyncio.run(talk())


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from([BEGIN, BEGIN + b"DATA\r\n", EHLO, b""]), STREAM, CUTS, st.booleans(), st.booleans())
@example(BEGIN + b"DATA\r\n", b"\n.\n" + INNER + b"DATA\r\nx\r\n.\r\n", [90, 91, 92], True, True)
@example(BEGIN, b"BDAT 500\r\n" + INNER * 8 + b"BDAT 3 LAST\r\nabc", [100], False, True)
def test_mails_are_those_of_the_reference(
    head: bytes, stream: bytes, cuts: list[int], normalise: bool, late: bool
) -> None:
    expected = Reader(head + stream, normalise).read()
    found = taken(head + stream, cuts, normalise=normalise, late=late)
    assert found.mails == expected.mails
    assert found == expected


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_almost_an_end_lets_nothing_out_octet_by_octet_and_at_once(end: bytes, normalise: bool) -> None:
    """Behind each of them stands a whole second mail, and the true end."""
    stream = BEGIN + b"DATA\r\nx" + end + INNER + b"DATA\r\nsecond\r\n.\r\nNOOP\r\n"
    expected = Reader(stream, normalise).read()
    assert len(expected.mails) < 2 or b"\r\n.\r\n" in end
    for cuts in ([], list(range(len(stream)))):
        assert taken(stream, cuts, normalise=normalise, late=False) == expected
