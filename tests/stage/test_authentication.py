"""Who wrote a mail: real signatures, a real name server, and what the authenticator makes of them."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from responder.authentication import Authenticator, Judgement
from responder.authentication.keys import RefusedError, parse
from responder.clock import SystemClock
from responder.config import Authentication
from responder.dns import Resolver
from responder.mail.automatic import Verdicts
from responder.mail.headers import Headers
from tests.support.clock import ManualClock
from tests.support.dns_server import DNSServer
from tests.support.signing import ed25519_record, record, rsa_key, seal, sign

HOST = "mx.example.net"
OURS, THEIRS = "192.0.2.1", "198.51.100.7"  # what example.org's SPF allows, and what nobody's does
MAIL = (
    b"From: Ann <ann@example.org>\r\nTo: shop@example.net\r\nSubject: Hello\r\nDate: Mon, 1 Jun 2026 10:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n\r\nHow are  you?\r\n\r\n"
)


def zone() -> dict[str, Any]:
    return {
        "example.org": {"TXT": [f"v=spf1 ip4:{OURS} -all"]},
        "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject; sp=quarantine"]},
        "sel._domainkey.example.org": {"TXT": [record()]},
        "ed._domainkey.example.org": {"TXT": [ed25519_record()]},
        "sel._domainkey.list.example": {"TXT": [record()]},
        "sel._domainkey.other.example": {"TXT": [record()]},
        "other.example": {"TXT": [f"v=spf1 ip4:{THEIRS} -all"]},
        "free.example": {"TXT": ["v=spf1 ?all"]},
        "host.other.example": {"TXT": [f"v=spf1 ip4:{THEIRS} -all"]},
    }


class Scene:
    def __init__(self, server: DNSServer, resolver: Resolver) -> None:
        self.server = server
        self.resolver = resolver

    async def judge(
        self,
        content: bytes = MAIL,
        *,
        peer: str = THEIRS,
        helo: str = "host.other.example",
        reverse_path: str = "ann@example.org",
        user: str = "",
        clock: Any = None,
        **settings: Any,
    ) -> Judgement:
        config = Authentication(**{"mode": "enforce", **settings})
        authenticator = Authenticator(HOST, config, self.resolver, clock or SystemClock())
        return await authenticator.judge(
            peer=peer,
            helo=helo,
            reverse_path=reverse_path,
            headers=Headers.parse(content),
            content=content,
            user=user,
        )


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with DNSServer(zone()) as server:
        resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=2)
        yield Scene(server, resolver)
        await resolver.close()


def written(judgement: Judgement) -> list[str]:
    """The field's results, unfolded."""
    text = judgement.fields.decode("ascii")
    assert text.startswith(f"Authentication-Results: {HOST};\r\n\t") and text.endswith("\r\n")
    assert max(map(len, text.split("\r\n"))) < 998
    assert all(line[:1] == "\t" for line in text.split("\r\n")[1:-1])
    return text.partition(";\r\n\t")[2].removesuffix("\r\n").split(";\r\n\t")


async def test_mail_when_signed_and_from_its_host_then_all_pass(scene: Scene) -> None:
    found = await scene.judge(sign(MAIL), peer=OURS)
    assert found.verdicts == Verdicts(
        spf="pass",
        dkim="pass",
        dmarc="pass",
        dmarc_policy="reject",
        from_domain="example.org",
        dkim_domains=("example.org",),
    )
    spf, dkim, dmarc = written(found)
    assert spf == "spf=pass smtp.mailfrom=ann@example.org"
    assert re.fullmatch(r'dkim=pass header.d=example.org header.s=sel header.a=rsa-sha256 header.b="?[\w+/]{8}"?', dkim)
    assert dmarc == "dmarc=pass (p=reject) header.from=example.org"
    assert found.refusal is None
    assert found.note == ", spf pass, dkim pass, dmarc pass"


async def test_mail_when_forged_then_it_is_refused_by_the_domains_wish(scene: Scene) -> None:
    found = await scene.judge()
    assert found.refusal is not None and "example.org" in found.refusal
    assert written(found) == [
        "spf=fail smtp.mailfrom=ann@example.org",
        "dkim=none",
        "dmarc=fail (p=reject) header.from=example.org",
    ]
    assert found.note == ", spf fail, dkim none, dmarc fail (reject)"
    recorded = await scene.judge(mode="record")
    assert recorded.verdicts == found.verdicts and recorded.refusal is None


async def test_mail_when_mode_is_off_then_nobody_is_asked(scene: Scene) -> None:
    assert await scene.judge(sign(MAIL), mode="off") == Judgement(HOST)
    assert not scene.server.queries


async def test_mail_when_spf_passes_for_another_domain_then_it_does_not_speak_for_from(scene: Scene) -> None:
    found = await scene.judge(reverse_path="eve@other.example")
    assert (found.verdicts.spf, found.verdicts.dmarc) == ("pass", "fail")
    assert found.refusal is not None


async def test_mail_when_signed_by_another_domain_then_that_does_not_speak_for_from(scene: Scene) -> None:
    found = await scene.judge(sign(MAIL, "other.example"))
    assert (found.verdicts.dkim, found.verdicts.dkim_domains, found.verdicts.dmarc) == (
        "pass",
        ("other.example",),
        "fail",
    )


async def test_mail_when_signed_by_the_organisation_then_its_subdomain_passes_unless_strict(scene: Scene) -> None:
    content = MAIL.replace(b"ann@example.org", b"ann@news.example.org")
    found = await scene.judge(sign(content))
    assert (found.verdicts.dmarc, found.verdicts.dmarc_policy) == ("pass", "quarantine")
    scene.server.zone["_dmarc.news.example.org"] = {"TXT": ["v=DMARC1; p=reject; adkim=s"]}
    other = Resolver([scene.server.nameserver], clock=SystemClock(), timeout=2)
    strict = await Scene(scene.server, other).judge(sign(content))
    assert (strict.verdicts.dmarc, strict.verdicts.dmarc_policy) == ("fail", "reject")


async def test_mail_when_a_subdomain_is_forged_then_sp_holds(scene: Scene) -> None:
    found = await scene.judge(MAIL.replace(b"ann@example.org", b"ann@nowhere.example.org"))
    assert (found.verdicts.dmarc, found.verdicts.dmarc_policy, found.refusal) == ("fail", "quarantine", None)


async def test_mail_when_the_reverse_path_is_null_then_helo_is_checked(scene: Scene) -> None:
    found = await scene.judge(reverse_path="")
    assert written(found)[0] == "spf=pass smtp.helo=host.other.example"
    literal = await scene.judge(reverse_path="", helo="[198.51.100.7]")
    assert written(literal)[0] == "spf=none"


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "", "unix"])
async def test_mail_when_a_trusted_relay_or_socket_brings_it_then_its_address_judges_nobody(
    scene: Scene, peer: str
) -> None:
    found = await scene.judge(peer=peer)
    assert (found.verdicts.spf, found.verdicts.dmarc, found.refusal) == (None, None, None)
    assert written(found) == ["dkim=none"]
    signed = await scene.judge(sign(MAIL), peer=peer)
    assert (signed.verdicts.dkim, signed.verdicts.dmarc) == ("pass", "pass")


async def test_mail_when_a_user_has_logged_in_then_that_is_what_counts(scene: Scene) -> None:
    found = await scene.judge(user="ann@example.org")
    assert written(found) == ["auth=pass smtp.auth=ann@example.org", "dkim=none"]
    assert found.refusal is None
    odd = await scene.judge(user='a"; dkim=pass (\r\nX: y')
    assert written(odd)[0] == "auth=pass"


@pytest.mark.parametrize("canonical", ["simple/simple", "relaxed/simple", "simple/relaxed"])
@pytest.mark.parametrize(("selector", "algorithm"), [("sel", "rsa-sha256"), ("ed", "ed25519-sha256")])
async def test_signature_when_of_any_kind_then_it_is_verified(
    scene: Scene, canonical: str, selector: str, algorithm: str
) -> None:
    content = sign(MAIL, selector=selector, algorithm=algorithm, canonical=canonical)
    assert (await scene.judge(content)).verdicts.dkim == "pass"
    assert (await scene.judge(content.replace(b"you", b"we"))).verdicts.dkim == "fail"
    assert (await scene.judge(content.replace(b"Subject: Hello", b"Subject: Other"))).verdicts.dkim == "fail"


async def test_signatures_when_several_then_each_has_its_result(scene: Scene) -> None:
    content = sign(sign(MAIL, selector="missing"), selector="ed", algorithm="ed25519-sha256")
    found = await scene.judge(sign(content, "other.example"))
    assert [line.split(" header.s=")[0] for line in written(found) if line.startswith("dkim")] == [
        "dkim=pass header.d=other.example",
        "dkim=pass header.d=example.org",
        "dkim=permerror (no key) header.d=example.org",
    ]
    assert found.verdicts.dkim_domains == ("other.example", "example.org")


async def test_signatures_when_more_than_allowed_then_the_rest_is_not_looked_at(scene: Scene) -> None:
    content = MAIL
    for number in range(12):
        content = sign(content, selector=f"none{number}")
    found = await scene.judge(content, max_signatures=3)
    assert len([line for line in written(found) if line.startswith("dkim")]) == 3
    assert len([name for name, _ in scene.server.queries if "_domainkey" in name]) == 3


async def test_signature_when_a_part_of_the_body_only_is_signed_then_it_does_not_count(scene: Scene) -> None:
    content = sign(MAIL, length=True)
    assert (await scene.judge(content)).verdicts.dmarc == "pass"  # it covers all there is
    found = await scene.judge(content + b"Send money to me instead.\r\n")
    assert "dkim=policy (body only signed in part)" in written(found)[1]
    assert (found.verdicts.dkim, found.verdicts.dmarc) == ("policy", "fail")


async def test_signature_when_with_sha1_then_it_proves_nothing(scene: Scene) -> None:
    found = await scene.judge(sign(MAIL, algorithm="rsa-sha1"))
    assert "dkim=policy (SHA-1 is not accepted)" in written(found)[1]
    assert found.verdicts.dmarc == "fail"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("v=DKIM1; p=", "permerror (key revoked)"),
        ("v=DKIM2; p=AAAA", "permerror (key record of another version)"),
        ("v=DKIM1; k=rsa; p=AAAA", "permerror (malformed key)"),
        ("v=DKIM1; k=rsa; p=%%%%", "permerror (malformed key)"),
        ("v=DKIM1; k=dsa; p=AAAA", "permerror (key of an unknown kind)"),
        ("v=DKIM1", "permerror (malformed key record)"),
        ("nothing", "permerror (malformed key record)"),
        (record(tags="v=DKIM1; s=tlsrpt"), "permerror (key not for mail)"),
        (record(tags="v=DKIM1; h=sha1"), "permerror (key for other hashes)"),
        (record(tags="v=DKIM1; x=" + "y" * 5000), "permerror (key record too long)"),
        (record(1024), "fail (bad signature)"),
        (record(2048, "v=DKIM1; t=s"), "pass header.d"),
        (record(2048, "s=email:x; t=y:s; h=sha1:sha256; n=note"), "pass (test key)"),
        (ed25519_record(), "permerror (key of another algorithm)"),
    ],
    ids=range(14),  # the keys are made anew in each process
)
async def test_key_when_odd_then_the_result_says_so(scene: Scene, key: str, expected: str) -> None:
    scene.server.zone["odd._domainkey.example.org"] = {"TXT": [key]}
    found = await scene.judge(sign(MAIL, selector="odd"))
    assert written(found)[1].startswith(f"dkim={expected}")


async def test_key_when_the_domain_is_only_trying_then_a_bad_signature_is_none(scene: Scene) -> None:
    scene.server.zone["try._domainkey.example.org"] = {"TXT": [record(tags="v=DKIM1; t=y")]}
    content = sign(MAIL, selector="try")
    for changed in (content.replace(b"you", b"we"), content.replace(b"Hello", b"Howdy")):
        assert (await scene.judge(changed)).verdicts.dkim == "neutral"


async def test_key_when_for_its_domain_only_then_a_subdomain_may_not_use_it(scene: Scene) -> None:
    scene.server.zone["own._domainkey.example.org"] = {"TXT": [record(tags="v=DKIM1; t=s")]}
    content = sign(MAIL, selector="own", identity="ann@news.example.org")
    assert (await scene.judge(content)).verdicts.dkim == "permerror"
    assert (await scene.judge(sign(MAIL, identity="ann@news.example.org"))).verdicts.dkim == "pass"


async def test_key_when_its_exponent_is_as_long_as_itself_then_it_is_not_used(scene: Scene) -> None:
    """Verifying with it would take a hundred times as long."""
    modulus = rsa_key().public_key().public_numbers().n
    public = rsa.RSAPublicNumbers((1 << 2040) + 1, modulus).public_key()
    der = base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(RefusedError, match="too long"):
        parse(b"p=" + der)


async def test_signature_when_expired_or_odd_then_it_fails(scene: Scene) -> None:
    clock = ManualClock()
    content = sign(MAIL)
    later = int(clock.now()) - 301
    for old, new, expected in [
        (b"; t=", f"; x={later}; z=".encode(), "fail (signature expired)"),
        (b"; t=", b"; x=5; t=", "permerror (x= is not behind t=)"),
        (b"; t=", b"; t=x; z=", "permerror (malformed t=)"),
        (b"v=1", b"v=2", "neutral (another version)"),
        (b"a=rsa-sha256", b"a=rsa-sha512", "neutral (unknown algorithm)"),
        (b"c=relaxed/relaxed", b"c=nowsp", "neutral (unknown canonicalisation)"),
        (b"q=dns/txt", b"q=http", "neutral (unknown way to the key)"),
        (b"i=@example.org", b"i=@xexample.org", "permerror (i= is not below d=)"),
        (b"i=@example.org", b"i=@example.org; i=x", "neutral (malformed signature field)"),
        (b"d=example.org", b"d=org", "permerror (malformed d=)"),
        (b"s=sel", b"s=..", "permerror (malformed s=)"),
        (b"bh=", b"zz=", "permerror (no bh= in the signature)"),
        (b"b=", b"b=*", "permerror (malformed base64)"),
        (b"h=from :", b"h=to :", "permerror (From not signed)"),
        (b"; t=", b"; l=-5; t=", "permerror (malformed l=)"),
        (b"; t=", b"; l=99999999999; t=", "fail (bad signature)"),
    ]:
        head, _, rest = content.partition(b"\r\nFrom:")
        changed = re.sub(rb"\s+", b" ", head).replace(b"h=from : to", b"h=from : to")
        assert old in changed, old
        found = await scene.judge(changed.replace(old, new, 1) + b"\r\nFrom:" + rest, clock=clock)
        assert written(found)[1].startswith(f"dkim={expected}"), (old, written(found)[1])


async def test_name_server_when_down_for_the_author_then_the_mail_is_put_off(scene: Scene) -> None:
    scene.server.zone["_dmarc.example.org"] = "SERVFAIL"
    found = await scene.judge()
    assert (found.verdicts.dmarc, found.refusal, found.deferral) == ("temperror", None, True)
    assert not (await scene.judge(mode="record")).deferral
    scene.server.zone["_dmarc.example.org"] = {"TXT": ["v=DMARC1; p=reject"]}
    scene.server.zone["sel._domainkey.example.org"] = "SERVFAIL"
    other = Scene(scene.server, Resolver([scene.server.nameserver], clock=SystemClock(), timeout=2))
    found = await other.judge(sign(MAIL))
    assert (found.verdicts.dkim, found.verdicts.dmarc, found.refusal) == ("temperror", "temperror", None)
    assert found.deferral
    scene.server.zone["example.org"] = "SERVFAIL"
    del scene.server.zone["sel._domainkey.example.org"]
    other = Scene(scene.server, Resolver([scene.server.nameserver], clock=SystemClock(), timeout=2))
    found = await other.judge()
    assert (found.verdicts.spf, found.verdicts.dmarc, found.refusal) == ("temperror", "temperror", None)
    assert found.deferral
    scene.server.zone["_dmarc.example.org"] = {"TXT": ["v=DMARC1; p=quarantine"]}  # whose mail is never refused
    other = Scene(scene.server, Resolver([scene.server.nameserver], clock=SystemClock(), timeout=2))
    assert not (await other.judge()).deferral


async def test_name_server_when_down_for_a_forgers_own_domain_then_that_saves_nobody(scene: Scene) -> None:
    scene.server.zone["sel._domainkey.other.example"] = "SERVFAIL"
    scene.server.zone["other.example"] = "SERVFAIL"
    found = await scene.judge(sign(MAIL, "other.example"), reverse_path="eve@other.example")
    assert (found.verdicts.spf, found.verdicts.dkim, found.verdicts.dmarc) == ("temperror", "temperror", "fail")
    assert found.refusal is not None


@pytest.mark.parametrize(
    ("author", "result", "refused"),
    [
        (b"From: a@free.example, ann@example.org\r\n", "fail", True),
        (b"From: ann@example.org, a@free.example\r\n", "fail", True),
        (b"From: a@free.example\r\nFrom: ann@example.org\r\n", "fail", True),
        (b'From: "ann@example.org" <a@free.example>\r\n', "none", False),
        (b"From: a@free.example\r\n", "none", False),
        (b"", "permerror", False),
        (b"From: nobody\r\n", "permerror", False),
    ],
)
async def test_from_when_there_are_several_or_none_then_the_strictest_holds(
    scene: Scene, author: bytes, result: str, refused: bool
) -> None:
    found = await scene.judge(MAIL.replace(b"From: Ann <ann@example.org>\r\n", author))
    assert (found.verdicts.dmarc, found.refusal is not None) == (result, refused)


LIST = "spf=pass smtp.mailfrom=ann@example.org; dmarc=pass header.from=example.org"


def forwarded(content: bytes = MAIL, results: str = LIST, domain: str = "list.example") -> bytes:
    return seal(content.replace(b"Hello", b"[list] Hello"), domain, results)


async def test_chain_when_whole_then_it_is_recorded_and_changes_nothing(scene: Scene) -> None:
    found = await scene.judge(forwarded())
    assert (found.verdicts.arc, found.verdicts.dmarc) == ("pass", "fail")
    assert "arc=pass header.as-d=list.example" in written(found)
    assert found.refusal is not None


async def test_chain_when_of_a_trusted_forwarder_then_a_failed_dmarc_refuses_nobody(scene: Scene) -> None:
    found = await scene.judge(forwarded(), trusted_arc=["list.example"])
    assert (found.verdicts.arc, found.verdicts.dmarc, found.verdicts.overridden) == ("pass", "fail", True)
    assert found.refusal is None
    assert "dmarc=fail (p=reject, trusted ARC) header.from=example.org" in written(found)
    assert found.note.endswith("passed on by a trusted forwarder")


@pytest.mark.parametrize(
    "content",
    [
        forwarded(results="dmarc=fail header.from=example.org"),
        forwarded(results="dmarc=pass header.from=other.example"),
        forwarded(results="spf=pass smtp.mailfrom=ann@example.org"),
        forwarded().replace(b"How are", b"Who are"),
        forwarded().replace(b"dmarc=pass", b"dmarc=pass  (x)"),
        b"ARC-Seal: i=1; cv=none\r\n" + forwarded(),
    ],
)
async def test_chain_when_broken_or_silent_then_trust_does_not_help(scene: Scene, content: bytes) -> None:
    found = await scene.judge(content, trusted_arc=["list.example"])
    assert not found.verdicts.overridden
    assert found.refusal is not None


async def test_chain_when_a_stranger_had_the_mail_since_then_trust_does_not_help(scene: Scene) -> None:
    twice = seal(forwarded(), "other.example", "arc=pass; dmarc=fail header.from=example.org")
    assert (await scene.judge(twice, trusted_arc=["list.example"])).refusal is not None
    both = await scene.judge(twice, trusted_arc=["list.example", "other.example"])
    assert (both.verdicts.arc, both.verdicts.overridden, both.refusal) == ("pass", True, None)


async def test_chain_when_long_then_all_seals_are_verified(scene: Scene) -> None:
    content = seal(MAIL, "list.example", LIST)
    for _ in range(9):
        content = seal(content, "list.example", f"arc=pass; {LIST}")
    assert (await scene.judge(content)).verdicts.arc == "pass"
    first = content.rindex(b"ARC-Seal: ")
    broken = content[:first] + content[first:].replace(b"; t=1", b"; t=2", 1)
    assert (await scene.judge(broken)).verdicts.arc == "fail"


async def test_judging_when_it_breaks_then_the_mail_is_taken_or_put_off(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from responder.authentication import examine

    async def fail(**_: Any) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(examine, "examine", fail)
    found = await scene.judge(mode="record")
    assert (found.verdicts.dmarc, found.fields, found.refusal) == ("temperror", b"", None)
    assert not found.deferral
    assert (await scene.judge()).deferral
    assert not (await scene.judge(user="ann")).deferral
