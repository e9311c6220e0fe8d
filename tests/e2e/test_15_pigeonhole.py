"""Our vacation and Dovecot Pigeonhole's, asked about the same mails: ours never answers where Pigeonhole stays silent.

Topology: the mails of `vacation_mails/` -> `sieve-test` with a vacation script
                                         -> the answering stage, with the agent `vacation` and the same settings

Each mail is a file; `Return-Path` is its reverse-path, and a `Delivered-To` of bob's its recipient. Where ours is silent and
Pigeonhole is not, `docs/agents/vacation.md` says why, mail by mail, and this test holds the page to it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from responder.mail.headers import Headers
from responder.mail.lifecycle import State
from responder.mail.thread import message_id
from responder.store.records import NewMail
from tests.support.server import ROOT
from tests.support.sieve import Pigeonhole, Verdict
from tests.support.stages import Desk, configured, desk

BOB = "bob@test.example"
ADDRESSES = ("robert@test.example", "bob.smith@elsewhere.example")
SCRIPT = 'require ["vacation"];\nvacation :days 7 :addresses [{addresses}] {tags} "I am away.";\n'
MAILS = sorted((Path(__file__).parent / "vacation_mails").glob("*.eml"))
SUBJECT = "I am away, Grüße"
PAGE = (ROOT / "docs" / "agents" / "vacation.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.peer("sieve-test")


def pigeonhole(tags: str = "") -> Pigeonhole:
    addresses = ", ".join([f'"{address}"' for address in ADDRESSES])
    return Pigeonhole(SCRIPT.format(addresses=addresses, tags=tags), BOB)


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail with its envelope."""

    name: str
    sender: str
    recipient: str
    content: bytes


def read(path: Path) -> Letter:
    content = path.read_bytes()
    assert b"\r" not in content, f"{path.name}: lines end with LF"
    sender = re.match(rb"Return-Path: <(.*)>\n", content)
    assert sender is not None, f"{path.name} does not begin with Return-Path"
    recipient = re.search(rb"^Delivered-To: (bob\S*)$", content, re.MULTILINE)
    return Letter(
        path.stem,
        sender[1].decode(),
        recipient[1].decode() if recipient else BOB,
        content.replace(b"\n", b"\r\n"),
    )


LETTERS = [read(path) for path in MAILS]


@dataclass(frozen=True, slots=True)
class Ours:
    """What our stage did with one mail: the answer and whom it goes to, or the code of its silence."""

    answer: bytes | None
    to: str
    code: str


def bob(folder: Path, **settings: object) -> dict[str, object]:
    """The tables of bob's inbox, with the plugin by itself in a folder."""
    plugins = folder / "plugins"
    plugins.mkdir(exist_ok=True)
    shutil.copy(ROOT / "plugins" / "vacation.py", plugins)
    return {"agent": "vacation", "settings": {"text": "I am away.", "addresses": ADDRESSES, **settings}}


async def ask(it: Desk, letter: Letter) -> Ours:
    """Put a mail into the store, let the stage answer it, and take the answer out."""
    identifier = it.clock.new_id()
    mail = NewMail(
        id=identifier,
        received_at=it.clock.now(),
        reverse_path=letter.sender,
        peer="192.0.2.1",
        helo="client.example",
        message_id=message_id(Headers.parse(letter.content)),
        content=letter.content,
        recipients=((letter.recipient, "bob"),),
    )
    await it.store.accept(mail)
    assert await it.turn() == [f"{identifier}.0"]
    state, reason = await it.end(f"{identifier}.0")
    leaving = await it.leaving()
    it.clock.advance(8 * 86400.0)  # each mail is the first one of its sender, as `sieve-test` has no memory
    if state is State.SILENT:
        assert not leaving
        return Ours(None, "", reason.partition(":")[0])
    assert state is State.ANSWERED, f"{letter.name}: {reason}"
    [message] = leaving
    assert message.content is not None
    assert message.reverse_path == ""
    return Ours(message.content, message.recipient, "")


async def both(folder: Path, letters: list[Letter]) -> dict[str, tuple[Letter, Verdict, Ours]]:
    """What either does with each mail."""
    found = {}
    table = bob(folder)
    config = configured({"bob": table}, plugins=[str(folder / "plugins")])
    async with desk(folder, config) as it:
        with pigeonhole() as peer:
            for letter in letters:
                theirs = peer.ask(letter.content, sender=letter.sender, recipient=letter.recipient)
                found[letter.name] = (letter, theirs, await ask(it, letter))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Letter, Verdict, Ours]]:
    return asyncio.run(both(tmp_path_factory.mktemp("pigeonhole"), LETTERS))


Found = dict[str, tuple[Letter, Verdict, Ours]]


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading of the page."""
    section = re.split(rf"^#+ {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1]
    lines = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert len(cells) > 2, heading
    assert all(cell for row in cells[2:] for cell in row), f"{heading}: every difference has its reason"
    return cells[2:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def listed(heading: str) -> dict[str, set[str]]:
    """Mails by the word in the first column, where no row is for `all`."""
    table: dict[str, set[str]] = defaultdict(set)
    for row in rows(heading):
        if row[1] != "all":
            table[names(row[0])[0]].update(names(row[1]))
    return table


def test_mails_when_counted_then_there_are_many_and_both_kinds(found: Found) -> None:
    assert len(found) >= 200
    assert sum(theirs.answer is not None for _, theirs, _ in found.values()) >= 80
    assert sum(theirs.answer is None for _, theirs, _ in found.values()) >= 80
    assert sum(ours.answer is not None for _, _, ours in found.values()) >= 80


def test_pigeonhole_is_silent_then_so_are_we(found: Found) -> None:
    wrong = {name: theirs.reason for name, (_, theirs, ours) in found.items() if ours.answer and not theirs.answer}
    assert {name for name, reason in wrong.items() if not reason.startswith("Invalid -f")} == set()


def test_pigeonhole_can_not_be_asked_then_the_page_says_what_we_do(found: Found) -> None:
    answered, silent = (set(names(row[0])) for row in rows("Not to be compared"))
    unasked = {name for name, (_, theirs, _) in found.items() if theirs.reason.startswith("Invalid -f")}
    assert answered == {name for name in unasked if found[name][2].answer}
    assert silent == unasked - answered


def test_pigeonhole_answers_and_we_do_not_then_the_page_says_why(found: Found) -> None:
    differences: dict[str, set[str]] = defaultdict(set)
    for name, (_, theirs, ours) in found.items():
        if theirs.answer and not ours.answer:
            differences[ours.code].add(name)
    assert listed("Answered by Pigeonhole, not here") == differences


def test_both_answer_then_the_page_says_which_fields_differ(found: Found) -> None:
    differences: dict[str, set[str]] = defaultdict(set)
    for name, (letter, theirs, ours) in found.items():
        if theirs.answer is None or ours.answer is None:
            continue
        one, other = written(theirs.answer), written(ours.answer)
        assert theirs.to == ours.to == letter.sender
        assert one["To"] == other["To"] == letter.sender
        assert one["In-Reply-To"] == other["In-Reply-To"]
        assert (one["Precedence"], other["Precedence"]) == ("bulk", "")
        assert (one["Auto-Submitted"], other["Auto-Submitted"]) == ("auto-replied (vacation)", "auto-replied")
        assert one["X-Auto-Response-Suppress"] == other["X-Auto-Response-Suppress"] == "All"
        assert one["body"] == other["body"] == "I am away."
        for field in ("From", "Subject", "References"):
            if one[field] != other[field]:
                differences[field].add(name)
    assert listed("Written otherwise") == differences
    assert {names(row[0])[0] for row in rows("Written otherwise") if row[1] == "all"} == {
        "Precedence",
        "Auto-Submitted",
    }


FIELDS = (
    "From",
    "To",
    "Subject",
    "In-Reply-To",
    "References",
    "Precedence",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
)


def written(content: bytes) -> dict[str, str]:
    """The fields of an answer, decoded and on one line; of From and To the address alone; and its text."""
    message = message_from_bytes(content, policy=default)
    assert isinstance(message, EmailMessage)
    fields = {name: " ".join(str(message[name] or "").split()) for name in FIELDS}
    for name in ("From", "To"):
        fields[name] = address_of(fields[name])
    part = message.get_body(("plain",))
    assert part is not None
    return fields | {"body": part.get_content().strip()}


def address_of(value: str) -> str:
    return value.rpartition("<")[2].rstrip(">")


@pytest.mark.parametrize(
    ("tags", "settings", "field", "expected"),
    [
        (f':subject "{SUBJECT}"', {"subject": SUBJECT}, "Subject", SUBJECT),
        (f':from "Robert <{ADDRESSES[0]}>"', {"from": f"Robert <{ADDRESSES[0]}>"}, "From", ADDRESSES[0]),
        ("", {}, "Subject", "Auto: Lunch on Friday?"),
        ("", {}, "From", BOB),
    ],
)
async def test_tag_and_its_setting_then_both_write_the_same(
    tmp_path: Path, tags: str, settings: dict[str, str], field: str, expected: str
) -> None:
    [letter] = [letter for letter in LETTERS if letter.name == "plain"]
    with pigeonhole(tags) as peer:
        theirs = peer.ask(letter.content, sender=letter.sender, recipient=letter.recipient)
    config = configured({"bob": bob(tmp_path, **settings)}, plugins=[str(tmp_path / "plugins")])
    async with desk(tmp_path, config) as it:
        ours = await ask(it, letter)
    assert theirs.answer is not None
    assert ours.answer is not None
    assert written(theirs.answer)[field] == written(ours.answer)[field] == expected
