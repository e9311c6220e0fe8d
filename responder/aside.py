"""Work of our own that takes its time, beside the event loop: each in a daemon thread of its own.

`asyncio.to_thread` has a handful of threads for everybody, agents included: where what runs there hangs, so would all that comes
behind it. And what hangs here (a plugin's import) does not hold up the end of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(function: Callable[..., T], *arguments: Any) -> T:
    """What the function returns. Who waits may be cancelled; the work goes on."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

    def work() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = function(*arguments), None
        except BaseException as error:
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_complete, future, outcome)

    threading.Thread(target=work, name="responder-aside", daemon=True).start()
    result, error = await future
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _complete(future: asyncio.Future[Any], outcome: tuple[Any, BaseException | None]) -> None:
    if not future.done():
        future.set_result(outcome)
