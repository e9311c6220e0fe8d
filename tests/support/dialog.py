r"""SMTP conversations as text files: read, and played against a real listener with a real store.

One file is one connection. Lines, by what they begin with:

    # RFC 5321 4.1.1.4: what it shows       the first line; more lines of `#` are comments
    @set limits.recipients = 2              the server's configuration, as TOML (before the first line of the conversation)
    @listen protocol = "lmtp"               the listener's own configuration, as TOML
    C: NOOP                                 sent with CRLF; several lines without an S: between them leave in one write
    R: MAIL FROM:<\x00>\r\n                 sent as it is, with the escapes of a Python bytes literal, no line end added
    L: 3000 a                               that text so many times, no line end added
    S: 250 2.0.0 Queued as {id}             a reply line: `*` stands for anything, {id} for a mail's id
    @ehlo                                   the greeting and EHLO, as 01-ehlo.txt has them; `@ehlo STARTTLS` where that is offered
    @hello AUTH PLAIN LOGIN                 EHLO alone, and what it offers besides
    @lhlo                                   the same in LMTP, with LHLO
    @certificate                            the listener has one (before the first line of the conversation)
    @users                                  the users of `tests.support.logins` may log in (with `@listen auth = ...`)
    @starttls                               STARTTLS, its reply and the handshake; @handshake is the last of these alone
    @wait 2                                 so many seconds pass, once somebody waits for them
    @segment                                what was written so far leaves now, and the server has read it before the rest
    @half-close                             the client says that it has nothing more to send
    @closed                                 the server closes, and says nothing more
    @everywhere                             the conversation is played once for each place at which the next write can be cut
    @mails 1                                so many mails are in the store afterwards (0 where no file says)
    @items echo@test.example bob@...        their recipients, in the order of the items
    @from a@example.org                     the reverse-path of the last mail; nothing behind it: the null one
    @content Subject: x\r\n\r\nhello\r\n    what the last mail is, behind the trace field that we add
    @trace * with ESMTP id *                that trace field, unfolded
    @wishes HDRS QQ314 SUCCESS,DELAY -      RET and ENVID of the last mail, NOTIFY and ORCPT of each item; - where there is none
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import re
import tomllib
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from responder.agents.router import Router
from responder.config import Config, Listen
from responder.decoy.trap import make_trap
from responder.inbound.dialects.files import chosen
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.listening.listener import Listener
from responder.inbound.sessions import Sessions
from responder.intake.greylist import Greylist
from responder.intake.policy import Policy
from responder.intake.relay import Relay
from responder.intake.stage import Intake
from responder.mail.lifecycle import State
from responder.store.sqlite import SQLiteStore
from tests.support import logins
from tests.support.clock import ManualClock

WAIT = 20.0  # seconds that a reply may take on a busy machine before the test fails
DOMAINS = ["test.example", "other.example", "xn--bcher-kva.example"]
INBOXES = ["echo", "bob", "alice.b", '"a b"', "grüße", "only@other.example", "team-*"]
EHLO = (
    *("PIPELINING", "SIZE *", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"),
    *("CHUNKING", "BINARYMIME", "DSN", "HELP"),
)
_CHECKS = ("@mails", "@items", "@from", "@content", "@trace", "@wishes")


@dataclass
class Dialog:
    """One file. `steps` are (kind, bytes or text) in their order, `checks` what holds afterwards."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    listen: dict[str, Any] = field(default_factory=dict)
    steps: list[tuple[str, Any]] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)
    has: set[str] = field(default_factory=set)

    @property
    def cuts(self) -> int:
        """At how many places the write behind `@everywhere` can be cut; 0 where there is no such line."""
        writes = [number for number, (kind, _) in enumerate(self.steps) if kind == "everywhere"]
        return len(self.steps[writes[0] + 1][1]) - 1 if writes else 0


def read(path: Path) -> Dialog:
    """Read a file. Raises `ValueError` with its name and line where it is not understood."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or not re.match(r"# (RFC \d+|House rule)\b.*: \S", lines[0]):
        raise ValueError(f"{path.name}: the first line must say `# RFC SECTION: what it shows`")
    dialog = Dialog(lines[0][2:])
    for number, line in enumerate(lines[1:], 2):
        word, _, rest = line.partition(" ")
        if not line or word == "#":
            continue
        if word == "@set":
            _merge(dialog.settings, tomllib.loads(rest))
        elif word == "@listen":
            _merge(dialog.listen, tomllib.loads(rest))
        elif word in ("C:", "R:", "L:"):
            _write(dialog.steps, _octets(word, rest))
        elif word == "S:":
            dialog.steps.append(("expect", rest))
        elif word in ("@ehlo", "@lhlo", "@hello"):
            name, hello = ("LMTP", b"LHLO") if word == "@lhlo" else ("ESMTP", b"EHLO")
            if word != "@hello":
                dialog.steps.append(("expect", f"220 mx.test.example {name}"))
            secure = word != "@lhlo" and any(kind == "handshake" for kind, _ in dialog.steps)
            offers = ("mx.test.example", *EHLO[:-1], *(["REQUIRETLS"] if secure else []), *filter(None, [rest]))
            dialog.steps.append(("write", hello + b" client.example\r\n"))
            dialog.steps += [("expect", f"250-{line}") for line in offers]
            dialog.steps.append(("expect", f"250 {EHLO[-1]}"))
        elif word in ("@certificate", "@users"):
            dialog.has.add(word[1:])
        elif word == "@starttls":
            dialog.steps += [
                ("write", b"STARTTLS\r\n"),
                ("expect", "220 2.0.0 Ready to start TLS"),
                ("handshake", None),
            ]
        elif word == "@wait":
            dialog.steps.append(("wait", float(rest)))
        elif word in ("@handshake", "@segment", "@half-close", "@closed", "@everywhere"):
            dialog.steps.append((word[1:], None))
        elif word in _CHECKS:
            dialog.checks[word[1:]] = rest
        else:
            raise ValueError(f"{path.name}:{number}: not understood: {line}")
    if not any(kind in ("expect", "closed") for kind, _ in dialog.steps):
        raise ValueError(f"{path.name}: it expects nothing")
    dialog.checks.setdefault("mails", "0")
    return dialog


def _octets(word: str, rest: str) -> bytes:
    if word == "C:":
        return rest.encode() + b"\r\n"
    if word == "R:":
        return unescape(rest)
    times, _, text = rest.partition(" ")
    return unescape(text) * int(times)


def unescape(text: str) -> bytes:
    return codecs.escape_decode(text.encode())[0]


def _write(steps: list[tuple[str, Any]], octets: bytes) -> None:
    """What follows on a write without a reply between them is the same write."""
    if steps and steps[-1][0] == "write":
        steps[-1] = ("write", steps[-1][1] + octets)
    else:
        steps.append(("write", octets))


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


@dataclass
class Front:
    """A listener with intake and store, in this process."""

    service: Sessions
    listener: Listener
    store: SQLiteStore
    clock: ManualClock

    @property
    def port(self) -> int:
        return self.listener.addresses[0][1]


@contextlib.asynccontextmanager
async def listening(
    folder: Path, settings: dict[str, Any], listen: Mapping[str, Any] | None = None, has: Collection[str] = ()
) -> AsyncIterator[Front]:
    """A front for the length of the block. What comes in stays RECEIVED: nothing answers."""
    base: dict[str, Any] = {
        "hostname": "mx.test.example",
        "domains": DOMAINS,
        "inboxes": {name: {"agent": "echo"} for name in INBOXES},
        "limits": {"connection_rate": "off", "unknown_recipients": "off", "tarpit": "0s"},
    }
    _merge(base, settings)
    config = Config.model_validate(base)
    clock = ManualClock()
    store = SQLiteStore(folder / "responder.db", clock)
    gatekeeper = Gatekeeper(config.limits, clock)
    router = Router(config.inboxes, config.domains)
    intake = Intake(config.hostname, config.limits.hops, router, gatekeeper, store, clock)
    greylist = Greylist(config.greylist, store, clock) if config.greylist.enabled else None
    intake.relay = Relay(config, clock)
    intake.policy = Policy(gatekeeper, config.authentication.trusted_networks, greylist=greylist)
    service = Sessions(config.hostname, config.limits, gatekeeper, intake, clock)
    listener = Listener(service)
    place = Listen.model_validate({"address": "127.0.0.1:0", **(listen or {})})
    decoy = config.decoy.model_copy(update={"transcript": folder / "decoy.jsonl"})
    config = config.model_copy(update={"listen": (place,), "decoy": decoy})
    service.dialects = chosen(config)
    service.decoy = trap = make_trap(config, clock)
    service.certificate = logins.shown(folder, clock) if "certificate" in has else None
    service.login = logins.logins(folder, clock, config.auth.failures) if "users" in has else None
    await store.open()
    try:
        await listener.open([place])
        yield Front(service, listener, store, clock)
    finally:
        await listener.drain(0)
        await store.close()
        if trap is not None:
            trap.transcript.close()


async def play(dialog: Dialog, folder: Path, cut: int = 0) -> None:
    """Play it against a server of its own. `cut` divides the write behind `@everywhere` there. Raises `AssertionError`."""
    async with listening(folder, dialog.settings, dialog.listen, dialog.has) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        try:
            await _converse(dialog, reader, writer, cut, front.clock)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await _check(dialog.checks, front.store)


async def _converse(
    dialog: Dialog, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int, clock: ManualClock
) -> None:
    said: list[str] = []
    divided = False
    for kind, value in dialog.steps:
        if kind == "write":
            parts = [value[:cut], value[cut:]] if divided and cut else [value]
            divided = False
            for part in parts:
                if part is not parts[0]:
                    await _settle()
                writer.write(part)
                await writer.drain()
        elif kind == "everywhere":
            divided = True
        elif kind == "segment":
            await _settle()
        elif kind == "handshake":
            await writer.start_tls(logins.trusting(), server_hostname=logins.NAME, ssl_handshake_timeout=WAIT)
        elif kind == "wait":
            await _pass(clock, value)
        elif kind == "half-close":
            writer.write_eof()
        elif kind == "closed":
            rest = await asyncio.wait_for(reader.read(), WAIT)
            assert rest == b"", _report(dialog, said, "nothing more, and the end", rest.decode("utf-8", "replace"))
        else:
            try:
                line = (await asyncio.wait_for(reader.readline(), WAIT)).decode()
            except TimeoutError:
                raise AssertionError(_report(dialog, said, value, "no reply")) from None
            said.append(line.rstrip("\r\n"))
            assert line.endswith("\r\n") and pattern(value).fullmatch(line[:-2]), _report(dialog, said, value, line)


async def _settle() -> None:
    """Until what was written has been read: both ends live in this loop, and the way is the loopback."""
    for _ in range(4):
        await asyncio.sleep(0)


async def _pass(clock: ManualClock, seconds: float) -> None:
    """Let time pass once somebody waits for it: the sweep always does."""
    async with asyncio.timeout(WAIT):
        while clock.sleeping < 2:
            await asyncio.sleep(0.001)
    clock.advance(seconds)


def pattern(text: str) -> re.Pattern[str]:
    """A reply line as a regular expression."""
    words = {"*": ".*", "{id}": "[0-9a-z]{18}"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in re.split(r"(\*|\{id\})", text)))


def _report(dialog: Dialog, said: list[str], expected: str, found: str) -> str:
    return f"{dialog.title}\nexpected: {expected}\nfound:    {found!r}\nthe server said: {said}"


async def _check(checks: dict[str, str], store: SQLiteStore) -> None:
    items = await store.items([State.RECEIVED])
    mails = sorted({item.id.partition(".")[0] for item in items})
    assert len(mails) == int(checks["mails"]), f"{len(mails)} mails are stored, {checks['mails']} are expected"
    if "items" in checks:
        assert [item.recipient for item in sorted(items, key=lambda item: item.id)] == checks["items"].split(" ")
    if "from" in checks:
        assert items[-1].sender == checks["from"]
    if "wishes" in checks:
        claimed = [item for item in (await store.claim_inbound("dialog", 1000))[0] if item.mail_id == mails[-1]]
        asked = [claimed[0].ret, claimed[0].envid, *(text for item in claimed for text in item.wish)]
        assert " ".join(text or "-" for text in asked) == checks["wishes"]
    if "content" in checks or "trace" in checks:
        stored = await store.content(mails[-1])
        end = re.search(rb"\r\n(?![ \t])", stored)
        assert end is not None
        if "content" in checks:
            assert stored[end.end() :] == unescape(checks["content"])
        if "trace" in checks:
            unfolded = re.sub(r"\r\n[ \t]", " ", stored[: end.start()].decode())
            assert pattern(checks["trace"]).fullmatch(unfolded), unfolded
