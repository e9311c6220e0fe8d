"""Scenario 13: agents that do all that an agent must not, against a running server.

client ──SMTP──> responder: raise, flood, inject, block, exit, hog, fork ──> retried, then FAILED, and why
another ──SMTP─> responder: echo ──> meanwhile a reply within a second each, and answered
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess, configuration, running
from tests.support.submission import ended, message, queue, queued_as, submit, verb
from tests.support.waiting import until

AGENTS = """
import asyncio, ctypes, os, subprocess, sys, threading, time
from pathlib import Path
from responder import Attachment, GiveUp, Reply, agent

EVIL = "a\\r\\nBcc: victim@far.example\\r\\n\\r\\nbody"
marks = Path("marks")


@agent("raises")
async def raises(mail):
    raise ValueError("it broke")


@agent("gives-up")
async def gives_up(mail):
    raise GiveUp("for good")


@agent("returns-number")
async def returns_number(mail):
    return 42


@agent("floods")
async def floods(mail):
    return "x" * 100_000_000


@agent("floods-plain")
def floods_plain(mail):
    return "x" * 100_000_000


@agent("many-files")
async def many_files(mail):
    return Reply(text="x", attachments=[Attachment("a", "text/plain", b"")] * 3_000_000)


@agent("many-headers")
async def many_headers(mail):
    return Reply(text="x", headers={f"X-{n}": "x" for n in range(100_000)})


@agent("injects")
async def injects(mail):
    return Reply(
        text="hello\\r\\n.\\r\\nMAIL FROM:<>\\r\\n",
        subject=EVIL,
        headers={"X-Mailer": EVIL},
        attachments=[Attachment(EVIL, EVIL, b"data")],
    )


@agent("injects-name")
async def injects_name(mail):
    return Reply(text="x", headers={EVIL: "x"})


@agent("injects-tag")
async def injects_tag(mail):
    return Reply(text="x", tag=EVIL)


@agent("sleeps")
async def sleeps(mail):
    time.sleep(60)


@agent("spins")
async def spins(mail):
    while True:
        pass


@agent("waits")
async def waits(mail):
    threading.Event().wait()


@agent("stubborn")
async def stubborn(mail):
    while True:
        try:
            while True:
                pass
        except BaseException:
            if (marks / f"{mail.id}").exists():
                raise
            (marks / f"{mail.id}").touch()


@agent("spins-behind")
async def spins_behind(mail):
    async def behind():
        while True:
            pass
    asyncio.create_task(behind())
    await asyncio.sleep(30)


@agent("sleeps-plain")
def sleeps_plain(mail):
    time.sleep(60)


@agent("spins-plain")
def spins_plain(mail):
    while True:
        pass


@agent("exits")
async def exits(mail):
    os._exit(7)


@agent("exits-plain")
def exits_plain(mail):
    os._exit(7)


@agent("crashes")
def crashes(mail):
    ctypes.string_at(0)


@agent("hogs")
async def hogs(mail):
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


@agent("hogs-plain")
def hogs_plain(mail):
    kept = []
    while True:
        kept.append(["x"] * 100_000)


@agent("leaves")
async def leaves(mail):
    for new in (False, True):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=new)
        (marks / f"child-{child.pid}").touch()
    os._exit(9)


@agent("forks")
def forks(mail):
    for _ in range(20):
        if not os.fork():
            (marks / f"child-{os.getpid()}").touch()
            while True:
                time.sleep(1)
    time.sleep(60)


@agent("floods-log")
async def floods_log(mail, context):
    while True:
        context.log.info("x" * 1000)


@agent("prints")
def prints(mail):
    sys.stdout.write("x" * 20_000_000)
    raise ValueError("it printed")
"""

ATTEMPTS = 2
MAILS = 3  # to each hostile inbox, at once
MEMORY = 400 << 20  # octets that the server may ever have, answers of 100 MB and all


@dataclass(frozen=True)
class Case:
    """What an agent does, and the reason that is left of its last attempt."""

    agent: str
    reason: str
    isolated: bool = False
    attempts: int = ATTEMPTS
    detail: str = ""
    mails: int = MAILS

    @property
    def inbox(self) -> str:
        return self.agent + ("-isolated" if self.isolated else "")


LATE = "the agent took longer than 1 s"
DIED = "the agent's process "
GROUPS: dict[str, list[Case]] = {
    "fails": [
        Case("raises", "the agent raised ValueError: it broke", detail="in raises"),
        Case("raises", "the agent raised ValueError: it broke", True, detail="in raises"),
        Case("gives-up", "the agent gave up: for good", attempts=1),
        Case("gives-up", "the agent gave up: for good", True, attempts=1),
        Case("returns-number", "the agent returned a int"),
        Case("returns-number", "the agent returned a int", True),
        Case("injects-name", "the agent's answer can't be sent: an answer may not carry the header"),
        Case("injects-name", "the agent's answer can't be sent: an answer may not carry the header", True),
        Case("injects-tag", "the agent's Reply needs a tag"),
        Case("prints", "the agent raised ValueError: it printed", True),
    ],
    "floods": [
        Case("floods", "the agent's answer is too large: 100000000"),
        Case("floods", "the agent raised MemoryError", True),
        Case("floods-plain", "the agent's answer is too large: 100000000"),
        Case("many-files", "the agent's Reply has 3000000 attachments"),
        Case("many-files", "the agent's Reply has 3000000 attachments", True),
        Case("many-headers", "the agent's Reply has 100000 headers"),
    ],
    "sleeps": [Case("sleeps", LATE, detail="in sleeps")],
    "spins": [Case("spins", LATE, detail="in spins")],
    "waits": [Case("waits", LATE, detail="in waits")],
    "stubborn": [Case("stubborn", LATE, detail="in stubborn")],
    "spins-behind": [Case("spins-behind", LATE)],
    "sleeps-plain": [Case("sleeps-plain", LATE, detail="in sleeps_plain")],
    "spins-plain": [Case("spins-plain", LATE, detail="in spins_plain", mails=16)],
    "blocks in processes": [
        Case("sleeps", LATE, True, detail="in sleeps"),
        Case("spins", LATE, True, detail="in spins"),
        Case("stubborn", LATE, True, detail="in stubborn"),
        Case("spins-behind", LATE, True),
        Case("sleeps-plain", LATE, True, detail="in sleeps_plain"),
        Case("spins-plain", LATE, True, detail="in spins_plain"),
    ],
    "dies": [
        Case("exits", f"{DIED}ended with exit status 7", True),
        Case("exits-plain", f"{DIED}ended with exit status 7", True),
        Case("crashes", f"{DIED}was ended by signal 11", True),
    ],
    "hogs": [
        Case("hogs", "the agent raised MemoryError", True, detail="in hogs"),
        Case("hogs-plain", "the agent raised MemoryError", True, detail="in hogs_plain"),
    ],
    "leaves children": [
        Case("leaves", f"{DIED}ended with exit status 9", True),
        Case("forks", LATE, True, detail="in forks"),
    ],
    "floods the log": [Case("floods-log", f"{DIED}broke the protocol: more than 20000 log lines", True)],
}
CASES = [case for group in GROUPS.values() for case in group]
BLOCKING = ("sleeps", "spins", "waits", "stubborn", "spins-behind")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all of it: each case finds what the one before has left of it."""
    folder = tmp_path_factory.mktemp("containment")
    (folder / "own").mkdir()
    (folder / "marks").mkdir()
    (folder / "own" / "hostile.py").write_text(AGENTS)
    hostile = {case.inbox: {"agent": case.agent, "isolated": case.isolated, "timeout": "1s"} for case in CASES}
    own = {"injects": {"agent": "injects"}, "injects-isolated": {"agent": "injects", "isolated": True}}
    config = configuration(
        inboxes={"echo": {"agent": "echo"}, "echo-isolated": {"agent": "echo", "isolated": True}, **hostile, **own},
        answering={"attempts": ATTEMPTS, "retry": ["1s"], "memory": 64 << 20},
    )
    server = ServerProcess(folder, {**config, "plugins": [*config["plugins"], "own"]})
    server.start()
    try:
        yield server
        for name, figures in FIGURES.items():
            print(f"{name:20} {figures}")
        assert server.stop() == 0
        log = server.log.read_text()
        assert "internal error" not in log and " stage failed " not in log and " crashed " not in log
    finally:
        if server.process is not None:
            server.kill()


@dataclass
class Figures:
    """What others had to wait for a whole SMTP conversation, in seconds each, and how many of them were answered."""

    times: list[float] = field(default_factory=list)
    answered: int = 0
    memory: int = 0

    def __str__(self) -> str:
        return (
            f"{len(self.times):4} others' mails, slowest {max(self.times) * 1000:4.0f} ms, {self.answered} answered"
            f" meanwhile, server's memory at most {self.memory >> 20} MiB"
        )


FIGURES: dict[str, Figures] = {}


class Others:
    """Somebody who mails the echo all the while, and what came of it."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._mail)
        self.ids: list[str] = []
        self.figures = Figures()
        self.answered_before = server.log.read_text().count(" answered ")
        self.error: BaseException | None = None

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _mail(self) -> None:
        try:
            while not self._stop.wait(0.05):
                began = time.monotonic()
                sent = message("ann@client.example", "echo@test.example", "Hi", "Hello")
                reply = submit(self._server.port, "ann@client.example", ["echo@test.example"], sent)
                self.figures.times.append(time.monotonic() - began)
                self.ids.append(queued_as(reply))
        except BaseException as error:
            self.error = error


def memory(server: ServerProcess) -> int:
    """The most that the server process has had, in octets."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


@pytest.mark.parametrize("name", GROUPS)
def test_agents_when_they_misbehave_then_others_are_served_and_their_mail_fails_visibly(
    server: ServerProcess, name: str
) -> None:
    cases = GROUPS[name]
    with Others(server) as others:
        for case in cases:
            to = f"{case.inbox}@test.example"
            for _ in range(case.mails):
                queued_as(submit(server.port, "bob@client.example", [to], message("b@c.example", to, "Hi", "Hello")))
        failed = until(lambda: all_failed(server, cases), 90, lambda: server.log.read_text()[-4000:])
        answered = server.log.read_text().count(" answered ") - others.answered_before
    figures = others.figures
    figures.answered, figures.memory = answered, memory(server)
    FIGURES[name] = figures
    assert others.error is None
    assert answered > 3  # the echo's, meanwhile
    assert max(figures.times) < 1.0, figures
    assert figures.memory < MEMORY
    for case in cases:
        for item in failed[case.inbox]:
            assert item["reason"].startswith(case.reason)
            assert item["reason"].partition("\n")[0].endswith(tail(case))
            assert case.detail in item["reason"]
            assert item["attempts"] == case.attempts
        told = verb(server, "explain", failed[case.inbox][0]["id"])
        assert case.reason in told and case.detail in told
        if case.inbox in BLOCKING:
            history = "".join(verb(server, "explain", item["id"]) for item in failed[case.inbox])
            assert "the agent blocked the server for longer than 0.5 s: make it a plain def, or isolated" in history
            assert server.log.read_text().count(f" agent isolated inbox={case.inbox} ") == 1
    children = [int(mark.name[6:]) for mark in (server.folder / "marks").glob("child-*")]
    until(lambda: not any(map(alive, children)), 10, lambda: f"left behind: {list(filter(alive, children))}")


def all_failed(server: ServerProcess, cases: list[Case]) -> dict[str, list[dict[str, Any]]] | None:
    """The failed items of these inboxes, once they are all that were sent there."""
    found: dict[str, list[dict[str, Any]]] = {case.inbox: [] for case in cases}
    for item in queue(server, "list", "--state", "failed"):
        if item["kind"] in found:
            found[item["kind"]].append(item)
    return found if all(len(found[case.inbox]) == case.mails for case in cases) else None


def tail(case: Case) -> str:
    return "" if case.attempts < ATTEMPTS else f", attempt {ATTEMPTS} of {ATTEMPTS}"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("inbox", ["injects", "injects-isolated"])
def test_agent_when_it_injects_header_lines_then_the_answer_has_none_of_them(server: ServerProcess, inbox: str) -> None:
    to = f"{inbox}@test.example"
    mail = queued_as(submit(server.port, "bob@client.example", [to], message("bob@client.example", to, "Hi", "Hello")))
    states = [item["state"] for item in ended(server, mail)]
    assert states == ["ANSWERED", "DELIVERED"]
    printed = [path.read_bytes() for path in (server.folder / "state" / "printed").glob("*.eml")]
    [answer] = [content for content in printed if mail.encode() in content]
    parsed = message_from_bytes(answer, policy=default)
    assert "bcc" not in parsed
    assert parsed.get_all("to") == ["bob@client.example"]
    for part in parsed.walk():
        assert "bcc" not in part
        assert "\n" not in (part.get_filename() or "")
    [text] = [part.get_content() for part in parsed.walk() if part.get_content_type() == "text/plain"]
    assert "hello\r\n.\r\nMAIL FROM:<>" in text


def test_echo_when_isolated_then_it_answers_as_any_other(server: ServerProcess) -> None:
    to = "echo-isolated@test.example"
    began = time.monotonic()
    for _ in range(20):
        mail = queued_as(
            submit(server.port, "bob@client.example", [to], message("bob@client.example", to, "Hi", "Hello"))
        )
    assert ended(server, mail)[0]["state"] == "ANSWERED"
    print(f"20 mails to an isolated echo: {time.monotonic() - began:.2f} s")


def test_server_when_killed_then_no_process_of_an_agent_survives(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "marks").mkdir()
    (tmp_path / "own" / "hostile.py").write_text(AGENTS)
    config: dict[str, Any] = configuration(inboxes={"forks": {"agent": "forks", "isolated": True}})
    server = ServerProcess(tmp_path, {**config, "plugins": ["own"]})
    server.start()
    try:
        submit(
            server.port,
            "bob@client.example",
            ["forks@test.example"],
            message("bob@client.example", "forks@test.example", "Hi", "Hello"),
        )
        marks = tmp_path / "marks"
        until(lambda: len(list(marks.iterdir())) == 20, 20, "the agent has not begun")
        found = family(server)
        assert len(found) >= 22  # the nursery, a worker process, its twenty children
        assert all(map(alive, found))
        server.kill()
        until(lambda: not any(map(alive, found)), 10, lambda: f"left behind: {list(filter(alive, found))}")
    finally:
        if server.process is not None:
            server.kill()


def family(server: ServerProcess) -> list[int]:
    """All processes that descend from the server."""
    assert server.process is not None
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [server.process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def test_isolated_inbox_when_the_server_stops_then_its_processes_end_in_order(tmp_path: Path) -> None:
    config = configuration(inboxes={"echo": {"agent": "echo", "isolated": True}})
    with running(tmp_path, config) as server:
        mail = queued_as(
            submit(server.port, "b@c.example", ["echo@test.example"], message("b@c.example", "echo", "Hi", "Hello"))
        )
        assert ended(server, mail)[0]["state"] == "ANSWERED"
        found = family(server)
        assert len(found) == 2
    assert not any(map(alive, found))
