"""What stages compose is signed before it is stored: by which keys, by keys that change, or fail; and the keys' verbs."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.zone
import pytest

from responder.authentication import Authenticator
from responder.clock import SystemClock
from responder.config import DKIM, Authentication, Config
from responder.dns import Resolver
from responder.inbound.followed import FileError
from responder.mail.address import parse
from responder.mail.distribute import member_head
from responder.mail.headers import Headers
from responder.mail.lifecycle import Event, State
from responder.outbound.dkim import folder
from responder.outbound.dkim.folder import Entry
from responder.outbound.dkim.keys import SigningKey, generate
from responder.sealing import Sealer, SealingError, SigningKeys, from_domain, make_signing_keys
from responder.store.records import NewOutbound, Receipt, Settlement
from tests.support.clock import ManualClock
from tests.support.dns_server import DNSServer
from tests.support.operator import Operator, complains
from tests.support.server import configuration
from tests.support.signed import dkimpy_accepts, publish, signatures, tags
from tests.support.stages import configured, desk
from tests.support.waiting import Background

NOW = 1_700_000_000.0  # dkimpy refuses what was signed in its future
ANSWER = b"From: echo@test.example\r\nTo: a@far.example\r\nSubject: hello\r\n\r\nhello\r\n"


def write(place: Path, *domains: str, state: folder.State = "active", name: str = "") -> dict[str, str]:
    """Keys of both kinds; their records."""
    found: dict[str, str] = {}
    for domain in domains:
        keys = [generate(f"{kind}{name}", kind) for kind in ("ed25519", "rsa")]
        with folder.changing(place, domain, create=True):
            entries = folder.entries(place, domain)
            for key in keys:
                folder.add_key(place, domain, key)
                entries[key.selector] = Entry(state, 1.0)
            folder.write_entries(place, domain, entries)
        found |= {f"{key.selector}._domainkey.{domain}": key.record for key in keys}
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "dkim"


@pytest.fixture
def records(place: Path) -> dict[str, str]:
    return write(place, "test.example")


@pytest.fixture
def sealer(place: Path, records: dict[str, str]) -> Iterator[Sealer]:
    made = Sealer(DKIM(keys=place), SigningKeys(place), ManualClock(NOW))
    yield made
    made.close()


def row(kind: str = "answer", *, number: int = 0, path: str = "", head: str = "", content_id: str = "c") -> NewOutbound:
    to = f"m{number}@far.example"
    return NewOutbound(f"o{number}", kind, "i", "echo", content_id, path, to, "far.example", "", 0.0, 9.0, head=head)


def settled(kind: str = "answer", content: bytes = ANSWER, path: str = "") -> Settlement:
    return Settlement(Event.ANSWER, "x", (row(kind, path=path),), (("c", content),))


def signer(content: bytes) -> set[str]:
    return {tags(signature)["d"] for signature in signatures(content)}


# ---- what is signed, by whom


@pytest.mark.parametrize("kind", ["answer", "forward", "dsn"])
async def test_message_when_sealed_then_strangers_accept_it(sealer: Sealer, records: dict[str, str], kind: str) -> None:
    [(_, content)] = (await sealer.seal(settled(kind))).contents
    assert content.endswith(ANSWER) and dkimpy_accepts(content, records) == [True, True]


async def test_mail_handed_over_when_sealed_then_it_is_as_it_came(sealer: Sealer) -> None:
    settlement = settled("proxy")
    assert await sealer.seal(settlement) == settlement


async def test_content_when_lines_are_odd_then_what_is_stored_is_what_leaves(
    sealer: Sealer, records: dict[str, str]
) -> None:
    [(_, content)] = (await sealer.seal(settled(content=ANSWER + b"a\nb\rc\0 \t\r\n\n\n.\r\nlast"))).contents
    assert content.endswith(b"a\r\nb\r\nc \t\r\n\r\n\r\n.\r\nlast\r\n")
    assert dkimpy_accepts(content, records) == [True, True]


async def test_receipt_when_sealed_then_it_is_signed_as_well(sealer: Sealer, records: dict[str, str]) -> None:
    settlement = replace(settled(), receipt=Receipt(row("dsn", content_id="r"), ANSWER))
    receipt = (await sealer.seal(settlement)).receipt
    assert receipt is not None and dkimpy_accepts(receipt.content, records) == [True, True]


@pytest.mark.parametrize(
    ("author", "path", "expected"),
    [
        ("echo@test.example", "", "test.example"),
        ("Echo <echo@TEST.example>", "", "test.example"),
        ("echo@news.test.example", "bounces+1@far.example", "test.example"),  # the nearest above it
        ("echo@own.test.example", "", "own.test.example"),
        ("echo@nottest.example", "", ""),
        ("ann@far.example", "bounces+1@test.example", "test.example"),
        ("a@test.example, b@far.example", "", ""),
        ('"x@own.test.example" <echo@test.example>', "", "test.example"),
        ("echo@test.example (a@own.test.example)", "", "test.example"),
        ("nonsense", "", ""),
    ],
)
async def test_domain_when_chosen_then_it_is_that_of_from(
    place: Path, records: dict[str, str], author: str, path: str, expected: str
) -> None:
    write(place, "own.test.example")
    sealer = Sealer(DKIM(keys=place), SigningKeys(place), ManualClock(NOW))
    content = b"From: " + author.encode() + b"\r\n\r\nx\r\n"
    [(_, content)] = (await sealer.seal(settled(content=content, path=path))).contents
    sealer.close()
    assert signer(content) == ({expected} if expected else set())


def test_from_when_there_are_two_then_it_is_nobody_s() -> None:
    assert from_domain(b"From: a@test.example\r\nFrom: b@test.example\r\n\r\n") == ""


async def test_copies_of_a_list_when_sealed_then_each_covers_its_own_head(
    sealer: Sealer, records: dict[str, str]
) -> None:
    heads = [member_head(parse("list@test.example"), f"token{number}") for number in range(40)]
    copies = tuple([row("list", number=number, head=head) for number, head in enumerate(heads)])
    sealed = await sealer.seal(Settlement(Event.ANSWER, "x", copies, (("c", ANSWER),)))
    assert sealed.contents == (("c", ANSWER),)
    assert [(one.id, one.recipient) for one in sealed.outbound] == [(one.id, one.recipient) for one in copies]
    for one, head in zip(sealed.outbound, heads, strict=True):
        assert one.head.endswith(head) and "list-unsubscribe" in tags(signatures(one.head.encode() + ANSWER)[0])["h"]
        assert dkimpy_accepts(one.head.encode() + ANSWER, records) == [True, True]
    mixed = sealed.outbound[0].head.replace(heads[0], heads[1]).encode() + ANSWER
    assert dkimpy_accepts(mixed, records) == [False, False]


async def test_thousand_copies_when_sealed_then_the_loop_goes_on_and_others_are_not_kept_waiting(
    sealer: Sealer, records: dict[str, str]
) -> None:
    copies = tuple(
        [row("list", number=number, head=f"List-Unsubscribe: <mailto:{number}@x>\r\n") for number in range(1000)]
    )
    gaps, last = [], time.monotonic()
    task = asyncio.create_task(sealer.seal(Settlement(Event.ANSWER, "x", copies, (("c", ANSWER),))))
    waits = []
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        if len(gaps) % 20 == 0:
            await sealer.seal(settled())
            waits.append(time.monotonic() - now)
            last = time.monotonic()
    assert len((await task).outbound) == 1000
    print(f"longest gap {max(gaps) * 1000:.1f} ms, longest wait of another answer {max(waits) * 1000:.1f} ms")
    assert max(gaps) < 0.1 and len(waits) > 2  # a thousand at a stretch hold it for a quarter of a second
    assert max(waits) < 0.15


async def test_own_verifier_when_it_sees_ours_then_it_accepts_both(sealer: Sealer, records: dict[str, str]) -> None:
    [(_, content)] = (await sealer.seal(settled())).contents
    async with DNSServer({}) as server:
        publish(server.zone, records)
        resolver = Resolver([server.nameserver], clock=SystemClock(), timeout=2)
        clock = ManualClock(NOW)
        table = Authentication(mode="record")
        judgement = await Authenticator("mx.far.example", table, resolver, clock).judge(
            peer="192.0.2.1",
            helo="x.example",
            reverse_path="echo@test.example",
            headers=Headers.parse(content),
            content=content,
            user="",
        )
        await resolver.close()
    assert judgement.fields.count(b"dkim=pass") == 2


# ---- keys that change


def test_keys_when_a_rotation_is_done_then_it_is_followed_and_the_rest_not_read_again(place: Path) -> None:
    write(place, "test.example", "other.example")
    keys = SigningKeys(place)
    before = dict(keys.domains)
    assert not keys.refresh()
    write(place, "test.example", state="new", name="-2")
    keys.refresh()
    assert keys.domains["test.example"] == before["test.example"]  # new ones sign nothing
    with folder.changing(place, "test.example"):
        entries = folder.entries(place, "test.example")
        states: dict[str, folder.State] = {
            "rsa": "retired",
            "ed25519": "retired",
            "rsa-2": "active",
            "ed25519-2": "active",
        }
        folder.write_entries(place, "test.example", {name: Entry(states[name], 2.0) for name in entries})
    assert keys.refresh()
    assert [key.selector for key in keys.domains["test.example"]] == ["rsa-2", "ed25519-2"]
    assert keys.domains["other.example"][0] is before["other.example"][0]


@pytest.mark.parametrize("damage", ["key", "index", "gone", "folder"])
def test_keys_when_they_break_then_those_of_before_go_on(
    place: Path, records: dict[str, str], damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = SigningKeys(place)
    before = keys.domains
    inside = place / "test.example"
    if damage == "key":
        (inside / "rsa.pem").write_text("rubbish")
    elif damage == "index":
        (inside / "selectors.toml").write_text("rubbish")
    elif damage == "gone":
        (inside / "rsa.pem").unlink()
    else:
        inside.rename(inside.with_name("no domain"))
    assert not keys.refresh()
    assert keys.domains is before
    with pytest.raises(FileError, match=r"^dkim\.keys: "):
        SigningKeys(place)


def test_keys_when_there_is_no_folder_then_the_start_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate({"dkim": {"keys": str(tmp_path / "missing")}})
    with pytest.raises(FileError, match=r"dkim\.keys: .*missing: no such folder"):
        make_signing_keys(config)
    assert make_signing_keys(Config()) is None


def test_keys_when_the_folder_can_not_be_looked_at_then_the_start_is_refused_and_a_server_goes_on(
    place: Path, records: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=r"dkim\.keys: .*: File name too long"):
        SigningKeys(tmp_path / ("x" * 300))
    keys = SigningKeys(place)
    before = keys.domains
    (place / "other.example").symlink_to("x" * 300)  # as a folder above it without the right to look in
    assert not keys.refresh() and keys.domains is before and before


def test_keys_when_nobody_may_look_into_a_domain_then_it_is_refused_and_not_taken_for_unsigned(
    place: Path, records: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def listdir(path: Path) -> list[str]:
        if path == place / "test.example":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    def scandir(path: Path) -> Any:
        listdir(path)
        return real_scan(path)

    real, real_scan = os.listdir, os.scandir
    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(folder, "_read_index", lambda path: {})  # its file seems not to be there, either
    with pytest.raises(FileError, match=r"test\.example: Permission denied"):
        SigningKeys(place)


def test_remarks_when_somebody_reads_a_key_or_nobody_signs_then_they_say_so(
    place: Path, records: dict[str, str]
) -> None:
    short = generate("short", "rsa", 1024)
    with folder.changing(place, "test.example"):
        folder.add_key(place, "test.example", short)
        entries = folder.entries(place, "test.example")
        folder.write_entries(place, "test.example", entries | {"short": Entry("active", 1.0)})
    (place / "test.example" / "rsa.pem").chmod(0o644)
    keys = SigningKeys(place, ("test.example", "news.test.example", "far.example", "localhost"))
    said = [reason for _, reason in keys.remarks()]
    assert len(said) == 3
    assert said[0] == "no key signs for far.example: its mail leaves unsigned"
    assert any("rsa.pem: everybody on this machine can read it" in reason for reason in said)
    assert any("short.pem: 1024 bits are few" in reason for reason in said)


# ---- the stages


class Broken:
    """A private key whose hardware has gone."""

    def sign(self, *_: object) -> bytes:
        raise RuntimeError("no such token")


@pytest.fixture
async def broken(place: Path, records: dict[str, str]) -> AsyncIterator[Sealer]:
    keys = SigningKeys(place)
    keys.domains = {"test.example": (SigningKey("e", Broken()),)}  # type: ignore[arg-type]
    made = Sealer(DKIM(keys=place), keys, ManualClock(NOW))
    yield made
    made.close()


async def test_answer_when_it_is_stored_then_it_is_signed(
    tmp_path: Path, sealer: Sealer, records: dict[str, str]
) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        it.stage.sealer = sealer
        item = await it.put()
        await it.turn()
        assert (await it.end(item))[0] is State.ANSWERED
        [out] = await it.leaving()
        assert out.content is not None and dkimpy_accepts(out.content, records) == [True, True]


async def test_answer_when_it_can_not_be_signed_then_it_waits_and_is_never_lost_nor_unsigned(
    tmp_path: Path, sealer: Sealer, broken: Sealer, records: dict[str, str]
) -> None:
    async with desk(tmp_path, configured({"echo": "answer"})) as it:
        it.stage.sealer = broken
        item = await it.put()
        for _ in range(6):  # answering.attempts are 3
            await it.turn()
            state, reason = await it.end(item)
            assert state is State.RECEIVED and "not signed yet" in reason and "no such token" in reason
            assert not await it.leaving()
            it.clock.advance(120)
        it.stage.sealer = sealer
        await it.turn()
        assert (await it.end(item))[0] is State.ANSWERED
        [out] = await it.leaving()
        assert out.content is not None and dkimpy_accepts(out.content, records) == [True, True]


async def test_step_that_is_over_when_its_notification_can_not_be_signed_then_it_is_noted_all_the_same(
    tmp_path: Path, sealer: Sealer, broken: Sealer, records: dict[str, str]
) -> None:
    with pytest.raises(SealingError):
        await broken.seal(settled("dsn"))
    assert await broken.seal_or_tell(settled("dsn")) == settled("dsn")
    assert dkimpy_accepts((await sealer.seal_or_tell(settled("dsn"))).contents[0][1], records) == [True, True]


# ---- the verbs


@pytest.fixture
def domain(operator: Operator) -> Iterator[DNSServer]:
    """An operator whose configuration has a name server, and a folder for keys."""
    with Background() as background:
        server = background.enter(DNSServer({}))
        delivery = {"nameservers": [server.nameserver], "expire": "1h"}
        operator.write(configuration(dkim={"keys": "dkim"}, delivery=delivery))
        yield server


def states(operator: Operator) -> dict[str, str]:
    return {one["selector"]: one["state"] for one in operator("dkim", "list", "--json").json}


def test_keys_when_made_published_and_rotated_then_only_published_ones_sign(
    operator: Operator, domain: DNSServer
) -> None:
    made = operator("dkim", "new", "test.example", "--selector", "one", "--json").json
    assert list(made) == ["one-rsa._domainkey.test.example", "one-ed25519._domainkey.test.example"]
    early = operator("dkim", "activate", "test.example")
    assert (early.status, early.out) == (1, "") and "one-rsa: no record; one-ed25519: no record" in early.err
    publish(domain.zone, made | {"one-rsa._domainkey.test.example": generate("x", "rsa").record})
    domain.zone["one-ed25519._domainkey.test.example"]["TXT"].append("v=DKIM1; p=")
    domain.zone["one-rsa._domainkey.test.example"]["TTL"] = 0
    wrong = operator("dkim", "activate", "test.example")
    assert wrong.status == 1 and "one-rsa: another key; one-ed25519: 2 records" in wrong.err
    assert set(states(operator).values()) == {"new"}
    assert operator("dkim", "check").status == 0  # nothing signs yet
    publish(domain.zone, made)
    assert operator("dkim", "activate", "test.example").status == 0
    second = operator("dkim", "rotate", "test.example", "--json").json
    again = operator("dkim", "rotate", "test.example")
    assert again.status == 2 and "new keys wait already" in again.err
    publish(domain.zone, second)
    done = operator("dkim", "rotate", "test.example", "--activate")
    assert done.status == 0 and "leave the records of one-rsa, one-ed25519 in the DNS for 1h" in done.out
    found = states(operator)
    assert found["one-rsa"] == found["one-ed25519"] == "retired" and list(found.values()).count("active") == 2
    assert operator("dkim", "check").status == 0
    assert operator("dkim", "records", "test.example", "--json").json == made | second
    del domain.zone["one-rsa._domainkey.test.example"]  # mail that it has signed is on its way
    missing = operator("dkim", "check", "test.example", "--json")
    assert missing.status == 1 and {"selector": "one-rsa", "dns": "no record"}.items() <= missing.json[0].items()


def test_keys_when_removed_then_those_that_are_needed_stay(operator: Operator, domain: DNSServer) -> None:
    for name in ("one", "two"):
        operator("dkim", "new", "test.example", "--selector", name, "--algorithm", "rsa")
        assert operator("dkim", "activate", "test.example", "--force").status == 0
    refused = operator("dkim", "remove", "test.example", "one")
    assert refused.status == 2 and "mail that it has signed may be on its way" in refused.err
    refused = operator("dkim", "remove", "test.example", "two")
    assert refused.status == 2 and "two.pem: it signs" in refused.err
    place = operator.folder / "dkim"
    entries = folder.entries(place, "test.example")
    folder.write_entries(place, "test.example", entries | {"one": Entry("retired", time.time() - 3700)})
    removed = operator("dkim", "remove", "test.example")
    assert removed.out == "removed one; take one._domainkey.test.example out of the DNS\n"
    assert states(operator) == {"two": "active"} and not (place / "test.example" / "one.pem").exists()


def test_check_when_a_domain_signs_then_it_says_by_what_and_which_does_not(
    operator: Operator, domain: DNSServer
) -> None:
    operator("dkim", "new", "test.example", "--selector", "one", "--algorithm", "rsa")
    said = operator("check", "--json").json
    assert said["signing"] == {}
    assert "no key signs for test.example: its mail leaves unsigned" in [one["reason"] for one in said["notices"]]
    operator("dkim", "activate", "test.example", "--force")
    said = operator("check", "--json").json
    assert said["signing"] == {"test.example": ["one"]}
    assert not any("unsigned" in one["reason"] for one in said["notices"])
    assert "test.example   one" in operator("check").out
    (operator.folder / "dkim" / "test.example" / "one.pem").write_text("rubbish")
    complains(operator("check"), operator.file, "dkim.keys", "one.pem: is no private key in PEM")


def test_new_kind_when_activated_then_the_other_kind_goes_on_signing(operator: Operator, domain: DNSServer) -> None:
    for kind in ("rsa", "ed25519"):
        operator("dkim", "new", "test.example", "--selector", kind, "--algorithm", kind)
        operator("dkim", "activate", "test.example", "--force")
    assert states(operator) == {"rsa": "active", "ed25519": "active"}


def strings(record: Any) -> tuple[bytes, ...]:
    """Of a TXT record."""
    found: tuple[bytes, ...] = record.strings
    return found


def test_records_when_printed_then_a_zone_file_takes_them_and_no_key_is_private(
    operator: Operator, domain: DNSServer
) -> None:
    out = operator("dkim", "new", "test.example").out
    out += operator("dkim", "list").out + operator("dkim", "records", "test.example").out
    assert "PRIVATE" not in out
    text = operator("dkim", "records", "test.example").out
    found = dns.zone.from_text(f"$TTL 3600\n{text}", origin="test.example.", relativize=False, check_origin=False)
    said = {
        str(name).rstrip("."): b"".join(strings(record)).decode() for name, _, record in found.iterate_rdatas("TXT")
    }
    assert said == operator("dkim", "records", "test.example", "--json").json
    assert max(len(string) for _, _, record in found.iterate_rdatas("TXT") for string in strings(record)) <= 255


def test_help_when_nothing_is_configured_then_it_says_which_key_is_missing(operator: Operator) -> None:
    operator.write(configuration())
    complains(operator("dkim", "list"), operator.file, "dkim.keys", "unset")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("new", "localhost"), "DOMAIN"),
        (("new", "a b.example"), "DOMAIN"),
        (("new", "../x.example"), "DOMAIN"),
        (("new", "test.example", "--selector", "../../x"), "--selector"),
        (("rotate", "test.example", "--activate"), "there are no keys of this domain"),
        (("activate", "test.example", "nope"), "there are no keys of this domain"),
        (("records", "test.example"), "there are no keys of this domain"),
        (("remove", "test.example"), "there are no keys of this domain"),
    ],
)
def test_verb_when_it_is_used_badly_then_one_line_says_why(
    operator: Operator, domain: DNSServer, words: tuple[str, ...], reason: str
) -> None:
    result = operator("dkim", *words)
    assert result.status == 2 and reason in result.err and result.err.count("\n") == 1 and not result.out
    assert "PRIVATE" not in result.err
