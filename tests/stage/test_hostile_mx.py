"""A host that fails at every step in every way, with and without PIPELINING and CHUNKING: what becomes of a mail to two.

The table is read so:

    ok      the host has taken the mail                  T  it waits (transient)      P  given up (permanent)
    ?       it may have arrived: offered to nobody else until the next attempt
    h m r   how far the failure reaches: host, message, recipient
    a/b     the first recipient's end and the second's
    +  -    the connection serves the next mail, or not
    ~       in plain text, on a second connection

So the next host is asked where there is a T, or Ph; never where there is ok, ?, Pm or Pr.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.mail.status import FailureError, Outcome
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.session import ClientSession
from responder.outbound.transport import MXTransport, Settings
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import SMTPSink

TABLE = """
             4xx     5xx     421  drop hang garbage 1mb  endless drip multi mixed extra
banner       Th-     Th-     Th-  Th-  Th-  Th-     Th-  Th-     Th-  ok+   Th-   Th-
EHLO         Th-     ok+     Th-  Th-  Th-  Th-     Th-  Th-     Th-  ok+   Th-   Th-
STARTTLS     ok+~    ok+~    ok+~ ok+~ ok+~ ok+~    ok+~ ok+~    ok+~ ok+   ok+~  ok+
handshake    ok+~    ok+~    ok+~ ok+~ ok+~ ok+~    ok+~ ok+~    ok+~ ok+~  ok+~  ok+~
EHLO-in-TLS  ok+~    ok+     ok+~ ok+~ ok+~ ok+~    ok+~ ok+~    ok+~ ok+   ok+~  Th-
MAIL         Tm+     Pm+     Th-  Th-  Th-  Th-     Th-  Th-     Th-  ok+   Th-   Th-
RCPT-first   Tr/ok+  Pr/ok+  Th-  Th-  Th-  Th-     Th-  Th-     Th-  ok+   Th-   Th-
RCPT-second  ok/Tr+  ok/Pr+  Th-  Th-  Th-  Th-     Th-  Th-     Th-  ok+   Th-   Th-
DATA         Tm+     Pm+     Th-  Th-  Th-  Th-     Th-  Th-     Th-  ok+   Th-   Th-
content      Tm-     Pm-     Th-  Th-  ?-   Th-     Th-  Th-     Th-  Th-   Th-   Th-
dot          Tm+     Pm+     Th-  ?-   ?-   ?-      ?-   ?-      ?-   ok+   ?-    ok-
RSET         Pr-     Pr-     Pr-  Pr-  Pr-  Pr-     Pr-  Pr-     Pr-  Pr+   Pr-   Pr-
QUIT         ok+     ok+     ok+  ok+  ok+  ok+     ok+  ok+     ok+  ok+   ok+   ok+
"""
# content, hang: the host goes on taking it, and says nothing behind the dot. multi: a 250 before the end is not believed.
# RSET, QUIT: what comes behind the last word about a mail changes nothing of it.

WAYS = {
    "4xx": "450 4.2.1 later",
    "5xx": "550 5.2.1 never",
    "421": "421 4.3.2 bye",
    "drip": "drip 0.1",
    **{way: way for way in ("drop", "hang", "garbage", "1mb", "endless", "multi", "mixed", "extra")},
}
STEPS = {"banner": "BANNER", "handshake": "HANDSHAKE", "content": "CONTENT", "dot": "DOT"}
MODES = {
    "one by one": (),
    "pipelining": ("PIPELINING",),
    "chunking": ("CHUNKING",),
    "both": ("PIPELINING", "CHUNKING"),
}
QUICK = Timeouts(*[0.7] * 8)  # for what has to time out; a reply octet by octet takes longer
PATIENT = Timeouts(*[30.0] * 8)
MAIL = Envelope("me@example.org", ("a@example.com", "b@example.com"), b"Subject: hello\r\n\r\nhello\r\n")
BIG = replace(MAIL, content=b"Subject: big\r\n\r\n" + (b"y" * 70 + b"\r\n") * 60_000)


def rows() -> dict[str, dict[str, str]]:
    """The table by step and way."""
    head, *lines = TABLE.strip("\n").splitlines()
    return {line.split()[0]: dict(zip(head.split(), line.split()[1:], strict=True)) for line in lines}


def end(result: RecipientResult) -> str:
    """One recipient's end, as the table has it."""
    if result.outcome is Outcome.SUCCESS:
        return "ok"
    if result.after_dot:
        return "?"
    return f"{'T' if result.outcome is Outcome.TRANSIENT else 'P'}{result.scope[0]}"


def fault(step: str, way: str) -> dict[str, list[str | None]]:
    """The script of a host that fails there so, the first time."""
    name, _, which = step.partition("-")
    script: dict[str, list[str | None]] = {
        STEPS.get(name, name): [*([None] if which in ("second", "in-TLS") else []), WAYS[way]]
    }
    if step == "RSET":
        script["RCPT"] = ["550 5.1.1 who"] * 2
    return script


async def cell(step: str, way: str, mode: str) -> str:
    """What becomes of the mail."""
    name = step.partition("-")[0]
    script = fault(step, way)
    tls = step in ("STARTTLS", "handshake", "EHLO-in-TLS")
    timeouts = QUICK if way in ("hang", "drip") else PATIENT
    extensions = ("8BITMIME", "ENHANCEDSTATUSCODES", *MODES[mode])
    async with SMTPSink(
        script, extensions=extensions, tls=tls, receive_buffer=1 << 14 if name == "content" else 0
    ) as sink:
        try:
            session = await ClientSession.connect(
                "sink.test", sink.address, sink.port, local_hostname="mx.example.org", timeouts=timeouts
            )
        except FailureError as error:
            failure = error.failure
            return end(RecipientResult.failed("", failure)) + "-"
        results = await session.send(BIG if name == "content" else MAIL)
        found = "/".join(dict.fromkeys([end(result) for result in results]))
        found += "+" if session.reusable else "-"
        if tls and not session.tls:
            assert session.tls_failure
            found += "~"
        await asyncio.wait_for(session.close(), 20)
        assert not session.reusable
        taken = len(sink.transactions)
        assert taken == ("ok" in found) or (found[0] == "?" and taken <= 1)
        return found


@pytest.mark.parametrize("step", rows())
async def test_host_fails_then_the_mail_ends_as_the_table_says(step: str) -> None:
    modes = [mode for mode in MODES if step != "DATA" or mode != "chunking"]  # there BDAT takes its place
    expected = {(mode, way): value for mode in modes for way, value in rows()[step].items()}
    found = await asyncio.gather(*[cell(step, way, mode) for mode, way in expected])
    assert dict(zip(expected, found, strict=True)) == expected


async def visits(step: str, way: str) -> tuple[bool, list[list[str]]]:
    """Whether the next host is connected, and whom each of both was given the mail for."""
    tls = step in ("STARTTLS", "handshake", "EHLO-in-TLS")
    clock = SystemClock()
    zone: Zone = {
        "example.com": {"MX": [[10, "mx1.example.com"], [20, "mx2.example.com"]]},
        "mx1.example.com": {"A": ["127.0.1.1"]},
        "mx2.example.com": {"A": ["127.0.1.2"]},
    }
    async with (
        DNSServer(zone) as names,
        SMTPSink(fault(step, way), address="127.0.1.1", tls=tls, receive_buffer=1 << 14) as first,
        SMTPSink(address="127.0.1.2", port=first.port) as second,
    ):
        timeouts = QUICK if way in ("hang", "drip") else PATIENT
        transport = MXTransport(
            Settings("mx.example.org", timeouts=timeouts),
            Resolver([names.nameserver], clock=clock),
            clock,
            port=first.port,
            allow_private=True,
        )
        await transport.send(BIG if step == "content" else MAIL)
        await transport.close()
        return second.connections > 0, [
            [recipient for mail in sink.transactions for recipient in mail.recipients] for sink in (first, second)
        ]


@pytest.mark.parametrize("step", rows())
async def test_host_fails_then_the_next_is_asked_for_whom_it_may_still_help(step: str) -> None:
    expected = rows()[step]
    found = await asyncio.gather(*[visits(step, way) for way in expected])
    for (way, value), (asked, (first, second)) in zip(expected.items(), found, strict=True):
        ends = value.rstrip("+-~").split("/")
        ends = ends if len(ends) == 2 else ends * 2
        waiting = [address for address, one in zip(MAIL.recipients, ends, strict=True) if one[0] == "T" or one == "Ph"]
        assert (way, asked, second) == (way, bool(waiting), waiting)
        if "?" not in ends:
            assert (way, first) == (way, [a for a, one in zip(MAIL.recipients, ends, strict=True) if one == "ok"])
