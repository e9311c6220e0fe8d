"""Hosts, endpoints, networks, store addresses and inbox names as an operator writes them. Pure: nothing is looked up.

Every function raises `ValueError` with one line that says what is wanted; what may hold a password isn't repeated.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from responder.config.units import show
from responder.mail.address import Address, AddressError, domain_to_ascii, parse, unquote

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_UNIX_PATH = 107  # octets of sun_path on Linux, less its NUL (unix(7))

BOUNCES = "bounces"
"""The local part whose mail is our own bounces: kept, never answered, so no inbox may have it."""

_GLOB = re.compile(r"[*?]|\[!?[^\[\]]+\]")
_PATTERN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-\u0080-\U0010ffff]*")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291 2.5.5.2
_DESCRIPTOR = re.compile(r"[!-9;-~]{1,255}")  # systemd.socket(5); a colon divides them
_FIELD_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 2.2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (a name in A-labels, or an IP address without brackets) and a TCP or UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A Unix-domain socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class InheritedEndpoint:
    """Sockets that systemd has opened: all of a name, or the one of a number."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


def text(value: object) -> str:
    """The value, if it is a string that fits on one line."""
    if not isinstance(value, str):
        raise ValueError(f"wants a string, found {show(value)}")
    if any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in value):
        raise ValueError("wants a string of one line, without control characters")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("wants a string in UTF-8")
    return value


def parse_word(value: object) -> str:
    """A string that says something."""
    if not (name := text(value)):
        raise ValueError("wants a string that isn't empty")
    return name


def parse_path(value: object) -> Path:
    """A path as written: a relative one counts from the folder the program is started in."""
    if isinstance(value, Path):
        return value
    if not (name := text(value)):
        raise ValueError("wants a path, found an empty string")
    return Path(name)


def parse_domain(value: object) -> str:
    """A mail domain in lower case and with A-labels."""
    try:
        name = domain_to_ascii(text(value))
    except AddressError as error:
        raise ValueError(f"wants a domain, found {show(value)}: {error}") from None
    if name.rpartition(".")[2].isdigit():
        raise ValueError(f"wants a domain, found {show(value)}")
    return name


def parse_hostname(value: object) -> str:
    """A host name (RFC 1123 2.1: letters, digits, hyphens) in lower case and with A-labels; not an address."""
    name = parse_domain(value)
    if name.startswith("[") or "_" in name:
        raise ValueError(f"wants a host name, found {show(value)}")
    return name


def parse_ip(value: object) -> str:
    """An IPv4 or IPv6 address in its usual spelling."""
    try:
        return str(ipaddress.ip_address(text(value)))
    except ValueError:
        raise ValueError(f"wants an IP address, found {show(value)}") from None


def parse_network(value: object) -> Network:
    """A network (`10.0.0.0/8`) or one address; IPv4 in IPv6 (`::ffff:192.0.2.1`) becomes the IPv4 it stands for."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    wanted = f'wants an address or a network such as "192.0.2.0/24", found {show(value)}'
    try:
        network = ipaddress.ip_network(text(value), strict=False)
    except ValueError:
        raise ValueError(wanted) from None
    if network.network_address != ipaddress.ip_interface(text(value)).ip:
        raise ValueError(f'{wanted}; the network there is "{network}"')
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((network.network_address.packed[12:], network.prefixlen - 96))
    return network


def parse_endpoint(value: object, *, lowest_port: int = 1) -> Endpoint:
    """`host:port` or `[v6]:port`."""
    host, colon, port = text(value).rpartition(":")
    if not colon or not host or (":" in host and not host.startswith("[")):
        raise ValueError(f'wants "host:port" or "[v6]:port", found {show(value)}')
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and lowest_port <= int(port) <= 65535):
        raise ValueError(f"wants a port from {lowest_port} to 65535 behind the colon, found {show(value)}")
    return Endpoint(_host(host, value), int(port))


def parse_nameserver(value: object) -> Endpoint:
    """`ip:port`, or an address alone for port 53."""
    try:
        return Endpoint(parse_ip(value), 53)
    except ValueError:
        endpoint = parse_endpoint(value)
    try:
        return Endpoint(parse_ip(endpoint.host), endpoint.port)
    except ValueError:
        raise ValueError(f'wants an IP address and port such as "127.0.0.1:53", found {show(value)}') from None


def parse_listen(value: object) -> Endpoint | UnixEndpoint | InheritedEndpoint:
    """`host:port`, `[v6]:port`, `unix:PATH` or `systemd:NAME`; port 0 lets the system choose."""
    name = text(value)
    if name.startswith("systemd:"):
        if not _DESCRIPTOR.fullmatch(name := name.removeprefix("systemd:")):
            raise ValueError('wants "systemd:NAME" as in FileDescriptorName=, or "systemd:0" for the first socket')
        return InheritedEndpoint(str(int(name)) if name.isdigit() else name)
    if not name.startswith("unix:"):
        try:
            return parse_endpoint(name, lowest_port=0)
        except ValueError as error:
            if name.startswith((":", "*:")):
                raise ValueError(f'{error}; all addresses are "0.0.0.0:PORT" and "[::]:PORT"') from None
            raise
    path = name.removeprefix("unix:")
    if not path or path.endswith("/"):
        raise ValueError('wants "unix:PATH", found no file name')
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ValueError(f"wants a socket path of at most {MAX_UNIX_PATH} octets, found {len(path.encode())}")
    return UnixEndpoint(Path(path))


def parse_permissions(value: object) -> str:
    """The permissions of a file in octal, such as "0660", with four digits."""
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return value.rjust(4, "0")
    raise ValueError(f'wants permissions in octal such as "0660", as a string, found {show(value)}')


def parse_store(value: object) -> str:
    """`sqlite:PATH` or `postgresql://...`, as written."""
    store = text(value)
    kind, _, path = store.partition(":")
    if kind == "sqlite":
        if path.startswith("//"):
            raise ValueError('wants "sqlite:PATH" with a plain path: "sqlite:state/responder.db" or "sqlite:/var/..."')
        if path.startswith((":memory:", "file:")):
            raise ValueError('wants "sqlite:PATH" with a file: mail kept in memory would be lost')
        if not path or path.endswith("/"):
            raise ValueError('wants "sqlite:PATH", found no file name')
    elif not (store.startswith("postgresql://") and len(store) > len("postgresql://")):
        raise ValueError('wants "sqlite:PATH" or "postgresql://USER@HOST/DATABASE"')
    return store


def parse_mailbox(value: object) -> Address:
    """One address, `local@domain`."""
    if isinstance(value, Address):
        return value
    try:
        return parse(text(value))
    except AddressError as error:
        raise ValueError(f"wants an address such as someone@example.org: {error}") from None


def parse_target(value: object) -> str:
    """Where mail may be passed on to: an address, or a pattern of addresses such as `*@example.org` or `*`."""
    name = text(value)
    if "*" not in name:
        return str(parse_mailbox(name))
    local, at, domain = name.rpartition("@")
    if name == "*":
        return name
    if not at or not local or "*" in domain:
        raise ValueError(f'wants an address, "*@domain" or "*", found {show(value)}')
    return f"{local.casefold()}@{parse_domain(domain)}"


def parse_sender_domain(value: object) -> str:
    """A domain that mail may be sent as; `*` for any."""
    return "*" if value == "*" else parse_domain(value)


def parse_field_name(value: object) -> str:
    """A header field's name, without its colon."""
    if not _FIELD_NAME.fullmatch(name := text(value)):
        raise ValueError(f'wants a header name such as "X-Spam-Flag", found {show(value)}')
    return name


def parse_inbox(value: object) -> str:
    """An inbox name as it is compared: the local part case-folded and unquoted, the domain with A-labels.

    It is a local part, `local@domain`, or a glob pattern for the local part of either (`sales-*`, `*@example.org`, `*`).
    """
    name = text(value)
    local, at, domain = name.rpartition("@")
    if not at:
        local, domain = name, ""
    if is_pattern(local):
        if not _PATTERN.fullmatch(_GLOB.sub("*", local)):
            raise ValueError("is no inbox name: malformed pattern")
    else:
        try:
            parse(f"{local}@{domain or 'localhost'}")
        except AddressError as error:
            raise ValueError(f"is no inbox name: {error}") from None
    if at:
        try:
            domain = parse_domain(domain)
        except ValueError:
            raise ValueError(
                "is no inbox name: a pattern stands for the local part, and the domain must be one"
            ) from None
    local = unquote(local).casefold()
    if re.split(r"[+*?\[]", local, maxsplit=1)[0] == BOUNCES:
        raise ValueError(f'is reserved: mail to "{BOUNCES}" is what comes back undelivered, and nothing answers it')
    return f"{local}{at}{domain}"


def is_pattern(name: str) -> bool:
    """Whether an inbox name stands for many local parts (`fnmatch` syntax: `*`, `?`, `[seq]`)."""
    return any(letter in name for letter in "*?[")


def _host(host: str, value: object) -> str:
    if host.startswith("["):
        inner = host[1:-1]
        if not host.endswith("]") or ":" not in inner:
            raise ValueError(f'wants "[v6]:port", found {show(value)}')
        return parse_ip(inner)
    if host.replace(".", "").isdigit():
        return parse_ip(host)
    return parse_hostname(host)
