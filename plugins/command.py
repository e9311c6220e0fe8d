"""Runs a program for each mail: the mail on its standard input, the answer on its standard output, in any language.

No shell is involved: the program is started with the arguments as configured, in a session and process group of its own, with a
clean environment. Whatever ends the run (its exit, the time limit, too much output, the core's cancelling) ends the whole group,
so a child that it leaves behind neither lives on nor holds up anybody with the pipes it inherited. Standard input is a
file, so a program that does not read it can't block us either.
"""

import asyncio
import contextlib
import math
import os
import re
import shutil
import signal
import sys
import tempfile
from typing import IO, Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from responder import Agent, Answer, GiveUp, Mail, TryLater, answer_from_json, hookimpl, mail_to_json

# sysexits.h. What says that it may pass is tried again, as is any other status: a script's exception ends it with 1 or 255.
FINAL = {
    64: "EX_USAGE", 65: "EX_DATAERR", 66: "EX_NOINPUT", 67: "EX_NOUSER", 68: "EX_NOHOST", 72: "EX_OSFILE", 76: "EX_PROTOCOL",
    77: "EX_NOPERM", 78: "EX_CONFIG",
}  # fmt: skip
PASSING = {69: "EX_UNAVAILABLE", 70: "EX_SOFTWARE", 71: "EX_OSERR", 73: "EX_CANTCREAT", 74: "EX_IOERR"}
TEMPFAIL = 75

MAX_VALUE = 4096  # characters of one variable that comes from the mail
MAX_ERRORS = 4000  # octets of standard error that are kept, from its end
MAX_REASON = 220  # characters of it that stand in the reason of a failure
GRACE = 0.5  # seconds in which pipes empty, or a killed program ends

_FRAME = re.compile(r"\s+at |Node\.js v")  # how Node ends what it says of an exception

# Limits are set by a small program in between, and last through `exec`. `preexec_fn` would run Python between fork and exec,
# which may deadlock where there are threads; `prlimit` from outside would come too late for what the program starts first.
# RLIMIT_DATA counts what may be written: RLIMIT_AS would count what Node, Java and Go only reserve, and they would not start.
LAUNCHER = """
import os, resource, signal, sys
memory, seconds = int(sys.argv[1]), int(sys.argv[2])
wanted = [(resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)]
for limit, most in wanted:
    hard = resource.getrlimit(limit)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (most, most))
for name in ("SIGPIPE", "SIGXFSZ"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    sys.stderr.write(f"{sys.argv[3]}: {error.strerror}\\n")
    sys.stderr.flush()
    os._exit(127 if isinstance(error, FileNotFoundError) else 126)
"""


class CommandError(Exception):
    """No answer this time. The core tries again."""


class Command(Agent):
    """Runs a program for each mail and answers with what it prints."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

        command: Annotated[list[str], Field(min_length=1, max_length=1000)]
        """The program and its arguments. Nothing in them is expanded."""

        input: Literal["mail", "json", "text"] = "mail"
        """What standard input holds: the mail as it came, the JSON of the agent `webhook`, or the text without quotes."""

        output: Literal["text", "json"] = "text"
        """What standard output is: the answer's text, or the JSON of the agent `webhook`."""

        environment: dict[str, SecretStr] = {}
        """Variables besides PATH, LANG and those that tell of the mail."""

        folder: str = "."
        """The working folder."""

        timeout: Annotated[float, Field(gt=0, le=3600)] = 20.0
        """Seconds that a run may take; keep it below the inbox's `timeout`."""

        memory: Annotated[int, Field(ge=16 << 20, le=1 << 40)] = 512 << 20
        """Octets that each process of the program may write to."""

        max_output: Annotated[int, Field(ge=1, le=100 << 20)] = 10 << 20
        """Octets of standard output, and of standard error."""

        attachments: bool = False
        """With `input = "json"`: whether the octets of the mail's files are in it."""

        retry: Annotated[float, Field(ge=1, le=30 * 86400)] = 60.0
        """Seconds until a program that ended with EX_TEMPFAIL is run again."""

        @field_validator("command")
        @classmethod
        def _can_be_run(cls, command: list[str]) -> list[str]:
            if not command[0] or any("\0" in part for part in command):
                raise ValueError("wants a program and its arguments, without NUL")
            return command

        @field_validator("environment")
        @classmethod
        def _can_be_set(cls, variables: dict[str, SecretStr]) -> dict[str, SecretStr]:
            for name, value in variables.items():
                if not name.isascii() or not name.isidentifier():
                    raise ValueError("a key is no name of a variable")
                if "\0" in value.get_secret_value():
                    raise ValueError(f"the value of {name} holds NUL")
            return variables

    async def start(self) -> None:
        """Raises `ValueError` where the program can't be run: better now than at the first mail."""
        self._look()

    def _look(self) -> None:
        folder, program = self.settings.folder, self.settings.command[0]
        if not os.path.isdir(folder):
            raise ValueError(f"settings.folder: there is no folder {folder}")
        place = os.path.join(folder, program) if os.sep in program else program
        if shutil.which(place, path=self._variables()["PATH"]) is None:
            raise ValueError(f"settings.command: {program} is no program that can be run")

    async def answer(self, mail: Mail) -> Answer:
        settings = self.settings
        with tempfile.TemporaryFile() as file:
            # In a thread: a large mail takes a while to be parsed and written, and the event loop belongs to all inboxes.
            facts = await asyncio.to_thread(self._prepare, mail, file)
            run = await self._run(file, {**facts, **self._variables()})
        errors = run.errors()
        if errors:
            self.context.log.info("standard error: %s", errors)
        detail = f": {errors[-MAX_REASON:]}" if errors else ""
        if run.over:
            raise GiveUp(f"the program wrote more than {settings.max_output} octets{detail}")
        if run.status is None:
            raise CommandError(f"the program took longer than {settings.timeout:g} s{detail}")
        if run.status < 0:
            raise CommandError(f"the program was ended by {_signal(-run.status)}{detail}")
        if run.status == TEMPFAIL:
            raise TryLater(settings.retry)
        if run.status in FINAL:
            raise GiveUp(f"the program ended with {run.status} ({FINAL[run.status]}){detail}")
        if run.status:
            named = f" ({PASSING[run.status]})" if run.status in PASSING else ""
            raise CommandError(f"the program ended with {run.status}{named}{detail}")
        return self._answer(bytes(run.output))

    def _answer(self, output: bytes) -> Answer:
        if not output.strip():
            return None
        if self.settings.output == "text":
            return output.decode("utf-8", "replace").replace("\0", "\ufffd")
        try:
            return answer_from_json(output)
        except ValueError as error:
            raise GiveUp(f"the program's output is no answer: {error}") from None

    def _prepare(self, mail: Mail, file: IO[bytes]) -> dict[str, str]:
        """Write standard input; the variables that tell of the mail."""
        settings = self.settings
        if settings.input == "mail":
            file.write(mail.raw)
        elif settings.input == "text":
            file.write((mail.reply_text or mail.text).encode("utf-8", "replace"))
        else:
            limit = len(mail.raw) if settings.attachments else 0
            file.write(mail_to_json(mail, max_attachments=limit))
        file.seek(0)
        facts = {
            "MAIL_ID": mail.id,
            "MAIL_INBOX": mail.inbox,
            "MAIL_TAG": mail.tag,
            "MAIL_RECIPIENT": mail.recipient,
            "MAIL_SENDER": mail.sender,
            "MAIL_FROM": mail.from_,
            "MAIL_SUBJECT": mail.subject,
            "MAIL_MESSAGE_ID": mail.message_id,
        }
        return {name: _value(text) for name, text in facts.items()}

    def _variables(self) -> dict[str, str]:
        """The environment without what the mail says: nothing of the server's but its PATH."""
        return {
            "PATH": os.environ.get("PATH") or os.defpath,
            "LANG": "C.UTF-8",
            **{name: value.get_secret_value() for name, value in self.settings.environment.items()},
        }

    async def _run(self, file: IO[bytes], variables: dict[str, str]) -> "_Run":
        """One run, to its end and that of its group. Raises `OSError` where none can be started."""
        settings = self.settings
        run = _Run(settings.max_output)
        cpu = math.ceil(settings.timeout) * (os.cpu_count() or 1) + 1  # of a run that outlives a killed server
        transport: asyncio.SubprocessTransport | None = None
        try:
            async with asyncio.timeout(settings.timeout):
                transport, _ = await asyncio.get_running_loop().subprocess_exec(
                    lambda: run,
                    *(sys.executable, "-I", "-S", "-c", LAUNCHER, str(settings.memory), str(cpu), *settings.command),
                    stdin=file,
                    cwd=settings.folder,
                    env=variables,
                    start_new_session=True,
                )
                await run.ended.wait()
        except TimeoutError:
            pass
        finally:
            await run.finish()
            if transport:
                transport.close()
        return run


class _Run(asyncio.SubprocessProtocol):
    """One process and what it writes. `status` is its exit status, that of a signal below zero, None where it had to be ended."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pid = 0
        self._killed = False
        self._written = {1: 0, 2: 0}
        self._errors = bytearray()
        self._closed: set[int] = set()
        self._transport: asyncio.SubprocessTransport | None = None
        self.output = bytearray()
        self.over = False
        self.status: int | None = None
        self.exited = asyncio.Event()
        self.emptied = asyncio.Event()
        self.ended = asyncio.Event()  # by itself, or it wrote too much

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's is no subclass
        self._pid = self._transport.get_pid() or 0

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._written[fd] += len(data)
        if self._written[fd] > self._most:
            if not self.over:
                self.over = True
                self.ended.set()
                self.kill()
        elif fd == 1:
            self.output += data
        if fd == 2:
            self._errors += data
            del self._errors[:-MAX_ERRORS]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._closed.add(fd)
        if self._closed >= {1, 2}:
            self.emptied.set()

    def process_exited(self) -> None:
        if self._transport and not self._killed:
            self.status = self._transport.get_returncode()
        self.exited.set()
        self.ended.set()

    def kill(self) -> None:
        """End every process of the group, the ones that outlive the first too."""
        self._killed = True
        if self._pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    async def finish(self) -> None:
        """Leave nothing behind: what a program that has ended wrote is read first."""
        try:
            if self.status is not None:
                await _soon(self.emptied)
        finally:
            self.kill()
            if self._pid:
                await _soon(self.exited)

    def errors(self) -> str:
        """The last lines of standard error, as one line that a log takes."""
        text = self._errors.decode("utf-8", "replace")
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not _FRAME.match(line)]
        return "".join([char for char in " | ".join(lines[-10:]) if char.isprintable()])[-1000:]


async def _soon(event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE):
            await event.wait()


def _value(text: str) -> str:
    """A text of the mail as a variable: no NUL, no line break, bounded. It is the sender's all the same."""
    line = "".join([char if char.isprintable() else " " for char in text[:MAX_VALUE]])
    return line.encode("utf-8", "replace").decode()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"command": Command}
