"""Agents start, run, are interrupted where they block the event loop, and stop; each of it contained."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from responder import Agent, Mail, Reply
from responder.agents import host as host_module
from responder.agents import watchdog as watchdog_module
from responder.agents.attempts import ATTEMPT, Attempt, Bench
from responder.agents.base import Bounce
from responder.agents.context import MAIL_ID
from responder.agents.host import AgentError, Host
from responder.agents.registry import PluginError
from responder.agents.watchdog import Watchdog, agents_frame
from responder.observe import format_text
from tests.support.agents import Plugins, inbox, loaded, mail, raising, returning


@pytest.fixture
async def watched() -> AsyncIterator[Host]:
    host = Host(4)
    await host.start([])
    yield host
    await host.retire(list(host._places), 5)
    host.close()


class Steps(Agent):
    """Notes what is called."""

    def __init__(self, *fails: str) -> None:
        super().__init__(None)
        self.fails = fails
        self.called: list[str] = []

    def _do(self, step: str) -> None:
        self.called.append(step)
        if step in self.fails:
            raise SystemExit(f"no {step}")

    async def start(self) -> None:
        self._do("start")

    async def stop(self) -> None:
        self._do("stop")

    async def answer(self, mail: Mail) -> str:
        self._do("answer")
        return MAIL_ID.get()

    async def bounced(self, bounce: Bounce) -> None:
        self._do("bounced")


class Plain(Steps):
    """The same as plain functions."""

    def start(self) -> None:  # type: ignore[override]
        self._do(f"start {threading.current_thread().name}")

    def stop(self) -> None:  # type: ignore[override]
        self._do("stop")

    def answer(self, mail: Mail) -> str:  # type: ignore[override]
        return MAIL_ID.get()

    def bounced(self, bounce: Bounce) -> None:  # type: ignore[override]
        self._do("bounced")


BOUNCE = Bounce("a@b.c", True, "5.1.1", "gone")


# -- start and stop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Steps, Plain])
async def test_agent_when_it_lives_then_each_step_is_called_once(watched: Host, kind: type[Steps]) -> None:
    agent = kind()
    one = inbox(agent)
    await watched.start([one])
    assert await watched.run(one, mail()) == Reply(text=mail().id)
    assert MAIL_ID.get() == ""
    await watched.bounced(one, BOUNCE)
    await watched.retire([one], 1)
    assert [step.split()[0] for step in agent.called if step != "answer"] == ["start", "bounced", "stop"]
    if kind is Plain:
        assert agent.called[0] == "start responder-agent"


async def test_async_agent_when_it_asks_as_plain_functions_do_then_it_is_told_and_nothing_hangs(watched: Host) -> None:
    class Mistaken(Steps):
        async def answer(self, mail: Mail) -> str:
            return str(self.context.blocking.state.get("k"))

    one = inbox(Mistaken())
    await watched.start([one])
    async with asyncio.timeout(5):
        with pytest.raises(AgentError, match=r"RuntimeError: context\.blocking is for plain functions"):
            await watched.run(one, mail())


async def test_start_when_one_fails_then_the_others_are_stopped_and_it_is_one_line(watched: Host) -> None:
    good, bad = Steps(), Steps("start")
    with pytest.raises(PluginError, match=r'^inboxes\.x: the agent "x" does not start: SystemExit: no start$'):
        await watched.start([inbox(good), inbox(bad)])
    assert good.called == ["start", "stop"]
    assert bad.called == ["start"]


async def test_start_when_one_hangs_then_it_is_given_up_in_its_inboxs_time(watched: Host) -> None:
    class Hangs(Steps):
        async def start(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(PluginError, match=r"does not start: the agent took longer than 0\.05 s"):
        await watched.start([inbox(Hangs(), timeout=0.05)])


async def test_stop_and_bounced_when_they_raise_then_it_is_logged_only(
    watched: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(host_module, "event", lambda name, **fields: events.append(name))
    agent = Steps("stop", "bounced")
    one = inbox(agent)
    await watched.start([one])
    await watched.bounced(one, BOUNCE)
    await watched.retire([one], 1)
    assert agent.called == ["start", "bounced", "stop"]
    assert events == ["bounce not told", "agent did not stop"]


async def test_retire_when_a_mail_is_in_flight_then_it_ends_on_the_old_agent_first(watched: Host) -> None:
    go_on, entered = asyncio.Event(), asyncio.Event()

    class Slow(Steps):
        async def answer(self, mail: Mail) -> str:
            entered.set()
            await go_on.wait()
            self._do("answer")
            return "done"

    agent = Slow()
    one = inbox(agent)
    await watched.start([one])
    run = asyncio.create_task(watched.run(one, mail()))
    await entered.wait()
    retiring = asyncio.create_task(watched.retire([one], 10))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not retiring.done()
    go_on.set()
    assert await run == Reply(text="done")
    await retiring
    assert agent.called == ["start", "answer", "stop"]


async def test_retire_when_a_mail_never_ends_then_patience_does(watched: Host) -> None:
    async def hangs(mail: Mail) -> None:
        await asyncio.Event().wait()

    one = inbox(hangs)
    run = asyncio.create_task(watched.run(one, mail()))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await watched.retire([one], 0.05)
    run.cancel()


async def test_runs_when_more_than_the_inbox_allows_then_they_wait_outside_of_their_time(watched: Host) -> None:
    now, most = 0, 0

    async def counted(mail: Mail) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.03)
        now -= 1
        return "x"

    one = replace(inbox(counted, timeout=0.1), concurrency=2)
    await asyncio.gather(*[watched.run(one, mail()) for _ in range(12)])
    assert most == 2


# -- the watchdog ---------------------------------------------------------------------------------------------------------


def blocks_by_sleep() -> None:
    time.sleep(30)


def blocks_by_loop() -> None:
    while True:
        pass


def blocks_by_lock() -> None:
    threading.Event().wait(30)


def blocks_stubbornly() -> None:
    for _ in range(2):
        try:
            blocks_by_loop()
        except BaseException:
            continue


@pytest.mark.parametrize("block", [blocks_by_sleep, blocks_by_loop, blocks_by_lock, blocks_stubbornly])
async def test_async_agent_when_it_blocks_the_loop_then_it_is_interrupted_there(
    watched: Host, block: Callable[[], None]
) -> None:
    async def blocking(mail: Mail) -> str:
        block()
        return "it went on"

    began = time.monotonic()
    one = inbox(blocking)
    with pytest.raises(AgentError, match=r"^the agent blocked the server for longer than 0\.5 s: make it a plain"):
        await watched.run(one, mail())
    assert time.monotonic() - began < 1.5
    with pytest.raises(AgentError, match="can't be isolated"):  # it is of the test's own, no file has it
        await watched.run(one, mail())
    assert await watched.run(inbox(returning("next")), mail()) == Reply(text="next")


async def test_async_agent_when_it_has_blocked_then_its_other_mails_run_in_processes(
    plugins: Plugins, watched: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(host_module, "event", lambda name, **fields: events.append(name))
    plugins.write(
        "own/slow.py",
        """
        import os, time

        @agent("slow")
        async def slow(mail: Mail) -> str:
            if mail.subject == "block":
                time.sleep(30)
            return str(os.getpid())
        """,
    )
    one = loaded(plugins.load(), "slow")
    assert await watched.run(one, mail()) == Reply(text=str(os.getpid()))
    began = time.monotonic()
    results = await asyncio.gather(
        watched.run(one, mail(b"Subject: block\r\n\r\n")),
        *[watched.run(one, mail()) for _ in range(5)],
        return_exceptions=True,
    )
    assert time.monotonic() - began < 3
    assert isinstance(results[0], AgentError) and "blocked the server" in results[0].reason
    assert "time.sleep(30)" in results[0].detail
    elsewhere = {result.text for result in results[1:] if isinstance(result, Reply)}
    assert len(elsewhere) >= 1 and str(os.getpid()) not in elsewhere
    assert events == ["agent isolated"]


async def test_loop_when_our_own_code_blocks_it_then_nothing_is_raised_there(watched: Host) -> None:
    time.sleep(1.0)
    assert await watched.run(inbox(returning("fine")), mail()) == Reply(text="fine")


async def test_agents_when_each_takes_a_little_then_none_is_blamed_for_all_of_them(watched: Host) -> None:
    async def little(mail: Mail) -> str:
        time.sleep(0.2)
        return "fine"

    one = inbox(little)
    assert await asyncio.gather(*[watched.run(one, mail()) for _ in range(6)]) == [Reply(text="fine")] * 6


async def test_watchdog_when_stopped_then_its_thread_and_its_handler_are_gone(watched: Host) -> None:
    before = signal.getsignal(watchdog_module.SIGNAL)
    assert before == watched._watchdog._look
    watched._watchdog.stop()
    assert signal.getsignal(watchdog_module.SIGNAL) != before
    assert not [thread for thread in threading.enumerate() if thread.name == "responder-watchdog"]


async def test_watchdog_when_not_in_the_main_thread_then_it_does_nothing() -> None:
    def other() -> None:
        async def start() -> None:
            watchdog = Watchdog()
            watchdog.start()
            assert watchdog._thread is None
            watchdog.stop()

        asyncio.run(start())

    await asyncio.to_thread(other)


async def test_frames_when_our_own_code_stands_between_then_no_exception_is_raised_there() -> None:
    ATTEMPT.set(Attempt(Bench("x")))
    seen: list[Any] = []

    async def looks(mail: Mail) -> None:
        seen.append(agents_frame(sys._getframe()))

    async def logs(mail: Mail) -> None:
        format_text(0.0, 30, "x", {"y": Sly()}, None)

    class Sly:
        def __str__(self) -> str:  # our code calls this
            seen.append(agents_frame(sys._getframe()))
            return "x"

    host = Host(1)
    await host.run(inbox(looks), mail())
    assert seen[0] is not None and seen[0].f_code.co_name in ("looks", "answer")
    seen.clear()
    await host.run(inbox(logs), mail())
    assert seen == [None]
    host.close()


async def test_threads_when_they_spin_then_the_loop_still_gets_its_turns(watched: Host) -> None:
    stop = False

    def spins(mail: Mail) -> str:
        while not stop:
            pass
        return "done"

    one = inbox(spins)
    runs = [asyncio.create_task(watched.run(one, mail())) for _ in range(8)]
    slowest = 0.0
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        began = time.monotonic()
        for _ in range(5):
            await asyncio.sleep(0)
        slowest = max(slowest, time.monotonic() - began)
    stop = True
    assert await asyncio.gather(*runs) == [Reply(text="done")] * 8
    assert slowest < 1.0


async def test_thread_when_it_spins_behind_its_time_then_it_is_ended(host: Host) -> None:
    def spins(mail: Mail) -> None:
        while True:
            pass

    with pytest.raises(AgentError, match="took longer than") as caught:
        await host.run(inbox(spins, timeout=0.05), mail())
    assert "in spins" in caught.value.detail
    assert host.stuck == 1
    async with asyncio.timeout(5):
        while host.stuck:
            await asyncio.sleep(0.01)
    assert await host.run(inbox(lambda mail: "plain"), mail()) == Reply(text="plain")


async def test_error_when_raised_then_its_cause_is_kept_for_who_asks(host: Host) -> None:
    with pytest.raises(AgentError) as caught:
        await host.run(inbox(raising(MemoryError())), mail())
    assert isinstance(caught.value.__cause__, MemoryError)
