"""What the outbound side is told: where mail that leaves goes, by which way, signed and encrypted how, and who may send."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from responder.config.names import parse_domain
from responder.config.tables import (
    Bool,
    Count,
    Domain,
    Duration,
    FieldName,
    FilePath,
    Hostname,
    IPAddress,
    IPNetwork,
    MaybeRate,
    Nameserver,
    Port,
    SenderDomain,
    Smarthost,
    SourceAddress,
    Span,
    Spans,
    Table,
    at,
    distinct,
)
from responder.config.units import DAY, HOUR, MINUTE, Rate

_CHANGED = ("received", "return-path", "dkim-signature", "authentication-results", "bcc", "delivered-to")


def _lasting(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses fields that hosts on the way add or change (RFC 6376 5.4.1): each such signature would break."""
    for name in names:
        if name.lower().startswith("arc-") or name.lower() in _CHANGED:
            raise ValueError(f"{name} is added or changed on the way: no signature may cover it")
    return names


def _one_of_each_family(addresses: tuple[str, ...]) -> tuple[str, ...]:
    if len({":" in address for address in addresses}) < len(addresses):
        raise ValueError("wants one IPv4 and one IPv6 address at the most")
    return addresses


def distinct_domains(value: object) -> object:
    """Refuses two keys that are one domain; a name that is no domain is left for its own validator."""
    seen: dict[str, str] = {}
    for spelling in value if isinstance(value, dict) else ():
        try:
            domain = parse_domain(spelling)
        except ValueError:
            continue
        if domain in seen:
            raise at((spelling,), f'is the domain "{seen[domain]}" in another spelling')
        seen[domain] = spelling
    return value


def holds_every_address(networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether these hold all IPv4 or all IPv6 addresses between them."""
    four = collapse_addresses([network for network in networks if isinstance(network, IPv4Network)])
    six = collapse_addresses([network for network in networks if isinstance(network, IPv6Network)])
    return any(network.prefixlen == 0 for network in four) or any(network.prefixlen == 0 for network in six)


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
    messages_per_connection: Count = 100
    rate: MaybeRate = None
    delay_warning: Span | None = None


class Provider(Table):
    """`[providers.NAME]`: who takes the mail of many domains, and what they bear."""

    suffixes: Annotated[tuple[Domain, ...], AfterValidator(distinct)] = ()  # of the names of their MX hosts
    connections: Count = 10
    messages_per_connection: Count | None = None  # None: delivery.messages_per_connection
    rate: MaybeRate = None  # None: delivery.rate


TLSMode = Literal["off", "opportunistic", "encrypted", "verified"]


class TLSPolicy(Table):
    """`[tls_policy]`: what a connection must have before mail leaves by it."""

    mode: TLSMode = "opportunistic"  # the least for all
    # In place of all else.
    domains: Annotated[dict[Domain, TLSMode], BeforeValidator(distinct_domains)] = Field(default={})
    mta_sts: Bool = True
    dane: Literal["auto", "on", "off"] = "auto"
    authorities: FilePath | None = None  # None: the system's
    reports: Bool = True


class Source(Table):
    """`[sources.DOMAIN]`: where mail of one of our domains comes from, and by which name it greets."""

    addresses: Annotated[tuple[IPAddress, ...], AfterValidator(_one_of_each_family)] = ()  # (): delivery.source_address
    hostname: Hostname | None = None  # None: the server's


class Suppression(Table):
    """`[suppression]`: for how long a mailbox is not written to that does not exist, or whose owner complains; 0s: off."""

    hard_bounce: Duration = 30 * DAY
    complaint: Duration = 365 * DAY


class Relay(Table):
    """`[relay]`: who may send mail to other domains through us. Nobody may unless it is said here."""

    networks: tuple[IPNetwork, ...] = ()
    users: Bool = False
    senders: Annotated[tuple[SenderDomain, ...], AfterValidator(distinct)] = ()  # (): `domains`
    per_user: MaybeRate = Rate(500, HOUR)
    per_address: MaybeRate = None


class DKIM(Table):
    """`[dkim]`: with which keys mail of ours is signed, and what its signatures cover (RFC 6376)."""

    keys: FilePath | None = None  # None: nothing is signed
    headers: Annotated[tuple[FieldName, ...], AfterValidator(_lasting)] = (
        *("From", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Reply-To"),
        *("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Auto-Submitted"),
    )
    expire: Span | None = None
