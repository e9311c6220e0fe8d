"""`responder.verify()`: what is known of addresses, for programs. The verb of the command line asks by the same `probe`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from ipaddress import ip_address

from responder.clock import Clock, SystemClock
from responder.dns import Resolver
from responder.mail.address import domain_to_ascii, parse
from responder.outbound.dial import Timeouts
from responder.outbound.verifying.ledger import Plan
from responder.outbound.verifying.probe import Probe
from responder.outbound.verifying.station import BATCH
from responder.outbound.verifying.verification import Verification


async def verify(
    addresses: Iterable[str],
    *,
    hostname: str,
    sender: str = "",
    source_address: str = "",
    nameservers: Sequence[str] = (),
    port: int = 25,
    allow_private_addresses: bool = False,
    max_recipients: int = 100,
    concurrency: int = 50,
    wait: float = 300.0,
    tries: int = 3,
    catch_all: bool = True,
    timeout: float = 30.0,
    pause: float = 1.0,
    clock: Clock | None = None,
) -> AsyncGenerator[Verification, None]:
    """Each of the addresses (but repeated ones) with what is known of it, as it becomes known. Sends no mail.

    `hostname` is the name that is said in HELO; `sender` the reverse-path ("" or "<>": the null one). `wait` is the time in
    seconds before what a host puts off is asked again (0: it is not), `tries` how often it is asked in all; `timeout` is for
    each step of a session, `pause` between two sessions with one host. Raises `ValueError` where an argument can't be.
    """
    if isinstance(addresses, str):
        raise ValueError("addresses: wants a list of them, not one string")
    plan = make_plan(
        hostname=hostname,
        sender=sender,
        source_address=source_address,
        port=port,
        allow_private=allow_private_addresses,
        max_recipients=max_recipients,
        wait=wait,
        tries=tries,
        catch_all=catch_all,
        timeout=timeout,
        pause=pause,
    )
    clock = clock or SystemClock()
    resolver = Resolver(nameservers, clock=clock)
    async with contextlib.aclosing(Probe(plan, resolver, clock, concurrency).run(addresses)) as batches:
        async for batch in batches:
            for verification in batch:
                yield verification


def verify_all(addresses: Iterable[str], *, hostname: str, **options: object) -> list[Verification]:
    """`verify` for programs without an event loop: all at once, when the last is known."""

    async def collect() -> list[Verification]:
        return [one async for one in verify(addresses, hostname=hostname, **options)]  # type: ignore[arg-type]

    if asyncio._get_running_loop() is not None:
        raise RuntimeError("verify_all is for programs without an event loop: use `async for one in verify(...)` here")
    return asyncio.run(collect())


@contextlib.contextmanager
def _named(argument: str) -> Iterator[None]:
    """Says which argument can't be."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None


def make_plan(
    *,
    hostname: str,
    sender: str = "",
    source_address: str = "",
    port: int = 25,
    allow_private: bool = False,
    max_recipients: int = 100,
    wait: float = 300.0,
    tries: int = 3,
    catch_all: bool = True,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Plan:
    """The arguments of `verify`, examined. Raises `ValueError`."""
    reverse_path = "" if sender == "<>" else sender
    with _named("sender"):
        if reverse_path:
            parse(reverse_path)
    with _named("source address"):
        if source_address:
            ip_address(source_address)
    with _named("host name"):
        hostname = domain_to_ascii(hostname)
    # Not the other way round: NaN is neither above zero nor below.
    if not (max_recipients >= 1 <= tries and 0 < port < 65536 and wait >= 0 <= pause and timeout > 0):
        raise ValueError("max_recipients, tries, port and timeout must be above zero, wait and pause not below")
    return Plan(
        hostname,
        reverse_path,
        source_address,
        port,
        allow_private,
        max_recipients,
        wait,
        tries,
        catch_all,
        pause,
        Timeouts(timeout, timeout, timeout, tls=timeout, farewell=min(timeout, 5.0), whole=BATCH * timeout),
    )
