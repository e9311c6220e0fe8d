"""What leaves is signed, and verifiers that are none of ours accept it: dkimpy, opendkim.

    client --> Responder --> scripted sink (smarthost)
                   '--> loopback DNS: the published keys

300 different answers, a list, a forward, a notification; a rotation under load, a server that is killed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.support.answers import parse
from tests.support.dns_server import DNSServer, Zone
from tests.support.server import ServerProcess, configuration
from tests.support.signed import (
    dkimpy_accepts,
    make_keys,
    opendkim_accepts,
    publish,
    signatures,
    tags,
    texts,
)
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client, message, queue, submit
from tests.support.varied import references
from tests.support.waiting import Background, until

ANSWERS = 300
BOTH = {"rsa-sha256": "pass", "ed25519-sha256": "pass"}
DOMAINS = ("test.example", "xn--bcher-kva.example")
INBOXES = (
    "varied@test.example",
    "varied@xn--bcher-kva.example",
    "varied+tag@test.example",
    "echo@news.test.example",
)
PLUGIN = """
from responder import Agent, Distribute, Forward, hookimpl
from tests.support.varied import reply


class Varied(Agent):
    async def answer(self, mail):
        return reply(int(mail.text))


class On(Agent):
    reads_automatic_mail = True
    needs = ("targets",)

    async def answer(self, mail):
        return Forward()


class Crowd(Agent):
    needs = ("targets",)

    async def answer(self, mail):
        return Distribute(to=[f"member{number}@client.example" for number in range(40)], name="Crowd")


@hookimpl
def responder_agents():
    return {"varied": Varied, "on": On, "crowd": Crowd}
"""


@dataclass
class World:
    server: ServerProcess
    sink: SMTPSink
    zone: Zone


def settings(sink: SMTPSink, dns: DNSServer, **changes: object) -> dict[str, object]:
    made: dict[str, object] = configuration(
        domains=[*DOMAINS, "news.test.example"],
        plugins=["own"],
        inboxes={
            "varied": {"agent": "varied"},
            "on": {"agent": "on", "targets": ["far@client.example"]},
            "lost": {"agent": "on", "targets": ["nobody@client.example"]},
            "crowd": {"agent": "crowd", "targets": ["*@client.example"]},
            "echo@news.test.example": {"agent": "varied"},
        },
        delivery={
            "transport": "smarthost",
            "smarthost": f"127.0.0.1:{sink.port}",
            "nameservers": [dns.nameserver],
            "allow_private_addresses": True,
            "retry": ["1s"],
        },
        dkim={"keys": "dkim"},
        **changes,
    )
    return made


def furnished(folder: Path, sink: SMTPSink, dns: DNSServer, **changes: object) -> ServerProcess:
    """A server with keys, not started."""
    server = ServerProcess(folder, settings(sink, dns, **changes))
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own" / "own.py").write_text(PLUGIN)
    make_keys(server, dns.zone, *DOMAINS)
    return server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Background() as background:
        sink = background.enter(SMTPSink(refuse_some))
        dns = background.enter(DNSServer({}))
        server = furnished(tmp_path_factory.mktemp("server"), sink, dns)
        server.start()
        try:
            yield World(server, sink, dns.zone)
            assert server.stop() == 0
        finally:
            if server.process is not None:
                server.kill()


def refuse_some(step: str, argument: str) -> str | None:
    return "550 5.1.1 no such user" if step == "RCPT" and "nobody@" in argument else None


def ask(server: ServerProcess, numbers: range, to: str = INBOXES[0], sender: str = "me{}@client.example") -> None:
    with Client(server.port) as client:
        for number in numbers:
            path = sender.format(number)
            content = message(path, to, f"Frage {number} ü?", str(number), *references(number))
            code, text = client.mail(path, [to], content)
            assert code == 250, text


@pytest.fixture(scope="module")
def answers(world: World) -> list[bytes]:
    """300 of them, as they have left."""
    part = ANSWERS // len(INBOXES)
    with ThreadPoolExecutor(len(INBOXES)) as threads:
        tasks = [
            threads.submit(ask, world.server, range(number * part, (number + 1) * part), inbox)
            for number, inbox in enumerate(INBOXES)
        ]
        for task in tasks:
            task.result()
    wanted = {f"me{number}@client.example" for number in range(ANSWERS)}
    return list(gather(world, wanted).values())


def gather(world: World, wanted: set[str]) -> dict[str, bytes]:
    """What these recipients have got, once each has."""

    def found() -> dict[str, bytes] | None:
        taken = {one.recipients[0]: one.content for one in world.sink.transactions if one.recipients[0] in wanted}
        return taken if taken.keys() == wanted else None

    return until(found, 120, lambda: world.server.log.read_text()[-4000:])


@pytest.mark.peer("opendkim")
def test_answers_when_verified_by_two_strangers_then_both_signatures_of_each_hold(
    world: World, answers: list[bytes], tmp_path: Path
) -> None:
    assert len(set(answers)) == ANSWERS
    records = texts(world.zone)
    refused = [number for number, one in enumerate(answers) if dkimpy_accepts(one, records) != [True, True]]
    assert not refused, answers[refused[0]].decode("utf-8", "replace")[:4000]
    said = opendkim_accepts(tmp_path / "opendkim", answers, records)
    assert len(said) == ANSWERS
    refused = [number for number, one in enumerate(said) if one != BOTH]
    assert not refused, (said[refused[0]], answers[refused[0]].decode("utf-8", "replace")[:4000])


def test_answers_when_looked_at_then_they_are_signed_for_the_domain_in_from_rsa_first(
    world: World, answers: list[bytes]
) -> None:
    signers = set()
    for one in answers:
        found = [tags(signature) for signature in signatures(one)]
        assert [tag["a"] for tag in found] == ["rsa-sha256", "ed25519-sha256"]
        author = parse(one)["From"].addresses[0].domain.encode("idna").decode()
        signers.add((author, *{tag["d"] for tag in found}))
        assert "l" not in found[0] and "i" not in found[0]
        assert one.startswith(b"DKIM-Signature:") and max(map(len, b"".join(signatures(one)).split(b"\r\n"))) <= 78
    assert signers == {
        ("test.example", "test.example"),
        ("news.test.example", "test.example"),  # aligned: DMARC looks at the organisation's domain
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    }


@pytest.mark.peer("opendkim")
def test_answer_when_a_covered_field_is_changed_or_added_then_no_signature_holds(
    world: World, answers: list[bytes], tmp_path: Path
) -> None:
    records = texts(world.zone)
    one = next(answer for answer in answers if b"\r\nReferences:" in answer and b"multipart/mixed" in answer)
    head, _, body = one.partition(b"\r\n\r\n")
    spoilt = {"body": head + b"\r\n\r\n" + body + b"x\r\n", "empty": head + b"\r\n\r\n"}
    for name in dict.fromkeys(tags(signatures(one)[0])["h"].split(":")):
        more = b"%s: something else\r\n" % name.title().encode()
        spoilt[f"{name} above"] = more + one
        spoilt[f"{name} below"] = head + b"\r\n" + more + b"\r\n" + body
        changed = re.sub(rb"(?im)^(%s: *)(?=\S)" % name.encode(), rb"\1x", one, count=1)
        if changed != one:
            spoilt[f"{name} changed"] = changed
        gone = re.sub(rb"(?im)^%s:.*\r\n(?:[ \t].*\r\n)*" % name.encode(), b"", one, count=1)
        if gone != one:
            spoilt[f"{name} gone"] = gone
    assert len(spoilt) > 40
    assert not [what for what, content in spoilt.items() if any(dkimpy_accepts(content, records))]
    said = opendkim_accepts(tmp_path / "opendkim", spoilt.values(), records)
    assert len(said) == len(spoilt)
    assert not [what for what, words in zip(spoilt, said, strict=True) if "pass" in words.values()]


def test_copies_forwards_and_notifications_when_they_leave_then_they_are_signed(world: World) -> None:
    records = texts(world.zone)
    submit(world.server.port, "ann@client.example", ["crowd@test.example"], question("crowd"))
    submit(world.server.port, "bob@client.example", ["on@test.example"], question("on"))
    submit(world.server.port, "cyd@client.example", ["lost@test.example"], question("lost"))
    members = {f"member{number}@client.example" for number in range(40)}
    found = gather(world, members | {"far@client.example", "cyd@client.example"})
    for one in found.values():
        assert dkimpy_accepts(one, records) == [True, True], one
        assert {tags(signature)["d"] for signature in signatures(one)} == {"test.example"}
    copies = [found[member] for member in members]
    assert len({parse(copy)["List-Unsubscribe"] for copy in copies}) == 1
    for copy in copies:  # RFC 8058 4
        assert {"list-unsubscribe", "list-id"} <= set(tags(signatures(copy)[0])["h"].split(":"))
        changed = copy.replace(b"List-Unsubscribe: <mailto:crowd", b"List-Unsubscribe: <mailto:crowe")
        assert changed != copy and dkimpy_accepts(changed, records) == [False, False]
    assert parse(found["cyd@client.example"])["From"].addresses[0].addr_spec == "postmaster@test.example"


def question(inbox: str) -> bytes:
    return message("ann@client.example", f"{inbox}@test.example", "Hello", "1", f"Message-ID: <{inbox}@client.example>")


def test_rotation_under_load_when_keys_change_then_each_answer_is_signed_by_a_published_key(tmp_path: Path) -> None:
    """Old mail that waits in the queue meanwhile verifies as well, by the key that it was signed with."""
    held = {"all": True}

    def script(step: str, argument: str) -> str | None:
        return "451 4.3.0 later" if step == "RCPT" and "wait" in argument and held["all"] else None

    with Background() as background:
        sink = background.enter(SMTPSink(script))
        dns = background.enter(DNSServer({}))
        server = furnished(tmp_path, sink, dns)
        server.start()
        world = World(server, sink, dns.zone)
        try:
            ask(server, range(5), sender="wait{}@client.example")
            until(lambda: waiting(server) == 5, 30, "the first answers were not put off")
            first = selectors(server)
            with ThreadPoolExecutor(1) as threads:
                load = threads.submit(ask, server, range(1000), sender="load{}@client.example")
                rotated = json.loads(server.command("dkim", "rotate", "test.example", "--json").stdout)
                early = server.command("dkim", "activate", "test.example", check=False)
                assert early.returncode == 1 and "no record" in early.stderr  # not published yet: nothing changes
                assert selectors(server) == first
                publish(dns.zone, rotated)
                server.command("dkim", "rotate", "test.example", "--activate")
                load.result()
            second = selectors(server)
            probes = count()

            def follows() -> bool:
                number = next(probes)
                ask(server, range(number, number + 1), sender="probe{}@client.example")
                [one] = gather(world, {f"probe{number}@client.example"}).values()
                return used_by(one) == second

            until(follows, 30, "the server did not follow")
            ask(server, range(1000, 1010), sender="load{}@client.example")
            held["all"] = False
            wanted = {f"load{number}@client.example" for number in range(1010)}
            waited = {f"wait{number}@client.example" for number in range(5)}
            found = gather(world, wanted | waited)
            assert server.stop() == 0
        finally:
            if server.process is not None:
                server.kill()
    assert not first & second and len(second) == 2
    used = {to: used_by(one) for to, one in found.items()}
    assert all(some in (first, second) for some in used.values())
    assert all(used[to] == first for to in waited)
    assert all(used[f"load{number}@client.example"] == second for number in range(1000, 1010))
    records = texts(dns.zone)
    for to, one in found.items():
        assert dkimpy_accepts(one, records) == [True, True], to


def used_by(content: bytes) -> set[str]:
    return {tags(signature)["s"] for signature in signatures(content)}


def waiting(server: ServerProcess) -> int:
    return int(queue(server, "stats")["outbound"].get("DEFERRED", 0))


def selectors(server: ServerProcess) -> set[str]:
    listed = json.loads(server.command("dkim", "list", "--json").stdout)
    return {one["selector"] for one in listed if one["domain"] == "test.example" and one["state"] == "active"}


def test_server_when_killed_behind_the_dot_then_the_same_octets_leave_again(tmp_path: Path) -> None:
    with Background() as background:
        sink = background.enter(SMTPSink({"DOT": ["accept-hang"]}))
        dns = background.enter(DNSServer({}))
        server = furnished(tmp_path, sink, dns)
        server.start()
        try:
            ask(server, range(1))
            until(lambda: sink.transactions, 30, "nothing left")
            server.kill()
            publish(dns.zone, json.loads(server.command("dkim", "rotate", "test.example", "--json").stdout))
            server.command("dkim", "activate", "test.example")
            server.start()
            until(lambda: len(sink.transactions) == 2, 60, "it did not leave again")
            assert server.stop() == 0
        finally:
            if server.process is not None:
                server.kill()
    first, second = [one.content for one in sink.transactions]
    assert first == second
    assert dkimpy_accepts(first, texts(dns.zone)) == [True, True]
