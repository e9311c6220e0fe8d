"""What no agent takes from the watchdog: the signal by which it reaches the main thread, and its turn at Python's lock."""

from __future__ import annotations

import asyncio
import signal
import sys

from responder.agents.host import Host
from responder.agents.watchdog import BEAT, GUARDED
from tests.support.agents import inbox, mail


async def test_agent_when_it_takes_signals_and_the_switch_interval_then_they_are_put_right() -> None:
    async def takes(mail: object) -> str:
        for number in GUARDED:
            signal.signal(number, signal.SIG_IGN)
        sys.setswitchinterval(1000.0)
        return "taken"

    before = {number: signal.getsignal(number) for number in GUARDED}
    usual = sys.getswitchinterval()
    host = Host(4)
    try:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, loop.stop)
        ours = signal.getsignal(signal.SIGTERM)
        await host.start([])
        await host.run(inbox(takes), mail())
        await asyncio.sleep(3 * BEAT)
        assert signal.getsignal(signal.SIGTERM) == ours
        assert signal.SIG_IGN not in [signal.getsignal(number) for number in GUARDED]
        assert sys.getswitchinterval() <= usual
    finally:
        host.close()
        loop.remove_signal_handler(signal.SIGTERM)
        sys.setswitchinterval(usual)
        for number, handler in before.items():
            signal.signal(number, handler)
