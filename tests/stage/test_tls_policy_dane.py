"""DANE with real certificates and a name server that sets the AD bit (RFC 7672), and REQUIRETLS on top of it (RFC 8689)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from responder.mail.status import Outcome
from responder.outbound.tls.policy import Rules
from responder.outbound.tls.security import Level
from tests.support.http_server import Said
from tests.support.tls_world import DOMAIN, MAIL, MX, POLICY_PATH, Authority, World, policy, send, tlsa, world


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as it:
        yield it


def kinds(there: World) -> list[str]:
    return ["" if note.why is None else note.why.kind for note in there.notes]


async def passes(there: World, tls: ssl.SSLContext, *records: list[int | str]) -> None:
    sink = await there.host(tls)
    there.sign(*records)
    result = await send(await there.way())
    assert (result.outcome, result.tls, len(sink.transactions)) == (Outcome.SUCCESS, "TLSv1.3", 1), result
    assert kinds(there) == [""]


async def is_refused(there: World, tls: ssl.SSLContext | bool, kind: str, *records: list[int | str]) -> None:
    await there.host(tls)
    there.sign(*records)
    result = await send(await there.way())
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.7.5"), result
    assert there.never_asked()
    assert kinds(there) == [kind]


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
async def test_record_names_the_hosts_own_certificate_or_key_then_mail_passes(
    there: World, selector: int, matching: int
) -> None:
    tls, certificate = there.authority.issued(MX)
    await passes(there, tls, tlsa(3, selector, matching, certificate))
    (note,) = there.notes
    assert (note.policy.type, note.policy.domain, note.policy.recipient) == ("tlsa", MX, DOMAIN)


async def test_pinned_certificate_is_expired_and_for_another_name_then_mail_passes(there: World) -> None:
    tls, certificate = Authority().issued("other.example.net", expired=True)
    await passes(there, tls, tlsa(3, 1, 1, certificate))


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1])
async def test_record_names_the_authority_then_mail_passes(there: World, selector: int, matching: int) -> None:
    other = Authority()
    tls, _ = other.issued(MX)
    await passes(there, tls, tlsa(2, selector, matching, other.certificate))


async def test_authority_stands_in_dns_alone_then_mail_passes(there: World) -> None:
    other = Authority()
    tls, _ = other.issued(MX, chain=False)
    await passes(there, tls, tlsa(2, 0, 0, other.certificate))


async def test_certificate_names_the_next_hop_then_it_will_do(there: World) -> None:
    other = Authority()
    tls, _ = other.issued(DOMAIN)
    await passes(there, tls, tlsa(2, 0, 1, other.certificate))


async def test_one_of_two_records_holds_then_mail_passes(there: World) -> None:
    tls, certificate = there.authority.issued(MX)
    await passes(there, tls, tlsa(3, 1, 1, there.authority.issued(MX)[1]), tlsa(3, 1, 1, certificate))


async def test_weaker_digest_alone_holds_then_it_does_not_count(there: World) -> None:
    tls, certificate = there.authority.issued(MX)
    other = there.authority.issued(MX)[1]
    await is_refused(there, tls, "validation-failure", tlsa(3, 1, 2, other), tlsa(3, 1, 1, certificate))


Made = Callable[[World], tuple[ssl.SSLContext | bool, list[int | str]]]


def expired_under_an_authority(there: World) -> tuple[ssl.SSLContext, list[int | str]]:
    return there.authority.context(MX, expired=True), tlsa(2, 0, 1, there.authority.certificate)


def other_name_under_an_authority(there: World) -> tuple[ssl.SSLContext, list[int | str]]:
    return there.authority.context("mx2.example.com"), tlsa(2, 0, 1, there.authority.certificate)


def other_authority(there: World) -> tuple[ssl.SSLContext, list[int | str]]:
    return Authority().context(MX), tlsa(2, 0, 1, there.authority.certificate)


def another_key(there: World) -> tuple[ssl.SSLContext, list[int | str]]:
    return there.authority.context(MX), tlsa(3, 1, 1, there.authority.issued(MX)[1])


def shows_the_authority_but_is_not_by_it(there: World) -> tuple[ssl.SSLContext, list[int | str]]:
    """A stranger's certificate, with the pinned authority's own behind it: shown, not linked."""
    return Authority().issued(MX, shown=there.authority)[0], tlsa(2, 0, 1, there.authority.certificate)


def plain(there: World) -> tuple[bool, list[int | str]]:
    return False, tlsa(3, 1, 1, there.authority.issued(MX)[1])


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (expired_under_an_authority, "certificate-expired"),
        (other_name_under_an_authority, "certificate-host-mismatch"),
        (other_authority, "validation-failure"),
        (shows_the_authority_but_is_not_by_it, "validation-failure"),
        (another_key, "validation-failure"),
        (plain, "starttls-not-supported"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_no_record_holds_then_nothing_is_said_of_the_mail(there: World, made: Made, kind: str) -> None:
    tls, record = made(there)
    await is_refused(there, tls, kind, record)


async def test_starttls_is_stripped_then_nothing_is_said_of_the_mail(there: World) -> None:
    tls, certificate = there.authority.issued(MX)
    sink = await there.host(tls)
    sink.script = {"STARTTLS": "502 5.5.1 what?"}
    there.sign(tlsa(3, 1, 1, certificate))
    result = await send(await there.way())
    assert (result.outcome, there.never_asked(), kinds(there)) == (
        Outcome.TRANSIENT,
        True,
        ["starttls-not-supported"],
    )


async def test_records_can_not_be_used_then_any_certificate_will_do_but_never_plain(there: World) -> None:
    certificate = there.authority.issued(MX)[1]
    useless = [
        tlsa(1, 1, 1, certificate),
        tlsa(0, 0, 1, certificate),
        tlsa(3, 9, 0, certificate),
        tlsa(9, 1, 1, certificate),
    ]
    sink = await there.host(True)
    there.sign(*useless)
    way = await there.way()
    assert (await send(way)).outcome is Outcome.SUCCESS
    sink.tls = False
    assert (await send(way)).outcome is Outcome.TRANSIENT
    assert len(sink.transactions) == 1


@pytest.mark.parametrize("broken", ["SERVFAIL", "TIMEOUT", "GARBAGE"])
async def test_records_can_not_be_looked_up_then_the_host_is_not_used(there: World, broken: str) -> None:
    sink = await there.host(there.authority.context(MX))
    there.sign()
    there.zone[f"_{there.port}._tcp.{MX}"] = broken
    result = await send(await there.way())
    assert (result.outcome, result.enhanced, sink.connections) == (Outcome.TRANSIENT, "4.7.5", 0)
    assert kinds(there) == ["dnssec-invalid"]


async def test_first_hosts_records_fail_then_the_second_host_gets_the_mail(there: World) -> None:
    await there.host(there.authority.context(MX))
    tls, certificate = there.authority.issued("mx2.example.com")
    second = await there.host(tls)
    there.sign(tlsa(3, 1, 1, certificate), host="mx2.example.com")
    there.zone[f"_{there.port}._tcp.{MX}"] = "SERVFAIL"
    result = await send(await there.way())
    assert (result.outcome, result.host, len(second.transactions)) == (Outcome.SUCCESS, "mx2.example.com", 1)
    assert there.never_asked(there.sinks[0])


async def wrong_key(there: World) -> None:
    await there.host(there.authority.context(MX))
    there.sign(tlsa(3, 1, 1, there.authority.issued(MX)[1]))


@pytest.mark.parametrize("unsigned", ["mx", "address", "record"])
async def test_anything_on_the_way_is_not_signed_then_there_is_no_dane(there: World, unsigned: str) -> None:
    await wrong_key(there)
    name = {"mx": DOMAIN, "address": MX, "record": f"_{there.port}._tcp.{MX}"}[unsigned]
    there.zone[name]["AD"] = False
    assert (await send(await there.way())).outcome is Outcome.SUCCESS
    asked = there.dns.queries[f"_{there.port}._tcp.{MX}", "TLSA"]
    assert asked == (1 if unsigned == "record" else 0)  # RFC 7672 2.2.2: not asked below what is not signed


@pytest.mark.parametrize("how", ["off", "not believed"])
async def test_dane_is_off_then_records_mean_nothing(there: World, how: str) -> None:
    await wrong_key(there)
    way = await there.way(Rules(dane=how != "off"), believe_ad=False if how == "not believed" else None)
    assert (await send(way)).outcome is Outcome.SUCCESS
    if how == "not believed":
        assert not there.dns.asked_ad


async def test_host_is_an_alias_then_the_name_behind_it_is_asked_first(there: World) -> None:
    await there.host(there.authority.context("real.example.net"))
    there.zone["real.example.net"] = there.zone[MX]
    there.zone[MX] = {"CNAME": "real.example.net"}
    there.sign(tlsa(2, 0, 1, there.authority.certificate), host="real.example.net")
    assert (await send(await there.way())).outcome is Outcome.SUCCESS
    assert there.notes[0].policy.domain == "real.example.net"


async def test_alias_is_signed_and_its_target_is_not_then_the_alias_has_the_records(there: World) -> None:
    await there.host(there.authority.context(MX))
    there.zone["real.example.net"] = there.zone[MX]
    there.zone[MX] = {"CNAME": "real.example.net"}
    there.sign(tlsa(3, 1, 1, there.authority.issued(MX)[1]))
    there.zone["real.example.net"]["AD"] = False
    assert (await send(await there.way())).outcome is Outcome.TRANSIENT
    assert there.never_asked()


async def test_domain_has_no_mx_then_its_own_records_count(there: World) -> None:
    sink = await there.host(there.authority.context(DOMAIN))
    there.zone[DOMAIN] = {"A": [sink.address]}
    there.sign(tlsa(3, 1, 1, there.authority.issued(DOMAIN)[1]), host=DOMAIN)
    assert (await send(await there.way())).outcome is Outcome.TRANSIENT
    assert there.never_asked()


@pytest.mark.parametrize("right", [True, False])
async def test_dane_and_mta_sts_meet_then_dane_decides(there: World, right: bool) -> None:
    tls, certificate = (Authority() if right else there.authority).issued(MX)
    await there.host(tls)
    there.publish()
    there.sign(tlsa(3, 1, 1, certificate if right else there.authority.issued(MX)[1]))
    assert (await send(await there.way())).outcome is (Outcome.SUCCESS if right else Outcome.TRANSIENT)
    assert there.notes[-1].policy.type == "tlsa"


async def test_records_can_not_be_used_then_mta_sts_decides(there: World) -> None:
    tls, certificate = Authority().issued(MX)
    await there.host(tls)
    there.publish()
    there.sign(tlsa(1, 1, 1, certificate))
    assert (await send(await there.way())).outcome is Outcome.TRANSIENT
    assert there.never_asked()
    assert there.notes[-1].policy.type == "sts"


async def test_mail_requires_tls_and_dane_vouches_then_the_host_is_told(there: World) -> None:
    tls, certificate = there.authority.issued(MX)
    sink = await there.host(tls)
    sink.extensions.append("REQUIRETLS")
    there.sign(tlsa(3, 1, 1, certificate))
    result = await send(await there.way(), replace(MAIL, requiretls=True))
    assert result.outcome is Outcome.SUCCESS
    assert "REQUIRETLS" in sink.transactions[0].parameters.split()


async def test_mail_requires_tls_and_mta_sts_vouches_then_the_host_is_told(there: World) -> None:
    sink = await there.host(there.authority.context(MX))
    sink.extensions.append("REQUIRETLS")
    there.publish()
    result = await send(await there.way(), replace(MAIL, requiretls=True))
    assert (result.outcome, "REQUIRETLS" in sink.transactions[0].parameters) == (Outcome.SUCCESS, True)


async def test_mail_requires_tls_and_the_host_does_not_offer_it_then_it_is_refused_for_good(there: World) -> None:
    await there.host(there.authority.context(MX))
    there.publish()
    result = await send(await there.way(), replace(MAIL, requiretls=True))
    assert (result.outcome, result.enhanced, there.never_asked()) == (Outcome.PERMANENT, "5.7.30", True)


@pytest.mark.parametrize(
    "rules", [Rules(), Rules(domains={DOMAIN: Level.OFF}), Rules(domains={DOMAIN: Level.VERIFIED})]
)
async def test_mail_requires_tls_and_nobody_vouches_for_the_host_then_it_is_not_connected(
    there: World, rules: Rules
) -> None:
    sink = await there.host(there.authority.context(MX))
    sink.extensions.append("REQUIRETLS")
    result = await send(await there.way(rules), replace(MAIL, requiretls=True))
    assert (result.outcome, result.enhanced, sink.connections) == (Outcome.PERMANENT, "5.7.30", 0)


async def test_mail_requires_tls_and_the_policy_is_in_testing_then_it_vouches_for_nobody(there: World) -> None:
    await there.host(there.authority.context(MX))
    there.web.routes[POLICY_PATH] = Said(body=policy("testing"))
    there.publish()
    result = await send(await there.way(), replace(MAIL, requiretls=True))
    assert (result.outcome, there.never_asked()) == (Outcome.PERMANENT, True)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_chain_is_read_on_both_loops(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        for usage, outcome in ((2, Outcome.SUCCESS), (3, Outcome.TRANSIENT)):
            folder = tmp_path / str(usage)
            folder.mkdir()
            async with world(folder) as there:
                tls, _ = there.authority.issued(MX)
                await there.host(tls)
                there.sign(tlsa(usage, 0, 1, there.authority.certificate))
                assert (await send(await there.way())).outcome is outcome

    if loop == "uvloop":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scene())
    else:
        asyncio.run(scene())
