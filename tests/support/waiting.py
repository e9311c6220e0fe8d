"""Waiting for what a test expects: by looking, with a deadline, never by sleeping for luck."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.02  # seconds between two looks


def until(condition: Callable[[], T | None], seconds: float, failure: str | Callable[[], str]) -> T:
    """What `condition` returns, once that is true. Fails with `failure` when it has not become so in `seconds`."""
    ends = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > ends:
            raise AssertionError(failure if isinstance(failure, str) else failure())
        time.sleep(PAUSE)


def greeting(port: int, host: str = "127.0.0.1") -> str:
    """The first line that whoever listens there says; "" where nobody does."""
    try:
        with socket.create_connection((host, port), timeout=5) as sock, sock.makefile("rb") as file:
            return file.readline().decode("utf-8", "replace")
    except OSError:
        return ""


class Background:
    """An event loop in a thread of its own, for servers that go on in the test's process while the test itself blocks.

    with Background() as background:
        sink = background.enter(SMTPSink())
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background", daemon=True)
        self._stack = AsyncExitStack()

    def enter(self, server: AbstractAsyncContextManager[T]) -> T:
        """Start a server; it is stopped when the block ends."""
        return asyncio.run_coroutine_threadsafe(self._stack.enter_async_context(server), self._loop).result(30)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result(30)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)
            self._loop.close()
