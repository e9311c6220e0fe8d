"""SIGKILL at random instants to a server whose agent counts: no number is given out twice, none is left out.

An agent's memory is stored in the transaction that stores its answer. Were it stored before, a kill between the two would leave a
number that no answer bears; behind it, a number that two answers bear.
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

from tests.support.crash import crash_configuration, ended, load, mutation, wait_until_quiet
from tests.support.neighbours import neighbours
from tests.support.server import ROOT, ServerProcess

KILLS = int(os.environ.get("RESPONDER_KILLS", "100")) // 5
SEED = int(os.environ.get("RESPONDER_SEED") or random.SystemRandom().randrange(1 << 31))

PLUGIN = """
from responder import Context, Mail, agent

@agent("counter")
async def counter(mail: Mail, context: Context) -> str:
    return f"number {await context.state.increment('n')}."
"""


def count(folder: Path, kills: int, rate: float, environment: dict[str, str] | None = None) -> list[int]:
    """The numbers that the answers bear, each answer once, after so many kills."""
    chance = random.Random(SEED)
    (folder / "mine").mkdir()
    (folder / "mine" / "counter.py").write_text(PLUGIN)
    with neighbours(folder) as around:
        config = crash_configuration(around, plugins=[str(ROOT / "plugins"), str(folder / "mine")])
        config["inboxes"]["current-time"] = {"agent": "counter"}  # the load writes to it
        server = ServerProcess(folder / "server", config)
        with ended(server), load(folder, server.port, seed=SEED, rate=rate, connections=8) as client:
            for _ in range(kills):
                server.start(env=environment)
                time.sleep(chance.uniform(0.2, 1.2))
                server.kill()
            client.stop()
            server.start(env=environment)
            wait_until_quiet(server)
            assert server.stop() == 0
        answers = {one.message_id: one.content for one in around.arrivals() if one.inbox.startswith("current-time")}
    return [int(found[1]) for text in answers.values() if (found := re.search(rb"number (\d+)\.", text))]


def test_server_is_killed_while_its_agent_counts_then_every_number_is_given_once(tmp_path: Path) -> None:
    print(f"\nRESPONDER_SEED={SEED}", flush=True)
    numbers = sorted(count(tmp_path, KILLS, rate=150))
    print(f"{len(numbers)} numbers in {KILLS} kills", flush=True)
    assert len(numbers) > KILLS
    assert numbers == list(range(1, len(numbers) + 1))


def test_memory_is_stored_apart_from_the_answer_then_a_few_kills_leave_numbers_out(tmp_path: Path) -> None:
    print(f"\nRESPONDER_SEED={SEED}", flush=True)
    numbers = sorted(count(tmp_path, 8, rate=300, environment=mutation("memory-apart")))
    assert numbers
    assert numbers != list(range(1, len(numbers) + 1))
