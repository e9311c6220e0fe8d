"""Headers of the PROXY protocol as a proxy writes them."""

from __future__ import annotations

import ipaddress
import struct

from responder.inbound.listening.proxy import crc32c

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def text_header(client: str, port: int = 51234, target: str = "", target_port: int = 25) -> bytes:
    """Version 1."""
    family = "TCP6" if ":" in client else "TCP4"
    target = target or ("2001:db8::25" if ":" in client else "203.0.113.25")
    return f"PROXY {family} {client} {target} {port} {target_port}\r\n".encode()


def field(kind: int, value: bytes) -> bytes:
    """One field behind the addresses."""
    return struct.pack("!BH", kind, len(value)) + value


def block(block: bytes, kind: int, command: int = 0x21) -> bytes:
    """Version 2 with any content."""
    return SIGNATURE + struct.pack("!BBH", command, kind, len(block)) + block


def addresses(client: str, port: int) -> tuple[int, bytes]:
    """The kind and the addresses of a client that came by TCP."""
    packed = ipaddress.ip_address(client).packed
    target = bytes(len(packed) - 1) + b"\x19"
    return (0x11 if len(packed) == 4 else 0x21), packed + target + struct.pack("!HH", port, 25)


def binary_header(
    client: str, port: int = 51234, fields: bytes = b"", *, checksum: bool = False, wrong: int = 0
) -> bytes:
    """Version 2. `wrong` is added to the checksum."""
    kind, content = addresses(client, port)
    if not checksum:
        return block(content + fields, kind)
    whole = block(content + fields + field(3, bytes(4)), kind)
    return whole[:-4] + struct.pack("!I", (crc32c(whole) + wrong) & 0xFFFFFFFF)


LOCAL = block(b"", 0, 0x20)
