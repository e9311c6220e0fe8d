"""The published test data of SPF, DKIM and ARC, through the way that mail takes: our resolver, our verification."""

from __future__ import annotations

from pathlib import Path

import dkim  # type: ignore[import-untyped]
import pytest

from responder.authentication import Authenticator, Judgement
from responder.authentication.questions import Questions, Turns
from responder.authentication.spf import check
from responder.clock import SystemClock
from responder.config import Authentication
from responder.dns import Resolver
from responder.mail.headers import Headers
from tests.support.dns_server import DNSServer, Zone
from tests.support.server import ROOT
from tests.support.spf_suite import Case, cases, zone

DATA = ROOT / "tests" / "data" / "dkim"
FOOTBALL = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="  # RFC 8463 A.2
GMAIL = (
    "k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Kd87/UeJjenpabgbFwh+eBCsSTrqmwIYYvywlbhbqoo2DymndFkbjOVIPIldNs/"
    "m40KF+yzMn1skyoxcTUGCQs8g3FgD2Ap3ZB5DekAo5wMmk4wimDO+U8QzI3SD07y2+07wlNWwIt8svnxgdxGkVbbhzY8i+RQ9DpSVpPbF7ykQxtKXkv/ahW3"
    "KjViiAH+ghvvIhkx4xYSIc9oSwVmAl5OctMEeWUwg8Istjqz8BZeTWbf41fbNhte7Y+YqZOwq1Sd0DbvYAD9NOZK9vlfuac0598HY+vtSBczUiKERHv1yRbc"
    "aQtZFh5wtiRrN04BLUTD21MycBX5jYchHjPY/wIDAQAB"
)  # of 2013, as dkimpy's tests have it
SHORT = (
    "k=rsa; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANmBe10IgY+u7h3enWTukkqtUD5PR52Tb/mPfjC0QJTocVBq6Za/PlzfV+Py92VaCak19F4WrbVTK5Gg"
    "5tW220MCAwEAAQ=="
)


def text(name: str) -> str:
    return (DATA / name).read_text(encoding="ascii").strip()


def message(name: str) -> bytes:
    """A file as it would come by SMTP."""
    return (DATA / name).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


async def judge(content: bytes, zone: Zone) -> Judgement:
    async with DNSServer(zone) as server:
        clock = SystemClock()
        resolver = Resolver([server.nameserver], clock=clock, timeout=2)
        authenticator = Authenticator("mx.example.net", Authentication(), resolver, clock)
        found = await authenticator.judge(
            peer="192.0.2.1", helo="", reverse_path="", headers=Headers.parse(content), content=content
        )
        await resolver.close()
        return found


async def dkim_words(content: bytes, **keys: str) -> list[str]:
    """The result of each signature. `keys`: selector -> record, for all domains of the data."""
    domains = ("example.com", "football.example.com", "gmail.com", "test.ex", "example.net", "canonical.com")
    zone: Zone = {f"{key.strip('_')}._domainkey.{name}": {"TXT": [keys[key]]} for key in keys for name in domains}
    found = (await judge(content, zone)).fields.decode().split(";\r\n\t")
    return [line.split()[0] for line in found if line.startswith("dkim=")]


def test_suite_when_counted_then_it_is_whole() -> None:
    assert len(cases()) == 203


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
async def test_spf_when_a_published_case_is_checked_then_the_result_is_the_published_one(case: Case) -> None:
    async with DNSServer(zone(case.scenario)) as server:
        resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=5)
        questions = Questions(resolver, Turns())
        found = await check(case.peer, case.helo, case.sender, questions, 10)
        await resolver.close()
    assert found.result in case.results
    assert questions.asked < 30


async def test_dkim_when_the_example_of_rfc_8463_comes_then_both_signatures_pass() -> None:
    content = message("rfc6376.signed.msg")
    assert await dkim_words(content, brisbane=FOOTBALL, test=text("test.txt")) == ["dkim=pass", "dkim=pass"]
    assert await dkim_words(content, brisbane=FOOTBALL) == ["dkim=pass", "dkim=permerror"]
    changed = content.replace(b"hungry", b"thirsty")
    assert await dkim_words(changed, brisbane=FOOTBALL, test=text("test.txt")) == ["dkim=fail", "dkim=fail"]


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("rfc6376.signed.rsa.msg", {"test": "test.txt"}, "pass"),
        ("rfc6376.signed.rsa.msg", {"test": "test2.txt"}, "pass"),  # k= is not needed
        ("rfc6376.signed.rsa.msg", {"test": "badversion.txt"}, "permerror"),
        ("rfc6376.signed.rsa.msg", {"test": "badk.txt"}, "permerror"),
        ("rfc6376.signed.rsa.msg", {"test": "test_bad.txt"}, "permerror"),
        (
            "rfc6376.signed.no_t.msg",
            {"test": "test.txt", "brisbane": "ed25519test.dns"},
            "fail",
        ),  # as dkimpy's own test
        ("ed25519test2.msg", {"sed": "eximtest.dns"}, "pass"),  # Exim signed it
        ("test.message.baddomain", {"test": "test.txt"}, "permerror"),
    ],
)
async def test_dkim_when_dkimpys_mails_come_then_they_verify_as_there(
    name: str, keys: dict[str, str], expected: str
) -> None:
    found = await dkim_words(message(name), **{selector: text(file) for selector, file in keys.items()})
    assert found[0] == f"dkim={expected}"


async def test_dkim_when_the_signature_is_folded_in_ugly_ways_then_it_passes() -> None:
    assert await dkim_words(message("test2.message"), **{"20120113": GMAIL}) == ["dkim=pass"]


@pytest.mark.parametrize("canonical", ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"])
@pytest.mark.parametrize(
    ("private", "public", "name", "algorithm"),
    [
        ("test.private", "test.txt", "test.message", "rsa-sha256"),
        ("test.private", "test.txt", "message.mbox", "rsa-sha256"),
        ("test.private", "test.txt", "rfc6376.w1258.msg", "rsa-sha256"),  # octets of no charset
        ("1024_testkey.key", "1024_testkey_wo_markers.pub.txt", "test.message", "rsa-sha256"),
        ("1024_testkey.key", "1024_testkey_wo_markers.pub.rsa.txt", "test.message", "rsa-sha256"),
        ("2048_testkey.key", "2048_testkey_wo_markers.pub.txt", "test.message", "rsa-sha256"),
        ("2048_testkey.key", "2048_testkey_wo_markers.pub.rsa.txt", "test.message", "rsa-sha256"),
        ("2048_testkey_PKCS8.key", "2048_testkey_PKCS8.key.pub.txt", "test.message", "rsa-sha256"),
        ("ed25519test.key", "ed25519test.dns", "ed25519test.msg", "ed25519-sha256"),
    ],
)
async def test_dkim_when_dkimpy_signs_then_it_passes_and_changed_it_fails(
    canonical: str, private: str, public: str, name: str, algorithm: str
) -> None:
    content = message(name)
    signature = dkim.sign(
        content,
        b"test",
        b"example.com",
        (DATA / private).read_bytes().strip(),
        canonicalize=tuple(canonical.encode().split(b"/")),
        signature_algorithm=algorithm.encode(),
    )
    key = text(public)
    second = b'From: "Resident Evil" <sales@spammer.example>\r\n'
    head, _, body = content.partition(b"\r\n\r\n")
    for changed, expected in [
        (signature + content, "pass"),
        (signature + content + b"foo\r\n", "fail"),
        (signature + b"X-Foo: bar\r\n" + content, "pass"),
        (signature + second + content, "fail"),
        (signature + head + b"\r\n" + second + b"\r\n" + body, "fail"),
    ]:
        assert (await dkim_words(changed, test=key))[0] == f"dkim={expected}"


async def test_dkim_when_the_key_is_the_short_one_of_dkimpys_tests_then_it_proves_nothing() -> None:
    content = message("test.message")
    lines = dkim.sign(content, b"test", b"example.com", (DATA / "test.private").read_bytes())
    assert await dkim_words(lines + content, test=SHORT) == ["dkim=policy"]  # RFC 8301 3.2


SEALED = (  # what dkimpy's test_arc.py has, as the test there expects it to be made
    b"ARC-Seal: i=1; cv=none; a=rsa-sha256; d=example.com; s=test; t=12345;\r\n"
    b" b=iSKjTQ93xUC6gt4yutHrOf0F/qb4E5voEeuucd66VhM4n/7ifBMMHqYwncgz9sefduM6C\r\n"
    b" UthuUSzqE2YamkGXQgKPIG9t4ZCOrx1OXGE34WF9ZeI/E0csrN+wK7sq/RjgN3z4qxLPMsp\r\n"
    b" lW+BUUHCNuCIvxcZ55Ky6evIb/Saj2o=\r\n"
    b"ARC-Message-Signature: i=1; a=rsa-sha256; c=relaxed/relaxed;\r\n"
    b" d=example.com; s=test; t=12345; h=message-id : date : from : to :\r\n"
    b" subject : from; bh=wE7NXSkgnx9PGiavN4OZhJztvkqPDlemV3OGuEnLwNo=;\r\n"
    b" b=a0f6qc3k9eECTSR155A0TQS+LjqPFWfI/brQBA83EUz00SNxj1wmWykvs1hhBVeM0r1kE\r\n"
    b" Qc6CKbzRYaBNSiFj4q8JBpRIujLz1qLyGmPuAI6ddu/Z/1hQxgpVcp/odmI1UMV2R+d+yQ7\r\n"
    b" tUp3EQxF/GYNt22rV4rNmDmANZVqJ90=\r\n"
    b"ARC-Authentication-Results: i=1; lists.example.org;\r\n"
    b" arc=none;\r\n spf=pass smtp.mfrom=jqd@d1.example;\r\n dkim=pass header.i=@d1.example;\r\n dmarc=pass\r\n"
)


async def arc_word(content: bytes) -> str | None:
    found = await judge(content, {"test._domainkey.example.com": {"TXT": [text("test.txt")]}})
    return found.verdicts.arc


async def test_arc_when_dkimpys_chain_comes_then_it_passes() -> None:
    content = message("test.message")
    assert await arc_word(SEALED + content) == "pass"
    assert await arc_word(SEALED + content.replace(b"Testing", b"Tested")) == "fail"
    assert await arc_word(SEALED + content.replace(b"test message", b"changed message")) == "fail"
    assert await arc_word(content) is None


async def test_arc_when_a_seal_names_fields_then_it_fails() -> None:
    """The second case of dkimpy's test_arc.py (RFC 8617 4.1.3)."""
    named = b" h=message-id : date : from : to : subject : from;\r\n b="
    assert await arc_word(SEALED.replace(b" b=", named, 1) + message("test.message")) == "fail"


def test_data_when_kept_then_its_origin_and_licence_are_beside_it() -> None:
    for folder in (DATA, DATA.parent / "spf"):
        assert {"LICENSE", "ORIGIN"} <= {Path(path).name for path in folder.iterdir()}
