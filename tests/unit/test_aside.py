"""Work of our own in threads of its own: it goes on whatever takes the threads that everybody shares."""

from __future__ import annotations

import asyncio
import threading

import pytest

from responder.aside import aside


async def test_work_when_all_shared_threads_hang_then_it_is_done_all_the_same() -> None:
    end = threading.Event()
    hanging = [asyncio.ensure_future(asyncio.to_thread(end.wait)) for _ in range(64)]
    try:
        async with asyncio.timeout(5):
            assert await aside(lambda a, b: a + b, 1, 2) == 3
    finally:
        end.set()
        await asyncio.gather(*hanging)


async def test_work_when_it_raises_then_so_does_the_call() -> None:
    for error in (ValueError, StopIteration, SystemExit):
        with pytest.raises((error, RuntimeError)):
            await aside(_raise, error)


async def test_work_when_nobody_waits_any_more_then_it_goes_on_in_a_thread_that_holds_up_no_end() -> None:
    begun, end, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        end.wait()
        done.set()
        return threading.current_thread().daemon

    task = asyncio.create_task(aside(work))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "responder-aside"]
    assert thread.daemon
    task.cancel()
    await asyncio.wait((task,))
    end.set()
    assert done.wait(5)


def _raise(error: type[BaseException]) -> None:
    raise error
