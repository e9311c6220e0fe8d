"""Every key of the configuration, its type and its default: frozen models that refuse what they don't know.

Durations are seconds (float), a rate is `Rate` or None for "off", networks are `ipaddress` networks. Relative paths count
from the folder the program is started in. `docs/configuration.md` says what each key means; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Strict, model_validator
from pydantic.fields import FieldInfo

from responder.config.departure import (
    DKIM,
    Delivery,
    Provider,
    Relay,
    Source,
    Suppression,
    TLSPolicy,
    distinct_domains,
    holds_every_address,
)
from responder.config.reception import (
    TLS,
    Auth,
    Authentication,
    Blocklists,
    Check,
    Decoy,
    Greylist,
    Limits,
    Listen,
)
from responder.config.tables import (
    Bool,
    Count,
    Domain,
    Duration,
    FieldName,
    FilePath,
    Hostname,
    InboxName,
    Mailbox,
    MaybeRate,
    Span,
    Spans,
    StoreAddress,
    Table,
    Target,
    Text,
    Upstream,
    Word,
    at,
    distinct,
    one_spelling,
    some,
)
from responder.config.units import DAY, MINUTE, Rate


class Inbox(Table):
    """`[inboxes.NAME]`: which agent answers there, and within which bounds."""

    agent: Word
    kind: Literal["service", "personal", "group"] | None = None  # None: the agent's own
    interval: Duration | None = None  # None: the agent's own, else that of [reply]
    answer_to: Literal["reverse-path", "from"] = "reverse-path"
    display_name: Text = ""
    addresses: tuple[Mailbox, ...] = ()  # of the same person or group, for personal agents
    targets: tuple[Target, ...] = ()
    upstream: Upstream = ""
    timeout: Span | None = None  # None: that of [answering]
    concurrency: Count | None = None  # None: that of [answering]
    isolated: Bool | None = None  # None: the agent's own
    settings: dict[str, Any] = Field(default={}, repr=False)  # the agent's own model validates it


class Reply(Table):
    """`[reply]`: how often an answer may leave, and how it leaves."""

    interval: Duration = 0.0
    per_sender: MaybeRate = Rate(30, 10 * MINUTE)
    per_conversation: MaybeRate = Rate(20, 10 * MINUTE)
    per_inbox: MaybeRate = None
    reverse_path: Literal["bounce", "null"] = "bounce"
    answer_postmaster: Bool = False
    trusted_spam_headers: tuple[FieldName, ...] = ()


class Answering(Table):
    """`[answering]`: how agents are run."""

    timeout: Span = 30.0
    concurrency: Count = 64
    per_inbox: Count = 32
    memory: Annotated[int, Strict(), Field(ge=32 << 20, le=1 << 50)] = (
        512 << 20
    )  # octets of one isolated worker process
    attempts: Count = 5
    retry: Spans = (10.0, MINUTE, 5 * MINUTE, 30 * MINUTE)


class Queue(Table):
    """`[queue]`: how long work is claimed, and how long what is done is kept."""

    lease: Span = 30.0
    keep_answered: Duration = 7 * DAY
    keep_failed: Duration = 30 * DAY


class Log(Table):
    """`[log]`: what is said on standard error."""

    format: Literal["auto", "text", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Table):
    """The whole configuration. `responder.config.load` makes it from files and environment."""

    hostname: Hostname = "localhost"
    domains: Annotated[tuple[Domain, ...], AfterValidator(some), AfterValidator(distinct)] = ("localhost",)
    store: StoreAddress = Field(default="sqlite:state/responder.db", repr=False)  # a PostgreSQL one may hold a password
    plugins: tuple[FilePath, ...] = (Path("plugins"),)
    broken_plugins: Literal["refuse", "skip"] = "refuse"
    processes: Annotated[int, Strict(), Field(ge=1, le=256)] = 1
    dialect: Text = "generic"
    listen: Annotated[tuple[Listen, ...], AfterValidator(some)] = (Listen(),)
    tls: TLS | None = None
    auth: Auth = Auth()
    limits: Limits = Limits()
    blocklists: Blocklists = Blocklists()
    greylist: Greylist = Greylist()
    inboxes: Annotated[Mapping[InboxName, Inbox], BeforeValidator(one_spelling)] = Field(default={})
    reply: Reply = Reply()
    answering: Answering = Answering()
    authentication: Authentication = Authentication()
    checks: Mapping[Word, Check] = Field(default={})
    decoy: Decoy = Decoy()
    delivery: Delivery = Delivery()
    providers: Mapping[Word, Provider] = Field(default={})
    tls_policy: TLSPolicy = TLSPolicy()
    sources: Annotated[Mapping[Domain, Source], BeforeValidator(distinct_domains)] = Field(default={})
    dkim: DKIM = DKIM()
    relay: Relay = Relay()
    suppression: Suppression = Suppression()
    queue: Queue = Queue()
    log: Log = Log()

    @property
    def sqlite_path(self) -> Path | None:
        """The database file of a `sqlite:` store."""
        kind, _, path = self.store.partition(":")
        return Path(path) if kind == "sqlite" else None

    @property
    def state_folder(self) -> Path:
        """Where what is kept besides the store goes (the mails of `transport = "print"`): beside the database file."""
        path = self.sqlite_path
        return path.parent if path else Path("state")

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.delivery.transport == "smarthost" and not self.delivery.smarthost:
            raise at(("delivery", "smarthost"), 'wants "host:port", because transport = "smarthost"')
        if self.greylist.window <= self.greylist.delay:
            raise at(("greylist", "window"), "must be longer than greylist.delay: nobody could pass")
        if self.limits.in_flight < self.limits.message_size:
            raise at(("limits", "in_flight"), "wants room for one mail at least: limits.message_size")
        for number, network in enumerate(self.relay.networks):
            if network.prefixlen == 0:
                raise at(("relay", "networks", number), "holds every address: that would be an open relay")
        if holds_every_address(self.relay.networks):  # in pieces
            raise at(("relay", "networks"), "hold every address together: that would be an open relay")
        for name in self.inboxes:
            domain = name.rpartition("@")[2]
            if "@" in name and domain not in self.domains:
                raise at(("inboxes", name), f'"{domain}" is not among domains')
        for number, listen in enumerate(self.listen):
            if listen.protocol == "lmtp" and listen.port == 25:
                raise at(("listen", number, "protocol"), '"lmtp" must not be spoken on port 25 (RFC 2033 5)')
            if listen.proxy_protocol and not listen.path and not listen.proxies:
                raise at(
                    ("listen", number, "proxies"), "wants the networks of the proxies, because proxy_protocol = true"
                )
            if listen.protocol == "smtps" and self.tls is None:
                raise at(("listen", number, "protocol"), '"smtps" wants a certificate: set [tls]')
            if listen.login == "off" or listen.decoy:
                continue
            key = "auth" if listen.auth else "protocol"
            if self.tls is None:
                raise at(("listen", number, key), "authentication is for TLS alone (RFC 4954 4): set [tls]")
            if self.auth.users is None:
                raise at(("listen", number, key), "authentication wants to know whom: set auth.users")
        addresses = [listen.path.absolute() if listen.path else listen.address for listen in self.listen]
        for number, listen in enumerate(self.listen):
            if addresses[number] in addresses[:number] and (listen.port or listen.path or listen.systemd):
                raise at(("listen", number, "address"), f'"{listen.address}" is listened on twice')
        return self


def fields_of(table: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The keys of one table."""
    return table.model_fields


def below(annotation: Any, key: str | int) -> Any:
    """The type of what stands at `key` within a value of type `annotation`; Any where the models don't say."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = fields_of(annotation)
        return fields[key].annotation if isinstance(key, str) and key in fields else Any
    if get_origin(annotation) in (Union, UnionType) and len(parts) == 1:
        return below(parts[0], key)
    if is_list(annotation):
        return parts[0]
    return parts[1] if is_map(annotation) else Any


def is_map(annotation: Any) -> bool:
    """Whether a value of this type is a table whose keys the operator chooses."""
    return get_origin(annotation) in (dict, Mapping)


def is_list(annotation: Any) -> bool:
    """Whether a value of this type is written as a list."""
    return get_origin(annotation) is tuple


def table_in(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds: itself, one of many, or one behind names; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := table_in(part))), None)


def schema_keys(table: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that holds a value, as `limits.idle`, `listen.address` (of each) or `inboxes.NAME.agent`."""
    for key, field in fields_of(table).items():
        inner = table_in(field.annotation)
        if inner is None:
            yield f"{prefix}{key}", field
        else:
            yield from schema_keys(inner, f"{prefix}{key}.NAME." if is_map(field.annotation) else f"{prefix}{key}.")
