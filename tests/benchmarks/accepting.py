"""Our server up to the durable accept, and no further: listener, session, intake and store, without the later stages."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from responder.agents.router import Router
from responder.clock import SystemClock
from responder.config import Limits, Listen
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.listening.listener import Listener
from responder.inbound.sessions import Sessions
from responder.intake.stage import Intake
from responder.observe import set_up
from responder.store.sqlite import SQLiteStore


async def serve(port: int, folder: Path) -> None:
    clock = SystemClock()
    store = SQLiteStore(folder / "bench.db", clock)
    await store.open()
    limits = Limits(connection_rate=None, unknown_recipients=None)
    gatekeeper = Gatekeeper(limits, clock)
    intake = Intake("bench.example", 50, Router(["echo"], ["bench.example"]), gatekeeper, store, clock)
    service = Sessions("bench.example", limits, gatekeeper, intake, clock)
    listener = Listener(service)
    await listener.open([Listen(address=f"127.0.0.1:{port}")])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    set_up("text", "info")  # one line a mail, as the server writes it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
