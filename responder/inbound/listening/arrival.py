"""A connection that a proxy makes for a client, until its header has said who that is: then a session takes it over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from responder.inbound.limits.addresses import is_in
from responder.inbound.listening.proxy import ProxyError, client_address, parse_header
from responder.inbound.profile import Profile
from responder.inbound.session import Session
from responder.inbound.sessions import Sessions
from responder.observe import event

PATIENCE = 5.0
"""Seconds that a header may take, and then up to the next sweep. A lost segment is sent again within three."""

SPARE = 32
"""Connections that may wait for their header when there are as many sessions as there may be."""


class Arrivals:
    """The connections of all proxies of one process that have not said yet for whom they are."""

    def __init__(self, shared: Sessions) -> None:
        self._shared = shared
        self._waiting: set[Arrival] = set()

    def factory(self, profile: Profile) -> Callable[[], Arrival]:
        """What makes the connections of a listener with `proxy_protocol = true`."""
        return lambda: Arrival(self._shared, profile, self._waiting)

    def sweep(self) -> None:
        """End those whose time is over."""
        ends = self._shared.clock.monotonic() - PATIENCE
        for one in list(self._waiting):
            if one.began <= ends:
                one.refuse("no PROXY header in time")

    def stop(self) -> None:
        """End all of them: none has begun anything."""
        for one in list(self._waiting):
            one.abort()


class Arrival(asyncio.Protocol):
    """One of them."""

    def __init__(self, shared: Sessions, profile: Profile, waiting: set[Arrival]) -> None:
        self._shared = shared
        self._profile = profile
        self._waiting = waiting
        self._buffer = bytearray()
        self._peername: Any = None
        self._transport: asyncio.Transport | None = None
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peername = transport.get_extra_info("peername")
        self.began = self._shared.clock.monotonic()
        proxies = self._profile.proxies or ()
        if self._peername is None:  # gone already
            transport.abort()  # type: ignore[attr-defined]
        elif self._address and not is_in(self._address, proxies):
            self.refuse("not one of the listed proxies")  # behind a Unix socket its mode has decided that
        elif len(self._waiting) >= self._room():
            self.refuse("too many connections without a PROXY header")
        else:
            self._waiting.add(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._buffer += data
        try:
            header = parse_header(self._buffer)
        except ProxyError as error:
            self.refuse(str(error))
            return
        if header is None:
            return
        self._waiting.discard(self)
        transport, self._transport = self._transport, None
        session = (self._profile.session or Session)(self._shared, self._profile)
        transport.set_protocol(session)
        client = header.client
        session.arrive(
            transport,
            self._peername if client is None else client,
            bytes(self._buffer[header.size :]),
            client is not None,
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._waiting.discard(self)
        self._transport = None

    def refuse(self, reason: str) -> None:
        """Close without a word: nobody who should be here speaks SMTP yet."""
        event("refused", peer=self._address, reason=reason)
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._waiting.discard(self)
        if self._transport is not None:
            self._transport.abort()

    def _room(self) -> int:
        """How many may wait: as many as there could be sessions of. A few always may, to be told that there are too many."""
        shared = self._shared
        return max(min(shared.limits.connections, shared.gatekeeper.room) - len(shared.open), SPARE)

    @property
    def _address(self) -> str:
        return client_address(self._peername[0]) if isinstance(self._peername, tuple) else ""
