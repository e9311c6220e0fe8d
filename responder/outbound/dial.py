"""Sockets for a session: one connection to one IP address, and how long each step may take."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final


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


TIMEOUTS: Final = Timeouts()


async def dial(address: str, port: int, source_address: str, limit: float) -> socket.socket:
    """A socket connected to exactly this IP address, from `source_address` if there is one. Raises `OSError`, `ValueError`."""
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if source_address:
            sock.bind((source_address, 0))
        async with asyncio.timeout(limit):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
