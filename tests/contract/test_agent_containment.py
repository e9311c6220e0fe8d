"""Whatever an agent raises, and however long it takes: the server goes on, and says what happened (CONTRACT: Plugin API)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from responder import Mail, Reply, TryLater
from responder.agents import attempts as attempts_module
from responder.agents import host as host_module
from responder.agents import threads as threads_module
from responder.agents.answers import MAX_DELAY
from responder.agents.host import AgentError, Host
from tests.support.agents import inbox, mail, raising, raising_in_thread, returning

# -- what it may raise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [raising, raising_in_thread])
@pytest.mark.parametrize(
    ("seconds", "waited"), [(0, 0.0), (-5, 0.0), (90, 90.0), (float("inf"), MAX_DELAY), (10**300, MAX_DELAY)]
)
async def test_try_later_when_raised_then_its_time_is_kept_within_bounds(
    host: Host, make: Callable[[BaseException], Any], seconds: float, waited: float
) -> None:
    with pytest.raises(TryLater) as caught:
        await host.run(inbox(make(TryLater(seconds))), mail())
    assert caught.value.seconds == waited


class Lazy(TryLater):
    def __init__(self, seconds: Any) -> None:  # leaves out what TryLater does
        self.seconds = seconds


@pytest.mark.parametrize("seconds", ["soon", None, float("nan")])
async def test_try_later_when_its_time_is_none_then_it_is_a_contained_error(host: Host, seconds: Any) -> None:
    with pytest.raises(AgentError, match="names no time"):
        await host.run(inbox(raising(Lazy(seconds))), mail())
    with pytest.raises((ValueError, TypeError)):
        TryLater(seconds)


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


ERRORS: dict[str, BaseException] = {
    "exception": ValueError("one\ntwo"),
    "of ours": AgentError("forged"),
    "mute": MuteError(),
    "group": ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    "timeout of its own": TimeoutError("the backend"),
    "exit": SystemExit(0),
    "interrupt": KeyboardInterrupt(),
    "cancelled": asyncio.CancelledError(),
    "generator exit": GeneratorExit(),
    "stop": StopIteration(),
    "stop async": StopAsyncIteration(),
    "memory": MemoryError(),
    "base": BaseException("bare"),
}


@pytest.mark.parametrize("make", [raising, raising_in_thread])
@pytest.mark.parametrize("name", ERRORS)
async def test_agent_when_it_raises_anything_then_it_is_contained_and_described(
    host: Host, name: str, make: Callable[[BaseException], Any]
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(AgentError) as caught:
            await host.run(inbox(make(ERRORS[name])), mail())
    assert caught.value.reason.startswith("the agent raised ")
    assert "\n" not in caught.value.reason
    assert "took longer" not in caught.value.reason
    assert "Traceback" in caught.value.detail and "support/agents.py" in caught.value.detail
    # and the next mail is answered
    assert await host.run(inbox(returning("next")), mail()) == Reply(text="next")


async def test_agent_when_it_cancels_its_own_task_then_it_is_contained(host: Host) -> None:
    async def suicidal(mail: Mail) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "unheard"

    with pytest.raises(AgentError, match="cancelled its own task"):
        await host.run(inbox(suicidal), mail())


# -- its time -------------------------------------------------------------------------------------------------------------


async def test_async_agent_when_it_hangs_then_it_is_ended_and_where_it_hung_is_told(host: Host) -> None:
    cleaned = []

    async def hangs(mail: Mail) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(AgentError, match=r"^the agent took longer than 0\.05 s$") as caught:
        await host.run(inbox(hangs, timeout=0.05), mail())
    assert cleaned == [True]
    assert "in hangs" in caught.value.detail
    assert host.stuck == 0


async def test_async_agent_when_it_will_not_be_cancelled_then_it_is_left_behind(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "GRACE", 0.05)
    go_on = asyncio.Event()

    async def stubborn(mail: Mail) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(AgentError, match="took longer than"):
        await host.run(inbox(stubborn, timeout=0.05), mail())
    assert host.stuck == 1
    assert await host.run(inbox(returning("next")), mail()) == Reply(text="next")
    go_on.set()
    async with asyncio.timeout(5):
        while host.stuck:
            await asyncio.sleep(0)


async def test_plain_agents_when_they_hang_then_others_still_run_and_the_threads_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "SPARE", 3)
    host = Host(2)
    go_on = threading.Event()

    def hangs(mail: Mail) -> None:
        go_on.wait(30)

    for number in range(5):
        with pytest.raises(AgentError, match="took longer than"):
            await host.run(inbox(hangs, timeout=0.01), mail())
        assert host.stuck == number + 1
        if number < 4:
            assert await host.run(inbox(lambda mail: "plain"), mail()) == Reply(text="plain")
    with pytest.raises(AgentError, match="all 5 threads for agents are taken"):
        await host.run(inbox(lambda mail: "plain"), mail())
    assert await host.run(inbox(returning("async")), mail()) == Reply(text="async")
    go_on.set()
    async with asyncio.timeout(5):
        while host.stuck:
            await asyncio.sleep(0)
    assert await host.run(inbox(lambda mail: "plain"), mail()) == Reply(text="plain")
    host.close()


async def test_threads_when_an_agent_hangs_then_the_interpreter_does_not_wait_for_it(host: Host) -> None:
    go_on = threading.Event()
    run = host.run(inbox(lambda mail: go_on.wait(30), timeout=0.01), mail())
    with pytest.raises(AgentError):
        await run
    mine = [thread for thread in threading.enumerate() if thread.name == "responder-agent"]
    assert mine and all(thread.daemon for thread in mine)
    go_on.set()


async def test_threads_when_runs_follow_each_other_then_one_is_used_again() -> None:
    threads = threads_module.Threads(100)
    names = {(await threads.run(threading.get_ident))[0] for _ in range(20)}
    assert len(names) == 1
    threads.close()
    async with asyncio.timeout(5):
        while names & {thread.ident for thread in threading.enumerate()}:
            await asyncio.sleep(0.001)


async def test_run_when_it_is_cancelled_itself_then_the_agent_is_too(host: Host) -> None:
    """A server that drains cancels what does not end in time."""
    ended = asyncio.Event()

    async def hangs(mail: Mail) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    run = asyncio.create_task(host.run(inbox(hangs), mail()))
    await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    async with asyncio.timeout(5):
        await ended.wait()
