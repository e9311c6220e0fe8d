"""What the outbound side is told: where mail that leaves goes, by which way, signed and encrypted how, and who may send."""

from __future__ import annotations

from typing import Literal

from responder.config.tables import Bool, Count, Nameserver, Port, Smarthost, SourceAddress, Span, Spans, Table
from responder.config.units import DAY, HOUR, MINUTE


class Delivery(Table):
    """`[delivery]`: where mail that leaves goes, and how long that is tried."""

    transport: Literal["mx", "smarthost", "print"] = "mx"
    smarthost: Smarthost = ""
    port: Port = 25
    nameservers: tuple[Nameserver, ...] = ()
    allow_private_addresses: Bool = False
    source_address: SourceAddress = ""
    retry: Spans = (MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 4 * HOUR)
    expire: Span = 5 * DAY  # RFC 5321 4.5.4.1: at least 4 to 5 days
    concurrency: Count = 64
    connections_per_host: Count = 10
