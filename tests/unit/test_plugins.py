"""The stock agents: what each answers, and that none stumbles over an odd mail."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from responder import Forward, Mail, Reply
from responder.agents.context import Context
from responder.agents.host import Host, Inbox, build
from responder.agents.load import PluginError, load
from responder.clock import SystemClock
from responder.mail.address import Address
from tests.support.clock import ManualClock
from tests.support.memory import MemoryState

ROOT = Path(__file__).parents[2]
AGENTS = load([ROOT / "plugins"])
STOCK = ("echo", "current-time", "debug", "forward")


def inbox(agent: str, **settings: Any) -> Inbox:
    kind, built = build("x", AGENTS, agent, settings)
    built.context = Context("x", MemoryState(ManualClock()), SystemClock())
    return Inbox("x", kind, built, kind.kind, kind.interval, 30.0)


def mail(raw: bytes, sender: str = "ann@client.example", peer: str = "192.0.2.7") -> Mail:
    recipient = Address("x", "test.example")
    return Mail(raw, id="0" * 18 + ".0", inbox="x", recipient=recipient, sender=sender, peer=peer)


def run(agent: str, raw: bytes, /, *, sender: str = "ann@client.example", **settings: Any) -> Reply | Forward | None:
    async def one() -> Any:
        host = Host(1)
        try:
            return await host.run(inbox(agent, **settings), mail(raw, sender))
        finally:
            host.close()

    answer: Reply | Forward | None = asyncio.run(one())
    return answer


def text_of(answer: Reply | Forward | None) -> str:
    assert isinstance(answer, Reply)
    assert not answer.html and not answer.attachments and not answer.headers and answer.subject is None
    return answer.text


def test_stock_agents_when_listed_then_each_has_its_page() -> None:
    assert set(STOCK) <= set(AGENTS)
    for name in STOCK:
        found = AGENTS[name]
        assert found.origin == str(ROOT / "plugins" / f"{name.replace('-', '_')}.py")
        assert found.kind == "service" and found.interval == 0
        assert found.summary.endswith(".")
    assert {name for name in STOCK if AGENTS[name].reads_automatic_mail} == {"debug", "forward"}


@pytest.mark.parametrize("name", STOCK)
def test_stock_agent_when_given_an_unknown_setting_then_it_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match=r"^inboxes\.x\.settings\.nonsense: unknown key"):
        build("x", AGENTS, name, {"nonsense": 1})


@pytest.mark.parametrize("name", STOCK)
def test_stock_agent_when_read_then_it_imports_nothing_of_responder_but_its_front(name: str) -> None:
    source = (ROOT / "plugins" / f"{name.replace('-', '_')}.py").read_text()
    imports = re.findall(r"^(?:from|import) +(\S+)", source, re.MULTILINE)
    assert {module for module in imports if module.startswith("responder")} == {"responder"}
    assert not {"smtplib", "socket", "sqlite3", "aiosmtplib"} & {module.partition(".")[0] for module in imports}


# -- echo -----------------------------------------------------------------------------------------------------------------


def test_echo_when_written_to_then_the_new_text_comes_back() -> None:
    raw = b"Subject: Hi\r\n\r\nHello\r\n\r\nOn Mon, Bob <b@x.example> wrote:\r\n> old\r\n> older\r\n\r\n-- \r\nAnn\r\n"
    assert text_of(run("echo", raw)).split() == ["You", "wrote:", "Hello"]
    assert text_of(run("echo", raw, prefix="Du schriebst:")).startswith("Du schriebst:\n\nHello")


def test_echo_when_all_is_quoted_then_it_comes_back_as_it_is() -> None:
    assert "> only this" in text_of(run("echo", b"Subject: Hi\r\n\r\n> only this\r\n"))


@pytest.mark.parametrize("line", [b"all work and no play\r\n", b"> all of this is quoted\r\n"])
def test_echo_when_the_text_is_huge_then_the_answer_is_bounded(line: bytes) -> None:
    text = text_of(run("echo", b"Subject: Hi\r\n\r\n" + line * 300_000))
    assert 240_000 < len(text) < 250_100


def test_echo_when_there_is_html_only_then_its_text_comes_back() -> None:
    raw = b"Content-Type: text/html\r\n\r\n<p>Hello <b>you</b><script>alert(1)</script></p>"
    text = text_of(run("echo", raw))
    assert "Hello you" in text and "alert" not in text and "<" not in text


# -- current-time ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the agent's clock: at("2026-03-29 00:59:59")."""

    def set_time(text: str) -> None:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        monkeypatch.setattr(Context, "now", lambda _: moment)

    return set_time


@pytest.mark.parametrize(
    ("moment", "zone", "told"),
    [
        ("2026-11-21 02:03:04", "UTC", "Saturday, 21 November 2026, 02:03:04 (UTC, UTC+0000)"),
        # one second before, and at the change: Zurich goes forward, and back
        ("2026-03-29 00:59:59", "Europe/Zurich", "Sunday, 29 March 2026, 01:59:59 (Europe/Zurich, UTC+0100)"),
        ("2026-03-29 01:00:00", "Europe/Zurich", "Sunday, 29 March 2026, 03:00:00 (Europe/Zurich, UTC+0200)"),
        ("2026-10-25 00:59:59", "Europe/Zurich", "Sunday, 25 October 2026, 02:59:59 (Europe/Zurich, UTC+0200)"),
        ("2026-10-25 01:00:00", "Europe/Zurich", "Sunday, 25 October 2026, 02:00:00 (Europe/Zurich, UTC+0100)"),
        # another day there; half an hour, three quarters
        (
            "2026-12-31 23:59:59",
            "Pacific/Kiritimati",
            "Friday, 01 January 2027, 13:59:59 (Pacific/Kiritimati, UTC+1400)",
        ),
        (
            "2026-01-01 00:00:00",
            "Pacific/Pago_Pago",
            "Wednesday, 31 December 2025, 13:00:00 (Pacific/Pago_Pago, UTC-1100)",
        ),
        ("2026-01-01 00:00:00", "Asia/Kolkata", "Thursday, 01 January 2026, 05:30:00 (Asia/Kolkata, UTC+0530)"),
        ("2026-01-01 00:00:00", "Asia/Kathmandu", "Thursday, 01 January 2026, 05:45:00 (Asia/Kathmandu, UTC+0545)"),
        (
            "2024-02-29 12:00:00",
            "America/New_York",
            "Thursday, 29 February 2024, 07:00:00 (America/New_York, UTC-0500)",
        ),
    ],
)
def test_current_time_when_asked_then_it_is_that_of_the_zone(at: Any, moment: str, zone: str, told: str) -> None:
    at(moment)
    assert text_of(run("current-time", b"\r\n", timezone=zone)) == f"It is {told}.\n"


def test_current_time_when_asked_now_then_it_is_now() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = text_of(run("current-time", b"\r\n"))
    found = re.fullmatch(r"It is \w+, (\d\d \w+ \d{4}, \d\d:\d\d:\d\d) \(UTC, UTC\+0000\)\.\n", told)
    assert found
    assert before <= datetime.strptime(f"{found[1]} +0000", "%d %B %Y, %H:%M:%S %z") <= datetime.now(UTC)


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "Europe", "../../etc/passwd", "/etc/localtime", "UTC\0", "x" * 10_000, "Europe/Zürich"]
)
def test_current_time_when_the_zone_is_none_then_it_is_refused(zone: str) -> None:
    with pytest.raises(PluginError, match=r"^inboxes\.x\.settings\.timezone: there is no time zone"):
        build("x", AGENTS, "current-time", {"timezone": zone})


def test_current_time_when_there_is_no_table_of_zones_then_utc_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(sys.modules[AGENTS["current-time"].build.__module__], "ZoneInfo", missing)
    assert "(UTC, UTC+0000)" in text_of(run("current-time", b"\r\n"))


# -- debug ----------------------------------------------------------------------------------------------------------------


def test_debug_when_a_mail_comes_then_it_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("debug", b"Subject: Hi\r\n\r\none\r\n\r\ntwo\ttabbed\r\n") is None
    assert capsys.readouterr().out.splitlines() == [
        "---------- MESSAGE FOLLOWS ----------",
        "X-Peer: 192.0.2.7",
        "X-Envelope: <ann@client.example> -> <x@test.example>",
        "Subject: Hi",
        "",
        "one",
        "",
        "two\ttabbed",
        "------------ END MESSAGE ------------",
    ]


def test_debug_when_the_mail_is_hostile_then_nothing_is_obeyed_and_nothing_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = "\x1b[2J\x1b]0;t\x07\x9b31m\x08\x00\u202e"
    assert run("debug", f"Subject: {evil}\r\n\r\n{evil}\r\n".encode(), sender=f"{evil}@x") is None
    out = capsys.readouterr().out
    assert all(char.isprintable() or char in "\n\t" for char in out)
    assert out.count(r"\x1b[2J\x1b]0;t\x07\x9b31m\x08\x00\u202e") == 3


def test_debug_when_the_mail_is_8_bit_then_text_is_shown_and_the_rest_marked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("debug", "Subject: Grüße\r\n\r\n你好\r\n".encode() + b"\xff\xfe broken\r\n") is None
    out = capsys.readouterr().out
    assert "Subject: Grüße\n" in out and "\n你好\n" in out and "\n\ufffd\ufffd broken\n" in out


# -- forward --------------------------------------------------------------------------------------------------------------


def test_forward_when_a_mail_comes_then_it_is_passed_on_to_all_targets() -> None:
    assert run("forward", b"Subject: Hi\r\n\r\nHello\r\n") == Forward()
    assert run("forward", b"", subject_prefix="[sales] ") == Forward(subject_prefix="[sales] ")
    assert run("forward", b"", subject_prefix="") == Forward(subject_prefix="")


# -- odd mails ------------------------------------------------------------------------------------------------------------


def many_parts(number: int) -> bytes:
    part = b"--x\r\nContent-Type: image/png; name=a.png\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"
    return b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + part * number + b"--x--\r\n"


ODD: dict[str, bytes] = {
    "empty": b"",
    "line end": b"\r\n",
    "headers only": b"Subject: Hi\r\nFrom: a@b.example\r\n",
    "body only": b"\r\nHello\r\n",
    "no text part": many_parts(1),
    "1000 attachments": many_parts(1000),
    "unknown charset": b"Content-Type: text/plain; charset=klingon\r\n\r\nqapla\xff\r\n",
    "charset that is none": b'Content-Type: text/plain; charset="base64"\r\n\r\nQUJD\r\n',
    "broken base64": b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n====QUJ\r\n",
    "nested deeply": b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (level, level) for level in range(500)
    ),
    "no boundary": b"Content-Type: multipart/mixed\r\n\r\nHello\r\n",
    "all octets": bytes(range(256)) * 100,
    "10 MB of text": b"Subject: big\r\n\r\n" + b"all work and no play makes Jack a dull boy\r\n" * 240_000,
    "10 MB on one line": b"Subject: big\r\n\r\n" + b"x" * 10_000_000,
    "10 MB of quotes": b"Subject: big\r\n\r\n" + b"> > > quoted\r\n" * 740_000,
    "10 MB of base64": b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + (b"QUJD" * 19 + b"\r\n") * 128_000,
    "10 MB of HTML": b"Content-Type: text/html\r\n\r\n" + b"<div><p>Hello <b>there</b>" * 400_000,
    "10 MB of controls": b"Subject: big\r\n\r\n" + b"\x1b[2J\x07\x00\x9b" * 1_250_000,
    "10 MB of header": b"Subject: " + b"a b\r\n " * 1_600_000 + b"\r\n\r\nHello\r\n",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", STOCK)
def test_stock_agent_when_the_mail_is_odd_then_it_answers_as_ever_and_in_time(
    name: str, odd: str, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.process_time()
    answer = run(name, ODD[odd])
    assert time.process_time() - began < 10
    if name in ("echo", "current-time"):
        assert text_of(answer).startswith(("You wrote:\n", "It is "))
        assert len(text_of(answer)) < 250_100
    else:
        assert answer == (Forward() if name == "forward" else None)
    out = capfd.readouterr().out
    assert (out.count("\n") >= 4) is (name == "debug")
