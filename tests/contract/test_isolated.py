"""Agents in processes of their own: they work as they are, and whatever they do ends with their process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import pytest

from responder import Attachment, Distribute, Forward, HandOver, Mail, Reply, TryLater
from responder.agents.base import Bounce
from responder.agents.host import STARTS, AgentError, Host, Inbox
from responder.agents.isolation import frames
from responder.agents.isolation import pool as isolated_module
from responder.agents.isolation.spawn import Nursery
from responder.agents.registry import PluginError
from tests.support.agents import Plugins, loaded, mail

AGENTS = '''
import asyncio, os, sys, time
from pathlib import Path
from pydantic import BaseModel
from responder import Distribute, GiveUp, HandOver
from ._word import WORD

class Own(Agent):
    """Tells what it is and does what its settings say."""

    class Settings(BaseModel):
        does: str = "tell"
        word: str = WORD
        begin: str = ""

    async def start(self):
        if self.settings.begin == "fail":
            raise ValueError("no database")
        if self.settings.begin == "hang":
            time.sleep(600)
        self.began = os.getpid()

    async def stop(self):
        if self.settings.begin.startswith("/"):
            Path(self.settings.begin).write_text("stopped")

    async def bounced(self, bounce):
        await self.context.state.set("bounce", [bounce.recipient, bounce.permanent])

    async def answer(self, mail):
        does = self.settings.does
        if does == "tell":
            return f"{self.settings.word} {os.getpid()} {os.getpid() == self.began} {mail.subject} {mail.tag}"
        if does == "all":
            return Reply(text="\\ud800ä", html="<p>x", subject="S", headers={"X-Mailer": "y"}, tag="t", from_="a@b.c",
                handle="h", interval=7, attachments=[Attachment("n", "a/b", b"\\x00"), Attachment("m", "a/b", b"")])
        if does == "hoard":
            for key in range(17):
                await self.context.state.set(str(key), "x" * 1_000_000)
            try:
                await self.context.state.items()
            except ValueError as error:
                return f"{error}; {len(await self.context.state.items('1'))}"
        if does == "state":
            state = self.context.state
            told = [await state.get("none", 5), await state.add("a", {"x": [1]}), await state.add("a", 2)]
            told += [await state.increment("n", 2, expires=60), await state.get("a"), await state.items("a")]
            await state.set("gone", None)
            told.append(await state.get("gone", 5))
            await state.delete("gone")
            try:
                await state.set("bad", object())
            except ValueError as error:
                told.append(str(error)[:20])
            return repr(told)
        if does == "log":
            self.context.log.warning("it %s", "happened")
            return None
        if does == "wrap":
            inner = await self.context.agent("plain", {})
            return await asyncio.to_thread(inner.answer, mail)
        if does == "hang":
            await asyncio.sleep(600)
        if does == "block":
            time.sleep(600)
        if does == "odd":
            await self.context.state.set(f"pid {os.getpid()}", None)
            raise SystemExit
        if does == "exit":
            os._exit(3)
        return {"forward": Forward(to=["a@b.c"], subject_prefix=""), "hand-over": HandOver(), "number": 5,
            "distribute": Distribute(["a@b.c"], name="n", one_click={"a@b.c": "https://x"}, tokens={"a@b.c": "t"},
                                     discussion=False),
            "later": None}[does] if does != "later" else self._later()

    def _later(self):
        raise TryLater(90)

@agent("plain")
def plain(mail, context):
    return f"{context.inbox} {context.blocking.state.increment('n')}"

@agent("loop-of-its-own")
def loop_of_its_own(mail, context):
    return str(asyncio.run(context.state.increment('n')))

@agent("quits")
def quits(mail):
    raise GiveUp("for good")

@hookimpl
def responder_agents():
    return {"own": Own}
'''


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host(4)
    yield host
    await host.retire(list(host._places), 5)
    host.close()


def make(plugins: Plugins, name: str = "own", timeout: float = 5.0, concurrency: int = 2, **settings: str) -> Inbox:
    plugins.write("own/_word.py", 'WORD = "before"\n')
    plugins.write("own/one.py", AGENTS)
    found = loaded(plugins.load(), name, **settings)
    return replace(found, isolated=True, timeout=timeout, concurrency=concurrency, memory=64 << 20)


async def text(host: Host, inbox: Inbox, one: Mail | None = None) -> str:
    answer = await host.run(inbox, one or mail())
    assert isinstance(answer, Reply)
    return answer.text


# -- it works as it is ----------------------------------------------------------------------------------------------------


async def test_agent_when_isolated_then_it_runs_in_one_process_that_is_used_again(plugins: Plugins, host: Host) -> None:
    inbox = make(plugins)
    await host.start([inbox])
    word, pid, started, subject, tag = (await text(host, inbox)).split()
    assert (word, started, subject, tag) == ("before", "True", "Hello", "tag")
    assert int(pid) != os.getpid()
    assert (await text(host, inbox)).split()[1] == pid


async def test_process_when_replaced_then_it_has_the_code_of_the_start(plugins: Plugins, host: Host) -> None:
    inbox = make(plugins)
    await host.start([inbox])
    first = (await text(host, inbox)).split()
    plugins.write("own/_word.py", 'WORD = "after"\n')
    (plugins.folder / "own" / "one.py").write_text("nothing of what it was")
    os.kill(int(first[1]), 9)
    async with asyncio.timeout(5):
        while host._places[inbox].isolated._idle[0].alive:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    second = (await text(host, inbox)).split()
    assert second[0] == "before" and second[1] != first[1]


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (
            "all",
            Reply(
                "\ud800ä", "<p>x", [Attachment("n", "a/b", b"\0"), Attachment("m", "a/b", b"")], "S", {"X-Mailer": "y"},
                "t", "a@b.c", "h", 7,
            ),
        ),
        ("forward", Forward(to=["a@b.c"], subject_prefix="")),
        ("hand-over", HandOver()),
        (
            "distribute",
            Distribute(["a@b.c"], name="n", one_click={"a@b.c": "https://x"}, tokens={"a@b.c": "t"}, discussion=False),
        ),
    ],
)  # fmt: skip
async def test_answer_when_of_any_kind_then_it_arrives_whole(
    plugins: Plugins, host: Host, does: str, expected: object
) -> None:
    assert await host.run(make(plugins, does=does), mail()) == expected


async def test_agent_when_it_says_later_or_gives_up_or_no_answer_then_that_arrives(
    plugins: Plugins, host: Host
) -> None:
    with pytest.raises(TryLater) as later:
        await host.run(make(plugins, does="later"), mail())
    assert later.value.seconds == 90
    with pytest.raises(AgentError, match="gave up: for good") as given_up:
        await host.run(make(plugins, "quits"), mail())
    assert given_up.value.final
    with pytest.raises(AgentError, match="returned a int"):
        await host.run(make(plugins, does="number"), mail())


async def test_state_when_used_in_a_process_then_it_is_the_inboxs_own(plugins: Plugins, host: Host) -> None:
    inbox = make(plugins, does="state")
    assert await text(host, inbox) == repr(
        [5, True, False, 2, {"x": [1]}, {"a": {"x": [1]}}, None, "a value must be JSON"]
    )
    assert await inbox.agent.context.state.get("n") == 2
    plain = make(plugins, "plain")
    assert [await text(host, plain) for _ in range(2)] == ["x 1", "x 2"]


async def test_state_when_more_is_asked_for_than_a_frame_holds_then_that_is_told(plugins: Plugins, host: Host) -> None:
    assert "ask for less at a time; 8" in await text(host, make(plugins, does="hoard"))


RUN: ContextVar[str] = ContextVar("run", default="none")


async def test_state_when_asked_for_in_a_loop_of_the_agents_own_then_it_answers_there(
    plugins: Plugins, host: Host
) -> None:
    assert await text(host, make(plugins, "loop-of-its-own")) == "1"


async def test_state_when_used_in_a_process_then_it_is_used_in_the_context_of_the_run(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction that an answer is stored in is known by its context."""
    inbox = make(plugins, "plain")
    seen = []

    async def increment(key: str, by: int = 1, *, expires: float | None = None) -> int:
        seen.append(RUN.get())
        return 1

    monkeypatch.setattr(inbox.agent.context.state, "increment", increment)
    for name in ("first", "second"):
        RUN.set(name)
        await host.run(inbox, mail())
    assert seen == ["first", "second"]


async def test_bounce_when_told_to_an_isolated_agent_then_it_hears_of_it(plugins: Plugins, host: Host) -> None:
    inbox = make(plugins)
    await host.bounced(inbox, Bounce("a@b.c", True, "5.1.1", "gone"))
    assert await inbox.agent.context.state.get("bounce") == ["a@b.c", True]


async def test_log_line_when_written_in_a_process_then_the_server_writes_it_with_the_mails_id(
    plugins: Plugins, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "responder.agent"):
        assert await host.run(make(plugins, does="log"), mail()) is None
    [record] = [record for record in caplog.records if record.getMessage() == "it happened"]
    assert record.fields == {"inbox": "x", "id": mail().id}  # type: ignore[attr-defined]


async def test_agent_when_it_wraps_another_then_that_is_found_in_the_process_too(plugins: Plugins, host: Host) -> None:
    assert await text(host, make(plugins, does="wrap")) == "x 1"


async def test_mail_when_large_then_it_arrives_whole(plugins: Plugins, host: Host) -> None:
    large = mail(b"Subject: big\r\n\r\n" + b"x" * 20_000_000)
    assert (await text(host, make(plugins), large)).split()[3] == "big"


async def test_runs_when_many_then_no_more_processes_than_allowed(plugins: Plugins, host: Host) -> None:
    inbox = make(plugins, concurrency=2)
    told = await asyncio.gather(*[text(host, inbox) for _ in range(20)])
    assert len({one.split()[1] for one in told}) == 2


# -- its beginning and its end --------------------------------------------------------------------------------------------


async def test_start_when_an_isolated_agent_fails_then_the_others_are_stopped_and_it_is_one_line(
    plugins: Plugins, host: Host, tmp_path: Path
) -> None:
    good = make(plugins, begin=str(tmp_path / "ended"))
    bad = make(plugins, begin="fail")
    with pytest.raises(PluginError, match=r'^inboxes\.x: the agent "own" does not start: ValueError: no database$'):
        await host.start([good, bad])
    assert (tmp_path / "ended").read_text() == "stopped"


async def test_start_when_an_isolated_agent_hangs_then_it_is_given_up(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_module, "KILL", 0.1)
    with pytest.raises(PluginError, match=r"does not start: the agent took longer than 0\.3 s"):
        await host.start([make(plugins, timeout=0.3, begin="hang")])


async def test_start_when_the_plugin_has_gone_then_it_is_one_line(plugins: Plugins, host: Host) -> None:
    inbox = make(plugins)
    (plugins.folder / "own" / "one.py").unlink()
    with pytest.raises(PluginError, match=r"^inboxes\.x: .*one\.py.*$"):
        await host.start([inbox])


async def test_start_when_many_inboxes_are_isolated_then_a_few_pythons_begin_at_a_time(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the same time to begin in: hundreds at once would take it from each other."""
    beginning, most = 0, 0
    begin = Nursery.open

    async def open_(nursery: Nursery) -> None:
        nonlocal beginning, most
        beginning += 1
        most = max(most, beginning)
        await begin(nursery)
        beginning -= 1

    monkeypatch.setattr(Nursery, "open", open_)
    await host.start([make(plugins) for _ in range(10)])
    assert 1 < most <= STARTS


async def test_nursery_when_it_is_stopped_then_the_mail_fails_in_time_and_the_next_one_has_another(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_module, "FORK", 0.5)
    monkeypatch.setattr(isolated_module, "KILL", 0.1)
    monkeypatch.setattr(isolated_module, "PAUSE", 0.0)
    inbox = make(plugins, timeout=1.0, concurrency=1)
    pid = int((await text(host, inbox)).split()[1])
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        with pytest.raises(AgentError):  # the process is gone, and nobody tells
            await host.run(inbox, mail())
        with pytest.raises(AgentError, match="does not respond"):
            await host.run(inbox, mail())
        while Path(f"/proc/{parent}").exists():
            await asyncio.sleep(0.01)
        assert int((await text(host, inbox)).split()[1]) != pid


async def test_retire_when_processes_idle_then_each_stops_its_agent_and_ends(
    plugins: Plugins, host: Host, tmp_path: Path
) -> None:
    inbox = make(plugins, begin=str(tmp_path / "ended"))
    await host.start([inbox])
    pid = int((await text(host, inbox)).split()[1])
    await host.retire([inbox], 5)
    assert (tmp_path / "ended").read_text() == "stopped"
    assert not Path(f"/proc/{pid}").exists()


async def test_process_when_idle_for_long_then_it_ends(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_module, "IDLE", 0.05)
    inbox = make(plugins)
    pid = int((await text(host, inbox)).split()[1])
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)
    assert int((await text(host, inbox)).split()[1]) != pid


# -- what it does wrong ---------------------------------------------------------------------------------------------------


async def test_process_when_it_ends_then_that_is_told_and_the_next_mail_has_another(
    plugins: Plugins, host: Host
) -> None:
    inbox = make(plugins, does="exit")
    for _ in range(3):
        with pytest.raises(AgentError, match=r"^the agent's process ended with exit status 3$"):
            await host.run(inbox, mail())


async def test_process_when_its_agent_raises_what_ends_programs_then_it_is_replaced(
    plugins: Plugins, host: Host
) -> None:
    inbox = make(plugins, does="odd")
    for _ in range(3):
        with pytest.raises(AgentError, match="raised SystemExit"):
            await host.run(inbox, mail())
    assert len(await inbox.agent.context.state.items("pid")) == 3


@pytest.mark.parametrize("does", ["hang", "block"])
async def test_agent_when_it_takes_too_long_then_it_is_ended_and_where_it_was_is_told(
    plugins: Plugins, host: Host, does: str
) -> None:
    inbox = make(plugins, timeout=0.3, does=does)
    with pytest.raises(AgentError, match=r"^the agent took longer than 0\.3 s$") as caught:
        await host.run(inbox, mail())
    assert "one.py" in caught.value.detail and "in answer" in caught.value.detail


async def test_run_when_cancelled_then_its_process_is_killed(plugins: Plugins, host: Host) -> None:
    inbox = make(plugins, timeout=60, does="hang")
    await host.start([inbox])
    [link] = host._places[inbox].isolated._links  # type: ignore[union-attr]
    run = asyncio.create_task(host.run(inbox, mail()))
    await asyncio.sleep(0.05)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    async with asyncio.timeout(5):
        while Path(f"/proc/{link.pid}").exists():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "octets",
    [
        b"\xff" * 64,
        *[
            b"".join(frames.encode(header))
            for header in ({"op": "answer", "n": 7}, {"op": "ready"}, {"op": None}, {"op": ["x"]}, {})
        ],
    ],
)
async def test_process_when_it_says_what_nobody_asked_for_then_it_is_ended(
    plugins: Plugins, host: Host, octets: bytes
) -> None:
    inbox = make(plugins, does="hang")
    await host.start([inbox])
    [link] = host._places[inbox].isolated._links  # type: ignore[union-attr]
    run = asyncio.create_task(host.run(inbox, mail()))
    await asyncio.sleep(0.05)
    link._receiver.data_received(octets)
    with pytest.raises(AgentError, match=r"^the agent's process broke the protocol: "):
        await run
    assert not link.alive
    async with asyncio.timeout(5):
        await link.ended.wait()


async def test_nursery_when_it_is_killed_then_it_is_begun_again(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_module, "PAUSE", 0.05)
    inbox = make(plugins)
    await host.start([inbox])
    first = (await text(host, inbox)).split()[1]
    nursery = host._places[inbox].isolated._nursery  # type: ignore[union-attr]
    assert nursery is not None
    nursery._process.kill()
    async with asyncio.timeout(10):
        while nursery.alive:
            await asyncio.sleep(0.01)
        while True:
            try:
                assert (await text(host, inbox)).split()[1] != first
            except AgentError:
                await asyncio.sleep(0.02)
            else:
                break
        while alive(int(first)):  # the kernel ends it with its parent
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
