"""`responder.testing`: what a plugin author's test sees is what the server would do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from responder import Agent, Attachment, Bounce, Context, Distribute, Forward, GiveUp, Mail, Reply, TryLater
from responder.testing import Inbox, PluginError
from responder.testing.letter import File
from tests.support.server import ROOT, environment
from tests.support.waiting import until


class Greet(Agent):
    """Greets."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        word: str = "Hello"

    steps: list[str]

    async def start(self) -> None:
        self.steps = ["start"]

    async def stop(self) -> None:
        self.steps.append("stop")

    async def answer(self, mail: Mail) -> Reply:
        self.steps.append(mail.subject)
        number = await self.context.state.increment(f"mails {mail.from_}")
        return Reply(
            text=f"{self.settings.word} {mail.from_} #{number}",
            html="<p>Hello</p>",
            attachments=[Attachment("a.txt", "text/plain", b"a")],
            headers={"Organization": "Test"},
        )


def test_answer_when_it_comes_then_all_of_it_can_be_asserted_on() -> None:
    with Inbox(Greet, {"word": "Salü"}) as box:
        outcome = box.receive("hi", sender="bob@example.com", subject="Re: Ünder way")
        assert outcome.answered and not (outcome.silent or outcome.failed or outcome.postponed)
        assert outcome.text.strip() == "Salü bob@example.com #1"
        assert outcome.html.strip() == "<p>Hello</p>"
        assert outcome.subject == "Re: Ünder way"
        assert [(file.name, file.data) for file in outcome.attachments] == [("a.txt", b"a")]
        assert outcome.headers.get("organization") == "Test"
        assert outcome.message["To"] == "bob@example.com"
        assert outcome.headers.get("auto-submitted") == "auto-replied"
        assert outcome.recipients == ["bob@example.com"]
        assert outcome.first.reverse_path.startswith("bounces+")
        assert outcome.reason == "answered by greet"
        assert box.receive(sender="bob@example.com").text.strip().endswith("#2")
        assert box.state.get("mails bob@example.com") == 2
        agent = box.agent
        assert isinstance(agent, Greet)
    assert agent.steps == ["start", "Re: Ünder way", "Hello", "stop"]


def test_mail_when_the_gate_forbids_an_answer_then_it_is_silent_and_says_why() -> None:
    with Inbox(Greet) as box:
        for change, code in (
            ({"headers": {"Auto-Submitted": "auto-replied"}}, "auto-submitted"),
            ({"headers": {"List-Id": "<x.y>"}}, "list-id"),
            ({"sender": ""}, "null-reverse-path"),
            ({"from_": ""}, "no-from"),
            ({"sender": "greet@example.org"}, "recipient-itself"),
        ):
            outcome = box.receive("hi", **change)
            assert outcome.silent and outcome.reason.startswith(f"{code}: "), outcome
            with pytest.raises(AssertionError, match=f"nothing was sent: <Outcome SILENT: {code}"):
                outcome.text  # noqa: B018


def test_mail_when_it_comes_twice_then_what_was_composed_and_not_stored_is_no_answer() -> None:
    raw = b"From: ann@example.com\r\nMessage-ID: <1@example.com>\r\n\r\nhi\r\n"
    with Inbox(Greet) as box:
        assert box.receive(raw=raw).answered
        again = box.receive(raw=raw)
        assert again.reason.startswith("duplicate-message-id: ") and again.sent == ()


def test_mail_when_built_then_the_agent_gets_what_was_asked_for() -> None:
    seen: list[Mail] = []

    def keep(mail: Mail) -> None:
        seen.append(mail)

    with Inbox(keep) as box:
        files: list[File] = [("b.bin", "application/octet-stream", b"\0\xff"), Attachment("c.png", "image/png", b"c")]
        box.receive(
            "teßt", html="<b>h</b>", subject="Söb", tag="news", attachments=files, headers={"X-One": "1", "Date": ""}
        )
        box.receive(raw=b"From: x@example.net\r\nSubject: raw\r\n\r\nas it is\r\n", sender="y@example.net")
    built, raw = seen
    assert (built.text.strip(), built.html.strip(), built.subject, built.tag) == ("teßt", "<b>h</b>", "Söb", "news")
    assert (built.sender, built.from_, built.recipient) == ("ann@example.com",) * 2 + ("keep+news@example.org",)
    assert [(file.name, file.content_type, file.data) for file in built.attachments] == [
        ("b.bin", "application/octet-stream", b"\0\xff"),
        ("c.png", "image/png", b"c"),
    ]
    assert built.headers.get("x-one") == "1" and built.date is None
    assert (raw.sender, raw.from_, raw.text.strip()) == ("y@example.net", "x@example.net", "as it is")


def test_conversation_when_replied_to_then_the_tag_comes_back() -> None:
    async def quiz(mail: Mail, context: Context) -> Reply:
        if not mail.tag:
            await context.state.set("q1", "Bern")
            return Reply(text="The capital of Switzerland?", tag="q1")
        right = mail.reply_text.strip() == await context.state.get(mail.tag)
        return Reply(text="Right!" if right else "No.", tag=mail.tag)

    with Inbox(quiz) as box:
        question = box.receive("Ask me", subject="Quiz")
        assert question.headers.text("from") == "quiz+q1@example.org"
        wrong = question.reply("Zürich")
        assert (wrong.text.strip(), wrong.subject) == ("No.", "Re: Quiz")
        assert wrong.reply("Bern").text.strip() == "Right!"
        assert question.headers.get("message-id") in wrong.headers.get("references")


def test_agent_when_it_asks_for_time_then_later_runs_it_again() -> None:
    async def slow(mail: Mail, context: Context) -> str:
        if not await context.state.get("asked"):
            await context.state.set("asked", True)
            raise TryLater(300)
        return f"{context.now():%H:%M}"

    with Inbox(slow) as box:
        outcome = box.receive()
        assert outcome.postponed and outcome.delay == 300
        with pytest.raises(AssertionError, match="the mail is not due"):
            box.turn(outcome.id)
        assert outcome.later().text.strip() == "08:05"
        assert f"{box.now:%H:%M}" == "08:05"


def test_agent_when_it_fails_then_the_traceback_is_there_and_it_fails_for_good_in_the_end() -> None:
    def breaks(mail: Mail) -> str:
        raise LookupError("no such thing")

    with Inbox(breaks) as box:
        outcome = box.receive()
        runs = 1
        while outcome.postponed:
            assert 'raise LookupError("no such thing")' in outcome.error
            assert "LookupError" in repr(outcome)
            outcome = outcome.later()
            runs += 1
        assert outcome.failed and runs == 5
        assert "no such thing" in outcome.error
        with pytest.raises(AssertionError, match="it is not run again"):
            outcome.later()


def test_agent_when_it_gives_up_then_it_has_failed_at_once() -> None:
    def never(mail: Mail) -> str:
        raise GiveUp("not for me")

    with Inbox(never) as box:
        outcome = box.receive()
        assert outcome.failed and outcome.reason == "the agent gave up: not for me"


def test_time_when_it_passes_then_interval_and_expiry_follow_it() -> None:
    class Away(Agent):
        kind = "personal"

        async def answer(self, mail: Mail) -> str:
            await self.context.state.set("seen", mail.from_, expires=3600)
            return "I am away"

    with Inbox(Away) as box:
        first = box.receive()
        assert first.text.strip() == "I am away" and first.first.reverse_path == ""
        assert box.receive().reason.startswith("interval: ")
        assert box.receive(sender="bob@example.com").answered
        box.advance("6d")
        assert box.receive().silent and box.state.get("seen") is None
        box.advance("2d")
        assert box.receive().answered


def test_agent_when_it_sleeps_in_a_run_then_time_passes_and_in_the_background_it_waits() -> None:
    class Ticks(Agent):
        async def start(self) -> None:
            self.ticks = 0
            self.task = asyncio.create_task(self.tick())

        async def stop(self) -> None:
            self.task.cancel()

        async def tick(self) -> None:
            while True:
                await self.context.clock.sleep(60)
                self.ticks += 1

        async def answer(self, mail: Mail) -> str:
            before = self.context.now()
            await self.context.clock.sleep(10)
            return f"{(self.context.now() - before).seconds} {self.ticks}"

    with Inbox(Ticks) as box:
        assert box.receive().text.strip() == "10 0"
        box.advance(50)
        assert box.receive().text.strip() == "10 1"


def test_mail_when_it_is_passed_on_then_each_copy_can_be_seen() -> None:
    def onward(mail: Mail) -> Forward:
        return Forward()

    class Members(Agent):
        async def answer(self, mail: Mail) -> Distribute:
            return Distribute(to=["a@example.net", "b@example.net"], name="Friends")

        async def bounced(self, bounce: Bounce) -> None:
            await self.context.state.set(bounce.recipient, bounce.permanent)

    with Inbox(onward, keys={"targets": ["bob@example.net"]}) as box:
        outcome = box.receive("hi")
        assert outcome.recipients == ["bob@example.net"] and outcome.first.kind == "forward"
    with Inbox(Members, keys={"targets": ["*"]}) as box:
        outcome = box.receive("hi", subject="News")
        assert outcome.recipients == ["a@example.net", "b@example.net"]
        assert [one.headers.get("list-id") != "" for one in outcome.sent] == [True, True]
        assert all("hi" in one.text for one in outcome.sent)
        box.bounce("a@example.net")
        assert box.state.get("a@example.net") is True


@pytest.mark.parametrize(
    ("settings", "keys", "reason"),
    [
        ({"wrod": "x"}, {}, r"^inboxes\.greet\.settings\.wrod: unknown key; known here: word$"),
        ({}, {"kindd": "x"}, r"inboxes\.greet\.kindd: unknown key"),
        ({}, {"targets": ["nobody"]}, r"inboxes\.greet\.targets"),
    ],
)
def test_settings_when_they_do_not_fit_then_it_is_the_server_s_own_message(
    settings: dict[str, object], keys: dict[str, object], reason: str
) -> None:
    before = threading.active_count()
    with pytest.raises(PluginError, match=reason):
        Inbox(Greet, settings, keys=keys)
    assert threading.active_count() == before


def test_agent_when_its_start_fails_then_nothing_is_left_behind(tmp_path: Path) -> None:
    class Cold(Greet):
        async def start(self) -> None:
            raise OSError("no backend")

    before = set(threading.enumerate())
    with pytest.raises(Exception, match="no backend"):
        Inbox(Cold, folder=tmp_path)

    def left() -> list[threading.Thread]:
        return [thread for thread in set(threading.enumerate()) - before if "agent" not in thread.name]

    until(lambda: not left(), 10, lambda: str(left()))  # one that has done its work may still be on its way out


def test_agent_when_named_then_it_is_found_in_the_folder_and_broken_neighbours_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from responder import agent\n@agent('shout')\ndef f(m):\n    return m.text.upper()\n"
    )
    (tmp_path / "b.py").write_text("import nothing_of_that_name\n")
    with Inbox("shout", plugins=[tmp_path]) as box:
        assert box.address == "shout@example.org"
        assert box.receive("hello").text.strip() == "HELLO"
    with pytest.raises(PluginError, match=r'there is no agent "other" \(.*b\.py: ModuleNotFoundError'):
        Inbox("other", plugins=[tmp_path])


async def test_inbox_when_used_in_an_async_test_then_it_works() -> None:
    with Inbox(Greet) as box:
        assert box.receive().answered


# -- the fixture ----------------------------------------------------------------------------------------------------------

TEST = """
from responder.testing import MakeInbox, Outcome


def test_fixture(inbox: MakeInbox) -> None:
    one, two = inbox("shout"), inbox("shout", {"kind": "personal"})
    outcome: Outcome = one.receive("hello")
    assert outcome.text.strip() == "HELLO"
    assert two.receive("hello").answered and two.receive("hello").silent
    assert inbox(lambda mail: mail.subject).receive(subject="x").text.strip() == "x"
"""
PLUGIN = "from responder import agent\n\n@agent('shout')\ndef shout(mail):\n    return mail.text.upper()\n"


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "responder.testing", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)


def test_fixture_when_used_then_agents_are_found_beside_the_test_or_where_the_option_says(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "shout.py").write_text(PLUGIN)
    (tmp_path / "own" / "test_shout.py").write_text(TEST)
    result = run_pytest(tmp_path, "own", "-p", "no:asyncio")
    assert result.returncode == 0, result.stdout + result.stderr
    (tmp_path / "tests").mkdir()
    (tmp_path / "own" / "test_shout.py").rename(tmp_path / "tests" / "test_shout.py")
    assert 'there is no agent "shout"' in run_pytest(tmp_path, "tests", "-p", "no:asyncio").stdout
    (tmp_path / "pytest.ini").write_text("[pytest]\nresponder_plugins = own\n")
    result = run_pytest(tmp_path, "tests", "-p", "no:asyncio")
    assert result.returncode == 0, result.stdout + result.stderr


def test_module_when_pytest_loads_it_then_neither_store_nor_stage_is_loaded() -> None:
    code = "import sys, responder.testing; print(*[m for m in sys.modules if m.startswith(('responder.', 'httpx', 'uvloop'))])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    loaded = result.stdout.split()
    assert "responder.testing.fixture" in loaded
    assert not [
        name for name in loaded if name.startswith(("responder.store", "responder.answering", "httpx", "uvloop"))
    ]
