"""Bad input to each stock agent: empty, huge, broken and hostile mail (tests/support/bad_mails.py), each to all of them.

    raw socket --> Responder --> each stock agent --> answers, forwards, posts --> scripted sink (MX of all domains)
                        |  '--> webhook, weather  --> HTTP server on loopback
                        |  '--> command           --> cat
                        '-----> proxy             --> scripted sink (upstream)

Each mail is accepted or refused with 5xx; each that was accepted comes to one end, with a reason, at every inbox; what is sent
has the header fields of an answer and no others; meanwhile SMTP answers everybody, and memory has a bound.
"""

from __future__ import annotations

import base64
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import getaddresses
from pathlib import Path
from typing import Any

import pytest

from responder.agents.load import load
from tests.support import bad_mails
from tests.support.answers import ALWAYS, THREAD, names, parse
from tests.support.dns_server import DNSServer
from tests.support.http_server import HTTPServer, Request, Said, said_json
from tests.support.server import ROOT, ServerProcess, configuration, running
from tests.support.smtp_sink import SMTPSink, Transaction
from tests.support.submission import Client, queue, settled, stuffed
from tests.support.waiting import Background

STOCK = frozenset(load([ROOT / "plugins"]))
PATIENCE = 1.0  # seconds in which SMTP replies
TEAM, MEMBERS = "team@target.example", ("bob@target.example", "cyd@target.example")
TEMPLATE = """{{ mail.subject }} from {{ mail.from }} to {{ mail.tag }}
{% for file in mail.attachments %}{{ file.name }} {{ file.type }} {{ file.size }}
{% endfor %}{{ mail.date }}
{{ mail.reply_text[:500]|upper }}
"""
FAQ = [
    {"keywords": ["hello", "how much"], "patterns": [r"\bprice.*(list|table)", ".*7.*7"], "text": "Yes."},
    {"keywords": ["work"], "patterns": ["a+!"], "text": "No.", "html": "<p>No.</p>"},
]


def inboxes(http: HTTPServer, upstream: SMTPSink) -> dict[str, dict[str, Any]]:
    """An inbox for each stock agent, of its name."""
    return {
        "echo": {},
        "current-time": {"settings": {"timezone": "Europe/Zurich"}},
        "weather": {"settings": weather(http)},
        "vacation": {"addresses": ["inbox@test.example"], "settings": {"text": "I am away."}},
        "template": {
            "settings": {
                "text_file": "letter.txt",
                "html": "<p>{{ mail.text[:500] }}</p>",
                "subject": "{{ mail.subject }}",
            }
        },
        "faq": {"settings": {"answer": FAQ, "best": 2, "fallback": "I don't know."}},
        "forward": {"targets": [TEAM]},
        "list": {"targets": ["*"], "settings": {"name": "Talk", "posting": "anyone", "members": list(MEMBERS)}},
        "proxy": {"upstream": f"127.0.0.1:{upstream.port}"},
        "debug": {},
        "webhook": {
            "settings": {"url": f"{http.url}/hook", "secret": "0123456789abcdef", "attachments": True, "raw": True}
        },
        "command": {"settings": {"command": ["cat"], "input": "text"}},
        "confirm": {"settings": {"agent": "echo"}},
    }


def weather(http: HTTPServer) -> dict[str, Any]:
    """A provider that knows every place, and the same weather everywhere."""
    return {
        "geocoder": f"{http.url}/places?name={{place}}",
        "weather": f"{http.url}/weather?latitude={{latitude}}&longitude={{longitude}}",
    }


ROUTES = {
    "/places": said_json({"results": [{"name": "Bern", "latitude": 46.9, "longitude": 7.4}]}),
    "/weather": said_json({"current": {"temperature_2m": 3.5, "weather_code": 71}}),
}


def hook(request: Request) -> Said:
    """Says what it was told, so that an odd text goes there and back."""
    return said_json({"action": "reply", "text": request.json["text"][:1000] or "nothing"})


@dataclass
class Figures:
    """What was seen from outside while the server worked."""

    waited: float = 0.0  # the longest wait for a reply, seconds
    probes: int = 0
    memory: int = 0  # octets: the most that all its processes together had resident
    server: int = 0  # ... the main one
    failures: list[str] = field(default_factory=list)


@contextmanager
def watched(server: ServerProcess) -> Iterator[Figures]:
    """Somebody else's SMTP session, and the memory, looked at all the time."""
    found = Figures()
    over = threading.Event()

    def watch() -> None:
        try:
            with Client(server.port) as client:
                while not over.wait(0.05):
                    began = time.monotonic()
                    code = client.say("NOOP")[0]
                    found.waited = max(found.waited, time.monotonic() - began)
                    found.probes += 1
                    sizes = resident(server)
                    found.server = max(found.server, sizes[0])
                    found.memory = max(found.memory, sum(sizes))
                    if code != 250:
                        found.failures.append(f"NOOP: {code}")
        except OSError as error:
            found.failures.append(repr(error))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def resident(server: ServerProcess) -> list[int]:
    """Resident octets of the server, then of each process that it has begun, and those of theirs."""
    assert server.process is not None
    parents, sizes = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        sizes[int(path.parent.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    family = [server.process.pid]
    for parent in family:  # grows while it is read
        family += [child for child, of in parents.items() if of == parent]
    return [sizes.get(process, 0) for process in family]


@dataclass
class World:
    """A running server with all it needs."""

    server: ServerProcess
    sink: SMTPSink
    upstream: SMTPSink
    http: HTTPServer
    present: tuple[str, ...]


@contextmanager
def world(folder: Path, **changes: Any) -> Iterator[World]:
    with Background() as background, HTTPServer({"/hook": hook, **ROUTES}) as http:
        sink, upstream = background.enter(SMTPSink()), background.enter(SMTPSink())
        host = {"MX": [[10, "mx.example"]]}
        zone = {"sender.example": host, "target.example": host, "mx.example": {"A": ["127.0.0.1"]}}
        dns = background.enter(DNSServer(zone))
        tables = {name: {"agent": name, **table} for name, table in inboxes(http, upstream).items() if name in STOCK}
        config = configuration(
            inboxes=tables,
            limits={"message_size": 26214400},
            answering={"attempts": 2, "retry": ["1s"]},
            delivery={
                "transport": "mx",
                "port": sink.port,
                "nameservers": [dns.nameserver],
                "allow_private_addresses": True,
                "retry": ["1s"],
            },
            **changes,
        )
        (folder / "letter.txt").write_text(TEMPLATE)
        with running(folder, config) as server:
            yield World(server, sink, upstream, http, tuple(tables))


def send(world: World, number: int, content: bytes, *names: str) -> tuple[tuple[int, str], float]:
    """One mail to those inboxes: the last reply, and the longest wait for one."""
    waited = 0.0
    with Client(world.server.port) as client:
        recipients = [f"RCPT TO:<{name}@test.example>" for name in names]
        for command in (f"MAIL FROM:<{sender(number)}>", *recipients, "DATA"):
            began = time.monotonic()
            reply = client.say(command)
            waited = max(waited, time.monotonic() - began)
            assert reply[0] in (250, 354), (command, reply)
        octets = stuffed(content)
        client.send(octets[:-3])
        began = time.monotonic()
        client.send(octets[-3:])
        reply = client.reply()
        return reply, max(waited, time.monotonic() - began)


def sender(number: int) -> str:
    return f"bad.{number}@sender.example"


def inbound(world: World, mails: int, seconds: float) -> list[dict[str, Any]]:
    """Every (mail, inbox), once all has come to an end."""
    stats = settled(world.server, seconds, mails=mails)
    states = [f"--state={state}" for side in stats.values() for state in side]
    items = queue(world.server, "list", "--limit", "100000", *states)
    assert not [item for item in items if item["direction"] == "outbound" and item["state"] != "DELIVERED"]
    return [item for item in items if item["direction"] == "inbound"]


def check_ends(items: list[dict[str, Any]], inboxes: tuple[str, ...], sent: Mapping[int, str]) -> None:
    """Nothing is lost: each (mail, inbox) is there once, and ended by itself or by the gate."""
    expected = Counter((sender(number), f"{name}@test.example") for number in sent for name in inboxes)
    assert Counter((item["sender"], item["recipient"]) for item in items) == expected
    for item in items:
        what = (sent[int(item["sender"].split(".")[1].partition("@")[0])], item)
        assert item["state"] in ("ANSWERED", "SILENT"), what  # none of the stock fails on any of them
        assert item["reason"].strip() and item["attempts"] == 1, what


def check_sent(world: World) -> None:
    """What left, left for those whom it is meant for, and is what it looks like."""
    allowed = {TEAM, *MEMBERS}
    for one in world.sink.transactions:
        [to] = one.recipients
        assert to in allowed or re.fullmatch(r"bad\.\d+@sender\.example", to), to
        check_octets(one)
        if to not in allowed:
            check_answer(one, to, world.present)
    for one in world.upstream.transactions:
        assert one.recipients == ["proxy@test.example"]


def check_octets(one: Transaction) -> None:
    """What no next host may misread. A mail that is passed on keeps its long lines: they are its author's."""
    head = one.content.partition(b"\r\n\r\n")[0]
    assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", head) is None, head


def check_answer(one: Transaction, to: str, present: tuple[str, ...]) -> None:
    """Exactly the fields of an answer, each once, and one recipient (RFC 3834, RFC 5322)."""
    assert max(map(len, one.content.split(b"\r\n"))) <= 998
    mail = parse(one.content)
    expected = ALWAYS | (THREAD if mail["In-Reply-To"] else frozenset())
    assert names(mail) == sorted(expected), mail.items()
    assert not mail.defects
    assert mail["Auto-Submitted"] == "auto-replied"
    assert [address for _, address in getaddresses([mail["To"]])] == [to]
    [(_, author)] = getaddresses([mail["From"]])
    local, _, domain = author.partition("@")
    assert domain == "test.example" and local.partition("+")[0] in present


def test_stock_when_listed_then_each_agent_has_its_inbox_here() -> None:
    with HTTPServer({}) as http:
        assert set(inboxes(http, SMTPSink())) == STOCK


def test_every_agent_gets_every_bad_mail_then_each_comes_to_one_end(tmp_path: Path) -> None:
    mails = bad_mails.small()
    with world(tmp_path) as here:
        sent: dict[int, str] = {}
        slowest = 0.0
        with watched(here.server) as figures:
            for number, (name, content) in enumerate(mails.items()):
                (code, text), waited = send(here, number, content, *here.present)
                slowest = max(slowest, waited)
                assert code == 250 or 500 <= code < 600, (name, code, text)
                if code == 250:
                    sent[number] = name
            items = inbound(here, len(sent) * len(here.present), 240)
        check_ends(items, here.present, sent)
        log = here.server.log.read_text()
        hacked = [str(path) for path in tmp_path.rglob("hacked")]
    check_sent(here)
    ends = Counter((item["kind"], item["state"]) for item in items)
    print(f"{len(sent)} mails to {len(here.present)} inboxes: {dict(ends)}")
    print(f"slowest reply {slowest:.3f} s, others waited {figures.waited:.3f} s in {figures.probes}")
    print(f"memory: server {figures.server >> 20} MB, all its processes {figures.memory >> 20} MB")
    assert not re.search(r"Traceback|stage failed|stale| error ", log), log[-4000:]
    assert not hacked
    assert len(sent) >= len(mails) - 5
    assert slowest < PATIENCE and figures.waited < PATIENCE and not figures.failures, figures
    check_templates(here.sink)


def check_templates(sink: SMTPSink) -> None:
    """What a mail holds is never a template: `{{7*7}}` comes back as that."""
    answers = [parse(one.content) for one in sink.transactions if b"\r\nFrom: template@" in one.content]
    told = [answer.get_body(("plain",)) for answer in answers]
    texts = [part.get_content() for part in told if part is not None]
    assert any("{{7*7}}" in text for text in texts)
    assert not any(re.search(r"^49 from|<class", text) for text in texts)


@pytest.mark.parametrize("name", bad_mails.large())
def test_every_agent_gets_a_large_mail_then_others_are_served_and_memory_is_bounded(tmp_path: Path, name: str) -> None:
    content = bad_mails.large()[name]()
    with world(tmp_path) as here:
        before = sum(resident(here.server))
        with watched(here.server) as figures:
            # One after the other: a mail to many inboxes is read once for each of them, all at the same time.
            slowest = 0.0
            for inbox in here.present:
                (code, text), waited = send(here, 0, content, inbox)
                slowest = max(slowest, waited)
                assert code == 250, text
            items = inbound(here, len(here.present), 120)
        check_ends(items, here.present, {0: name})
        log = here.server.log.read_text()
    check_sent(here)
    print({item["kind"]: f"{item['state']}: {item['reason'][:70]}" for item in items})
    print(
        f"{len(content) >> 20} MB: slowest reply {slowest:.3f} s, others waited {figures.waited:.3f} s in {figures.probes}"
    )
    print(
        f"memory: {before >> 20} MB before, server {figures.server >> 20} MB, all its processes {figures.memory >> 20} MB"
    )
    assert not re.search(r"Traceback|stage failed|stale| error ", log), log[-4000:]
    assert slowest < PATIENCE and figures.waited < PATIENCE and not figures.failures, figures
    assert figures.server < 1 << 30
    for one in here.upstream.transactions:
        assert base64.b64encode(content[-1000:]) == base64.b64encode(one.content[-1000:])
