"""Who is refused at the door: networks from the configuration, and from a file that is followed when it changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from responder.config.names import Network, parse_network
from responder.inbound.followed import FileError, FollowedFiles, read_file
from responder.inbound.limits.addresses import Networks, packed_address

MAX_FILE = 256 << 20  # octets: some ten million lines, more than any list has
_KEY = "limits.deny_file"


class DenyList(FollowedFiles):
    """The networks that are refused. The file has an address or a network a line; `#` begins a comment, anywhere in a line."""

    def __init__(self, networks: Sequence[Network], file: Path | None = None) -> None:
        """Raises `FileError`."""
        self._given = tuple(networks)
        super().__init__(*([file] if file is not None else []))

    def __contains__(self, peer: object) -> bool:
        """Whether an address (text) is refused."""
        return peer in self._networks

    def __len__(self) -> int:
        return len(self._networks)

    def _read(self) -> None:
        networks = Networks(self._given)
        for path in self._paths:
            try:
                lines = read_file(_KEY, path, MAX_FILE).decode().removeprefix("\ufeff").splitlines()
            except UnicodeDecodeError as error:
                raise FileError(_KEY, path, "is not UTF-8") from error
            for number, line in enumerate(lines, 1):
                entry = line.partition("#")[0].strip()
                if not entry:
                    continue
                try:
                    networks.add(*_parse(entry))
                except ValueError as error:
                    raise FileError(_KEY, path, f"line {number}: {error}") from None
        self._networks = networks


def _parse(text: str) -> tuple[bytes, int]:
    """The octets of an address and the length of its prefix. Raises `ValueError`."""
    address, slash, bits = text.partition("/")
    packed = packed_address(address) if "%" not in address else None
    if packed is not None and not slash:
        return packed, 8 * len(packed)
    if packed is not None and ":" not in address and bits.isascii() and bits.isdigit() and len(bits) <= 2:
        # As `parse_network` has it, ten times as fast: such files have lines by the hundred thousand.
        length = int(bits)
        if length <= 32 and not int.from_bytes(packed, "big") & (0xFFFFFFFF >> length):
            return packed, length
    network = parse_network(text)
    return network.network_address.packed, network.prefixlen
