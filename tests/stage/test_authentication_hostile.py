"""Mail and zones made to cost us time, memory or look-ups: all is bounded, and the loop is never held."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.authentication import Authenticator, Judgement
from responder.authentication.questions import MAX_QUESTIONS
from responder.clock import SystemClock
from responder.config import Authentication
from responder.dns import Resolver
from responder.mail.headers import Headers
from tests.support.dns_server import DNSServer, Zone
from tests.support.signing import record, seal, sign

MAIL = b"From: ann@example.org\r\nTo: b@example.net\r\nSubject: x\r\nDate: x\r\nMessage-ID: <1@a>\r\n\r\nbody\r\n"


async def judge(server: DNSServer, content: bytes, gaps: list[float] | None = None, **config: Any) -> Judgement:
    """Judges, and notes by how much the loop was late meanwhile."""
    resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=5)
    authenticator = Authenticator("mx.example.net", Authentication(**config), resolver, SystemClock())

    async def beat() -> None:
        while gaps is not None:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - began)

    headers = Headers.parse(content)
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    try:
        return await authenticator.judge(
            peer="192.0.2.1", helo="h", reverse_path="ann@example.org", headers=headers, content=content
        )
    finally:
        beating.cancel()
        await resolver.close()


def spf_zone(text: str | list[str], **more: Any) -> Zone:
    return {"example.org": {"TXT": [text]}, **more}


@pytest.mark.parametrize(
    ("zone", "result", "most"),
    [
        (
            spf_zone("v=spf1 " + "".join(f"include:i{n}.example.org " for n in range(150)))
            | {f"i{n}.example.org": {"TXT": ["v=spf1 ?all"]} for n in range(150)},
            "permerror",
            16,
        ),
        (
            {f"i{n}.example.org": {"TXT": [f"v=spf1 include:i{n + 1}.example.org"]} for n in range(1000)}
            | spf_zone("v=spf1 include:i0.example.org"),
            "permerror",
            16,
        ),
        (spf_zone("v=spf1 include:example.org"), "permerror", 4),
        (spf_zone("v=spf1 redirect=example.org"), "permerror", 4),
        (
            spf_zone(["v=spf1 " + "ip4:192.0.2.9 " * 18] + [" a" * 100] * 200),
            "none",
            6,
        ),  # longer than any record may be
        (spf_zone("v=spf1 " + "ip4:192.0.2.9 " * 400), "permerror", 4),
        (spf_zone("v=spf1 exists:" + "." * 3000 + "%{d} -all"), "permerror", 4),
        (spf_zone("v=spf1 exists:" + "%{d1" + "0" * 300 + "}.example.org -all"), "fail", 6),
        (spf_zone("v=spf1 a:" + "a" * 3000 + "- -all"), "permerror", 4),
        (
            spf_zone("v=spf1 " + " ".join(f"mx:m{n}.example.org" for n in range(9)) + " -all")
            | {f"m{n}.example.org": {"MX": [[1, f"h{n}-{k}.example.org"] for k in range(10)]} for n in range(9)}
            | {f"h{n}-{k}.example.org": {"A": ["203.0.113.1"]} for n in range(9) for k in range(10)},
            "fail",
            120,
        ),
        (
            {"example.org": {"TXT": ["v=spf1 mx -all"], "MX": [[1, f"h{n}.example.org"] for n in range(100)]}},
            "permerror",
            6,
        ),
        ({"example.org": {"CNAME": "other.example"}, "other.example": {"CNAME": "example.org"}}, "temperror", 8),
        ({"example.org": "GARBAGE"}, "temperror", 30),
    ],
    ids=[
        "includes",
        "chain",
        "itself",
        "redirect",
        "64KB",
        "long",
        "dots",
        "digits",
        "label",
        "mx",
        "100mx",
        "cnames",
        "garbage",
    ],
)
async def test_spf_when_a_record_wants_a_thousand_look_ups_then_a_few_are_done(
    zone: Zone, result: str, most: int
) -> None:
    gaps: list[float] = []
    async with DNSServer(zone) as server:
        found = await judge(server, MAIL, gaps, timeout="1s")
        assert found.verdicts.spf == result
        assert sum(server.queries.values()) <= most
    assert max(gaps, default=0) < 0.25  # the name server of the test is in this loop too


async def test_name_server_when_silent_then_a_mail_waits_for_its_time_and_no_longer() -> None:
    silent = {"example.org": "TIMEOUT", "_dmarc.example.org": "TIMEOUT", "sel._domainkey.example.org": "TIMEOUT"}
    gaps: list[float] = []
    async with DNSServer(silent) as server:
        began = time.monotonic()
        found = await judge(server, sign(MAIL), gaps, timeout="600ms", mode="enforce")
        assert time.monotonic() - began < 2
    assert (found.verdicts.spf, found.verdicts.dkim, found.verdicts.dmarc) == ("temperror", "temperror", "temperror")
    assert found.refusal is None
    assert len(gaps) > 50


async def test_signatures_when_thousands_then_some_are_looked_at_and_the_loop_is_not_held() -> None:
    field = b"DKIM-Signature: v=1; a=rsa-sha256; d=d%d.example; s=s; h=from; bh=AAAA; b=AAAA\r\n"
    content = b"".join([field % number for number in range(3000)]) + MAIL
    gaps: list[float] = []
    async with DNSServer({}) as server:
        found = await judge(server, content, gaps)
        assert sum(server.queries.values()) <= 20
    assert found.fields.count(b"dkim=") == 8
    assert max(gaps) < 0.2


@pytest.mark.parametrize(
    "value",
    [
        b"v=1; b=" + b" " * 15_000 + b"!; bh=x",
        b"v=1; a=rsa-sha256; d=example.org; s=s; bh=AAAA; b=" + b"A" * 15_000 + b"; h=from",
        b"v=1; a=rsa-sha256; d=example.org; s=s; bh=AAAA; b=AAAA; h=" + b"from:" * 2_500,
        b"v=1; a=rsa-sha256; d=example.org; s=s; bh=AAAA; b=AAAA; h=from; l=" + b"9" * 10_000,
        b"v=1; a=rsa-sha256; d=" + b"a." * 7000 + b"org; s=s; bh=AAAA; b=AAAA; h=from",
        b";" * 16_000,
        b"v=1" + b"\r\n " * 5_000,
        b"x" * 250_000,
        b"v=1; b" + b" \t" * 8_000,
    ],
)
async def test_signature_when_its_field_is_hostile_then_it_takes_no_time(value: bytes) -> None:
    gaps: list[float] = []
    async with DNSServer({}) as server:
        content = b"DKIM-Signature: " + value + b"\r\nARC-Seal: i=1; " + value + b"\r\n" + MAIL
        found = await judge(server, content, gaps)
    assert found.verdicts.dkim in ("neutral", "permerror")
    assert found.verdicts.arc == "fail"
    assert max(gaps, default=0) < 0.2


async def test_mail_when_25_mb_with_eight_signatures_then_the_loop_is_never_held() -> None:
    content = MAIL + b"some  words\tand more \r\n" * (1 << 20)
    for number in range(8):
        content = sign(content, selector=f"s{number}", canonical=("relaxed/relaxed", "simple/simple")[number % 2])
    zone = {f"s{number}._domainkey.example.org": {"TXT": [record()]} for number in range(8)}
    gaps: list[float] = []
    async with DNSServer(zone) as server:
        found = await judge(server, content, gaps)
    assert found.fields.count(b"dkim=pass") == 8
    assert len(gaps) > 3
    assert sorted(gaps)[-2] < 0.05  # one may be the machine's own doing


async def test_chain_when_of_fifty_sets_then_it_is_verified_in_no_time_and_fifty_one_fail() -> None:
    content = seal(MAIL, "example.org", "spf=pass")
    for _ in range(11):
        content = seal(content, "example.org", "arc=pass")
    gaps: list[float] = []
    async with DNSServer({"sel._domainkey.example.org": {"TXT": [record()]}}) as server:
        assert (await judge(server, content, gaps)).verdicts.arc == "pass"
        many = b"".join([b"ARC-Seal: i=%d; cv=pass\r\n" % number for number in range(1, 52)])
        assert (await judge(server, many + MAIL)).verdicts.arc == "fail"
        asked = sum(server.queries.values())
    assert max(gaps) < 0.2
    assert asked < 20


async def test_mail_when_it_wants_everything_at_once_then_its_questions_are_counted() -> None:
    from responder.authentication.questions import Questions, Turns
    from responder.dns import LookupFailedError, TemporaryError

    async with DNSServer({}) as server:
        resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=5)
        questions = Questions(resolver, Turns())
        last: BaseException | None = None
        for number in range(MAX_QUESTIONS + 5):
            try:
                await questions.ask("TXT", f"n{number}.example")
            except LookupFailedError as error:
                last = error
        await resolver.close()
        assert isinstance(last, TemporaryError)
        assert sum(server.queries.values()) == MAX_QUESTIONS


PIECES = st.sampled_from(
    [
        b"v=1; ",
        b"a=rsa-sha256; ",
        b"d=example.org; ",
        b"s=sel; ",
        b"h=from:to; ",
        b"bh=AAAA; ",
        b"b=AAAA; ",
        b"i=1; ",
        b"cv=none; ",
        b"l=3; ",
        b"x=1; ",
        b"\r\n ",
        b";",
        b"=",
        b"(",
        b"\xff",
        b"c=relaxed; ",
    ]
)
NAMES = st.sampled_from(
    [b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"From"]
)


@given(st.lists(st.tuples(NAMES, st.lists(PIECES, max_size=10).map(b"".join)), max_size=5), st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
def test_mail_when_its_fields_are_anything_then_there_is_a_verdict(
    fields: list[tuple[bytes, bytes]], body: bytes
) -> None:
    content = b"".join([name + b": " + value + b"\r\n" for name, value in fields]) + b"\r\n" + body

    async def run() -> Judgement:
        async with DNSServer({"sel._domainkey.example.org": {"TXT": [record()]}}) as server:
            return await judge(server, content)

    found = asyncio.run(run())
    assert found.fields.startswith(b"Authentication-Results: mx.example.net;")
    assert found.verdicts.dkim != "pass" and found.verdicts.arc != "pass"
