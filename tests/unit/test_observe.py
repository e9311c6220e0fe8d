"""Log lines: one per event, whatever its values are. Nobody who sends mail writes into the log."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder import observe
from responder.observe import event, flush, format_json, format_text, set_up

AT = 1_800_000_000.0416
INJECTIONS = [
    "a\n2027-01-15T08:00:00.000Z info accepted id=fake",
    "a\r\nb",
    "a\rb",
    "a\x00b",
    "a\x1b[2Jb",
    "a\x9b2Jb",
    "a\u2028b",
    "a\u2029b",
    "a\x85b",
    "a\x0bb\x0cc\x1cd",
    'a" id="fake',
    "a id=fake",
    "a\\",
    "\u202egnp.exe",
    "\ud800",
    "",
]


def test_line_says_when_how_grave_and_what() -> None:
    fields = {"id": "x1", "from_": "<a@example.org>", "none": None, "seconds": 0.12345, "size": 7, "text": "two words"}
    line = format_text(AT, logging.INFO, "accepted", fields, None)
    assert line == (
        '2027-01-15T08:00:00.041Z info accepted id=x1 from=<a@example.org> seconds=0.123 size=7 text="two words"\n'
    )
    assert json.loads(format_json(AT, logging.WARNING, "accepted", fields, None)) == {
        "time": "2027-01-15T08:00:00.041Z",
        "level": "warning",
        "event": "accepted",
        "id": "x1",
        "from": "<a@example.org>",
        "seconds": 0.12345,
        "size": 7,
        "text": "two words",
    }


@pytest.mark.parametrize("value", INJECTIONS)
def test_value_stays_in_its_place(value: str) -> None:
    line = format_text(AT, logging.INFO, "x", {"reason": value, "end": 1}, None)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    words = line[:-1].partition(" reason=")[2].removesuffix(" end=1")
    assert words == value or json.loads(words) == value
    entry = format_json(AT, logging.INFO, "x", {"reason": value}, None)
    assert entry[:-1].isprintable()
    assert json.loads(entry)["reason"] == value


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_two_values_are_read_back(one: str, other: str) -> None:
    line = format_text(AT, logging.INFO, "x", {"a": one, "b": other}, None)[:-1]
    assert line.isprintable()
    decoder = json.JSONDecoder()
    rest = line.partition(" a=")[2]
    if rest.startswith('"'):
        first, end = decoder.raw_decode(rest)
    else:
        end = rest.index(" ")
        first = rest[:end]
    assert first == one
    assert rest[end:].startswith(" b=")
    last = rest[end + 3 :]
    assert (decoder.decode(last) if last.startswith('"') else last) == other


def test_traceback_cannot_be_taken_for_lines_of_the_log() -> None:
    try:
        raise ValueError("bad\n2027-01-15T08:00:00.000Z info accepted id=fake\x1b[2J\u2028more")
    except ValueError as error:
        line = format_text(AT, logging.ERROR, "stage failed", {"id": "x"}, error)
        entry = json.loads(format_json(AT, logging.ERROR, "stage failed", {"id": "x"}, error))
    first, *rest = line.rstrip("\n").split("\n")
    assert first == "2027-01-15T08:00:00.041Z error stage failed id=x"
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(part.startswith("    ") and part.isprintable() for part in rest)
    assert "ValueError: bad" in line
    assert entry["traceback"].endswith("more\n")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    old = (observe._log.stream, observe._log.format, observe._log.level)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    flush()
    observe._log.stream, observe._log.format, observe._log.level = old
    root.handlers[:] = handlers
    root.setLevel(level)


def test_level_decides_what_is_written(stream: io.StringIO) -> None:
    set_up("text", "warning", stream)
    event("quiet", level=logging.INFO)
    event("loud", level=logging.WARNING, id="x")
    flush()
    assert stream.getvalue().endswith(" warning loud id=x\n")
    assert stream.getvalue().count("\n") == 1


async def test_lines_of_one_turn_come_in_their_order_without_being_asked_for(stream: io.StringIO) -> None:
    import asyncio

    set_up("text", "info", stream)
    for number in range(3):
        event("turn", number=number)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [line.rpartition("=")[2] for line in stream.getvalue().splitlines()] == ["0", "1", "2"]
    event("info")
    event("warning", level=logging.WARNING)  # does not wait, and neither does what came before it
    assert [line.split(" ")[2] for line in stream.getvalue().splitlines()] == ["turn"] * 3 + ["info", "warning"]


def test_libraries_speak_in_the_same_style_on_one_line(stream: io.StringIO) -> None:
    set_up("text", "info", stream)
    logging.getLogger("some.library").warning("trouble with %s", "a\n2027-01-15 info fake")
    logging.getLogger("some.library").info("chatter")
    flush()
    [line] = stream.getvalue().splitlines()
    assert line.endswith(r"warning trouble with a\n2027-01-15 info fake logger=some.library")


def test_log_that_nobody_reads_stops_nothing(stream: io.StringIO) -> None:
    set_up("json", "info", stream)
    stream.close()
    event("into the void", level=logging.ERROR)
    observe._log.stream = sys.stderr
