"""Two servers on one database file: each mail is answered once, whoever takes it and whoever dies. And what is refused."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.accounting import judge, read_books
from tests.support.crash import crash_configuration, ended, load, stats, wait_for, wait_until_quiet
from tests.support.neighbours import neighbours
from tests.support.server import ServerProcess

MAILS = 400
IN_FLIGHT = 10  # answers that one process has on the way to one domain


@pytest.mark.parametrize("kills", [0, 3], ids=["both live", "one is killed three times"])
def test_two_servers_share_a_database_then_each_mail_is_answered_once(tmp_path: Path, kills: int) -> None:
    # Every answer is on its way for so long that a claim which is not respected shows.
    with neighbours(tmp_path, {"DOT": ["slow 0.2"] * 2 * MAILS}) as around:
        store = f"sqlite:{tmp_path / 'state' / 'responder.db'}"
        servers = [ServerProcess(tmp_path / name, crash_configuration(around, store=store)) for name in ("one", "two")]
        survivor, victim = servers
        for server in servers:
            server.config["delivery"]["connections_per_host"] = IN_FLIGHT
            server.write(server.config)
        with (
            ended(*servers),
            load(tmp_path, survivor.port, victim.port, mails=MAILS, connections=8, rate=80) as client,
        ):
            survivor.start()
            victim.start()
            for kill in range(kills):
                wanted = (kill + 1) * MAILS // (kills + 2)
                wait_for(lambda: len(read_books(client.ledger).acknowledged) >= wanted, "mails")  # noqa: B023
                victim.kill()
                listed = json.loads(survivor.command("queue", "list", "--json").stdout)
                assert all({"id", "state", "recipient"} <= item.keys() for item in listed)
                assert stats(victim)["inbound"]["ANSWERED"] > 0  # a command needs no server
                victim.start()
            client.finish()
            counts = wait_until_quiet(survivor)
            books = read_books(client.ledger)
            mail = next(reversed(books.acknowledged))
            [account] = json.loads(victim.command("explain", mail, "--json").stdout)
            assert account["mail"]["message_id"] == mail
            for server in servers:
                assert server.stop() == 0
        verdict = judge(books, around.arrivals())
        accepted = [server.log.read_bytes().count(b" accepted ") for server in servers]
        delivered = [server.log.read_bytes().count(b" delivered ") for server in servers]
        print(f"\naccepted {accepted}, delivered {delivered}, {verdict.duplicates} arrived again")
        assert not verdict.problems, "\n".join(verdict.problems[:20])
        assert verdict.duplicates <= kills * IN_FLIGHT
        assert len(books.acknowledged) > MAILS * 9 // 10
        assert "FAILED" not in {**counts["inbound"], **counts["outbound"]}
        assert min(accepted) > 0
        assert min(delivered) > 0


def test_two_servers_start_on_a_new_database_at_the_same_time_then_both_work(tmp_path: Path) -> None:
    with neighbours(tmp_path) as around:
        store = f"sqlite:{tmp_path / 'state' / 'responder.db'}"
        servers = [ServerProcess(tmp_path / name, crash_configuration(around, store=store)) for name in ("one", "two")]
        with ended(*servers):
            for server in servers:
                server.spawn()
            for server in servers:
                server.wait_for_log(" ready ")
            with load(tmp_path, *[server.port for server in servers], mails=20, connections=2) as client:
                client.finish()
            wait_until_quiet(servers[0])
            for server in servers:
                assert server.stop() == 0
        verdict = judge(read_books(client.ledger), around.arrivals())
        assert (verdict.problems, verdict.duplicates) == ([], 0)


def test_server_is_killed_while_it_starts_for_the_first_time_then_the_next_start_works(tmp_path: Path) -> None:
    chance = random.Random(7)
    for number in range(8):
        server = ServerProcess(tmp_path / str(number), crash_configuration())
        with ended(server):
            server.spawn()
            until = chance.choice(("state", "state/responder.db", "state/responder.db-wal", "state/responder.db-shm"))
            wait_for(lambda: (server.folder / until).exists(), until)  # noqa: B023
            time.sleep(chance.uniform(0.0, 0.003))
            server.kill()
            server.start()
            assert stats(server) == {"inbound": {}, "outbound": {}}
            assert server.stop() == 0


def foreign(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE mail (id TEXT)")


def foreign_mark(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA application_id = 42")
        connection.execute("PRAGMA user_version = 1")


def newer(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 1000")


def garbage(database: Path) -> None:
    database.write_bytes(random.Random(1).randbytes(50_000))


def text(database: Path) -> None:
    database.write_text("this is no database\n" * 100)


def half(database: Path) -> None:
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])


def stub(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:60])


def folder(database: Path) -> None:
    database.mkdir()


def overwritten(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[100:4096] = bytes(3996)  # the schema's page, behind an intact header
    database.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "ours", "reason"),
    [
        (foreign, False, "another program"),
        (foreign_mark, False, "another program"),
        (newer, True, "schema version 1000"),
        (garbage, False, "not a database"),
        (text, False, "not a database"),
        (half, True, "malformed"),
        (stub, True, "malformed"),
        (overwritten, True, "malformed"),
        (folder, False, "responder.db"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_file_is_no_database_of_ours_then_it_is_refused_in_one_line_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], ours: bool, reason: str
) -> None:
    server = ServerProcess(tmp_path, crash_configuration())
    if ours:
        with ended(server):
            server.start()
            assert server.stop() == 0
    server.database.parent.mkdir(exist_ok=True)
    make(server.database)
    before = None if server.database.is_dir() else server.database.read_bytes()
    for verb in (["serve"], ["queue", "stats"], ["queue", "list", "--json"]):
        done = server.command(*verb, check=False)
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1 + done.stderr.count(" notice "), done.stderr
        line = done.stderr.splitlines()[-1]
        assert line.startswith("responder: ")
        assert str(server.database.relative_to(tmp_path)) in line
        assert reason in line
        assert "Traceback" not in done.stderr
    assert before is None or server.database.read_bytes() == before
