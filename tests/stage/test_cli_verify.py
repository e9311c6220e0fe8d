"""`responder verify`: what it prints, what it keeps, and how it goes on where it ended."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from responder.cli import verify as verb
from responder.cli.verify_output import COLUMNS, File, OutputError, csv_line, json_line
from responder.cli.verify_progress import bar
from responder.outbound.verifying.verification import Result, Verification
from tests.support.dns_server import DNSServer
from tests.support.operator import Operator
from tests.support.server import configuration, environment
from tests.support.smtp_sink import SMTPSink
from tests.support.waiting import Background, until

HOSTILE = '550 5.1.1 \x1b[2J=1+1,"a" \u202e\u2028 nobody'


class World:
    """A name server, and a host of a.test that knows ann; the others' domain has no host."""

    def __init__(self, background: Background) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        self.reply = "550 5.1.1 no such user"
        self.sink = background.enter(SMTPSink(self._script, address="127.0.3.1", port=port))
        zone = {"a.test": {"A": ["127.0.3.1"]}, "silent.test": {"A": ["127.0.3.2"]}}
        self.server = background.enter(DNSServer(zone))
        self.silent = socket.create_server(("127.0.3.2", port))

    def _script(self, step: str, argument: str) -> str | None:
        return None if step != "RCPT" or "ann" in argument else self.reply

    def config(self) -> dict[str, Any]:
        delivery = {
            "port": self.sink.port,
            "nameservers": [self.server.nameserver],
            "allow_private_addresses": True,
            "source_address": "127.0.3.100",
        }
        return configuration(hostname="probe.example.org", delivery=delivery)

    def asked(self) -> Counter[str]:
        """How often each address was asked, the random ones left out."""
        lines = [line for _, line in self.sink.commands if line.startswith("RCPT")]
        addresses = [line[9:-1] for line in lines]
        return Counter([address for address in addresses if not address.startswith("m")])


@pytest.fixture
def world() -> Iterator[World]:
    with Background() as background:
        world = World(background)
        yield world
        assert not {"DATA", "BDAT"} & set(world.sink.verbs())
        world.silent.close()


@pytest.fixture
def operator(operator: Operator, world: World) -> Operator:
    operator.write(world.config())
    return operator


def test_addresses_when_asked_then_a_table_says_what_is_known(operator: Operator, world: World) -> None:
    result = operator("verify", "ann@a.test", "bob@a.test", "x@gone.test")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].split() == ["address", "result", "code", "text"]
    assert sorted(" ".join(line.split()) for line in lines[1:]) == [
        "ann@a.test exists 250 2.1.5 ok [a.test]",
        "bob@a.test unknown 550 5.1.1 no such user [a.test]",
        "x@gone.test no MX - gone.test: no such domain",
    ]
    assert (1, "EHLO probe.example.org") in world.sink.commands


def test_status_when_something_is_not_known_then_it_is_one(operator: Operator) -> None:
    assert operator("verify", "x@silent.test", "--timeout", "0.3s").status == 1
    assert operator("verify", "ann@a.test", "--hostname", "two words").status == 2


def test_json_when_asked_for_then_it_is_one_list(operator: Operator) -> None:
    result = operator("verify", "ann@a.test", "x@gone.test", "--json")
    found = {one["address"]: one for one in result.json}
    assert found["ann@a.test"]["result"] == "exists" and set(found["ann@a.test"]) == set(COLUMNS)
    assert operator("verify", "ann@a.test", "--json", "--no-catch-all").json[0]["catch_all"] is None


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_text_of_a_host_when_it_is_hostile_then_neither_terminal_nor_spreadsheet_obeys(
    operator: Operator, world: World, form: str
) -> None:
    world.reply = HOSTILE
    result = operator("verify", "=cmd@a.test", "--format", form)
    assert all(line.isprintable() for line in result.out.splitlines()) and len(result.out.splitlines()) <= 2
    if form == "csv":
        row = list(csv.reader(result.out.splitlines()))[1]
        assert row[0] == "'=cmd@a.test" and not any(cell[:1] in "=+-@" for cell in row if cell)
    if form == "jsonl":
        assert json.loads(result.out)["address"] == "=cmd@a.test"


def test_file_of_addresses_when_it_has_other_lines_then_they_are_no_addresses(operator: Operator) -> None:
    (operator.folder / "list.txt").write_bytes(
        b"\xef\xbb\xbfann@a.test\r\n\r\n# a remark\r\nann@a.test\nb\xff@a.test\n"
    )
    result = operator("verify", "--file", "list.txt", "--json")
    assert {one["address"]: one["result"] for one in result.json} == {
        "ann@a.test": "exists",
        "b\ufffd@a.test": "invalid",
    }


def test_file_of_addresses_when_it_is_no_text_then_it_ends(operator: Operator) -> None:
    (operator.folder / "list.bin").write_bytes(os.urandom(50_000).replace(b"@", b"") + b"x" * 100_000)
    result = operator("verify", "--file", "list.bin", "--format", "jsonl")
    assert result.status == 0
    assert {json.loads(line)["result"] for line in result.out.splitlines()} == {"invalid"}
    assert max(len(line) for line in result.out.splitlines()) < 4000


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_output_when_it_has_some_already_then_the_rest_is_asked_and_added(
    operator: Operator, world: World, name: str
) -> None:
    result = operator("verify", "ann@a.test", "'=odd@a.test", "=cmd@a.test", "not one", "--output", name)
    assert (result.status, result.err) == (0, "") and "exists 1" in result.out
    before = (operator.folder / name).read_text()
    with (operator.folder / name).open("a") as file:
        file.write('{"address": "torn@a.test"' if name.endswith("jsonl") else "torn@a.test,unkno")
    everybody = ("ann@A.TEST", "'=odd@a.test", "=cmd@a.test", "not one", "torn@a.test", "new@a.test")
    result = operator("verify", *everybody, "--output", name, "--resume")
    assert result.status == 0 and f"{name} has 4 addresses" in result.err
    assert result.out == "unknown 2\n"
    after = (operator.folder / name).read_text()
    assert after.startswith(before) and len(after.splitlines()) == len(before.splitlines()) + 2
    assert set(world.asked().values()) == {1} and world.asked()["torn@a.test"] == 1
    told = ["ann@a.test", "'=odd@a.test", "=cmd@a.test", "not one", "torn@a.test", "new@a.test"]
    if name.endswith("csv"):
        quoted = [f"'{address}" if address[0] in "'=" else address for address in told]
        assert sorted(row["address"] for row in csv.DictReader(after.splitlines())) == sorted(quoted)
    else:
        assert sorted(json.loads(line)["address"] for line in after.splitlines()) == sorted(told)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("out.jsonl", b"ann@a.test\n", "holds something else than verifications as JSON lines"),
        ("out.jsonl", b'{"addr": 1}\n', "holds something else"),
        ("out.jsonl", b'["address"]\n', "holds something else"),
        ("out.csv", b"name,mail\nann,ann@a.test\n", "holds something else than verifications as CSV"),
        ("out.csv", b"address,result\nann@a.test,exists\n", "holds something else"),
        ("out.csv", b"\xff" * 100_000 + b"\n", "holds something else"),
    ],
)
def test_output_when_it_is_another_file_then_it_stays_as_it_is(
    operator: Operator, name: str, content: bytes, reason: str
) -> None:
    (operator.folder / name).write_bytes(content)
    result = operator("verify", "ann@a.test", "--output", name)
    assert result.status == 2 and reason in result.err and result.err.count("\n") == 1
    assert (operator.folder / name).read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "wants an ADDRESS, or --file FILE"),
        (("--file", "missing"), "missing: can't be read"),
        (("a@a.test", "--output", "no/folder/x.csv"), "can't be written"),
        (("a@a.test", "--resume"), "--resume wants an --output FILE that exists"),
        (("a@a.test", "--output", "new.csv", "--resume"), "--resume wants an --output FILE that exists"),
        (("a@a.test", "--output", "x.csv", "--format", "table"), "a file is written as csv or jsonl"),
        (("a@a.test", "--sender", "nobody"), "no domain"),
        (("a@a.test", "--max-recipients", "0"), "wants a number from 1"),
        (("a@a.test", "--timeout", "0s"), "wants a duration above zero"),
        (("a@a.test", "--wait", "soon"), "wants a duration"),
    ],
)
def test_arguments_when_they_can_not_be_then_it_is_one_line_and_status_two(
    operator: Operator, arguments: tuple[str, ...], reason: str
) -> None:
    result = operator("verify", *arguments)
    assert result.status == 2 and reason in result.err and result.out == ""


def test_output_when_another_run_writes_it_then_it_is_refused(tmp_path: Path) -> None:
    first = File(tmp_path / "x.csv", "csv")
    with pytest.raises(OutputError, match="another run writes it"):
        File(tmp_path / "x.csv", "csv")
    first.close()
    File(tmp_path / "x.csv", "csv").close()


def test_configuration_when_there_is_none_then_it_works_without(operator: Operator, world: World) -> None:
    operator.file.unlink()
    result = operator.run("verify", "no address", "--hostname", "probe.example.org")
    assert (result.status, result.err) == (0, "") and "invalid" in result.out
    assert operator.run("verify", "x", "--config", "missing.toml").status == 2


def test_lines_when_read_back_then_they_say_the_same(tmp_path: Path) -> None:
    one = Verification('"a,\\"b"@x.test', Result.CATCH_ALL, 250, "2.0.0", '-1 "ok", fine', catch_all=True)
    assert json.loads(json_line(one))["text"] == one.text
    [row] = csv.reader([csv_line(one)])
    assert row[0] == one.address and row[COLUMNS.index("text")] == f"'{one.text}"
    (tmp_path / "x.csv").write_text(",".join(COLUMNS) + "\n" + csv_line(one))
    file = File(tmp_path / "x.csv", "csv")
    assert file.done == {one.address}
    file.close()


def test_progress_when_drawn_then_it_says_how_far_it_is() -> None:
    counts = Counter({"exists": 80, "unknown": 40})
    assert bar(counts, 500, 3, 4.0) == (
        "[####----------------] 120/500 30.0/s 12s left, 3 asked again later | exists 80, unknown 40"
    )
    assert bar(Counter(), 0, 0, 0.0) == "[--------------------] 0/0 0.0/s"


# -- runs that end before their time --------------------------------------------------------------------------------------


def start(operator: Operator, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "responder", "verify", *arguments, "--config", str(operator.file)],
        cwd=operator.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_run_when_it_is_killed_then_the_next_one_asks_the_rest(operator: Operator, world: World) -> None:
    addresses = [f"u{n}@a.test" for n in range(500)]
    (operator.folder / "list.txt").write_text("\n".join(addresses))
    options = ("--file", "list.txt", "--output", "out.jsonl", "--max-recipients", "50", "--pause", "0.05s")
    file = operator.folder / "out.jsonl"

    def lines() -> int:
        return file.read_bytes().count(b"\n") if file.exists() else 0

    for done in (100, 300):
        process = start(operator, *options)
        until(lambda done=done: lines() >= done, 60, "it does not get on")  # type: ignore[misc]
        process.kill()
        process.communicate()
        assert done <= lines() < 500
    process = start(operator, *options)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "has " in err and "unknown " in out
    told = Counter([json.loads(line)["address"] for line in file.read_text().splitlines()])
    assert set(told) == set(addresses) and set(told.values()) == {1}
    asked = world.asked()
    assert max(asked.values()) <= 3  # once, and once more for each kill in the middle of its transaction
    assert sum(asked.values()) - 500 <= 2 * 40


def test_run_when_it_is_interrupted_then_hosts_hear_quit_and_it_says_how_to_go_on(
    operator: Operator, world: World
) -> None:
    (operator.folder / "list.txt").write_text("\n".join([f"u{n}@a.test" for n in range(500)]))
    process = start(operator, "--file", "list.txt", "--output", "out.csv", "--max-recipients", "20", "--pause", "0.1s")
    file = operator.folder / "out.csv"
    until(lambda: file.exists() and file.read_bytes().count(b"\n") > 50, 60, "it does not get on")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    assert "of 500 addresses are done; the same command goes on from here" in err
    assert stat.S_ISREG(file.stat().st_mode) and file.read_bytes().endswith(b"\n")
    until(lambda: world.sink.open == 0, 10, "a connection is left")
    assert Counter(world.sink.verbs())["QUIT"] == world.sink.connections


def test_output_when_the_disk_is_full_then_it_is_one_line_and_status_one(operator: Operator) -> None:
    result = operator("verify", "ann@a.test", "--output", "/dev/full")
    assert result.status == 1 and result.out == ""
    assert result.err == "responder: verify: /dev/full: can't be written: No space left on device\n"


def test_output_when_nobody_reads_it_any_more_then_it_ends_without_a_word(operator: Operator) -> None:
    (operator.folder / "list.txt").write_text("\n".join([f"u{n}@a.test" for n in range(200)]))
    command = f"{sys.executable} -m responder verify --file list.txt --pause 0s --config {operator.file} | head -1"
    done = subprocess.run(
        command, shell=True, cwd=operator.folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["address", "result", "code", "text"] and done.stderr == ""


def test_progress_when_standard_error_is_a_terminal_then_it_is_drawn_there(operator: Operator) -> None:
    terminal, other = os.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "responder", "verify", "x@silent.test", "ann@a.test"),
            *("--config", str(operator.file), "--timeout", "1.2s", "--output", "out.csv"),
        ],
        cwd=operator.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=other,
        text=True,
    )
    os.close(other)
    out, _ = process.communicate(timeout=60)
    drawn = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert process.returncode == 1 and sorted(out.strip().split(", ")) == ["exists 1", "timeout 1"]
    assert "[##########----------] 1/2" in drawn and "| exists 1" in drawn and drawn.endswith("\x1b[K")


def test_verb_when_other_verbs_run_then_its_libraries_are_not_loaded() -> None:
    code = f"import sys; import {verb.__name__}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert not {"aiosmtplib", "dns", "responder.outbound.verifying.probe"} & set(result.stdout.split())
