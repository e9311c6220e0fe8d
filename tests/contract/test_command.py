"""The agent `command` with real programs: a shell, Perl, Node, Python; good ones and bad ones."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import uvloop
from pydantic import ValidationError

from plugins.command import FINAL, MAX_VALUE, PASSING, Command, CommandError, _value
from responder import Answer, Forward, GiveUp, Mail, Reply, TryLater
from responder.agents.host import check
from responder.config import Config
from responder.mail.address import parse
from tests.support.memory import equipped
from tests.support.server import ROOT
from tests.support.waiting import until

PAGE = (ROOT / "docs" / "agents" / "command.md").read_text(encoding="utf-8")
RAW = (
    b"From: Ann <ann@client.example>\r\nTo: run@test.example\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Message-ID: <1@client.example>\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nSch\xc3\xb6n.\r\n\r\n> old\r\n"
)


def mail(raw: bytes = RAW) -> Mail:
    return Mail(
        raw,
        id="0" * 18 + ".0",
        inbox="run",
        recipient=parse("run+tag@test.example"),
        sender="ann@client.example",
    )


def sh(script: str, *arguments: str, **settings: Any) -> Command:
    return equipped(Command, command=["/bin/sh", "-c", script, "sh", *arguments], **settings)


async def told(agent: Command, raw: bytes = RAW) -> Answer:
    """The agent's answer, as the core takes it."""
    await agent.start()
    return check(await agent.answer(mail(raw)))


async def text(agent: Command, raw: bytes = RAW) -> str:
    answer = await told(agent, raw)
    assert isinstance(answer, Reply)
    return answer.text


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def number(file: Path) -> int:
    return int(until(lambda: file.read_text().strip() if file.exists() else "", 10, f"there is no {file}"))


async def gone(*files: Path) -> None:
    """The processes whose numbers these files hold are no more."""
    pids = [number(file) for file in files]
    await asyncio.to_thread(until, lambda: not any(map(alive, pids)), 10, f"still there: {pids}")


# -- programs that do well ------------------------------------------------------------------------------------------------


async def test_program_when_it_reads_the_mail_then_it_has_every_octet() -> None:
    assert (await text(sh("cat"))).encode() == RAW


async def test_program_when_it_wants_text_then_it_has_the_new_text_only() -> None:
    assert await text(sh("cat", input="text")) == "Schön."


async def test_program_when_it_wants_json_then_it_has_that_of_the_webhook() -> None:
    got = json.loads(await text(sh("cat", input="json")))
    assert (got["version"], got["inbox"], got["tag"], got["text"]) == (1, "run", "tag", "Schön.\n\n> old\n")


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", 'IFS= read -r line; printf "%s|%s" "$line" "$MAIL_SUBJECT"'],
        ["perl", "-e", '$line = <STDIN>; $line =~ s/\\r?\\n//; print "$line|$ENV{MAIL_SUBJECT}"'],
        [sys.executable, "-c", "import os; print(input() + '|' + os.environ['MAIL_SUBJECT'], end='')"],
        pytest.param(
            [
                "node",
                "-e",
                'const t = require("fs").readFileSync(0, "utf8");'
                'process.stdout.write(t.split("\\r\\n")[0] + "|" + process.env.MAIL_SUBJECT)',
            ],
            marks=pytest.mark.peer("node"),
        ),
    ],
    ids=["sh", "perl", "python", "node"],
)
async def test_program_when_in_any_language_then_it_answers(command: list[str]) -> None:
    answer = await text(equipped(Command, command=command))
    assert answer.replace("\r", "") == "From: Ann <ann@client.example>|Grüße"


@pytest.mark.peer("node")
async def test_node_when_it_speaks_json_then_its_answer_has_all_there_is() -> None:
    script = """
      let input = ''
      process.stdin.on('data', part => { input += part })
      process.stdin.on('end', () => {
        const mail = JSON.parse(input)
        const data = Buffer.from(mail.subject).toString('base64')
        console.log(JSON.stringify({ text: mail.reply_text, subject: 'Hi', attachments: [{ name: 'a.txt', data }] }))
      })
    """
    answer = await told(equipped(Command, command=["node", "-e", script], input="json", output="json"))
    assert isinstance(answer, Reply)
    assert (answer.text, answer.subject) == ("Schön.", "Hi")
    assert answer.attachments[0].data == "Grüße".encode()


async def test_program_when_it_says_forward_then_the_core_gets_it() -> None:
    agent = sh("""echo '{"action": "forward", "to": ["team@target.example"]}'""", output="json")
    assert await told(agent) == Forward(to=["team@target.example"])


@pytest.mark.parametrize(
    ("script", "output"), [("true", "text"), ("echo", "text"), ("echo null", "json"), ("", "json")]
)
async def test_program_when_it_prints_nothing_then_it_is_silence(script: str, output: str) -> None:
    assert await told(sh(script, output=output)) is None


async def test_arguments_when_they_look_like_shell_then_nothing_is_expanded(tmp_path: Path) -> None:
    arguments = ["$HOME", "`id`", "; touch x", "*", "a  b", "-n", "'\""]
    agent = sh('printf "%s\\n" "$@"', *arguments, folder=str(tmp_path))
    assert await text(agent) == "".join(f"{one}\n" for one in arguments)
    assert list(tmp_path.iterdir()) == []


async def test_environment_when_seen_then_it_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    seen = dict(line.split("=", 1) for line in (await text(sh("env", environment={"OWN": "a b"}))).splitlines())
    for name in ("PWD", "SHLVL", "_", "OLDPWD"):  # what a shell sets by itself
        seen.pop(name, None)
    assert seen == {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "OWN": "a b",
        "MAIL_ID": "0" * 18 + ".0",
        "MAIL_INBOX": "run",
        "MAIL_TAG": "tag",
        "MAIL_RECIPIENT": "run+tag@test.example",
        "MAIL_SENDER": "ann@client.example",
        "MAIL_FROM": "ann@client.example",
        "MAIL_SUBJECT": "Grüße",
        "MAIL_MESSAGE_ID": "<1@client.example>",
    }
    documented = re.findall(r"^\| `(MAIL_\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(documented) == sorted(name for name in seen if name.startswith("MAIL_"))


async def test_folder_when_set_then_the_program_is_found_and_runs_there(tmp_path: Path) -> None:
    program = tmp_path / "answer"
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    agent = equipped(Command, command=["./answer"], folder=str(tmp_path))
    assert await text(agent) == f"{tmp_path.resolve()}\n"


async def test_signals_when_the_program_starts_then_none_is_ignored() -> None:
    ignored = await text(equipped(Command, command=["grep", "SigIgn", "/proc/self/status"]))
    ours = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))  # those that Python ignores
    assert int(ignored.split()[1], 16) & ours == 0


async def test_programs_when_many_run_at_a_time_then_each_has_its_own_mail() -> None:
    agent = sh("cat", input="text")
    answers = await asyncio.gather(*[agent.answer(mail(b"\r\nnumber %d\r\n" % n)) for n in range(8)])
    assert [str(answer).strip() for answer in answers] == [f"number {n}" for n in range(8)]


# -- exit status ----------------------------------------------------------------------------------------------------------


async def test_program_when_it_says_tempfail_then_it_is_run_again_later() -> None:
    with pytest.raises(TryLater) as caught:
        await told(sh("echo not this; exit 75", retry=90))
    assert caught.value.seconds == 90


@pytest.mark.parametrize("status", [1, 2, 63, 79, 126, 127, 255, *PASSING])
async def test_program_when_it_fails_then_the_core_tries_again(status: int) -> None:
    with pytest.raises(CommandError, match=rf"^the program ended with {status}( \(EX_\w+\))?: first \| last$"):
        await told(sh(f"echo not this; echo first >&2; echo last >&2; exit {status}"))


@pytest.mark.parametrize("status", FINAL)
async def test_program_when_it_fails_for_good_then_the_agent_gives_up(status: int) -> None:
    with pytest.raises(GiveUp, match=rf"^the program ended with {status} \({FINAL[status]}\): why$"):
        await told(sh(f"echo why >&2; exit {status}"))


async def test_program_when_a_signal_ends_it_then_the_core_tries_again() -> None:
    with pytest.raises(CommandError, match=r"^the program was ended by SIGSEGV$"):
        await told(sh("echo not this; kill -SEGV $$"))


def test_statuses_when_documented_then_they_are_those_there_are() -> None:
    rows = [line for line in PAGE.splitlines() if "`EX_" in line and line.startswith("|")]
    found = [dict(re.findall(r"(\d+) `(EX_\w+)`", row)) for row in rows]
    assert found == [{"75": "EX_TEMPFAIL"}, *({str(key): value for key, value in t.items()} for t in (PASSING, FINAL))]
    for name, value in {**found[0], **found[1], **found[2]}.items():
        assert getattr(os, value) == int(name)


async def test_errors_when_printed_then_they_are_logged_bounded_and_harmless(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "responder.agent")
    agent = sh("head -c 500000 /dev/zero | tr '\\0' x >&2; printf '\\033[2J\\nend\\r\\n' >&2; echo ok")
    assert await text(agent) == "ok\n"
    [record] = [record for record in caplog.records if record.name == "responder.agent"]
    assert record.getMessage().endswith("x[2J | end")
    assert len(record.getMessage()) < 1100 and record.getMessage().isprintable()


@pytest.mark.parametrize("printed", ["hello", '{"txet": 1}', "[]", '{"text": "a"} trailing'])
async def test_output_when_it_is_not_the_json_wanted_then_the_agent_gives_up(printed: str) -> None:
    with pytest.raises(GiveUp, match=r"^the program's output is no answer: "):
        await told(sh('printf "%s" "$1"', printed, output="json"))


async def test_output_when_it_is_no_text_then_it_is_made_one() -> None:
    assert await text(sh("printf 'a\\377\\000b'")) == "a\ufffd\ufffdb"


# -- programs that do not end ---------------------------------------------------------------------------------------------

FAMILY = 'echo $$ > "$1/first"; sh -c \'echo $$ > "$1/second"; exec sleep 600\' sh "$1" & '
FAMILY += 'until [ -s "$1/second" ]; do sleep 0.01; done; '


async def test_program_when_it_takes_too_long_then_all_of_its_group_is_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CommandError, match=r"^the program took longer than 1 s: said$"):
        await told(sh(f"{FAMILY} echo said >&2; trap '' TERM INT HUP; sleep 600; wait", str(tmp_path), timeout=1))
    assert time.monotonic() - began < 5
    await gone(tmp_path / "first", tmp_path / "second")


async def test_agent_when_cancelled_then_all_of_its_group_is_killed(tmp_path: Path) -> None:
    task = asyncio.create_task(sh(f"{FAMILY} wait", str(tmp_path)).answer(mail()))
    pids = [await asyncio.to_thread(number, tmp_path / name) for name in ("first", "second")]
    assert all(map(alive, pids))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(tmp_path / "first", tmp_path / "second")


async def test_agent_when_cancelled_at_any_instant_then_no_process_is_left(tmp_path: Path) -> None:
    agent = sh("echo $$ >> pids; exec sleep 600", folder=str(tmp_path))
    for pause in range(20):
        task = asyncio.create_task(agent.answer(mail()))
        await asyncio.wait((task,), timeout=pause * 0.004)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    file = tmp_path / "pids"
    pids = [int(line) for line in file.read_text().split()] if file.exists() else []
    assert pids  # the last ones came so far
    await asyncio.to_thread(until, lambda: not any(map(alive, pids)), 10, f"still there: {pids}")


async def test_child_when_left_behind_with_the_pipes_then_the_answer_does_not_wait_for_it(tmp_path: Path) -> None:
    began = time.monotonic()
    script = f"{FAMILY} echo done"
    assert await text(sh(script, str(tmp_path))) == "done\n"
    assert time.monotonic() - began < 10
    await gone(tmp_path / "first", tmp_path / "second")


async def test_child_when_it_writes_behind_its_parent_then_that_is_read_too() -> None:
    assert await text(sh("(sleep 0.1; echo second) & echo first")) == "first\nsecond\n"


def test_group_when_under_the_servers_event_loop_then_it_is_killed_too(tmp_path: Path) -> None:
    """uvloop has its own way with processes."""

    async def runs() -> None:
        with pytest.raises(CommandError, match=r"^the program took longer than 1 s"):
            await told(sh(f"{FAMILY} wait", str(tmp_path), timeout=1))
        await gone(tmp_path / "first", tmp_path / "second")
        (tmp_path / "second").unlink()
        assert await text(sh(f"{FAMILY} cat", str(tmp_path))) == RAW.decode()
        await gone(tmp_path / "first", tmp_path / "second")
        with pytest.raises(GiveUp, match=r"^the program ended with 64"):
            await told(sh("exit 64"))
        (tmp_path / "second").unlink()
        task = asyncio.create_task(sh(f"{FAMILY} wait", str(tmp_path)).answer(mail()))
        await asyncio.to_thread(number, tmp_path / "second")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone(tmp_path / "first", tmp_path / "second")

    uvloop.run(runs())


@pytest.mark.parametrize("stream", ["", ">&2"])
async def test_output_when_it_never_ends_then_the_program_is_killed(tmp_path: Path, stream: str) -> None:
    began = time.monotonic()
    with pytest.raises(GiveUp, match=r"^the program wrote more than 100000 octets"):
        await told(sh(f"{FAMILY} yes {stream}", str(tmp_path), max_output=100_000))
    assert time.monotonic() - began < 5
    await gone(tmp_path / "first", tmp_path / "second")


async def test_program_when_it_ignores_ten_megabytes_of_input_then_nobody_waits() -> None:
    assert await text(sh("echo quick"), b"\r\n" + b"x" * 10_000_000) == "quick\n"


async def test_program_when_it_wants_too_much_memory_then_it_gets_none() -> None:
    command = [sys.executable, "-c", "x = b'x' * (300 << 20); print('got it')"]
    with pytest.raises(CommandError, match=r"^the program ended with 1: .*MemoryError"):
        await told(equipped(Command, command=command, memory=100 << 20))
    assert await text(equipped(Command, command=command, memory=600 << 20)) == "got it\n"


@pytest.mark.peer("node")
async def test_node_when_it_wants_too_much_memory_then_it_gets_none() -> None:
    script = "const all = []; for (let i = 0; i < 30; i++) all.push(Buffer.alloc(10 << 20, 1)); console.log('got it')"
    command = ["node", "-e", script]
    assert await text(equipped(Command, command=command, memory=1 << 30)) == "got it\n"
    with pytest.raises(CommandError, match=r"Array buffer allocation failed|out of memory|ended by SIG"):
        await told(equipped(Command, command=command, memory=256 << 20))


async def test_limits_when_set_then_they_hold_for_the_program() -> None:
    limits = await text(sh("ulimit -c; ulimit -d; ulimit -t", timeout=2, memory=64 << 20))
    assert limits.split() == ["0", str(64 << 10), str(2 * (os.cpu_count() or 1) + 1)]


# -- hostile mail ---------------------------------------------------------------------------------------------------------

HOSTILE = {
    "empty": b"",
    "no text": b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n",
    "unknown charset": b"Content-Type: text/plain; charset=x-no-such\r\n\r\nGr\xfc\xdfe\r\n",
    "10 MB": b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 655_360,
    "1000 files": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b'--b\r\nContent-Disposition: attachment; filename="../x"\r\n\r\nfile\r\n' * 1000
    + b"--b--\r\n",
    "subject": b"Subject: =?utf-8?Q?a=00b=0D=0Ac_$(touch_x)_`touch_y`?=\r\n\r\nx\r\n",
    "long subject": b"Subject: " + b"x" * 900_000 + b"\r\n\r\nx\r\n",
}


@pytest.mark.parametrize("how", ["mail", "json", "text"])
@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
async def test_mail_when_hostile_then_the_program_gets_it_and_answers(tmp_path: Path, raw: bytes, how: str) -> None:
    agent = sh('wc -c; printf "%s" "$MAIL_SUBJECT"', input=how, attachments=True, folder=str(tmp_path))
    octets, _, subject = (await text(agent, raw)).partition("\n")
    if how == "mail":
        assert int(octets) == len(raw)
    assert len(subject) <= 4096 and subject.isprintable()
    assert list(tmp_path.iterdir()) == []


def test_variable_when_it_comes_from_the_mail_then_it_is_a_line_and_bounded() -> None:
    assert _value("a\0b\r\nc\x1b\ud800") == "a b  c  "
    assert len(_value("x" * 100_000)) == MAX_VALUE


# -- settings and page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"command": "cat /etc/passwd"},
        {"command": []},
        {"command": [""]},
        {"command": ["a\0b"]},
        {"environment": {"A=B": "x"}},
        {"environment": {"1A": "x"}},
        {"environment": {"A": "s3cret\0"}},
        {"timeout": 0},
        {"memory": 1},
        {"input": "yaml"},
        {"shell": True},
    ],
)
def test_settings_when_wrong_then_they_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Command.Settings.model_validate({"command": ["cat"], **settings})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("change", [{"command": ["no-such-program"]}, {"command": ["./x"]}, {"folder": "nowhere"}])
async def test_program_when_it_is_not_there_then_the_agent_does_not_start(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "x").write_text("not executable")
    agent = equipped(Command, **{"command": ["cat"], "folder": str(tmp_path), **change})
    with pytest.raises(ValueError, match=r"^settings\.(command|folder): "):
        await agent.start()


async def test_program_when_it_vanishes_then_the_core_tries_again(tmp_path: Path) -> None:
    agent = equipped(Command, command=[str(tmp_path / "gone")])
    with pytest.raises(CommandError, match=r"^the program ended with 127: .*/gone: No such file or directory$"):
        await agent.answer(mail())


def test_page_when_read_then_its_settings_are_those_there_are_and_its_example_loads() -> None:
    table = PAGE.partition("| setting |")[2].partition("\n\n")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE))
    fields = Command.Settings.model_fields
    assert list(documented) == list(fields)
    for name, field in fields.items():
        said = documented[name].strip("`")
        assert said == "required" if field.is_required() else json.loads(said) == field.default, name
    for block in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for inbox in Config.model_validate(tomllib.loads(block)).inboxes.values():
            assert inbox.agent == "command"
            Command.Settings.model_validate(inbox.settings)


async def test_example_when_run_then_it_answers() -> None:
    [block] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    settings = tomllib.loads(block)["inboxes"]["tickets"]["settings"]
    assert await text(equipped(Command, **settings)) == "Thank you, ann@client.example"
