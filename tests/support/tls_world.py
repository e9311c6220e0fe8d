"""A destination with real certificates: name server, SMTP hosts, the web server of its MTA-STS policy; and our way out."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from responder.departure import Shelf
from responder.dns import Resolver
from responder.mail.status import Failure
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.reach import refusal
from responder.outbound.tls.https import Web
from responder.outbound.tls.policy import Rules, SessionNote, TLSPolicies
from responder.outbound.tls.security import Level
from responder.outbound.tls.sts_cache import StsCache
from responder.outbound.transport import MXTransport, Settings
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.dns_server import DNSServer, Zone
from tests.support.http_server import HTTPServer, Said
from tests.support.smtp_sink import SMTPSink

DOMAIN = "example.com"
MX = "mx1.example.com"
POLICY_PATH = "/.well-known/mta-sts.txt"
SHORT = Timeouts(connect=2, greeting=2, command=2, data=2, block=2, dot=2, tls=2, farewell=1)
MAIL = Envelope("me@example.org", (f"you@{DOMAIN}",), b"Subject: hello\r\n\r\nhello\r\n")


class Authority:
    """One that gives certificates."""

    def __init__(self) -> None:
        self.ca = trustme.CA()

    def context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """A server with a certificate for these names, and the authority's own behind it."""
        return self.issued(*names, expired=expired)[0]

    def issued(
        self, *names: str, expired: bool = False, chain: bool = True, shown: Authority | None = None
    ) -> tuple[ssl.SSLContext, x509.Certificate]:
        """The same, and the certificate. `shown`: whose certificate stands behind it in place of our own."""
        now = datetime.now(UTC)
        begin, end = (now - timedelta(days=20), now - timedelta(days=10)) if expired else (None, None)
        issued = self.ca.issue_cert(*names, not_before=begin, not_after=end)
        certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pems = issued.private_key_pem.bytes() + b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        if chain:
            pems += (shown or self).ca.cert_pem.bytes()
        with trustme.Blob(pems).tempfile() as path:
            context.load_cert_chain(path)
        return context, certificate

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())


def tlsa(usage: int, selector: int, matching: int, certificate: x509.Certificate) -> list[int | str]:
    """A TLSA record that speaks of this certificate."""
    if selector:
        data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        data = certificate.public_bytes(Encoding.DER)
    if matching:
        data = hashlib.new({1: "sha256", 2: "sha512"}[matching], data).digest()
    return [usage, selector, matching, data.hex()]


def policy(mode: str = "enforce", *mx: str, max_age: int = 604_800) -> bytes:
    """A policy file."""
    lines = ["version: STSv1", f"mode: {mode}", *[f"mx: {name}" for name in mx or (MX,)], f"max_age: {max_age}"]
    return "\r\n".join([*lines, ""]).encode()


class World:
    """The whole of it. Hosts listen on `port`, each on a loopback address of its own."""

    def __init__(self, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.authority = Authority()
        self.zone: Zone = {DOMAIN: {"MX": []}}
        self.dns = DNSServer(self.zone)
        self.web = HTTPServer({POLICY_PATH: Said(body=policy())}, self.authority.context(f"mta-sts.{DOMAIN}"))
        self.notes: list[SessionNote] = []
        self.sinks: list[SMTPSink] = []
        self._stack = stack
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.authorities = folder / "ca.pem"
        self.authority.ca.cert_pem.write_to_path(str(self.authorities))

    async def host(self, tls: ssl.SSLContext | bool, name: str = "") -> SMTPSink:
        """The next host: mx1.example.com on 127.0.2.1, mx2 ..."""
        number = len(self.sinks) + 1
        name = name or f"mx{number}.{DOMAIN}"
        sink = SMTPSink(address=f"127.0.2.{number}", port=self.port, tls=tls)
        self.sinks.append(await self._stack.enter_async_context(sink))
        self.zone[DOMAIN]["MX"].append([10 * number, name])
        self.zone[name] = {"A": [sink.address]}
        return sink

    def publish(self, id_: str = "1", **entry: object) -> None:
        """Show the TXT record of MTA-STS, and the web server's address."""
        self.zone[f"_mta-sts.{DOMAIN}"] = {"TXT": [f"v=STSv1; id={id_};"], "TTL": 60} | entry
        self.zone[f"mta-sts.{DOMAIN}"] = {"A": ["127.0.0.1"]}

    def sign(self, *records: list[int | str], host: str = MX) -> None:
        """Sign the zone, and put a host's TLSA records into it."""
        if records:
            self.zone[f"_{self.port}._tcp.{host}"] = {"TLSA": list(records)}
        for entry in self.zone.values():
            if isinstance(entry, dict):
                entry["AD"] = True

    async def way(
        self,
        rules: Rules | None = None,
        *,
        limit: float = 2.0,
        allow_private: bool = True,
        web_port: int = 0,
        believe_ad: bool | None = None,
        nameserver: str = "",
    ) -> MXTransport:
        """A way out as a server that has just been started has it."""
        store = SQLiteStore(self.folder / "responder.db", self.clock)
        await store.open()
        self._stack.push_async_callback(store.close)
        resolver = Resolver([nameserver or self.dns.nameserver], clock=self.clock, timeout=1.5, believe_ad=believe_ad)

        def refused(address: str, port: int) -> Failure | None:
            return refusal(address, port, allow_private=allow_private)

        trusted = str(self.authorities)
        web = Web(resolver, refused, trusted, port=web_port or self.web.port, limit=limit)
        self.sts = StsCache(resolver, web, Shelf(store), self.clock)
        self._stack.push_async_callback(self.sts.close)
        rules = rules or Rules()
        rules = Rules(rules.least, rules.domains, rules.dane, trusted, self.port)
        policies = TLSPolicies(rules, resolver, self.sts, self.notes.append)
        settings = Settings("mx.example.org", timeouts=SHORT)
        transport = MXTransport(settings, resolver, self.clock, port=self.port, allow_private=True, policies=policies)
        self._stack.push_async_callback(transport.close)
        return transport

    def never_asked(self, *sinks: SMTPSink) -> bool:
        """Whether no host has heard a word of a mail."""
        said = {verb for sink in sinks or self.sinks for verb in sink.verbs()}
        return not said & {"MAIL", "RCPT", "DATA", "BDAT"}


async def send(way: MXTransport, mail: Envelope = MAIL) -> RecipientResult:
    """One mail to one recipient, on a new connection."""
    (result,) = await way.send(mail)
    await way.pool.close_all()
    way.pool._closed = False
    return result


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """For the length of a block."""
    async with contextlib.AsyncExitStack() as stack:
        it = World(folder, stack)
        await stack.enter_async_context(it.dns)
        stack.enter_context(it.web)
        yield it


__all__ = ["DOMAIN", "MAIL", "MX", "POLICY_PATH", "Authority", "Level", "World", "policy", "send", "tlsa", "world"]
