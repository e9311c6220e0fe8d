"""Sockets for a session: one connection to one IP address, or the first of several, and how long each step may take."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

from responder.clock import Clock

STAGGER: Final = 0.25
"""Seconds that an address is given before the next one is begun with as well (RFC 8305 5)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds (RFC 5321 4.5.3.2, which gives minimums for all but the first and the last two)."""

    connect: float = 30.0  # TCP alone; what does not answer by then has other addresses
    greeting: float = 300.0
    command: float = 300.0  # EHLO, MAIL, RCPT
    data: float = 120.0  # from DATA to 354
    block: float = 180.0  # for each block of content
    dot: float = 600.0  # an early hang-up here makes duplicates (RFC 1047)
    tls: float = 60.0  # a handshake that takes longer has failed
    farewell: float = 5.0  # QUIT and RSET: nothing depends on them
    whole: float = (
        3600.0  # one mail with all its steps, besides a second for each 1,000 octets: a host may drip for ever
    )


TIMEOUTS: Final = Timeouts()


async def dial(address: str, port: int, source_address: str, limit: float) -> socket.socket:
    """A socket connected to exactly this IP address, from `source_address` if there is one. Raises `OSError`, `ValueError`."""
    ip = ip_address(address)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if source_address:
            sock.bind((source_address, 0))
        async with asyncio.timeout(limit):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        # The address was judged before; the kernel takes some (0.0.0.0) for others.
        if ip_address(sock.getpeername()[0]).packed != ip.packed:
            raise OSError("another address was connected")
    except BaseException:
        sock.close()
        raise
    return sock


class Candidate(NamedTuple):
    """An address that may be connected, and where from ("": the kernel says)."""

    address: str
    source: str = ""


@dataclass(slots=True)
class Race:
    """How a race ended. Whoever gets it owns the socket."""

    sock: socket.socket | None = None
    winner: Candidate | None = None
    seconds: float = 0.0  # that the winner took
    begun: int = 0  # how many addresses were dialled
    failed: list[tuple[Candidate, OSError | ValueError]] = field(default_factory=list)
    outrun: list[Candidate] = field(default_factory=list)  # they had begun before the winner, and were not there yet


async def race(
    candidates: Sequence[Candidate], port: int, limit: float, clock: Clock, *, stagger: float = STAGGER
) -> Race:
    """Connect to the first that answers (RFC 8305).

    Each candidate is begun with in its turn: after `stagger` seconds, or as soon as one has failed. `limit`: seconds for each.
    Raises nothing but `CancelledError`; all sockets but the winner's are closed.
    """
    race = Race()
    if len(candidates) == 1:  # the usual case costs no task
        await _run_alone(race, candidates[0], port, limit, clock)
        return race
    waiting = deque(candidates)
    running: dict[asyncio.Task[socket.socket], tuple[Candidate, float]] = {}
    try:
        while race.winner is None and (waiting or running):
            if waiting:
                candidate = waiting.popleft()
                task = asyncio.create_task(dial(candidate.address, port, candidate.source, limit), name="dial")
                running[task] = candidate, clock.monotonic()
                race.begun += 1
            done, _ = await asyncio.wait(
                running, timeout=stagger if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in running if task in done]:
                candidate, began = running.pop(task)
                try:
                    sock = task.result()
                except (OSError, ValueError) as error:
                    race.failed.append((candidate, error))
                    continue
                race.sock, race.winner, race.seconds = sock, candidate, clock.monotonic() - began
                race.outrun = [other for task, (other, start) in running.items() if start < began and not task.done()]
                break
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close)  # it may have been connected by now
    return race


async def _run_alone(race: Race, candidate: Candidate, port: int, limit: float, clock: Clock) -> None:
    began = clock.monotonic()
    race.begun = 1
    try:
        race.sock = await dial(candidate.address, port, candidate.source, limit)
    except (OSError, ValueError) as error:
        race.failed.append((candidate, error))
    else:
        race.winner, race.seconds = candidate, clock.monotonic() - began


def _close(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
