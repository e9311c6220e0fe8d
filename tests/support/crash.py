"""What the crash tests do with a server: a configuration on real neighbours, a load, and waiting for the queue to be empty."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests.support.neighbours import Neighbours, module
from tests.support.server import ServerProcess, configuration

WAITING = ("RECEIVED", "ANSWERING", "QUEUED", "SENDING", "DEFERRED", "HELD")
MUTATIONS = Path(__file__).with_name("mutations")

Counts = dict[str, dict[str, int]]


def crash_configuration(around: Neighbours | None = None, **changes: Any) -> dict[str, Any]:
    """A configuration whose work is taken over quickly: a lease of 2 s, a retry after 1 s."""
    delivery = around.delivery if around is not None else {"transport": "print"}
    # An attempt is charged before the work starts, so every kill costs one of what is under way then.
    return configuration(**{"queue": {"lease": "2s"}, "delivery": delivery, "answering": {"attempts": 1000}, **changes})


def mutation(name: str) -> dict[str, str]:
    """The environment that starts a server changed, mostly without one of its safeties. See `tests/support/mutations`."""
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": f"{MUTATIONS}:{root}", "TEST_MUTATION": name}


@dataclass(frozen=True, slots=True)
class Client:
    """A load client that runs."""

    process: Popen[str]
    ledger: Path
    log: Path

    def finish(self, seconds: float = 60.0) -> None:
        """Let it end by itself, its mails all sent."""
        assert self.process.wait(seconds) == 0, self.log.read_text()

    def stop(self) -> None:
        """Let it read the replies that are outstanding, then end."""
        self.process.terminate()
        self.finish()


@contextmanager
def load(folder: Path, *ports: int, name: str = "load", **options: float) -> Iterator[Client]:
    """A client that sends to these ports for the length of the block. `options` are those of `tests.support.load`."""
    ledger, log = folder / f"{name}.jsonl", folder / f"{name}.log"
    arguments = ["--ports", ",".join(map(str, ports)), "--ledger", str(ledger)]
    for option, value in options.items():
        arguments += [f"--{option}", str(value)]
    with module("load", *arguments, log=log) as (process, _):
        yield Client(process, ledger, log)


def stats(server: ServerProcess) -> Counts:
    """`responder queue stats --json`."""
    done = server.command("queue", "stats", "--json", check=False)
    assert done.returncode == 0, done.stderr
    counts: Counts = json.loads(done.stdout)
    return counts


def wait_until_quiet(server: ServerProcess, seconds: float = 90.0) -> Counts:
    """The counts, once nothing waits or is under way."""
    ends = time.monotonic() + seconds
    while True:
        counts = stats(server)
        waiting = {state: n for states in counts.values() for state, n in states.items() if state in WAITING}
        if not waiting:
            return counts
        assert time.monotonic() < ends, f"still waiting: {waiting}\n{server.log.read_text()[-3000:]}"
        time.sleep(0.1)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Until something holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"waited {seconds:g} s for: {what}"
        time.sleep(0.02)


@contextmanager
def ended(*servers: ServerProcess) -> Iterator[None]:
    """Whatever happens in the block, no process of these servers is left behind."""
    try:
        yield
    finally:
        for server in servers:
            if server.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    server.kill()
