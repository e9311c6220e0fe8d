"""What a forger may try to have somebody else's domain pass, and what a hostile mail or zone may try to cost."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from dkim.canonicalization import Relaxed  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.authentication import Authenticator, Judgement, examine
from responder.authentication.questions import EACH_TURN, Turns
from responder.authentication.spf import check
from responder.clock import SystemClock
from responder.config import Authentication
from responder.dns import NotFound, Resolver
from responder.mail.address import from_header
from responder.mail.automatic import _addresses
from responder.mail.binary import with_line_ends
from responder.mail.bodyhash import BodyHash
from responder.mail.headers import Headers
from tests.support.dns_server import DNSServer
from tests.support.signing import FIELDS, record, rsa_key, seal, sign

HOST = "mx.example.net"
OURS, THEIRS = "192.0.2.1", "198.51.100.7"
REST = (
    b"To: shop@example.net\r\nSubject: Hello\r\nDate: Mon, 1 Jun 2026 10:00:00 +0000\r\nMessage-ID: <1@a>\r\n\r\nHi\r\n"
)
MAIL = b"From: ann@example.org\r\n" + REST
PASSES = b"From: eve@evil.example\r\n"  # and so does any mail from THEIRS with her reverse-path


def zone() -> dict[str, Any]:
    return {
        "example.org": {"TXT": [f"v=spf1 ip4:{OURS} -all"]},
        "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject"]},
        "sel._domainkey.example.org": {"TXT": [record()]},
        "evil.example": {"TXT": [f"v=spf1 ip4:{THEIRS} -all"]},
        "_dmarc.evil.example": {"TXT": ["v=DMARC1; p=reject"]},
        "sel._domainkey.list.example": {"TXT": [record()]},
        "_dmarc.third.example": {"TXT": ["v=DMARC1; p=reject"]},
    }


class Scene:
    def __init__(self, server: DNSServer) -> None:
        self.zone = server.zone
        self.resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=3)

    async def judge(
        self, content: bytes, *, reverse_path: str = "eve@evil.example", peer: str = THEIRS, **config: Any
    ) -> Judgement:
        authenticator = Authenticator(
            HOST, Authentication(**{"mode": "enforce", **config}), self.resolver, SystemClock()
        )
        headers = Headers.parse(content)
        return await authenticator.judge(
            peer=peer, helo="h.evil.example", reverse_path=reverse_path, headers=headers, content=content
        )


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with DNSServer(zone()) as server:
        made = Scene(server)
        yield made
        await made.resolver.close()


# ---- fields that a mail has once


@pytest.mark.parametrize("extra", [b"From: ceo@example.org\r\n", b"FROM : ceo@example.org\r\n"])
async def test_signature_when_a_second_from_stands_above_or_below_then_it_is_broken(scene: Scene, extra: bytes) -> None:
    signed = sign(MAIL, fields=[b"from"])
    assert re.search(rb"h=from;", signed)
    assert (await scene.judge(signed)).verdicts.dmarc == "pass"
    below = signed.replace(b"\r\n\r\nHi", b"\r\n" + extra + b"\r\nHi")
    between = signed.replace(b"From: ann", extra + b"From: ann")
    for content in (extra + signed, between, below):
        found = await scene.judge(content)
        assert (found.verdicts.dkim, found.verdicts.dmarc) == ("fail", "fail")
        assert found.refusal is not None


@pytest.mark.parametrize("field", [b"Subject: Pay now", b"To: all@example.net", b"Content-Type: text/html", b"Date: x"])
async def test_signature_when_a_second_of_a_field_stands_above_then_a_replay_is_broken(
    scene: Scene, field: bytes
) -> None:
    """Agents, and most who show mail, take the first."""
    signed = sign(b"Content-Type: text/plain\r\n" + MAIL, fields=[*FIELDS, b"content-type"])
    assert (await scene.judge(signed)).verdicts.dmarc == "pass"
    assert (await scene.judge(field + b"\r\n" + signed)).verdicts.dmarc == "fail"


async def test_signature_when_a_field_that_may_come_often_comes_again_then_it_holds(scene: Scene) -> None:
    signed = sign(b"X-Tag: one\r\n" + MAIL, fields=[*FIELDS, b"x-tag"])
    assert (await scene.judge(b"X-Tag: two\r\nReceived: by x\r\n" + signed)).verdicts.dmarc == "pass"


# ---- who From is for whom


@pytest.mark.parametrize(
    "head",
    [
        b"X: y\rFrom: ceo@example.org\r\n" + PASSES,
        b"Authentication-Results: mx.example.net;\rFrom: ceo@example.org\r\n" + PASSES,
        b"X: y" + b"\rX: y" * 9_999 + b"\rFrom: ceo@example.org\r\n" + PASSES,
        PASSES + b"From: a@a.example, b@b.example, c@c.example, d@d.example, ceo@example.org\r\n",
        PASSES + b"From: x\r\n" * 100 + b"From: ceo@example.org\r\n",
        b"From: eve@evil.example," + b" " * 33_000 + b"ceo@example.org\r\n",
        PASSES + b"X: y\r\n" * 10_001 + b"From: ceo@example.org\r\n",
        b"From: eve@evil.example, a@a.evil.example, a@b.evil.example, a@c.evil.example, ceo@example.org\r\n",
    ],
    ids=["bare CR", "forged results", "many CRs", "five", "hundred", "far right", "far down", "five of hers"],
)
async def test_from_when_a_second_is_hidden_from_somebody_then_dmarc_does_not_pass(scene: Scene, head: bytes) -> None:
    assert (await scene.judge(PASSES + REST)).verdicts.dmarc == "pass"
    found = await scene.judge(head + REST)
    assert found.verdicts.dmarc in ("fail", "permerror")
    for made in (found.cleaned(head + REST), with_line_ends(found.cleaned(head + REST))):
        agents = from_header(Headers.parse(made).get("from"))
        assert found.refusal is not None or "example.org" not in [author.domain for _, author in agents[:1]]


@pytest.mark.parametrize("reader", ["from_header", "mailboxes"])
async def test_from_when_one_reader_finds_nothing_then_the_other_does(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.setattr(examine, reader, lambda value: [])
    found = await scene.judge(PASSES.replace(b"\r\n", b", ceo@example.org\r\n") + REST)
    assert (found.verdicts.dmarc, found.verdicts.from_domain) == ("fail", "example.org")


MAILBOXES = ["ann@example.org", "x@free.example", "<ann@example.org>", "<x@free.example>", '"ann@example.org"', '"q"']
MARKS = [",", ";", ":", "(", ")", "(c)", '"', "\\", " ", "g:", "@", "a.b", "<", ">", "=?utf-8?q?a?=", "[", "]", "\t"]


@given(st.lists(st.lists(st.sampled_from(MAILBOXES + MARKS), max_size=7).map("".join), max_size=3))
@settings(max_examples=1500, deadline=None)
def test_from_when_anything_then_whom_gate_and_agents_see_dmarc_asks_about(values: list[str]) -> None:
    content = "".join([f"From: {value}\r\n" for value in values]).encode() + b"\r\nbody"
    headers = Headers.parse(content)
    seen = [address for _, address in from_header(headers.get("from"))] + list(_addresses(headers, "From"))
    domains, unread = examine._authors(headers, content)
    assert unread or {address.domain for address in seen} <= set(domains)


async def test_chain_when_a_trusted_forwarder_vouches_for_one_author_then_the_other_is_still_forged(
    scene: Scene,
) -> None:
    both = MAIL.replace(b"ann@example.org", b"ann@example.org, bob@third.example")
    results = "dmarc=pass header.from=example.org"
    alone = await scene.judge(seal(MAIL, "list.example", results), trusted_arc=["list.example"])
    found = await scene.judge(seal(both, "list.example", results), trusted_arc=["list.example"])
    assert alone.verdicts.overridden and alone.refusal is None
    assert not found.verdicts.overridden and found.refusal is not None


@pytest.mark.parametrize(("domain", "wish"), [("gone.example.org", "reject"), ("real.example.org", "none")])
async def test_subdomain_when_it_does_not_exist_then_np_holds(scene: Scene, domain: str, wish: str) -> None:
    scene.zone["_dmarc.example.org"] = {"TXT": ["v=DMARC1; p=reject; sp=none; np=reject"]}
    scene.zone["real.example.org"] = {"A": ["192.0.2.9"]}
    found = await scene.judge(MAIL.replace(b"ann@example.org", b"ann@" + domain.encode()))
    assert (found.verdicts.dmarc, found.verdicts.dmarc_policy) == ("fail", wish)


# ---- seals


def with_seal_tag(content: bytes, tag: bytes) -> bytes:
    """A chain of one set whose seal has one tag more, and is its sealer's all the same. dkimpy canonicalises."""
    lines = re.split(rb"\r\n(?![ \t])", content.partition(b"\r\n\r\n")[0])
    fields = {line.partition(b":")[0].lower(): line.partition(b":") for line in lines}
    name, _, value = fields[b"arc-seal"]
    bare = re.sub(rb";\s*b=[^;]*", b"", value).rstrip() + tag + b"; b="
    order = [fields[b"arc-authentication-results"], fields[b"arc-message-signature"], (name, b":", bare)]
    made = [b":".join(pair) for pair in Relaxed.canonicalize_headers([(one[0], one[2]) for one in order])]
    signature = rsa_key(2048).sign(b"".join(made).removesuffix(b"\r\n"), PKCS1v15(), SHA256())
    old = b"".join(fields[b"arc-seal"])
    assert content.count(old) == 1
    return content.replace(old, name + b":" + bare + base64.b64encode(signature))


@pytest.mark.parametrize(("tag", "expected"), [(b"", "pass"), (b"; h=from", "fail"), (b"; bh=AAAA", "fail")])
async def test_chain_when_a_seal_names_fields_then_it_is_none(scene: Scene, tag: bytes, expected: str) -> None:
    content = with_seal_tag(seal(MAIL, "list.example", "dmarc=pass header.from=example.org"), tag)
    assert (await scene.judge(content)).verdicts.arc == expected


# ---- SPF


@pytest.mark.parametrize("term", ["x=" + "a" * 600, "x=%%" + "." * 130, "exists:" + "%{d}." * 140])
async def test_spf_when_a_term_is_longer_than_any_name_then_it_is_not_expanded(scene: Scene, term: str) -> None:
    scene.zone["example.org"] = {"TXT": [f"v=spf1 {term} -all"]}
    assert (await scene.judge(MAIL, reverse_path="ann@example.org")).verdicts.spf == "permerror"


async def test_spf_when_an_at_stands_in_quotes_then_the_domain_is_behind_the_last(scene: Scene) -> None:
    scene.zone["evil.example"] = {"TXT": ["v=spf1 +all"]}
    scene.zone["example.org"] = {"TXT": ["v=spf1 exists:%{l}.l.example.org -all"]}
    found = await scene.judge(MAIL, reverse_path='"x@evil.example"@example.org')
    assert (found.verdicts.spf, found.verdicts.dmarc) == ("fail", "fail")
    scene.zone["example.org"] = {"TXT": [f"v=spf1 ip4:{THEIRS} -all"]}
    fresh = Resolver(
        [f"{s.address}:{s.port}" for s in scene.resolver._resolver.nameservers],  # type: ignore[union-attr]
        clock=SystemClock(),
        timeout=3,
    )
    scene.resolver = fresh
    found = await scene.judge(MAIL, reverse_path='"x@evil.example"@example.org')
    assert (found.verdicts.spf, found.verdicts.dmarc) == ("pass", "pass")


async def test_spf_when_the_clients_own_name_server_is_silent_then_a_fail_stays_one(scene: Scene) -> None:
    """`ptr` and `%{p}` ask a zone of the forger's: its silence must not become a temporary error of the author's domain."""
    scene.zone["7.100.51.198.in-addr.arpa"] = {"PTR": [f"n{number}.evil.example" for number in range(10)]}
    scene.zone.update({f"n{number}.evil.example": "TIMEOUT" for number in range(10)})
    scene.zone["example.org"] = {"TXT": ["v=spf1 ptr exists:%{p}.p.example.org -all"]}
    found = await scene.judge(MAIL, reverse_path="ann@example.org", timeout="2s")
    assert (found.verdicts.spf, found.verdicts.dmarc) == ("fail", "fail")


class Zone:
    """Stands for `Questions`: answers at once, from a function."""

    def __init__(self, answer: Callable[[str, str], list[Any] | None]) -> None:
        self.answer = answer

    async def ask(self, kind: str, name: str) -> list[Any]:
        found = self.answer(kind, name)
        if found is None:
            raise NotFound(name)
        return found


def dotted(count: int) -> str:
    return " ".join([f"x{number}=%%" + "." * count for number in range(8)])


def hundred_hosts(kind: str, name: str) -> list[Any]:
    if kind == "MX":
        return [(1, f"h{number}.{name}") for number in range(10)]
    if kind == "A":
        return ["203.0.113.1"] * 4000
    return [("v=spf1 " + " ".join([f"?mx:m{number}.example.org" for number in range(9)]) + " " + dotted(120)).encode()]


def chain_of_includes(kind: str, name: str) -> list[Any]:
    number = int(name[1]) if name[1].isdigit() else 0
    return [f"v=spf1 ?include:i{number + 1}.example.org {dotted(450)}".encode()]


@pytest.mark.parametrize("answer", [hundred_hosts, chain_of_includes])
async def test_spf_when_records_are_made_to_take_time_then_they_do_not(
    answer: Callable[[str, str], list[Any] | None],
) -> None:
    began = time.process_time()
    await check(THEIRS, "h.example.org", "a@example.org", Zone(answer), 30)  # type: ignore[arg-type]
    assert time.process_time() - began < 2  # it was 12 seconds


# ---- time


@pytest.mark.parametrize("value", [b"," * 90, b"a@," * 30, b"," * 32_700, b"a;" * 16_300])
def test_from_when_hostile_then_reading_all_of_them_takes_no_time(value: bytes) -> None:
    content = (b"From: " + value + b"\r\n") * min(9_999, (1 << 20) // len(value)) + b"\r\nbody"
    headers = Headers.parse(content)
    began = time.process_time()
    assert examine._authors(headers, content) == ([], True)
    assert time.process_time() - began < 0.5  # it was 1.8 seconds


async def test_body_when_big_then_it_is_hashed_beside_the_loop(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    run = BodyHash.run

    def noted(self: BodyHash, *arguments: Any) -> BodyHash:
        threads.append(threading.get_ident())
        return run(self, *arguments)

    monkeypatch.setattr(BodyHash, "run", noted)
    assert (await scene.judge(sign(MAIL))).verdicts.dkim == "pass"
    assert (await scene.judge(sign(MAIL + b"some text\r\n" * 20_000))).verdicts.dkim == "pass"
    assert threads[0] == threading.get_ident()
    assert threads[1] != threading.get_ident()


async def test_turns_when_many_wait_then_the_newest_comes_first_and_some_at_a_time() -> None:
    turns, begun, release = Turns(), [], asyncio.Event()

    async def ask(number: int) -> None:
        async with turns:
            begun.append(number)
            await release.wait()

    old = [asyncio.create_task(ask(number)) for number in range(100)]
    await asyncio.sleep(0)
    new = asyncio.create_task(ask(100))
    while not begun:
        await asyncio.sleep(0)
    assert len(begun) <= EACH_TURN
    assert 100 in begun or max(begun) == 99
    for task in old[:50]:
        task.cancel()
    release.set()
    await asyncio.gather(*old, new, return_exceptions=True)
    assert turns._open == 0 and 100 in begun


async def test_turns_when_one_is_given_up_as_it_comes_then_the_next_has_it() -> None:
    turns = Turns()

    async def ask() -> None:
        async with turns:
            raise AssertionError("cancelled before")

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)  # it waits
    await asyncio.sleep(0)  # it has been told
    assert turns._open == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert turns._open == 0


async def test_bodies_when_many_are_big_then_a_replay_over_another_body_still_fails(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name servers' time is over before the hashes are made: that must not turn a fail into a temporary error."""
    content = sign(MAIL + b"some text\r\n" * 20_000) + b"and another\r\n"
    run = BodyHash.run

    def slow(self: BodyHash, *arguments: Any) -> BodyHash:
        time.sleep(0.15)
        return run(self, *arguments)

    monkeypatch.setattr(BodyHash, "run", slow)
    found = await asyncio.gather(*[scene.judge(content, timeout="500ms") for _ in range(20)])
    assert {one.verdicts.dmarc for one in found} == {"fail"}


def test_digest_of_fields_when_there_is_one_of_each_then_nothing_is_added() -> None:
    """That a name is taken once more changes nothing for a mail as it should be: other signers' data still agree."""
    from responder.authentication.section import Section

    section = Section(MAIL)
    once = b"".join(section.signed([b"from", b"to"], relaxed=True))
    more = b"".join(section.signed([b"from", b"to", b"from", b"to"], relaxed=True))
    assert hashlib.sha256(once).digest() == hashlib.sha256(more).digest()
