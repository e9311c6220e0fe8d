"""SIGKILL to the whole process group, at random instants, under load: what got its 250 is answered, once, in the same words.

`RESPONDER_KILLS` sets the number of kills, `RESPONDER_SEED` the random instants and mails.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.accounting import Books, Verdict, judge, read_books
from tests.support.crash import Counts, crash_configuration, ended, load, mutation, wait_until_quiet
from tests.support.neighbours import neighbours
from tests.support.server import ServerProcess

KILLS = int(os.environ.get("RESPONDER_KILLS", "100"))
SEED = int(os.environ.get("RESPONDER_SEED") or random.SystemRandom().randrange(1 << 31))
LIFE = (0.2, 1.5)  # seconds from `ready` to the kill
IN_FLIGHT = 10  # [delivery] connections_per_host: all answers go to one domain


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of kills came to."""

    books: Books
    verdict: Verdict
    counts: Counts


def endure(folder: Path, kills: int, rate: float, environment: dict[str, str] | None = None) -> Outcome:
    """Kill the server so many times under load, then let it come to an end in peace."""
    chance = random.Random(SEED)
    began = time.monotonic()
    with neighbours(folder) as around:
        config = crash_configuration(around)
        config["delivery"]["connections_per_host"] = IN_FLIGHT
        server = ServerProcess(folder / "server", config)
        with ended(server), load(folder, server.port, seed=SEED, rate=rate, connections=8) as client:
            for number in range(1, kills + 1):
                server.start(env=environment)
                time.sleep(chance.uniform(*LIFE))
                server.kill()
                if number % 10 == 0 or number == kills:
                    acknowledged = len(read_books(client.ledger).acknowledged)
                    print(f"{number}/{kills} kills, {acknowledged} mails, {time.monotonic() - began:.0f} s", flush=True)
            client.stop()
            server.start(env=environment)
            counts = wait_until_quiet(server)
            assert server.stop() == 0
        books = read_books(client.ledger)
        return Outcome(books, judge(books, around.arrivals()), counts)


def test_server_is_killed_again_and_again_then_every_acknowledged_mail_is_answered_once(tmp_path: Path) -> None:
    print(f"\nRESPONDER_SEED={SEED} RESPONDER_KILLS={KILLS}", flush=True)
    outcome = endure(tmp_path, KILLS, rate=150)
    verdict, books = outcome.verdict, outcome.books
    bound = IN_FLIGHT * (KILLS + 1)
    print(
        f"{len(books.mails)} mails offered, {len(books.acknowledged)} acknowledged; {verdict.answers} answers,"
        f" {verdict.duplicates} of them arrived again (bound {bound}); {outcome.counts}",
        flush=True,
    )
    assert not verdict.problems, "\n".join(verdict.problems[:20])
    assert verdict.duplicates <= bound
    assert len(books.acknowledged) > 10 * KILLS, "there was hardly any load"
    failed = {state: n for states in outcome.counts.values() for state, n in states.items() if state == "FAILED"}
    assert not failed


def test_server_says_250_before_its_commit_then_a_few_kills_find_lost_mails(tmp_path: Path) -> None:
    print(f"\nRESPONDER_SEED={SEED}", flush=True)
    outcome = endure(tmp_path, 6, rate=300, environment=mutation("commit-after-250"))
    lost = [problem for problem in outcome.verdict.problems if problem.startswith("lost: ")]
    print(f"{len(lost)} of {len(outcome.books.promised)} promises broken", flush=True)
    assert lost
    assert len(lost) < len(outcome.books.promised) / 2, "the server without its safety does not even work"
