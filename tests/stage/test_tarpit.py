"""Places that hang (a tarpit, a connection to nowhere) cost the others nothing: neither their places nor their time."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from tests.support.many import Network, delivering, messages
from tests.support.stages import configured

SMALL = configured({"echo": "answer"}, delivery={"concurrency": 16, "connections_per_host": 4})


async def latencies(folder: Path, hanging: int) -> list[float]:
    """Seconds from the queue to a live host, one mail each 20 ms, while mail for `hanging` tarpits is tried."""
    folder.mkdir()
    network = Network(0.005, 10_000)  # 10000, 20000 ... are dead
    tarpits = [10_000 * (4 * n + 1) for n in range(hanging)]  # those that hang for a minute
    async with delivering(folder, network, SMALL) as works:
        works.start()
        for n in range(30):  # so that it is known how long a mail takes
            await works.put(messages(1, [n + 1]))
        await works.until(lambda: len(network.at) >= 30, 20)
        if tarpits:
            await works.put(messages(4 * hanging, tarpits))
        await works.until(lambda: network.under_way >= 2 * hanging, 20)
        began: dict[str, float] = {}
        for n in range(150):
            [message] = messages(1, [n + 1])
            began[message.id] = time.monotonic()
            await works.put([message])
            await asyncio.sleep(0.02)
        await works.until(lambda: began.keys() <= network.at.keys(), 30)
        return [network.at[name] - at for name, at in began.items()]


async def test_tarpits_when_more_of_them_hang_than_there_are_places_then_others_do_not_wait(tmp_path: Path) -> None:
    without = sorted(await latencies(tmp_path / "without", 0))
    beside = sorted(await latencies(tmp_path / "beside", 60))
    for name, found in (("without", without), ("beside 60 tarpits", beside)):
        middle, most = statistics.median(found) * 1000, found[int(0.95 * len(found))] * 1000
        print(f"{name}: median {middle:.0f} ms, 95th percentile {most:.0f} ms")
    assert statistics.median(beside) < 2 * statistics.median(without) + 0.05
    assert beside[int(0.95 * len(beside))] < 1.0  # 32 places, and 120 that hang for a minute: it would be minutes
