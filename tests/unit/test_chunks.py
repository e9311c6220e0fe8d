"""Receiving a message in chunks: every octet is counted, none is looked at (RFC 3030 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.inbound.chunks import ChunkReceiver, parse_chunk
from responder.inbound.replies import MAIL_FIRST, STORE_FULL, TOO_BIG


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [
        ("0", (0, False)),
        ("0 LAST", (0, True)),
        ("86", (86, False)),
        ("86 last", (86, True)),
        ("86 \t LAST", (86, True)),
        ("000000000007", (7, False)),
        ("999999999999", (999_999_999_999, False)),
    ],
)
def test_chunk_size_is_read(argument: str, chunk: tuple[int, bool]) -> None:
    assert parse_chunk(argument) == chunk


@pytest.mark.parametrize(
    "argument",
    ["", "LAST", "-1", "+1", "1.0", "1e3", "0x1", "1 2", "1LAST", "1 LASTLY", "1 LAST 2", "1_000", "١", "²", "1000000000000",
        "9" * 3000],
)  # fmt: skip
def test_size_that_is_none_is_refused(argument: str) -> None:
    assert parse_chunk(argument) is None


OCTETS = st.binary(max_size=40) | st.lists(st.sampled_from([b"\r\n.\r\n", b"BDAT 5 LAST\r\n", b"\0"])).map(b"".join)


@given(st.lists(OCTETS, min_size=1, max_size=6), st.binary(max_size=40), st.data())
def test_message_is_its_chunks_wherever_they_are_cut(chunks: list[bytes], behind: bytes, data: st.DataObject) -> None:
    receiver = ChunkReceiver(10_000)
    for number, chunk in enumerate(chunks):
        receiver.begin(len(chunk), last=number == len(chunks) - 1)
        whole = chunk + behind
        cut = data.draw(st.integers(0, len(whole)))
        rest = receiver.feed(bytearray(whole[:cut]))
        if rest is None:
            assert cut < len(chunk)
            rest = receiver.feed(whole[cut:])
            assert rest == behind
        else:
            assert bytes(rest) + whole[cut:] == behind
    content = b"".join(chunks)
    assert receiver.take() == (content if not content or content.endswith(b"\r\n") else content + b"\r\n")


def test_rest_of_a_bytearray_is_the_bytearray_itself() -> None:
    receiver = ChunkReceiver(10)
    receiver.begin(3, last=False)
    data = bytearray(b"abcNOOP")
    assert receiver.feed(data) is data
    assert data == b"NOOP"


@given(st.integers(0, 50), st.binary(max_size=80))
def test_refused_chunk_is_swallowed_to_the_octet_and_nothing_is_kept(size: int, data: bytes) -> None:
    receiver = ChunkReceiver(1000)
    receiver.begin(4, last=False)
    receiver.feed(b"kept")
    receiver.refuse(size, last=True, refusal=MAIL_FIRST)
    assert receiver.feed(data) == (data[size:] if len(data) >= size else None)
    assert receiver.take() == b""
    assert receiver.too_big
    assert not receiver.lost


def test_limit_is_on_all_chunks_together() -> None:
    receiver = ChunkReceiver(10)
    assert receiver.fits(10)
    assert not receiver.fits(11)
    receiver.begin(6, last=False)
    receiver.feed(b"123456")
    assert receiver.fits(4)
    assert not receiver.fits(5)


def test_no_room_then_what_is_here_goes_and_the_rest_is_swallowed() -> None:
    receiver = ChunkReceiver(100)
    receiver.begin(6, last=True)
    assert receiver.feed(b"123") is None
    receiver.discard()
    assert receiver.feed(b"456QUIT") == b"QUIT"
    assert receiver.refusal is STORE_FULL
    assert receiver.lost
    assert receiver.take() == b""


def test_no_room_keeps_the_reason_that_was_there() -> None:
    receiver = ChunkReceiver(1)
    receiver.refuse(6, last=True, refusal=TOO_BIG)
    receiver.discard()
    assert receiver.refusal is TOO_BIG
