"""A server is stopped for longer than its lease while another one works on the same file: what it comes back with is too late.

The agent's words name the process, so that two answers of two servers can be told apart.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.accounting import judge, read_books
from tests.support.crash import crash_configuration, ended, load, wait_for, wait_until_quiet
from tests.support.load import Connection, Ledger, Mail
from tests.support.neighbours import Arrival, Neighbours, neighbours
from tests.support.server import ServerProcess

MAILS = 8
IN_FLIGHT = 10  # [delivery] connections_per_host
AGENT = '''
import asyncio
import os
from pathlib import Path

from responder import Mail, agent


@agent("witness")
async def witness(mail: Mail) -> str:
    """Waits for its process's file `go`, then says who it is."""
    folder = Path(os.environ["FOLDER"], str(os.getpid()))
    (folder / mail.id).touch()
    while not (folder / "go").exists():
        await asyncio.sleep(0.02)
    return f"{mail.text} I am {os.getpid()}."
'''


@contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    """SIGSTOP for the length of the block, then SIGCONT."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def two_servers(folder: Path, around: Neighbours) -> list[ServerProcess]:
    """Two servers on one file, with the agent `witness` in the inbox `echo`."""
    (folder / "agents").mkdir()
    (folder / "agents" / "witness.py").write_text(AGENT)
    config: dict[str, Any] = {
        "store": f"sqlite:{folder / 'state' / 'responder.db'}",
        "plugins": [str(folder / "agents")],
        "inboxes": {"echo": {"agent": "witness"}, "current-time": {"agent": "witness"}},
        "queue": {"lease": "1s"},
    }
    return [ServerProcess(folder / name, crash_configuration(around, **config)) for name in ("one", "two")]


def start(server: ServerProcess, folder: Path) -> Path:
    """Start a server; the folder, named by its process id, in which its agent notes the mails that it has."""
    server.start(env={"FOLDER": str(folder)})
    assert server.process is not None
    place = folder / str(server.process.pid)
    place.mkdir()
    return place


def letter(number: int) -> Mail:
    sender = f"lease-{number}@client.example"
    return Mail(number, f"<{sender}>", sender, ("echo@test.example",), f"{number:08x} words")


async def send(folder: Path, port: int) -> None:
    """All mails, over one connection."""
    ledger = Ledger(folder / "load.jsonl")
    connection = await Connection.open(port)
    for number in range(MAILS):
        ledger.offer(letter(number))
        ledger.acknowledged(letter(number), await connection.send(letter(number)))
    connection.close()


def asked(place: Path) -> int:
    """How many mails an agent has."""
    return len([file for file in place.iterdir() if file.name != "go"])


def words(arrivals: list[Arrival]) -> set[str]:
    """Who the answers are from."""
    return {arrival.content.rpartition(b"I am ")[2].decode().rstrip(".\r\n") for arrival in arrivals}


def test_agent_is_stopped_beyond_the_lease_then_its_late_answers_are_thrown_away(tmp_path: Path) -> None:
    """They come while the other server's agent is still at work on the same mails."""
    with neighbours(tmp_path / "around") as around:
        sleeper, other = two_servers(tmp_path, around)
        with ended(sleeper, other):
            late = start(sleeper, tmp_path)
            asyncio.run(send(tmp_path, sleeper.port))
            wait_for(lambda: asked(late) == MAILS, "the first agent")
            with stopped(sleeper):
                (late / "go").touch()  # it has its answers as soon as it goes on
                prompt = start(other, tmp_path)
                wait_for(lambda: asked(prompt) == MAILS, "the second agent")
            wait_for(lambda: sleeper.log.read_text().count(" stale ") == MAILS, "every late answer")
            assert around.arrivals() == []
            (prompt / "go").touch()
            counts = wait_until_quiet(other)
            assert (sleeper.stop(), other.stop()) == (0, 0)
        arrivals = around.arrivals()
        verdict = judge(read_books(tmp_path / "load.jsonl"), arrivals)
        assert not verdict.problems, "\n".join(verdict.problems)
        assert verdict.duplicates == 0
        assert words(arrivals) == {prompt.name}
        assert counts == {"inbound": {"ANSWERED": MAILS}, "outbound": {"DELIVERED": MAILS}}


def test_delivery_is_stopped_beyond_the_lease_then_an_answer_that_leaves_again_has_the_same_words(
    tmp_path: Path,
) -> None:
    """The host's 250 finds the sleeper stopped: that it took the mail can't be known to the other one."""
    with neighbours(tmp_path / "around", {"DOT": ["slow 3"] * MAILS}) as around:
        # A host that the operator names gets all its connections at once; a stranger's begins with two.
        around.delivery.update(transport="smarthost", smarthost=f"127.0.0.1:{around.delivery['port']}")
        sleeper, other = two_servers(tmp_path, around)
        with ended(sleeper, other):
            author = start(sleeper, tmp_path)
            (author / "go").touch()
            asyncio.run(send(tmp_path, sleeper.port))
            wait_for(lambda: len(around.arrivals()) == MAILS, "all answers on their way")
            with stopped(sleeper):
                start(other, tmp_path)
                wait_until_quiet(other)
            wait_for(lambda: sleeper.log.read_text().count(" stale ") == MAILS, "every late outcome")
            counts = wait_until_quiet(other)
            assert (sleeper.stop(), other.stop()) == (0, 0)
        arrivals = around.arrivals()
        verdict = judge(read_books(tmp_path / "load.jsonl"), arrivals)
        assert not verdict.problems, "\n".join(verdict.problems)
        assert verdict.duplicates == MAILS
        assert words(arrivals) == {author.name}
        assert counts == {"inbound": {"ANSWERED": MAILS}, "outbound": {"DELIVERED": MAILS}}


def test_server_is_stopped_and_goes_on_again_and_again_then_each_mail_is_answered_in_one_way(tmp_path: Path) -> None:
    """Nobody looks at what it was about to do; it may hold the lock of the database."""
    with neighbours(tmp_path / "around") as around:
        sleeper, other = two_servers(tmp_path, around)
        with ended(sleeper, other):
            for server in (sleeper, other):
                (start(server, tmp_path) / "go").touch()
            ports = (sleeper.port, other.port)
            with load(tmp_path, *ports, connections=4, rate=60) as client:
                for _ in range(5):
                    before = len(read_books(client.ledger).acknowledged)
                    wait_for(lambda: len(read_books(client.ledger).acknowledged) > before + 10, "mails")  # noqa: B023
                    with stopped(sleeper):
                        time.sleep(1.5)  # one lease and a half
                client.stop()
            wait_until_quiet(other)
            assert (sleeper.stop(), other.stop()) == (0, 0)
        books = read_books(client.ledger)
        verdict = judge(books, around.arrivals())
        print(f"\n{len(books.acknowledged)} mails, {verdict.duplicates} answers arrived again")
        assert not verdict.problems, "\n".join(verdict.problems[:20])
        assert verdict.duplicates <= 5 * IN_FLIGHT
