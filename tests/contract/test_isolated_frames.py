"""The wire to an agent's process: what is written is read, whatever the pieces; what is no frame is refused, not believed."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.agents.isolation import frames
from responder.agents.isolation.frames import MAX_HEADER, PREFIX, Frame, FrameError, Parser, encode, read
from responder.agents.isolation.passage import pack_answer, pack_mail, unpack_mail
from responder.agents.isolation.pool import judge
from responder.agents.results import AgentError, check
from tests.support.agents import mail

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.dictionaries(st.text(max_size=5), values, max_size=3), st.lists(st.binary(), max_size=3))),
    st.integers(1, 50),
)
def test_frames_when_they_come_in_any_pieces_then_they_are_read(
    written: list[tuple[dict[str, Any], list[bytes]]], piece: int
) -> None:
    octets = b"".join(b"".join(encode(header, blobs)) for header, blobs in written)
    parser = Parser(1 << 20)
    found = [frame for start in range(0, len(octets), piece) for frame in parser.feed(octets[start : start + piece])]
    assert [(frame.header, list(frame.blobs)) for frame in found] == written
    file = io.BytesIO(octets)
    again = []
    while (frame := read(lambda size: file.read(min(size, piece)), 1 << 20)) is not None:
        again.append(frame)
    assert [(frame.header, list(frame.blobs)) for frame in again] == written


HOSTILE = {
    "header too large": PREFIX.pack(MAX_HEADER + 1, 0),
    "blobs too large": PREFIX.pack(2, 101) + b"{}",
    "no JSON": PREFIX.pack(2, 0) + b"{x",
    "no UTF-8": PREFIX.pack(2, 0) + b"\xff\xff",
    "no object": PREFIX.pack(2, 0) + b"[]",
    "nested": PREFIX.pack(200_000, 0) + b"[" * 200_000,
    "no date": PREFIX.pack(26, 0) + b'{"\\u0000date":["date",5]} '.ljust(26),
    "another date": PREFIX.pack(34, 0) + b'{"x":{"\\u0000date":["os","x"]}}'.ljust(34),
    "sizes too many": PREFIX.pack(13, 3) + b'{"sizes":[4]}' + b"abc",
    "sizes negative": PREFIX.pack(17, 3) + b'{"sizes":[-1, 4]}' + b"abc",
    "sizes no list": PREFIX.pack(11, 0) + b'{"sizes":5}',
    "sizes true": PREFIX.pack(16, 1) + b'{"sizes":[true]}' + b"a",
    "blobs without sizes": PREFIX.pack(2, 1) + b"{}a",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_parser_when_it_gets_what_is_no_frame_then_it_refuses(name: str) -> None:
    with pytest.raises(FrameError):
        list(Parser(100).feed(HOSTILE[name]))
    with pytest.raises(FrameError):
        read(io.BytesIO(HOSTILE[name]).read, 100)


@pytest.mark.parametrize("size", range(1, 20))
def test_read_when_it_ends_in_the_middle_then_there_is_no_frame(size: int) -> None:
    octets = b"".join(encode({"a": 1}, [b"xyz"]))
    assert read(io.BytesIO(octets[:size]).read, 100) is None


def test_header_when_it_has_dates_as_toml_does_then_they_arrive() -> None:
    told = {"at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "on": date(2026, 1, 2)}
    [frame] = Parser(0).feed(b"".join(encode(told)))
    assert frame == Frame(told, [])
    with pytest.raises(TypeError):
        encode({"x": object()})


def test_mail_when_it_passes_then_it_is_the_same() -> None:
    one = mail()
    [frame] = Parser(frames.MAX_MAIL).feed(b"".join(encode(*pack_mail(one))))
    other = unpack_mail(frame.header, frame.blobs)
    assert {name: value for name, value in vars(other).items() if name != "_message"} == {
        name: value for name, value in vars(one).items() if name != "_message"
    }


REPLY = pack_answer(check("x"))[0]
ANSWERS: list[tuple[dict[str, Any], list[bytes]]] = [
    ({}, []),
    ({"is": "exec"}, []),
    ({"is": "reply"}, [b"", b""]),
    (REPLY, [b"x"]),
    (REPLY, [b"x", b"", b"too many"]),
    (REPLY, [b"\xff", b""]),
    ({**REPLY, "headers": [1]}, [b"x", b""]),
    ({**REPLY, "headers": {"a": 5}}, [b"x", b""]),
    ({**REPLY, "subject": {"a": 5}}, [b"x", b""]),
    ({**REPLY, "interval": "5"}, [b"x", b""]),
    ({**REPLY, "tag": "a\r\nb"}, [b"x", b""]),
    ({**REPLY, "files": [["a"]]}, [b"x", b"", b""]),
    ({**REPLY, "files": [[5, {}]]}, [b"x", b"", b""]),
    (REPLY, [b"x" * (11 << 20), b""]),
    ({"is": "forward", "to": 5, "subject_prefix": None}, []),
    ({"is": "distribute", "to": ["a"], "name": 5, "subject_prefix": None, "discussion": 1, "one_click": {}}, []),
    ({"is": "distribute", "to": [["a"]], "name": "", "subject_prefix": None, "discussion": 1, "one_click": {}}, []),
]


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_answer_when_a_process_makes_it_up_then_it_is_refused(number: int) -> None:
    told, blobs = ANSWERS[number]
    assert json.dumps(told)
    with pytest.raises(AgentError):
        judge(Frame({"op": "answer", **told}, blobs))


@pytest.mark.parametrize("seconds", ["soon", None, [], float("nan")])
def test_wish_when_a_process_makes_it_up_then_it_is_refused(seconds: object) -> None:
    with pytest.raises(AgentError, match="names no time"):
        judge(Frame({"op": "later", "seconds": seconds}))


def test_error_when_a_process_makes_it_up_then_it_is_cut_to_what_history_takes() -> None:
    with pytest.raises(AgentError) as caught:
        judge(Frame({"op": "error", "reason": "two\nlines " * 1000, "detail": "x" * 10_000, "final": "yes"}))
    assert "\n" not in caught.value.reason and len(caught.value.reason) == 500
    assert len(caught.value.detail) == 4000
    assert caught.value.final is False
