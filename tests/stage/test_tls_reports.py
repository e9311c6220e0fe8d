"""TLS reports with a real store, name server and web server: counted, kept, sent once."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from responder.config import Config
from responder.dns import Resolver
from responder.mail.message import Message
from responder.mail.tlsrpt import DAY
from responder.outbound.tls.https import Web
from responder.outbound.tls.policy import PolicyUsed, SessionNote
from responder.outbound.tls.security import Insecure
from responder.store.base import StoreUnavailableError
from responder.store.records import OutboundItem
from responder.store.sqlite import SQLiteStore
from responder.tlsreports import FLUSH, INBOX, LATEST, MAX_OF_ONE, TLSReports
from tests.support.clock import ManualClock
from tests.support.dns_server import DNSServer
from tests.support.http_server import HTTPServer, Said
from tests.support.stores import claim_out
from tests.support.tls_world import Authority

CONFIG = Config.model_validate({"hostname": "mx.example.org", "domains": ["example.org"]})
USED = PolicyUsed("sts", "example.com", ("version: STSv1",), ("mx1.example.com",), "example.com")
WELL = SessionNote(USED, "mx1.example.com", "198.51.100.7")
BADLY = SessionNote(USED, "mx1.example.com", "198.51.100.7", why=Insecure("certificate-expired", "it has expired"))
RECORD = "_smtp._tls.example.com"


class Scene:
    """One store; `start` gives what a server that begins has."""

    def __init__(self, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self.clock = ManualClock()
        self.dns = DNSServer({RECORD: {"TXT": ["v=TLSRPTv1; rua=mailto:reports@example.com"]}})
        self.web = HTTPServer({"/take": Said(201)}, Authority().context("other"))
        self.store = SQLiteStore(folder / "responder.db", self.clock)
        self.authorities = folder / "ca.pem"
        self._stack = stack

    def start(self) -> TLSReports:
        reports = TLSReports(self.store, self.clock)
        resolver = Resolver([self.dns.nameserver], clock=self.clock, timeout=1)
        web = Web(resolver, lambda address, port: None, str(self.authorities), port=self.web.port, limit=2)
        reports.configure(CONFIG, resolver, web)
        return reports

    def next_day(self) -> None:
        self.clock.advance(DAY - self.clock.now() % DAY + LATEST + 1)

    async def kept(self) -> dict[str, str]:
        return await self.store.values_below(INBOX, "")

    async def leaving(self) -> list[OutboundItem]:
        return await claim_out(self.store, "post")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        it = Scene(tmp_path, stack)
        await stack.enter_async_context(it.dns)
        stack.enter_context(it.web)
        await it.store.open()
        stack.push_async_callback(it.store.close)
        yield it


def packed(item: OutboundItem) -> Any:
    assert item.content is not None
    part = Message(item.content).attachments[0]
    return json.loads(gzip.decompress(part.data))


async def test_day_is_over_then_one_report_is_queued_to_whom_the_record_names(scene: Scene) -> None:
    reports = scene.start()
    for note in (WELL, WELL, BADLY):
        reports.note(note)
    await reports.flush()
    await reports.send()
    assert await scene.leaving() == []  # the day goes on
    scene.next_day()
    await reports.send()
    await reports.send()
    (item,) = await scene.leaving()
    assert (item.kind, item.recipient, item.domain, item.return_to) == (
        "report",
        "reports@example.com",
        "example.com",
        "",
    )
    assert item.reverse_path == f"bounces+{item.id}@example.org"
    (policy,) = packed(item)["policies"]
    assert policy["summary"] == {"total-successful-session-count": 2, "total-failure-session-count": 1}
    assert policy["failure-details"][0]["result-type"] == "certificate-expired"
    assert await scene.kept() == {}


async def test_reports_wait_for_some_time_behind_midnight(scene: Scene) -> None:
    reports = scene.start()
    reports.note(WELL)
    await reports.flush()
    scene.clock.advance(DAY - scene.clock.now() % DAY + 60)
    await reports.send()
    assert await scene.leaving() == []


async def test_server_is_killed_between_then_what_was_stored_is_counted_once(scene: Scene) -> None:
    first = scene.start()
    first.note(WELL)
    await first.flush()
    first.note(WELL)  # lost with it
    second = scene.start()
    second.note(BADLY)
    await second.flush()
    await second.flush()
    scene.next_day()
    await scene.start().send()
    await scene.start().send()
    (item,) = await scene.leaving()
    (policy,) = packed(item)["policies"]
    assert policy["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 1}


async def test_two_processes_count_and_send_then_it_is_one_report_of_both(scene: Scene) -> None:
    one, other = scene.start(), scene.start()
    one.note(WELL)
    other.note(WELL)
    await asyncio.gather(one.flush(), other.flush())
    scene.next_day()
    await asyncio.gather(one.send(), other.send())
    (item,) = await scene.leaving()
    (policy,) = packed(item)["policies"]
    assert policy["summary"]["total-successful-session-count"] == 2


async def test_process_dies_within_the_transaction_then_the_report_is_sent_by_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = scene.start()
    reports.note(WELL)
    await reports.flush()
    scene.next_day()

    def broken(*_: object) -> None:
        raise OSError("the plug was pulled")

    with monkeypatch.context() as patch:
        patch.setattr("responder.store.sqlite.work.write", broken)
        with contextlib.suppress(Exception):
            await reports.send()
    assert await scene.leaving() == []
    await scene.start().send()
    assert len(await scene.leaving()) == 1


async def test_store_does_not_work_then_counts_wait_in_memory(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = scene.start()
    reports.note(WELL)

    async def broken(*_: object) -> bool:
        raise StoreUnavailableError("no")

    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "remember", broken)
        await reports.flush()
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    await reports.send()
    (item,) = await scene.leaving()
    assert packed(item)["policies"][0]["summary"]["total-successful-session-count"] == 2


@pytest.mark.parametrize("record", [None, {"TXT": ["v=spf1 -all"]}, {"TXT": ["v=TLSRPTv1; rua=mailto:nobody"]}])
async def test_nobody_wants_a_report_then_none_is_made_and_nothing_is_kept(
    scene: Scene, record: dict[str, list[str]] | None
) -> None:
    scene.dns.zone.clear()
    if record is not None:
        scene.dns.zone[RECORD] = record
    reports = scene.start()
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    await reports.send()
    assert (await scene.leaving(), await scene.kept()) == ([], {})


async def test_name_server_fails_then_the_report_waits_and_is_given_up_in_the_end(scene: Scene) -> None:
    scene.dns.zone[RECORD] = "SERVFAIL"
    reports = scene.start()
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    await reports.send()
    assert len(await scene.kept()) == 1
    scene.clock.advance(3 * DAY)
    await reports.send()
    assert (await scene.leaving(), await scene.kept()) == ([], {})


async def test_session_carried_a_report_then_it_is_not_counted(scene: Scene) -> None:
    reports = scene.start()
    reports.note(SessionNote(PolicyUsed(), "mx1.example.com"))
    await reports.flush()
    assert await scene.kept() == {}


async def test_record_names_a_web_server_then_it_is_handed_over_there(scene: Scene) -> None:
    authority = Authority()
    authority.ca.cert_pem.write_to_path(str(scene.authorities))
    scene.web.context = authority.context("reports.example.com")
    scene.dns.zone[RECORD] = {"TXT": ["v=TLSRPTv1; rua=https://reports.example.com/take"]}
    scene.dns.zone["reports.example.com"] = {"A": ["127.0.0.1"]}
    reports = scene.start()
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    await reports.send()
    await reports.send()
    (request,) = scene.web.requests
    assert (request.method, request.headers["content-type"]) == ("POST", "application/tlsrpt+gzip")
    assert json.loads(gzip.decompress(request.body))["policies"][0]["policy"]["policy-domain"] == "example.com"
    assert (await scene.leaving(), await scene.kept()) == ([], {})


async def test_web_server_does_not_take_it_then_it_is_tried_again(scene: Scene) -> None:
    authority = Authority()
    authority.ca.cert_pem.write_to_path(str(scene.authorities))
    scene.web.context = authority.context("reports.example.com")
    scene.web.routes["/take"] = [Said(503), Said(200)]
    scene.dns.zone[RECORD] = {"TXT": ["v=TLSRPTv1; rua=https://reports.example.com/take"]}
    scene.dns.zone["reports.example.com"] = {"A": ["127.0.0.1"]}
    reports = scene.start()
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    await reports.send()
    assert len(await scene.kept()) == 1
    scene.clock.advance(FLUSH)
    await reports.send()
    assert (len(scene.web.requests), await scene.kept()) == (2, {})


async def test_web_server_never_takes_it_then_it_is_asked_ever_more_seldom(scene: Scene) -> None:
    """Anybody's record may name anybody's server."""
    authority = Authority()
    authority.ca.cert_pem.write_to_path(str(scene.authorities))
    scene.web.context = authority.context("reports.example.com")
    scene.web.routes["/take"] = Said(503)
    scene.dns.zone[RECORD] = {"TXT": ["v=TLSRPTv1; rua=https://reports.example.com/take"]}
    scene.dns.zone["reports.example.com"] = {"A": ["127.0.0.1"]}
    reports = scene.start()
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    for _ in range(int(2 * DAY / FLUSH)):
        await reports.send()
        scene.clock.advance(FLUSH)
    assert 10 <= len(scene.web.requests) <= 20  # RFC 8460 5.4 wants a day's


async def test_domain_has_names_without_number_then_its_victim_gets_few_reports(scene: Scene) -> None:
    reports = scene.start()
    for number in range(100):
        name = f"s{number}.evil.example"
        wanted = ",".join(f"mailto:Victim+{number}.{n}@target.example" for n in range(5))
        scene.dns.zone[f"_smtp._tls.{name}"] = {"TXT": [f"v=TLSRPTv1; rua={wanted}"]}
        reports.note(SessionNote(PolicyUsed(domain=name, recipient=name), "mx"))
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    await reports.send()
    await reports.send()
    items = await scene.leaving()
    assert len([item for item in items if item.domain == "target.example"]) == MAX_OF_ONE
    assert len([item for item in items if item.domain == "example.com"]) == 1
    assert await scene.kept() == {}


async def test_domains_are_without_number_then_memory_is_bounded(scene: Scene) -> None:
    reports = scene.start()
    for number in range(30_000):
        domain = f"d{number}.example"
        reports.note(SessionNote(PolicyUsed(domain=domain, recipient=domain), "mx"))
    assert len(reports._counted) == 10_000


async def test_server_is_stopped_then_what_was_counted_is_stored(scene: Scene) -> None:
    reports = scene.start()
    task = asyncio.create_task(reports.run())
    await asyncio.sleep(0)
    reports.note(WELL)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert len(await scene.kept()) == 1


async def test_keys_are_there_then_the_report_is_signed(scene: Scene) -> None:
    async def sign(content: bytes, domain: str) -> bytes:
        assert content.startswith(b"Date: ")
        return f"DKIM-Signature: d={domain}\r\n".encode()

    reports = scene.start()
    reports.sign = sign
    reports.note(WELL)
    await reports.flush()
    scene.next_day()
    await reports.send()
    (item,) = await scene.leaving()
    assert item.content is not None
    assert item.content.startswith(b"DKIM-Signature: d=example.org\r\nDate: ")
