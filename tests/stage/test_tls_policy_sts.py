"""MTA-STS with real certificates and a real HTTPS server (RFC 8461)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from responder.mail.status import Outcome
from responder.outbound.tls.policy import Rules
from responder.outbound.tls.security import Level
from responder.outbound.transport import MXTransport
from tests.support.http_server import Said
from tests.support.tls_world import DOMAIN, MAIL, MX, POLICY_PATH, Authority, World, policy, send, world


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as it:
        yield it


def kinds(there: World) -> list[str]:
    return ["" if note.why is None else note.why.kind for note in there.notes]


async def refused(there: World, kind: str, way: MXTransport | None = None) -> None:
    """It was put off, and no host has heard of the mail."""
    result = await send(way or await there.way())
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.7.5"), result
    assert there.never_asked()
    assert kinds(there)[-1] == kind


async def test_certificate_holds_then_mail_passes_and_the_session_is_counted(there: World) -> None:
    sink = await there.host(there.authority.context(MX))
    there.publish()
    result = await send(await there.way())
    assert (result.outcome, result.tls, len(sink.transactions)) == (Outcome.SUCCESS, "TLSv1.3", 1)
    (note,) = there.notes
    assert (note.policy.type, note.policy.domain, note.policy.mx_hosts, note.host) == ("sts", DOMAIN, (MX,), MX)
    assert note.policy.strings == ("version: STSv1", "mode: enforce", f"mx: {MX}", "max_age: 604800")
    assert note.why is None


async def test_certificate_is_for_a_wildcard_then_mail_passes(there: World) -> None:
    await there.host(there.authority.context(f"*.{DOMAIN}"))
    there.web.routes[POLICY_PATH] = Said(body=policy("enforce", f"*.{DOMAIN}"))
    there.publish()
    assert (await send(await there.way())).outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("expired", "certificate-expired"),
        ("wrong name", "certificate-host-mismatch"),
        ("the domain's name alone", "certificate-host-mismatch"),
        ("wildcard of too many labels", "certificate-host-mismatch"),
        ("unknown authority", "certificate-not-trusted"),
        ("plain", "starttls-not-supported"),
    ],
)
async def test_certificate_does_not_hold_then_nothing_is_said_of_the_mail(there: World, what: str, kind: str) -> None:
    made: dict[str, Callable[[], ssl.SSLContext | bool]] = {
        "expired": lambda: there.authority.context(MX, expired=True),
        "wrong name": lambda: there.authority.context("mx2.example.com"),
        "the domain's name alone": lambda: there.authority.context(DOMAIN),
        "wildcard of too many labels": lambda: there.authority.context("*.com"),
        "unknown authority": lambda: Authority().context(MX),
        "plain": lambda: False,
    }
    await there.host(made[what]())
    there.publish()
    await refused(there, kind)


async def test_starttls_is_stripped_then_nothing_is_said_of_the_mail(there: World) -> None:
    sink = await there.host(there.authority.context(MX))
    sink.script = {"STARTTLS": "454 4.7.0 not now"}
    there.publish()
    await refused(there, "starttls-not-supported")


async def test_first_host_does_not_hold_then_the_next_one_gets_the_mail(there: World) -> None:
    first = await there.host(Authority().context(MX))
    second = await there.host(there.authority.context("mx2.example.com"))
    there.web.routes[POLICY_PATH] = Said(body=policy("enforce", MX, "mx2.example.com"))
    there.publish()
    result = await send(await there.way())
    assert (result.outcome, result.host, len(second.transactions)) == (Outcome.SUCCESS, "mx2.example.com", 1)
    assert there.never_asked(first)


async def test_host_is_not_among_mx_then_it_is_not_even_connected(there: World) -> None:
    sink = await there.host(there.authority.context(MX))
    there.web.routes[POLICY_PATH] = Said(body=policy("enforce", "mx2.example.com"))
    there.publish()
    await refused(there, "validation-failure")
    assert sink.connections == 0


@pytest.mark.parametrize("what", ["expired", "wrong name", "unknown authority"])
async def test_policy_is_in_testing_then_mail_passes_encrypted_and_it_is_told(there: World, what: str) -> None:
    tls, kind = {
        "expired": (there.authority.context(MX, expired=True), "certificate-expired"),
        "wrong name": (there.authority.context("mx2.example.com"), "certificate-host-mismatch"),
        "unknown authority": (Authority().context(MX), "certificate-not-trusted"),
    }[what]
    sink = await there.host(tls)
    there.web.routes[POLICY_PATH] = Said(body=policy("testing"))
    there.publish()
    result = await send(await there.way())
    assert (result.outcome, sink.transactions[0].tls) == (Outcome.SUCCESS, "TLSv1.3")
    assert kinds(there) == [kind]


async def test_policy_is_in_testing_and_all_holds_then_a_success_is_told(there: World) -> None:
    await there.host(there.authority.context(MX))
    there.web.routes[POLICY_PATH] = Said(body=policy("testing"))
    there.publish()
    assert (await send(await there.way())).outcome is Outcome.SUCCESS
    assert kinds(there) == [""]
    assert there.notes[0].policy.type == "sts"


async def test_policy_in_testing_does_not_name_the_host_then_mail_passes_and_it_is_told(there: World) -> None:
    await there.host(True)
    there.web.routes[POLICY_PATH] = Said(body=policy("testing", "mx2.example.com"))
    there.publish()
    assert (await send(await there.way())).outcome is Outcome.SUCCESS
    assert kinds(there)[0] == "validation-failure"


async def test_policy_is_none_then_any_certificate_will_do(there: World) -> None:
    await there.host(True)
    there.web.routes[POLICY_PATH] = Said(body=policy("none"))
    there.publish()
    assert (await send(await there.way())).outcome is Outcome.SUCCESS
    assert there.notes[0].policy.type == "no-policy-found"


async def test_domain_has_no_record_then_one_question_is_all_it_costs(there: World) -> None:
    await there.host(True)
    way = await there.way()
    for _ in range(3):
        assert (await send(way)).outcome is Outcome.SUCCESS
    assert there.dns.queries[f"_mta-sts.{DOMAIN}", "TXT"] == 1
    assert not [name for name, _ in there.dns.queries if name.startswith("mta-sts.")]
    assert not there.web.requests


async def test_policy_is_known_then_it_is_not_fetched_again(there: World) -> None:
    await there.host(there.authority.context(MX))
    there.publish()
    way = await there.way()
    for _ in range(3):
        await send(way)
        there.clock.advance(120)  # the record is looked up anew, the policy is not
    assert len(there.web.requests) == 1
    assert there.dns.queries[f"_mta-sts.{DOMAIN}", "TXT"] == 3


async def test_id_changes_then_the_new_policy_holds(there: World) -> None:
    await there.host(Authority().context(MX))
    there.publish("1")
    way = await there.way()
    await refused(there, "certificate-not-trusted", way)
    there.web.routes[POLICY_PATH] = Said(body=policy("none"))
    await refused(there, "certificate-not-trusted", way)
    there.publish("2")
    there.clock.advance(120)
    assert (await send(way)).outcome is Outcome.SUCCESS
    assert len(there.web.requests) == 2


async def test_record_and_web_server_vanish_then_the_policy_holds_until_its_end(there: World) -> None:
    await there.host(Authority().context(MX))
    there.publish()
    there.web.routes[POLICY_PATH] = Said(body=policy(max_age=86_400))
    way = await there.way()
    await refused(there, "certificate-not-trusted", way)
    del there.zone[f"_mta-sts.{DOMAIN}"], there.zone[f"mta-sts.{DOMAIN}"]
    there.web.routes.clear()
    there.clock.advance(86_000)
    await refused(there, "certificate-not-trusted", way)
    there.clock.advance(500)
    assert (await send(way)).outcome is Outcome.SUCCESS


async def test_name_server_fails_then_a_known_policy_holds(there: World) -> None:
    await there.host(Authority().context(MX))
    there.publish()
    way = await there.way()
    await refused(there, "certificate-not-trusted", way)
    there.zone[f"_mta-sts.{DOMAIN}"] = "SERVFAIL"
    there.clock.advance(120)
    await refused(there, "certificate-not-trusted", way)


async def test_new_policy_can_not_be_fetched_then_the_old_one_holds(there: World) -> None:
    await there.host(Authority().context(MX))
    there.publish("1")
    way = await there.way()
    await refused(there, "certificate-not-trusted", way)
    there.publish("2")
    there.web.routes[POLICY_PATH] = Said(500)
    there.clock.advance(120)
    await refused(there, "certificate-not-trusted", way)
    assert "sts-policy-fetch-error" in kinds(there)
    assert len(there.web.requests) == 2


async def test_server_is_started_again_then_it_knows_the_policy(there: World) -> None:
    await there.host(Authority().context(MX))
    there.publish()
    await refused(there, "certificate-not-trusted")
    del there.zone[f"_mta-sts.{DOMAIN}"]
    there.web.routes.clear()
    await refused(there, "certificate-not-trusted", await there.way())
    assert len(there.web.requests) == 1


REDIRECT = {"Location": "/elsewhere", "Content-Type": "text/plain"}
BAD = {
    "redirect": (Said(302, policy(), REDIRECT), "sts-policy-fetch-error"),
    "permanent redirect": (Said(301, policy(), REDIRECT), "sts-policy-fetch-error"),
    "not found": (Said(404, policy()), "sts-policy-fetch-error"),
    "huge": (Said(body=b"x" * 70_000), "sts-policy-fetch-error"),
    "endless": (Said(body=b"mx: a\r\n" * 1000, endless=True), "sts-policy-fetch-error"),
    "dripping": (Said(body=policy(), pause=0.3), "sts-policy-fetch-error"),
    "silent": (Said(hang=True), "sts-policy-fetch-error"),
    "hung up": (Said(drop=-1), "sts-policy-fetch-error"),
    "packed": (Said(body=policy(), headers={"Content-Type": "text/html"}), "sts-policy-fetch-error"),
    "empty": (Said(), "sts-policy-invalid"),
    "other version": (Said(body=policy().replace(b"STSv1", b"STSv2")), "sts-policy-invalid"),
    "binary": (Said(body=b"\xff\xfe" * 50), "sts-policy-invalid"),
}


@pytest.mark.parametrize("what", BAD)
async def test_policy_can_not_be_had_then_mail_passes_and_it_is_told_and_left_alone(there: World, what: str) -> None:
    said, kind = BAD[what]
    await there.host(True)
    there.web.routes[POLICY_PATH] = said
    there.web.routes["/elsewhere"] = Said(body=policy())
    there.publish()
    way = await there.way(limit=1.0)
    for _ in range(2):
        assert (await send(way)).outcome is Outcome.SUCCESS
    assert [request.path for request in there.web.requests] == [POLICY_PATH]  # no redirect, no second try
    assert kinds(there) == [kind, "", ""]
    assert there.web.sent < 8 << 20
    there.clock.advance(400)
    there.web.routes[POLICY_PATH] = Said(body=policy())
    assert (await send(way)).outcome is Outcome.TRANSIENT  # it is tried again, and the certificate is nobody's


@pytest.mark.parametrize("what", ["expired", "wrong name", "unknown authority"])
async def test_web_servers_certificate_does_not_hold_then_there_is_no_policy(there: World, what: str) -> None:
    name = f"mta-sts.{DOMAIN}"
    there.web.context = {
        "expired": there.authority.context(name, expired=True),
        "wrong name": there.authority.context(DOMAIN, "127.0.0.1", "localhost"),
        "unknown authority": Authority().context(name),
    }[what]
    await there.host(True)
    there.publish()
    assert (await send(await there.way())).outcome is Outcome.SUCCESS
    assert kinds(there) == ["sts-webpki-invalid", ""]
    assert not there.web.requests


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1"])
async def test_web_server_is_in_our_own_network_then_it_is_not_connected(there: World, address: str) -> None:
    await there.host(True)
    there.publish()
    there.zone[f"mta-sts.{DOMAIN}"] = {"A": [address]}
    assert (await send(await there.way(allow_private=False))).outcome is Outcome.SUCCESS
    assert kinds(there) == ["sts-policy-fetch-error", ""]
    assert not there.web.requests


async def test_policy_is_a_day_old_then_it_is_fetched_anew_and_lasts(there: World) -> None:
    await there.host(Authority().context(MX))
    there.publish()
    there.web.routes[POLICY_PATH] = Said(body=policy(max_age=172_800))
    way = await there.way()
    await refused(there, "certificate-not-trusted", way)
    for _ in range(3):
        there.clock.advance(90_000)
        await there.sts.refresh()
    await refused(there, "certificate-not-trusted", way)
    assert len(there.web.requests) == 4
    there.web.routes.clear()
    there.clock.advance(90_000)
    await there.sts.refresh()  # fails
    await refused(there, "certificate-not-trusted", way)


async def test_many_wait_for_one_policy_then_it_is_fetched_once(there: World) -> None:
    sink = await there.host(there.authority.context(MX))
    there.publish()
    there.web.routes[POLICY_PATH] = Said(body=policy(), delay=0.3)
    way = await there.way()
    results = await asyncio.gather(*[way.send(MAIL) for _ in range(10)])
    assert {result.outcome for (result,) in results} == {Outcome.SUCCESS}
    assert (len(there.web.requests), len(sink.transactions)) == (1, 10)


@pytest.mark.parametrize(
    ("rules", "tls", "outcome"),
    [
        (Rules(domains={DOMAIN: Level.OPPORTUNISTIC}), True, Outcome.SUCCESS),
        (Rules(domains={DOMAIN: Level.OFF}), True, Outcome.SUCCESS),
        (Rules(domains={DOMAIN: Level.ENCRYPTED}), True, Outcome.SUCCESS),
        (Rules(domains={DOMAIN: Level.ENCRYPTED}), False, Outcome.TRANSIENT),
        (Rules(domains={DOMAIN: Level.VERIFIED}), True, Outcome.TRANSIENT),
        (Rules(least=Level.ENCRYPTED), True, Outcome.TRANSIENT),
        (Rules(least=Level.OFF), True, Outcome.SUCCESS),
    ],
)
async def test_operators_word_on_a_domain_stands_alone_and_on_all_is_the_least(
    there: World, rules: Rules, tls: bool, outcome: Outcome
) -> None:
    sink = await there.host(tls)
    there.publish()
    assert (await send(await there.way(rules))).outcome is outcome
    if Level.OFF in (rules.least, *rules.domains.values()):
        assert sink.transactions[0].tls == ""


async def test_mail_says_that_tls_is_optional_then_no_policy_stops_it_and_nobody_counts_it(there: World) -> None:
    await there.host(True)
    there.publish()
    result = await send(await there.way(), replace(MAIL, tls_optional=True))
    assert result.outcome is Outcome.SUCCESS
    assert there.notes == []


async def test_mail_under_policy_never_takes_a_connection_that_was_made_without(there: World) -> None:
    sink = await there.host(Authority().context(MX))
    there.publish()
    way = await there.way()
    (first,) = await way.send(replace(MAIL, tls_optional=True))
    assert (first.outcome, len(way.pool)) == (Outcome.SUCCESS, 1)
    (second,) = await way.send(MAIL)
    assert (second.outcome, len(sink.transactions)) == (Outcome.TRANSIENT, 1)
