"""What the inbound side is told: listeners, TLS, users, limits, blocklists, greylisting, authentication, checks, decoys."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict

from responder.config import names
from responder.config.names import Endpoint, InheritedEndpoint, UnixEndpoint
from responder.config.tables import (
    Bool,
    Count,
    Domain,
    Duration,
    FilePath,
    IPNetwork,
    ListenAddress,
    MaybeRate,
    Permissions,
    Span,
    Table,
    Text,
    Word,
    Zone,
    distinct,
)
from responder.config.units import DAY, HOUR, MINUTE, Rate

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
Octets = Annotated[int, Strict(), Field(ge=1, le=1 << 40)]


class Listen(Table):
    """`[[listen]]`: a socket that takes mail."""

    address: ListenAddress = "127.0.0.1:8025"
    mode: Permissions = "0660"  # of a Unix socket's file
    protocol: Literal["smtp", "smtps", "submission", "lmtp"] = "smtp"
    proxy_protocol: Bool = False
    proxies: tuple[IPNetwork, ...] = LOOPBACK  # whose PROXY header is believed; a Unix socket's always is
    auth: Literal["off", "offered", "required"] | None = None  # None: by the protocol
    dialect: Text = ""  # "": the server's
    decoy: Bool = False

    @property
    def login(self) -> Literal["off", "offered", "required"]:
        """Whether clients may or must authenticate (RFC 6409 4.3)."""
        return self.auth or ("required" if self.protocol == "submission" else "off")

    @property
    def path(self) -> Path | None:
        """The Unix-domain socket, where it is one; `host` and `port` are empty then."""
        endpoint = names.parse_listen(self.address)
        return endpoint.path if isinstance(endpoint, UnixEndpoint) else None

    @property
    def host(self) -> str:
        """A name or an IP address without brackets."""
        endpoint = names.parse_listen(self.address)
        return endpoint.host if isinstance(endpoint, Endpoint) else ""

    @property
    def port(self) -> int:
        """The TCP port; 0 lets the system choose."""
        endpoint = names.parse_listen(self.address)
        return endpoint.port if isinstance(endpoint, Endpoint) else 0

    @property
    def systemd(self) -> str:
        """The name, or the number from 0 on, of sockets that systemd has opened; "" where we open our own."""
        endpoint = names.parse_listen(self.address)
        return endpoint.name if isinstance(endpoint, InheritedEndpoint) else ""

    @property
    def permissions(self) -> int:
        """`mode` as a number."""
        return int(self.mode, 8)

    @property
    def lasting(self) -> tuple[object, ...]:
        """What can't change under a socket that is open."""
        return self.address, self.mode, self.protocol, self.proxy_protocol, self.decoy


class TLS(Table):
    """`[tls]`: the certificate that STARTTLS and `smtps` show. It is read again when a file changes."""

    certificate: FilePath
    key: FilePath
    minimum: Literal["1.2", "1.3"] = "1.2"


class Auth(Table):
    """`[auth]`: who may log in (RFC 4954)."""

    users: FilePath | None = None
    failures: MaybeRate = Rate(10, 10 * MINUTE)


class Limits(Table):
    """`[limits]`: what one client may cost."""

    message_size: Annotated[int, Strict(), Field(ge=1, le=1 << 29)] = 25 << 20  # octets; SQLite's rows end at 10^9
    in_flight: Octets = 256 << 20  # octets of all messages that are being received or stored
    recipients: Count = 100  # RFC 5321 4.5.3.1.8: not below 100 in public
    connections: Count = 1000
    connections_per_ip: Count = 50
    connection_rate: MaybeRate = Rate(100, MINUTE)
    message_rate: MaybeRate = None
    unknown_recipients: MaybeRate = Rate(20, 2 * MINUTE)
    tarpit: Duration = 5.0  # the longest delay of a reply to somebody who asks for unknown recipients
    same_subject: MaybeRate = None
    errors: Count = 20
    junk_commands: Count = 100  # commands between two mails that bring no mail nearer
    idle: Span = 5 * MINUTE  # RFC 5321 4.5.3.2.7: at least 5 minutes
    transaction: Span = 30 * MINUTE
    slowest: Octets = 1024  # octets a second: what a transaction brings earns it that much more time
    session: Span = HOUR
    hops: Count = 50
    bare_line_ends: Literal["refuse", "normalise"] = "refuse"
    deny: tuple[IPNetwork, ...] = ()
    deny_file: FilePath | None = None


class Blocklists(Table):
    """`[blocklists]`: DNS lists of addresses that mail is refused from (RFC 5782)."""

    zones: Annotated[tuple[Zone, ...], AfterValidator(distinct)] = ()
    timeout: Span = 5.0


class Greylist(Table):
    """`[greylist]`: first mail of an unknown sender is put off (RFC 6647)."""

    enabled: Bool = False
    delay: Span = 5 * MINUTE
    window: Span = 2 * DAY
    keep: Span = 35 * DAY


class Authentication(Table):
    """`[authentication]`: what SPF, DKIM, DMARC and ARC decide."""

    mode: Literal["off", "record", "enforce"] = "record"
    trusted_networks: tuple[IPNetwork, ...] = LOOPBACK
    trusted_arc: Annotated[tuple[Domain, ...], AfterValidator(distinct)] = ()
    timeout: Span = 10.0
    max_signatures: Annotated[int, Strict(), Field(ge=1, le=100)] = 8


class Check(Table):
    """`[checks.NAME]`: a plugin that is asked about clients and mails, in the order of the file."""

    check: Word | None = None  # None: the table's name
    timeout: Span = 10.0
    failure: Literal["defer", "ignore"] = "defer"
    settings: dict[str, Any] = Field(default={}, repr=False)  # the check's own model validates it


class Decoy(Table):
    """`[decoy]`: what listeners with `decoy = true` do."""

    auth: Literal["off", "accept", "refuse"] = "refuse"
    transcript: FilePath | None = None  # None: decoy.jsonl beside the database
    rotate: Octets = 100 << 20
    keep: Count = 10
    message: Octets = 1 << 20  # octets of a message that the transcript keeps
