"""The agent `vacation`: its settings, when it speaks, what it says, and whom it remembers across restarts."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from responder import Agent, Mail, Reply
from responder.agents.host import build
from responder.agents.load import AgentType, PluginError, load
from responder.answering.setup import set_up
from responder.config import Config
from responder.mail.address import Address
from responder.mail.lifecycle import State
from responder.store.records import NewMail
from tests.support.clock import START, ManualClock
from tests.support.memory import equipped
from tests.support.server import ROOT
from tests.support.stages import Desk, configured, desk

DAY = 86400.0
PAGE = (ROOT / "docs" / "agents" / "vacation.md").read_text(encoding="utf-8")
NOON = datetime.fromisoformat("2026-07-01T12:00:00")  # without a zone, as TOML may bring it
ANN = "ann@client.example"
BOB = "bob@test.example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin by itself."""
    path = tmp_path_factory.mktemp("plugins")
    shutil.copy(ROOT / "plugins" / "vacation.py", path)
    return path


@pytest.fixture(scope="module")
def agents(folder: Path) -> Mapping[str, AgentType]:
    return load([folder])


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"text": None}, "text: is required"),
        ({"text": " \n"}, "text: must say something"),
        ({"days": 0}, "days: Input should be greater than or equal to 1"),
        ({"days": 366}, "days: Input should be less than or equal to 365"),
        ({"seconds": 86399}, "seconds: Input should be greater than or equal to 86400"),
        ({"seconds": 86400, "days": 1}, "set days or seconds, not both"),
        ({"handle": ""}, "handle: must be one line of text"),
        ({"handle": "a\nb"}, "handle: must be one line of text"),
        ({"subject": "a\r\nBcc: eve@evil.example"}, "subject: must be one line of text"),
        ({"from": "a@b\n"}, "from: must be one line of text"),
        ({"timezone": "Mars/Olympus"}, 'timezone: there is no time zone "Mars/Olympus"'),
        ({"timezone": "../../etc/passwd"}, 'timezone: there is no time zone "../../etc/passwd"'),
        ({"start": 1800000000}, "start: write a date"),
        ({"start": "tomorrow"}, "start: write a date"),
        ({"start": date(2027, 1, 3), "end": date(2027, 1, 2)}, "end is before start"),
        ({"end": date(9999, 12, 31)}, "start and end must lie between"),
        ({"addresses": ["no address"]}, "its agent's addresses hold what is no address"),
        ({"mime": True}, "unknown key"),
    ],
)
def test_setting_is_wrong_then_one_line_names_it(
    folder: Path, agents: Mapping[str, AgentType], settings: dict[str, Any], reason: str
) -> None:
    table = {name: value for name, value in ({"text": "I am away."} | settings).items() if value is not None}
    config = configured({"bob": {"agent": "vacation", "settings": table}}, plugins=[str(folder)])
    with pytest.raises(PluginError) as refused:
        set_up(config, agents)
    assert reason in str(refused.value)
    assert "inboxes.bob" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_page_when_its_configuration_is_loaded_then_it_is_one(agents: Mapping[str, AgentType]) -> None:
    examples = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
    assert examples
    for example in examples:
        setup = set_up(Config.model_validate(example), agents)
        agent = setup.inboxes["bob"].agent
        assert agent.addresses == ("robert.smith@example.org", "bob@home.example")
        assert agent.settings.span() == (
            datetime(2026, 12, 20, 23, tzinfo=UTC),
            datetime(2027, 1, 3, 22, 59, 59, 999999, tzinfo=UTC),
        )


def test_page_when_read_then_it_names_every_setting(agents: Mapping[str, AgentType]) -> None:
    section = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    fields = agents["vacation"].settings.model_fields
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        field.alias or name for name, field in fields.items()
    ]
    assert agents["vacation"].kind == "personal"


# -- when it speaks ----------------------------------------------------------------------------------------------------


def mail(*fields: str) -> Mail:
    raw = "\r\n".join([f"From: {ANN}", f"To: {BOB}", *fields, "", "hello", ""]).encode()
    return Mail(raw, id="0" * 18 + ".0", inbox="bob", recipient=Address("bob", "test.example"), sender=ANN)


def made(agents: Mapping[str, AgentType], clock: ManualClock | None = None, **settings: Any) -> Agent:
    _, agent = build("bob", agents, "vacation", {"text": "I am away."} | settings)
    return equipped(type(agent), clock, "bob", **({"text": "I am away."} | settings))


def at(text: str) -> ManualClock:
    return ManualClock(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize(
    ("settings", "silent", "spoken"),
    [
        # Berlin is an hour ahead of UTC in winter, two in summer.
        (
            {"start": date(2026, 12, 21), "end": date(2026, 12, 24), "timezone": "Europe/Berlin"},
            ["2026-12-20T22:59:59Z", "2026-12-24T23:00:00Z"],
            ["2026-12-20T23:00:00Z", "2026-12-24T22:59:59Z"],
        ),
        ({"end": date(2026, 12, 24)}, ["2026-12-25T00:00:00Z"], ["2020-01-01T00:00:00Z", "2026-12-24T23:59:59Z"]),
        ({"start": date(2026, 12, 24)}, ["2026-12-23T23:59:59Z"], ["2026-12-24T00:00:00Z", "2040-01-01T00:00:00Z"]),
        ({"start": "2026-12-24"}, ["2026-12-23T23:59:59Z"], ["2026-12-24T00:00:00Z"]),
        (
            {"start": NOON, "end": NOON + timedelta(hours=2), "timezone": "Europe/Berlin"},
            ["2026-07-01T09:59:59Z", "2026-07-01T12:00:01Z"],
            ["2026-07-01T10:00:00Z", "2026-07-01T12:00:00Z"],
        ),
        (
            {"end": datetime.fromisoformat("2026-07-01T14:00:00+05:00"), "timezone": "Europe/Berlin"},
            ["2026-07-01T09:00:01Z"],
            ["2026-07-01T09:00:00Z"],
        ),
        ({"end": "2026-07-01T00:00:00"}, ["2026-07-01T00:00:01Z"], ["2026-07-01T00:00:00Z"]),
        # The night of the change has 25 hours: its last day ends with them.
        (
            {"start": date(2026, 10, 25), "end": date(2026, 10, 25), "timezone": "Europe/Berlin"},
            ["2026-10-24T21:59:59Z", "2026-10-25T23:00:00Z"],
            ["2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z"],
        ),
        ({}, [], ["2000-01-01T00:00:00Z", "2050-01-01T00:00:00Z"]),
    ],
)
async def test_absence_has_bounds_then_it_speaks_within_them_only(
    agents: Mapping[str, AgentType], settings: dict[str, Any], silent: list[str], spoken: list[str]
) -> None:
    for moment in silent:
        assert await made(agents, at(moment), **settings).answer(mail()) is None, moment
    for moment in spoken:
        assert isinstance(await made(agents, at(moment), **settings).answer(mail()), Reply), moment


async def test_outside_of_the_absence_then_the_log_says_so(
    agents: Mapping[str, AgentType], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert await made(agents, at("2026-01-01T00:00:00Z"), start=date(2026, 2, 1)).answer(mail()) is None
        assert await made(agents, at("2026-03-01T00:00:00Z"), end=date(2026, 2, 1)).answer(mail()) is None
    assert "the absence begins at 2026-02-01T00:00:00+00:00" in caplog.text
    assert "the absence ended at 2026-02-01T23:59:59.999999+00:00" in caplog.text


# -- what it says ------------------------------------------------------------------------------------------------------


async def handle(agents: Mapping[str, AgentType], title: str = "hello", **settings: Any) -> str:
    answer = await made(agents, **settings).answer(mail(f"Subject: {title}"))
    assert isinstance(answer, Reply)
    return answer.handle


async def test_what_is_said_changes_then_so_does_the_handle(agents: Mapping[str, AgentType]) -> None:
    alone = await handle(agents)
    assert alone == await handle(agents, "another one", days=30, start=date(2020, 1, 1), addresses=[BOB])
    others = [
        await handle(agents, **settings)
        for settings in (
            {"text": "I am away!"},
            {"html": "<p>I am away.</p>"},
            {"subject": "Away"},
            {"from": BOB},
            {"html": "Away"},  # the same words in another place
            {"html": "Aw", "subject": "ay"},
            {"handle": "summer"},
            {"handle": alone.removeprefix("text ")},
        )
    ]
    assert len({alone, *others}) == 1 + len(others)
    assert await handle(agents, handle="summer") == await handle(agents, handle="summer", text="News")


@pytest.mark.parametrize(("settings", "seconds"), [({}, 7 * DAY), ({"days": 1}, DAY), ({"seconds": 90000}, 90000.0)])
async def test_days_or_seconds_then_that_is_the_interval(
    agents: Mapping[str, AgentType], settings: dict[str, Any], seconds: float
) -> None:
    answer = await made(agents, **settings).answer(mail())
    assert isinstance(answer, Reply)
    assert answer.interval == seconds


# -- the whole stage ---------------------------------------------------------------------------------------------------


def table(folder: Path, settings: dict[str, Any], inbox: dict[str, Any] | None = None) -> Config:
    bob = {"agent": "vacation", "settings": {"text": "I am away."} | settings} | (inbox or {})
    return configured({"bob": bob}, plugins=[str(folder)])


async def arrive(
    it: Desk, sender: str = ANN, *fields: str, to: str = BOB, subject: str | None = "Subject: Lunch?"
) -> str:
    """Put a mail into the store; its item."""
    lines = [f"From: {sender}", f"To: {to}", *([subject] if subject else []), *fields, "", "hello", ""]
    mail = NewMail(
        id=it.clock.new_id(),
        received_at=it.clock.now(),
        reverse_path=sender,
        peer="192.0.2.1",
        helo="client.example",
        message_id="",
        content="\r\n".join(lines).encode(),
        recipients=((to if to.startswith("bob+") else BOB, "bob"),),
    )
    await it.store.accept(mail)
    return f"{mail.id}.0"


async def answered(it: Desk, sender: str = ANN, *fields: str, to: str = BOB) -> bool:
    """Whether a mail that comes now is answered."""
    item = await arrive(it, sender, *fields, to=to)
    await it.turn()
    state, reason = await it.end(item)
    assert state in (State.ANSWERED, State.SILENT), reason
    assert state is State.ANSWERED or reason.startswith("interval:"), reason
    return state is State.ANSWERED


async def the_answer(it: Desk) -> EmailMessage:
    [leaving] = await it.leaving()
    assert leaving.reverse_path == ""
    assert leaving.content is not None
    message = message_from_bytes(leaving.content, policy=default)
    assert isinstance(message, EmailMessage)
    return message


async def test_settings_say_what_is_written_then_it_is(folder: Path, tmp_path: Path) -> None:
    settings = {
        "html": "<p>I am <b>away</b>.</p>",
        "subject": "Away until Monday, Grüße",
        "from": "Robert <robert@test.example>",
        "addresses": ["robert@test.example"],
    }
    async with desk(tmp_path, table(folder, settings)) as it:
        assert await answered(it, ANN, to="robert@test.example")
        message = await the_answer(it)
    assert message["Subject"] == "Away until Monday, Grüße"
    assert message["From"] == "Robert <robert@test.example>"
    assert message["To"] == ANN
    assert message["Auto-Submitted"] == "auto-replied"
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content().strip() for part in message.iter_parts()] == ["I am away.", "<p>I am <b>away</b>.</p>"]


async def test_mail_has_no_subject_then_the_answer_has_one(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {})) as it:
        await arrive(it, subject=None)
        await it.turn()
        assert (await the_answer(it))["Subject"] == "Automated reply"


async def test_from_is_nobodys_of_us_then_the_mail_fails_and_nothing_leaves(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {"from": "ceo@far.example"})) as it:
        item = await arrive(it)
        await it.turn()
        assert (await it.end(item))[0] is not State.ANSWERED
        assert await it.leaving() == []


async def test_mail_to_another_address_of_the_person_then_it_is_addressed(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {"addresses": ["bob@home.example"]})) as it:
        assert await answered(it, ANN, to="bob@home.example")
        item = await arrive(it, "eve@client.example", to="staff@test.example")
        own = await arrive(it, "Bob@HOME.example")
        await it.turn()
        assert (await it.end(item))[1].startswith("not-addressed")
        assert (await it.end(own))[1].startswith("own-address")


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_sender_writes_twice_then_one_answer_until_the_days_are_over(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {"days": 3})) as it:
        assert await answered(it)
        assert not await answered(it)
        assert not await answered(it, "ANN@Client.Example")
        assert not await answered(it, '"ann"@client.example')
        assert await answered(it, "carol@client.example")
        it.clock.advance(3 * DAY - 1)
        assert not await answered(it)
        it.clock.advance(1)
        assert await answered(it)
        assert not await answered(it)


async def test_server_restarts_then_the_sender_is_remembered(folder: Path, tmp_path: Path) -> None:
    clock = ManualClock()
    async with desk(tmp_path, table(folder, {}), clock) as it:
        assert await answered(it)
    clock.advance(DAY)
    async with desk(tmp_path, table(folder, {"days": 30}), clock) as it:
        assert not await answered(it)
    clock.advance(29 * DAY)
    async with desk(tmp_path, table(folder, {"days": 30}), clock) as it:
        assert await answered(it)


async def test_text_or_handle_changes_then_the_sender_is_answered_again(folder: Path, tmp_path: Path) -> None:
    clock = ManualClock()
    expected: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"days": 20}, False),
        ({"text": "I am still away."}, True),
        ({"text": "I am still away."}, False),
        ({"text": "I am still away.", "html": "<p>I am still away.</p>"}, True),
        ({"handle": "one"}, True),
        ({"handle": "one", "text": "Other words."}, False),
        ({"handle": "two"}, True),
        ({}, False),
    ]
    for settings, answers in expected:
        async with desk(tmp_path, table(folder, settings), clock) as it:
            assert await answered(it) is answers, settings


async def test_two_mails_at_once_then_one_answer(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {})) as it:
        items = [await arrive(it), await arrive(it, "Ann@client.example"), await arrive(it, "carol@client.example")]
        await it.turn_together()
        ends = [(await it.end(item))[0] for item in items]
        assert sorted(ends[:2]) == [State.ANSWERED, State.SILENT]
        assert ends[2] is State.ANSWERED
        assert sorted(message.recipient for message in await it.leaving()) == [ANN, "carol@client.example"]


async def test_tags_of_the_address_differ_then_it_is_one_person_all_the_same(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {})) as it:
        assert await answered(it)
        assert not await answered(it, to="bob+news@test.example")
        assert not await answered(it, to="bob+shop@test.example")


async def test_subjects_differ_then_it_is_one_answer_all_the_same(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {})) as it:
        assert await answered(it)
        assert not await answered(it, ANN, "Subject: second", "Message-ID: <2@client.example>")


@pytest.mark.parametrize("days", [1, 365])
async def test_operator_sets_the_interval_then_it_goes_before_the_agents(
    folder: Path, tmp_path: Path, days: int
) -> None:
    async with desk(tmp_path, table(folder, {"days": days}, {"interval": "2d"})) as it:
        assert await answered(it)
        it.clock.advance(2 * DAY - 1)
        assert not await answered(it)
        it.clock.advance(1)
        assert await answered(it)


async def test_operator_sets_an_hour_then_it_is_a_day(folder: Path, tmp_path: Path) -> None:
    async with desk(tmp_path, table(folder, {"days": 5}, {"interval": "1h"})) as it:
        assert await answered(it)
        it.clock.advance(DAY - 1)
        assert not await answered(it)
        it.clock.advance(1)
        assert await answered(it)


async def test_mail_before_the_absence_then_the_sender_is_not_used_up(folder: Path, tmp_path: Path) -> None:
    start = datetime.fromtimestamp(START + DAY, UTC)
    async with desk(tmp_path, table(folder, {"start": start})) as it:
        item = await arrive(it)
        await it.turn()
        assert await it.end(item) == (State.SILENT, "agent-silent: the agent had no answer")
        it.clock.advance(DAY)
        assert await answered(it)
