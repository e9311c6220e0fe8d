"""The crash promises with all of the inbound side switched on: TLS, logins, checks, greylist, blocklists, authentication,
BDAT, LMTP, PROXY, notifications, a bounded budget, and a decoy beside the real listeners.

    clients by every door ==load==> Responder --> name server, sink
                                        ^
                             SIGKILL, SIGHUP, SIGTERM

`RESPONDER_KILLS` sets the number of kills, `RESPONDER_SEED` the instants and mails.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from tests.support.accounting import judge, read_books
from tests.support.crash import ended, wait_for, wait_until_quiet
from tests.support.everything import answered, everything, judge_receipts, receipts
from tests.support.logins import certificate
from tests.support.neighbours import Neighbours, module, neighbours
from tests.support.server import ServerProcess

KILLS = int(os.environ.get("RESPONDER_KILLS", "12"))
SEED = int(os.environ.get("RESPONDER_SEED") or random.SystemRandom().randrange(1 << 31))
LIFE = (0.3, 2.0)  # seconds from `ready` to the kill
IN_FLIGHT = 10  # [delivery] connections_per_host


@contextmanager
def mixed(folder: Path, doors: str, rate: float) -> Iterator[Popen[str]]:
    """Clients by every door for the length of the block."""
    arguments = ["--doors", doors, "--ledger", str(folder / "load.jsonl"), "--connections", "14", "--rate", str(rate)]
    with module("mixed_load", *arguments, "--seed", str(SEED), log=folder / "load.log") as (process, _):
        yield process


def finish(process: Popen[str], folder: Path) -> None:
    """Let the clients read the replies that are outstanding."""
    process.terminate()
    assert process.wait(60) == 0, (folder / "load.log").read_text()


def balance(folder: Path, around: Neighbours, *, kills: int) -> None:
    """All that was acknowledged was answered, and whoever asked was told, once, in the same words."""
    books = read_books(folder / "load.jsonl")
    answers, told, _ = receipts(around.arrivals())
    verdict = judge(answered(books), answers)
    problems, notifications = judge_receipts(books, told)
    print(
        f"{len(books.mails)} mails offered, {len(books.acknowledged)} acknowledged, {len(books.refusals)} put off;"
        f" {verdict.answers} answers, {verdict.duplicates} of them again; {notifications} notifications",
        flush=True,
    )
    assert not verdict.problems + problems, "\n".join((verdict.problems + problems)[:20])
    assert verdict.duplicates <= IN_FLIGHT * kills
    assert notifications and any(reply.startswith("451 4.7.1 ") for reply in books.refusals)
    assert {reply[:1] for reply in books.refusals} <= {"4"}, books.refusals


def test_server_with_everything_is_killed_again_and_again_then_nothing_is_lost_and_nobody_is_told_twice(
    tmp_path: Path,
) -> None:
    print(f"\nRESPONDER_SEED={SEED} RESPONDER_KILLS={KILLS}", flush=True)
    chance = random.Random(SEED)
    with neighbours(tmp_path) as around:
        config, doors = everything(tmp_path / "server", around)
        config["delivery"]["connections_per_host"] = IN_FLIGHT
        server = ServerProcess(tmp_path / "server", config)
        with ended(server), mixed(tmp_path, doors, 100) as client:
            for _ in range(KILLS):
                server.start()
                time.sleep(chance.uniform(*LIFE))
                server.kill()
            finish(client, tmp_path)
            server.start()
            counts = wait_until_quiet(server)
            assert server.stop() == 0
        assert "FAILED" not in {**counts["inbound"], **counts["outbound"]}
        balance(tmp_path, around, kills=KILLS + 1)
        assert len(read_books(tmp_path / "load.jsonl").acknowledged) > 10 * KILLS, "there was hardly any load"


def test_reloads_follow_each_other_under_load_then_nothing_of_the_old_ones_is_kept(tmp_path: Path) -> None:
    """Every reload brings new agents and checks, every third one a certificate, every fifth one blocklists and a way out."""
    print(f"\nRESPONDER_SEED={SEED}", flush=True)
    with neighbours(tmp_path) as around:
        folder = tmp_path / "server"
        config, doors = everything(folder, around)
        server = ServerProcess(folder, config)
        with ended(server), mixed(tmp_path, doors, 30) as client:
            server.start()
            held: list[tuple[int, int]] = []
            for number in range(90):
                if number % 3 == 0:
                    certificate(tmp_path / "new")
                    for name in ("key.pem", "cert.pem"):
                        (tmp_path / "new" / name).replace(folder / name)
                if number % 5 == 0:
                    config["blocklists"] = {"zones": [f"list{number}.example"], "timeout": "2s"}
                    config["delivery"]["retry"] = [f"{1 + number % 2}s"]
                    server.write(config)
                server.signal(signal.SIGHUP)
                time.sleep(0.05)  # the storm's own pace, whatever the server makes of it
                if number % 30 == 29:
                    at = server.log.stat().st_size
                    server.signal(signal.SIGHUP)
                    server.wait_for_log(" reloaded ", at)
                    held.append(holds(server))
            books = len(read_books(tmp_path / "load.jsonl").acknowledged)
            wait_for(
                lambda: len(read_books(tmp_path / "load.jsonl").acknowledged) > books + 50, "mail behind the storm"
            )
            finish(client, tmp_path)
            wait_until_quiet(server)
            asked = server.log.read_text().count(" reloaded ")
            wait_for(lambda: holds(server)[0] <= held[0][0] + 5, "the descriptors of what was replaced")
            print(f"{asked} reloads, (descriptors, KiB): {held}, then {holds(server)}", flush=True)
            assert server.stop() == 0
        assert held[-1][1] < held[0][1] + 49152, (
            "memory grows with each reload"
        )  # 2 MB each; it is 20 MB until all is warm
        log = server.log.read_text()
        assert "Traceback" not in log and " crashed" not in log
        balance(tmp_path, around, kills=0)


def holds(server: ServerProcess) -> tuple[int, int]:
    """Its open descriptors, and its memory in KiB."""
    assert server.process is not None
    proc = Path(f"/proc/{server.process.pid}")
    (resident,) = [line.split()[1] for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS")]
    return len(list((proc / "fd").iterdir())), int(resident)
