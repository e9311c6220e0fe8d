"""A name server for tests: a scripted zone over loopback UDP and TCP, in the process or as a program of its own.

A zone is a dictionary, so that it can be JSON:

    {
        "example.org": {"MX": [[10, "mx.example.org"]], "TTL": 60},
        "mx.example.org": {"A": ["127.0.0.1"], "AAAA": "SERVFAIL"},
        "www.example.org": {"CNAME": "mx.example.org"},
        "null.example": {"MX": [[0, "."]]},
        "broken.example": "SERVFAIL",
        "silent.example": "TIMEOUT",
        "_25._tcp.mx.signed.example": {"TLSA": [[3, 1, 1, "<hex>"]], "AD": True},
    }

`AD`: the answer says that DNSSEC has found it valid, where the question asked (all names that an alias leads to must have it).

A text in place of records (or of all types) is what goes wrong: NXDOMAIN, SERVFAIL, REFUSED, TIMEOUT (no answer), GARBAGE (bytes
that are no DNS message). Names that are not in the zone don't exist. The dictionary may be changed while the server runs.

    python -m tests.support.dns_server ZONE.json PORT      (SIGHUP reads the zone again)
"""

from __future__ import annotations

import asyncio
import json
import signal
import struct
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = dict[str, Any]

MAX_UDP: Final = 512  # RFC 1035 4.2.1
TTL: Final = 60


class DNSServer:
    """`async with DNSServer({...}) as server:` listens on `server.nameserver` until the block ends."""

    def __init__(self, zone: Zone, *, address: str = "127.0.0.1", port: int = 0, chase: bool = True) -> None:
        self.zone = zone
        self.address = address
        self.port = port
        self.chase = chase  # follow a CNAME, as a recursive server does
        self.queries: Counter[tuple[str, str]] = Counter()  # (name, type)
        self.tcp_queries = 0
        self.asked_ad = False  # whether the last question did
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    @property
    def nameserver(self) -> str:
        """The address as a configuration has it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    async def __aenter__(self) -> DNSServer:
        wanted = self.port
        for attempt in range(20):
            loop = asyncio.get_running_loop()
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _UDP(self), (self.address, wanted))
            self.port = self._udp.get_extra_info("sockname")[1]
            try:
                self._tcp = await asyncio.start_server(self._serve_tcp, self.address, self.port)
            except OSError:  # the free UDP port is taken in TCP
                self._udp.close()
                if wanted or attempt == 19:
                    raise
            else:
                break
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._udp is not None and self._tcp is not None
        self._udp.close()
        self._tcp.close()

    def respond(self, query: bytes, limit: int) -> bytes | None:
        """The answer on the wire, cut down to `limit` octets with the TC flag; None is silence."""
        message = dns.message.from_wire(query)
        question = message.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.queries[name, rdtype] += 1
        response = dns.message.make_response(message, recursion_available=True)
        self.asked_ad = bool(message.flags & dns.flags.AD)
        rcode = self._fill(response, name, rdtype, 0)
        if self.asked_ad and self._signed(response, name):
            response.flags |= dns.flags.AD
        if rcode == "TIMEOUT":
            return None
        if rcode == "GARBAGE":
            return query[:2] + b"\xff" * 20
        response.set_rcode(dns.rcode.from_text(rcode))
        wire = response.to_wire(max_size=65535)
        if len(wire) > limit:
            response = dns.message.make_response(message, recursion_available=True)
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        return wire

    def _signed(self, response: dns.message.Message, name: str) -> bool:
        names = [name, *[rrset.name.to_text(omit_final_dot=True).lower() for rrset in response.answer]]
        entries = [self.zone.get(each) for each in names]
        return all(isinstance(entry, dict) and entry.get("AD") for entry in entries)

    def _fill(self, response: dns.message.Message, name: str, rdtype: str, depth: int) -> str:
        """Adds records to the response; returns its code, or what else happens."""
        entry = self.zone.get(name)
        if entry is None:
            exists = any(other.endswith(f".{name}") for other in self.zone)  # an empty non-terminal (RFC 8020)
            _add(response.authority, name, TTL, "SOA", [_SOA])
            return "NOERROR" if exists else "NXDOMAIN"
        if isinstance(entry, str):
            return entry
        ttl = entry.get("TTL", TTL)
        if "CNAME" in entry and rdtype != "CNAME":
            _add(response.answer, name, ttl, "CNAME", [_absolute(entry["CNAME"])])
            target = entry["CNAME"].lower().removesuffix(".")
            return self._fill(response, target, rdtype, depth + 1) if self.chase and depth < 20 else "NOERROR"
        if "CNAME" in entry:
            _add(response.answer, name, ttl, "CNAME", [_absolute(entry["CNAME"])])
            return "NOERROR"
        records = entry.get(rdtype, [])
        if isinstance(records, str):
            return records if rdtype != "CNAME" else "NOERROR"
        if records:
            _add(response.answer, name, ttl, rdtype, [_PRESENTATION.get(rdtype, str)(record) for record in records])
        else:
            _add(response.authority, name, ttl, "SOA", [_SOA])
        return "NOERROR"

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = self.respond(await reader.readexactly(length), 65535)
                self.tcp_queries += 1
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class _UDP(asyncio.DatagramProtocol):
    def __init__(self, server: DNSServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        answer = self._server.respond(data, MAX_UDP)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


_SOA: Final = "ns.invalid. hostmaster.invalid. 1 3600 600 86400 30"  # negative answers hold for 30 seconds
_PRESENTATION: Final = {
    "MX": lambda record: f"{record[0]} {_absolute(record[1])}",
    "TXT": lambda record: _strings(record),
    "PTR": lambda record: _absolute(record),
    "TLSA": lambda record: " ".join(str(part) for part in record),
}


def _strings(record: str | list[str]) -> str:
    """A TXT record as a zone file has it: a text is cut into strings of 255 octets, a list names them (RFC 1035 3.3.14)."""
    strings = [text.encode() for text in ([record] if isinstance(record, str) else record)]
    pieces = [text[start : start + 255] for text in strings for start in range(0, max(len(text), 1), 255)]
    return " ".join('"' + "".join([f"\\{octet:03d}" for octet in piece]) + '"' for piece in pieces)


def _absolute(name: str) -> str:
    return name if name.endswith(".") else f"{name}."


def _add(section: list[dns.rrset.RRset], name: str, ttl: int, rdtype: str, texts: list[str]) -> None:
    section.append(dns.rrset.from_text_list(_absolute(name or "."), ttl, "IN", rdtype, texts))


async def _main(path: Path, port: int) -> None:
    server = DNSServer(json.loads(path.read_text()), port=port)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    loop.add_signal_handler(signal.SIGINT, done.set)

    def reload() -> None:
        server.zone = json.loads(path.read_text())

    loop.add_signal_handler(signal.SIGHUP, reload)
    async with server:
        print(f"ready {server.nameserver}", flush=True)
        await done.wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
