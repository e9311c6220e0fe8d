"""The agent `current-time`: the places that a mail names, in any spelling, and their time (plugins/current_time.py)."""

from __future__ import annotations

import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from plugins.current_time import UNKNOWN, CurrentTime, Places
from responder import Mail, Reply
from tests.support.agents import mail
from tests.support.clock import ManualClock
from tests.support.memory import equipped

PLACES = Places()
WINTER, SUMMER = "2027-01-15 08:00:00", "2027-07-15 08:00:00"


def letter(subject: str, text: str = "") -> Mail:
    head = f"From: ann@client.example\r\nSubject: {subject}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    return mail((head + text + "\r\n").encode())


def clock_at(moment: str) -> ManualClock:
    return ManualClock(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())


def told(subject: str, text: str = "", at: str = WINTER, **settings: Any) -> str:
    answer = equipped(CurrentTime, clock_at(at), **settings).answer(letter(subject, text))
    assert isinstance(answer, Reply)
    return answer.text


def zones(text: str, *, subject: bool = True) -> list[str]:
    return list(PLACES.find(text, subject=subject)[0].values())


@pytest.mark.parametrize(
    ("subject", "zone"),
    [
        ("time in Tokyo", "Asia/Tokyo"),
        ("Zürich", "Europe/Zurich"),
        ("ZU\u0308RICH", "Europe/Zurich"),
        ("New York?", "America/New_York"),
        ("new   york", "America/New_York"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("europe/BERLIN", "Europe/Berlin"),
        ("America/Argentina/Ushuaia", "America/Argentina/Ushuaia"),
        ("São Paulo", "America/Sao_Paulo"),
        ("port-au-prince", "America/Port-au-Prince"),
        ("St. John's", "America/St_Johns"),
        ("Washington D.C.", "America/New_York"),
        ("What time is it in San Francisco?", "America/Los_Angeles"),
        ("Wie spät ist es in München?", "Europe/Berlin"),
        ("Re: Fwd: Kyiv", "Europe/Kyiv"),
        ("Switzerland", "Europe/Zurich"),
        ("germany", "Europe/Berlin"),
        ("Korea (South)", "Asia/Seoul"),
        ("Côte d'Ivoire", "Africa/Abidjan"),
        ("cote d’ivoire", "Africa/Abidjan"),
        ("UK", "Europe/London"),
        ("UTC", "UTC"),
        ("GMT", "UTC"),
        ("UTC+2", "UTC+02:00"),
        ("gmt - UTC -3:30", "UTC-03:30"),
        ("UTC\u22125", "UTC-05:00"),
        ("UTC+0545", "UTC+05:45"),
        ("GMT+5", "UTC+05:00"),  # what people mean, not the zone Etc/GMT+5
        ("Etc/GMT+5", "Etc/GMT+5"),
        ("CET", "CET"),
        ("EST", "America/New_York"),
        ("JST", "Asia/Tokyo"),
    ],
)
def test_place_when_named_then_its_zone_is_found(subject: str, zone: str) -> None:
    found, unknown = PLACES.find(subject, subject=True)
    assert zone in found.values() and len(found) <= 2 and not unknown


@pytest.mark.parametrize(
    "subject",
    [
        "", "What time is it?", "Hello", "current time", "Hello?", "How are you?", "the wake of the west", "nice", "Is it you?",
        "es ist spät", "c'est est", "met", "../../etc/passwd", "{{7*7}}", "/" * 300, "UTC" * 90, "a/b " * 70, "?" * 300,
    ],
)  # fmt: skip
def test_subject_when_it_names_no_place_then_none_is_found_nor_missed(subject: str) -> None:
    assert PLACES.find(subject, subject=True) == ({}, False)
    assert told(subject) == "It is Friday, 15 January 2027, 08:00:00 (UTC, UTC+0000).\n"


@pytest.mark.parametrize(
    "subject",
    ["time in Xanadu", "Xanadu?", "what time is it in Nowhere City", "Australia", "usa", "UTC+99", "IST", "Congo"],
)
def test_place_when_it_is_not_known_or_several_then_the_answer_says_so(subject: str) -> None:
    assert told(subject, timezone="Asia/Tokyo") == (
        f"It is Friday, 15 January 2027, 17:00:00 (Asia/Tokyo, UTC+0900).\n\n{UNKNOWN}\n"
    )
    assert told(f"Tokyo and {subject}").startswith("Tokyo: Friday, 15 January 2027, 17:00:00 (Asia/Tokyo, UTC+0900).\n")


def test_answer_when_the_place_is_hostile_then_nothing_of_it_comes_back() -> None:
    answer = told("time in Evil\x1b[2J <script>", "time in Buy-Pills-At-Example")
    assert "Evil" not in answer and "Pills" not in answer and "\x1b" not in answer


def test_places_when_several_then_each_has_a_line_and_five_are_the_most() -> None:
    assert told("Tokyo, New York and tokyo") == (
        "Tokyo: Friday, 15 January 2027, 17:00:00 (Asia/Tokyo, UTC+0900).\n"
        "New York: Friday, 15 January 2027, 03:00:00 (America/New_York, UTC-0500).\n"
    )
    assert told("Oslo Rome Lima Tokyo Paris Berlin Madrid").count("\n") == 5


def test_text_when_the_subject_names_none_then_it_is_looked_at() -> None:
    text = "Dear server,\r\nwhat time is it in tokyo, and for my aunt in New Delhi?\r\nRegards, Jordan\r\n"
    assert told("A question", text).splitlines() == [
        "Tokyo: Friday, 15 January 2027, 17:00:00 (Asia/Tokyo, UTC+0900).",
        "Kolkata: Friday, 15 January 2027, 13:30:00 (Asia/Kolkata, UTC+0530).",
    ]
    assert "Lima" in told("Lima", text) and "Tokyo" not in told("Lima", text)
    assert zones("i wake up in the west, and the centre is nice", subject=False) == []
    assert told("Hi", "> Tokyo\r\n") == "It is Friday, 15 January 2027, 08:00:00 (UTC, UTC+0000).\n"


@pytest.mark.parametrize(
    ("subject", "at", "expected"),
    [
        ("Zurich", "2027-03-28 00:59:59", "01:59:59 (Europe/Zurich, UTC+0100)"),
        ("Zurich", "2027-03-28 01:00:00", "03:00:00 (Europe/Zurich, UTC+0200)"),
        ("CET", SUMMER, "10:00:00 (CET, UTC+0200)"),
        ("UTC+1", SUMMER, "09:00:00 (UTC+01:00, UTC+0100)"),
        ("Sydney", WINTER, "19:00:00 (Australia/Sydney, UTC+1100)"),
        ("Sydney", SUMMER, "18:00:00 (Australia/Sydney, UTC+1000)"),
        ("Kathmandu", WINTER, "13:45:00 (Asia/Kathmandu, UTC+0545)"),
    ],
)
def test_time_when_the_clocks_change_then_it_is_right(subject: str, at: str, expected: str) -> None:
    assert told(subject, at=at).endswith(f"{expected}.\n")


def test_format_when_set_then_it_is_used() -> None:
    assert told("", format="%H.%M Uhr", timezone="Europe/Zurich") == "It is 09.00 Uhr (Europe/Zurich, UTC+0100).\n"
    for bad in ("", " ", "x" * 201):
        with pytest.raises(ValidationError, match="it must be what strftime takes"):
            CurrentTime.Settings(format=bad)


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without a table of time zones."""
    path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[])
    zoneinfo.ZoneInfo.clear_cache()
    monkeypatch.setattr("plugins.current_time.TZPATH", ())
    monkeypatch.setattr("plugins.current_time._packaged", lambda: None)
    for name in {"tzdata", *[name for name in sys.modules if name.startswith("tzdata.")]}:
        monkeypatch.setitem(sys.modules, name, None)  # the package is not there either
    yield
    zoneinfo.reset_tzpath(to=path)
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("no_tables")
def test_system_when_it_has_no_table_of_zones_then_utc_and_offsets_work() -> None:
    assert not zoneinfo.available_timezones()
    assert told("Hello") == "It is Friday, 15 January 2027, 08:00:00 (UTC, UTC+0000).\n"
    assert told("UTC+2") == "UTC+02:00: Friday, 15 January 2027, 10:00:00 (UTC+02:00, UTC+0200).\n"
    assert told("time in Tokyo").endswith(f"{UNKNOWN}\n")


def test_tables_when_only_zones_are_there_then_cities_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.current_time.TZPATH", ())
    monkeypatch.setattr("plugins.current_time._packaged", lambda: None)
    places = Places()
    assert places.find("Tokyo and Germany", subject=True)[0] == {"Tokyo": "Asia/Tokyo", "Berlin": "Europe/Berlin"}
