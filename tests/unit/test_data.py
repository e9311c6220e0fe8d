"""Receiving message data: any way of cutting the stream gives the same message, and that of a reference anyone can check."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.inbound.data import DataReceiver, has_bare_line_end

# What the algorithm looks at, and little else: every few octets form an end, almost one, or a stuffed dot.
OCTETS = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"..", b"a", b"\x00", b"\xff"]))
STREAMS = OCTETS.map(b"".join)
CUTS = st.lists(st.integers(0, 200), max_size=8)


def reference(stream: bytes) -> tuple[bytes, bytes] | None:
    """RFC 5321 4.1.1.4 and 4.5.2, line by line: lines end with CRLF alone, the first that is "." ends the message, of any
    other that begins with a dot that dot is taken. The message and the rest, or None where it has no end."""
    message = b""
    while (at := stream.find(b"\r\n")) >= 0:
        line, stream = stream[:at], stream[at + 2 :]
        if line == b".":
            return message, stream
        message += (line[1:] if line.startswith(b".") else line) + b"\r\n"
    return None


def receive(receiver: DataReceiver, stream: bytes, cuts: list[int]) -> tuple[bytes, bytes] | None:
    """The same by `DataReceiver`, fed piece by piece; octets behind the end, in later pieces, belong to the rest."""
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(places)]
    for number, piece in enumerate(pieces):
        rest = receiver.feed(piece)
        if rest is not None:
            return receiver.take(), bytes(rest) + b"".join(pieces[number + 1 :])
    return None


@settings(max_examples=500)
@given(STREAMS, CUTS)
@example(b".\r\n", [1])
@example(b"\r\n.\r\n", [3])
@example(b"..\r\n.\r\n", [1, 2, 3, 4, 5])
@example(b".\r\r\n.\r\n\r\n.\r\n", [])
def test_message_and_rest_are_the_references_wherever_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    assert receive(DataReceiver(1 << 20), stream, cuts) == reference(stream)


@given(STREAMS)
def test_octet_by_octet_is_no_different(stream: bytes) -> None:
    assert receive(DataReceiver(1 << 20), stream, list(range(len(stream)))) == reference(stream)


@settings(max_examples=500)
@given(STREAMS, CUTS, st.integers(-3, 3))
@example(b"..\r\n" * 1000, [4000], 0)
@example(b"..\r\n" * 1000, [4000, 4001, 4002], 0)
@example(b"..\r\n" * 1000, [4000], -1)
def test_limit_is_on_the_message_and_never_on_the_stuffing(start: bytes, cuts: list[int], room: int) -> None:
    """What the session asks: refused where the receiver says so, or where the message that came out is too long."""
    stream = start + b"\r\n.\r\nQUIT\r\n" if not start.endswith(b"\r\n") else start + b".\r\nQUIT\r\n"
    expected = reference(stream)
    assert expected is not None
    limit = max(len(expected[0]) + room, 0)
    receiver = DataReceiver(limit)
    found = receive(receiver, stream, cuts)
    assert found is not None
    assert found[1] == expected[1]
    too_long = len(expected[0]) > limit
    assert (receiver.too_big or len(found[0]) > limit) is too_long
    if not too_long:
        assert found == expected


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a.b", b"\x00", b"x" * 50]), max_size=20), CUTS)
def test_what_a_client_stuffs_comes_out_as_it_was(lines: list[bytes], cuts: list[int]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    stuffed = b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
    assert receive(DataReceiver(1 << 20), stuffed + b".\r\nQUIT\r\n", cuts) == (message, b"QUIT\r\n")


def test_past_the_limit_nothing_is_kept_and_the_end_is_found() -> None:
    receiver = DataReceiver(1000)
    for _ in range(1000):
        assert receiver.feed(b"x" * 1000) is None
        assert len(receiver._buffer) <= 2010
    assert receiver.too_big
    assert receiver.feed(b"\r\n.") is None
    assert receiver.feed(b"\r\nRSET\r\n") == b"RSET\r\n"


def test_time_grows_with_the_message_and_not_with_its_square() -> None:
    """Each octet is looked at a bounded number of times, however small the pieces: counted, not measured."""
    looked = 0

    class Counting(bytearray):
        def find(self, *arguments: object) -> int:
            nonlocal looked
            looked += len(self) - (int(arguments[1]) if len(arguments) > 1 else 0)  # type: ignore[call-overload]
            return super().find(*arguments)  # type: ignore[arg-type]

        def count(self, *arguments: object) -> int:
            nonlocal looked
            looked += len(self) - (int(arguments[1]) if len(arguments) > 1 else 0)  # type: ignore[call-overload]
            return super().count(*arguments)  # type: ignore[arg-type]

    receiver = DataReceiver(1 << 20)
    receiver._buffer = Counting(b"\r\n")
    for _ in range(2000):
        assert receiver.feed(b"..line of a message\r\n" * 5) is None
    assert not receiver.too_big
    assert looked < 4 * 2000 * 5 * 21


@pytest.mark.parametrize(
    ("content", "bare"),
    [
        (b"", False),
        (b"a\r\nb\r\n", False),
        (b"\r\n\r\n", False),
        (b"a\nb\r\n", True),
        (b"a\rb\r\n", True),
        (b"\n", True),
        (b"\r", True),
        (b"a\r\n\n", True),
        (b"a\r\r\n", True),
        (b"a\n\r\n", True),
        (b"\n\r", True),
        (b"\r\n\r", True),
        (b"\x0b\x0c\x1c\x85\xe2\x80\xa8", False),  # what Python calls line ends, and SMTP does not
    ],
)
def test_bare_line_ends_are_found(content: bytes, bare: bool) -> None:
    assert has_bare_line_end(content) is bare


@given(STREAMS)
def test_bare_line_end_is_what_no_pair_covers(content: bytes) -> None:
    assert has_bare_line_end(content) is any(octet in content.replace(b"\r\n", b"") for octet in (b"\r", b"\n"))


@given(STREAMS, CUTS)
def test_taking_dots_away_hides_no_bare_line_end(stream: bytes, cuts: list[int]) -> None:
    """The session looks at the message when its dots are taken: nothing may then look like a pair that was none."""
    found = receive(DataReceiver(1 << 20), stream, cuts)
    if found is not None:
        sent = stream[: len(stream) - len(found[1])]
        assert has_bare_line_end(found[0]) is has_bare_line_end(sent)
