"""What asks for a reload, and how often there is one."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from responder.app import Server
from responder.clock import SystemClock
from responder.config import Config, ConfigError
from tests.support.server import configuration

WAIT = 20.0


async def test_signals_come_faster_than_reloads_then_what_waits_is_one(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    read: list[int] = []

    def reload() -> Config:
        read.append(len(read))
        begun.set()
        assert go_on.wait(WAIT)
        raise ConfigError("responder.toml", "hostname", "not now")

    table = configuration(store=f"sqlite:{tmp_path / 'responder.db'}")
    server = Server(Config.model_validate(table), tmp_path / "responder.toml", reload, SystemClock())
    server.ask_reload()
    assert await asyncio.to_thread(begun.wait, WAIT)
    for _ in range(100):
        server.ask_reload()
        await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(WAIT):
        while server._tasks:
            await asyncio.sleep(0.001)
    assert len(read) == 2, "the second has read all that has changed during the first"
    server.ask_reload()
    async with asyncio.timeout(WAIT):
        while server._tasks:
            await asyncio.sleep(0.001)
    assert len(read) == 3
    server.reception.close()
