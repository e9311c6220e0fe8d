"""What a valid configuration asks for that is still to come, or that its operator may not have meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from responder.config.model import Config
from responder.config.names import parse_nameserver


@dataclass(frozen=True, slots=True)
class Notice:
    """One remark on one key. `fatal`: going on without it would be unsafe, so the server doesn't start."""

    key: str
    reason: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def unsupported(config: Config) -> list[Notice]:
    """The remarks on a configuration, fatal ones first."""
    found = [Notice(key, reason, True) for key, reason in _fatal(config)]
    return found + [Notice(key, reason, False) for key, reason in _doubtful(config)]


def _fatal(config: Config) -> Iterator[tuple[str, str]]:
    """What an operator relies on once it is set, and isn't done yet."""
    if config.sqlite_path is None:
        yield "store", 'PostgreSQL is not supported yet: use "sqlite:PATH"'


def _doubtful(config: Config) -> Iterator[tuple[str, str]]:
    if config.processes > 1:
        yield "processes", "only one process runs yet: set 1"
    if not config.inboxes:
        yield "inboxes", "there is none, so every recipient is refused: add [inboxes.NAME]"
    for name, inbox in config.inboxes.items():
        if inbox.kind in ("personal", "group") and inbox.answer_to == "from":
            yield f"inboxes.{name}.answer_to", f"a {inbox.kind} inbox answers to the reverse-path only (RFC 5230 4.6)"
    for number, listen in enumerate(config.listen):
        if listen.proxy_protocol and any(network.prefixlen == 0 for network in listen.proxies):
            yield f"listen[{number}].proxies", "holds every address: anybody can claim to be somebody else"
        if listen.decoy and listen.auth:
            yield f"listen[{number}].auth", "does nothing on a decoy: set decoy.auth"
        if listen.path is None and "mode" in listen.model_fields_set:
            yield f"listen[{number}].mode", "is for Unix sockets: does nothing here"
        if not listen.proxy_protocol and "proxies" in listen.model_fields_set:
            yield f"listen[{number}].proxies", "does nothing without proxy_protocol = true"
    if config.auth.users and not any(listen.login != "off" and not listen.decoy for listen in config.listen):
        yield "auth.users", 'nobody can log in: set auth or protocol = "submission" for a listener'
    if config.limits.message_size < 65536:
        yield "limits.message_size", "other servers rely on 65536 octets at least (RFC 5321 4.5.3.1.7)"
    if config.reply.per_sender is None and config.reply.per_conversation is None:
        yield "reply", "with per_sender and per_conversation off no breaker stops a loop"
    if any(network.prefixlen == 0 for network in config.authentication.trusted_networks):
        yield "authentication.trusted_networks", "holds every address: nobody's mail is judged"
    relay = config.relay
    if any(network.prefixlen < (8 if network.version == 4 else 16) for network in relay.networks):
        yield "relay.networks", "is wider than any network of your own: all of it may send mail through this server"
    if relay.users and not any(listen.login != "off" and not listen.decoy for listen in config.listen):
        yield "relay.users", 'nobody can log in: set auth or protocol = "submission" for a listener'
    delivery = config.delivery
    if delivery.transport == "mx":
        if "." not in config.hostname or config.hostname.endswith(".localdomain"):
            yield "hostname", "other servers refuse one that greets by such a name: set the public name of your address"
        if config.dkim.keys is None:
            yield "dkim.keys", "unset: what leaves isn't signed, and many hosts take it for spam: see docs/signing.md"
        if delivery.allow_private_addresses:
            yield "delivery.allow_private_addresses", "whoever owns a domain can have mail sent into your own network"
    policy = config.tls_policy
    weak = {"tls_policy.mode": policy.mode} | {f'tls_policy.domains."{name}"': m for name, m in policy.domains.items()}
    for key, mode in weak.items():
        if mode == "off" or (mode == "opportunistic" and key != "tls_policy.mode"):
            yield key, f'"{mode}" holds even where the domain asks for more, by DANE or MTA-STS'
    servers = [ip_address(parse_nameserver(server).host) for server in delivery.nameservers]
    if policy.dane == "on" and not all(server.is_loopback for server in servers):
        yield (
            "tls_policy.dane",
            "is on with name servers elsewhere: whoever is on the way to them can forge what they say",
        )
    if config.dkim.expire is not None and config.dkim.expire <= delivery.expire:
        yield "dkim.expire", "comes before delivery.expire: what waits for so long leaves with a signature that is void"
    if delivery.expire < delivery.retry[0]:
        yield "delivery.expire", "comes before the first retry: nothing is tried twice"
