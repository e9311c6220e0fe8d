"""Clients' addresses: what counts as one, which lie in a list, and the file that lists those who are refused."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.config.zones import parse_zone
from responder.inbound.followed import FileError
from responder.inbound.limits.addresses import Networks, client_key, is_in
from responder.inbound.limits.blocklists import reversed_name
from responder.inbound.limits.denied import DenyList

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
NEAR = st.integers(0, 0xFFFF).map(lambda low: IPv4Address(0xC0000000 | low))  # so that some lie in a network
NETWORKS = st.lists(
    st.tuples(st.one_of(ADDRESSES, NEAR), st.integers(0, 128)).map(
        lambda pair: ip_network((pair[0], min(pair[1], pair[0].max_prefixlen)), strict=False)
    ),
    max_size=10,
)


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002::/64"),
        ("2001:db8:1:2::", "2001:0db8:0001:0002::/64"),
        ("fe80::1%eth0", "fe80:0000:0000:0000::/64"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_address_is_counted_by_what_one_client_has(peer: str, key: str) -> None:
    assert client_key(peer) == key


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_addresses_are_counted_as_one_where_their_64_bits_are(address: IPv6Address, low: int) -> None:
    if IPv6Network("::ffff:0:0/96").supernet(new_prefix=64).overlaps(IPv6Network((address, 128))):
        return
    other = IPv6Address(int(address) >> 64 << 64 | low)
    assert client_key(str(other)) == client_key(str(address))
    assert client_key(str(IPv6Address(int(address) ^ 1 << 64))) != client_key(str(address))


@given(NETWORKS, st.lists(st.one_of(ADDRESSES, NEAR), min_size=1, max_size=10))
def test_look_up_by_hash_finds_what_a_look_at_each_network_finds(
    networks: list[IPv6Network], addresses: list[IPv6Address]
) -> None:
    kept = [network for network in networks if not (network.version == 6 and network.overlaps(ip_network("::/64")))]
    table = Networks(kept)
    assert len(table) == len(set(kept))
    for address in [*addresses, *[network.network_address for network in kept], *[n.broadcast_address for n in kept]]:
        assert (str(address) in table) is is_in(str(address), kept)


def test_what_is_no_address_lies_nowhere() -> None:
    table = Networks([ip_network("0.0.0.0/0"), ip_network("::/0")])
    assert not any(peer in table for peer in ("", "nonsense", "1.2.3", "1.2.3.4.5", "1.2.3.4\0", "::1::", "01.2.3.4"))
    assert "::ffff:192.0.2.1" in table
    assert "fe80::1%eth0" in table
    assert "192.0.2.1" not in Networks([ip_network("::/0")])


# -- the deny list -----------------------------------------------------------------------------------------------------


def deny_file(folder: Path, text: str) -> Path:
    path = folder / "deny.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_has_addresses_networks_and_comments(tmp_path: Path) -> None:
    text = "# whom we know\n\n192.0.2.1\n198.51.100.0/24  # a whole one\r\n\t2001:db8::/32\n::ffff:203.0.113.7\n::1"
    denied = DenyList([ip_network("10.0.0.0/8")], deny_file(tmp_path, text))
    inside = ["192.0.2.1", "198.51.100.255", "2001:db8::9", "203.0.113.7", "::ffff:203.0.113.7", "::1", "10.1.2.3"]
    assert [peer in denied for peer in inside] == [True] * len(inside)
    assert not any(peer in denied for peer in ("192.0.2.2", "198.51.101.0", "2001:db9::", "::2", ""))
    assert len(denied) == 6


@pytest.mark.parametrize(
    "line",
    [
        "192.0.2.1/24",
        "192.0.2.1/33",
        "192.0.2",
        "example.org",
        "192.0.2.1/x",
        "2001:db8::/200",
        "192.0.2.0/-1",
        "1.2.3.4/",
        "/8",
    ],
)
def test_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: str) -> None:
    path = deny_file(tmp_path, f"192.0.2.7\n# more\n{line}\n")
    with pytest.raises(FileError) as caught:
        DenyList((), path)
    assert str(caught.value).startswith(f"limits.deny_file: {path}: line 3: wants an address or a network such as")
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        DenyList((), tmp_path / "none")
    (tmp_path / "odd").write_bytes(b"192.0.2.1\xff\n")
    with pytest.raises(FileError, match="is not UTF-8"):
        DenyList((), tmp_path / "odd")


def test_changed_file_is_followed_and_a_bad_one_leaves_the_old_list(tmp_path: Path) -> None:
    path = deny_file(tmp_path, "192.0.2.1\n")
    denied = DenyList((), path)
    assert not denied.refresh()
    deny_file(tmp_path, "192.0.2.1\n192.0.2.2\n")
    assert denied.refresh()
    assert "192.0.2.2" in denied
    deny_file(tmp_path, "192.0.2.3\nnonsense\n")
    assert not denied.refresh()
    path.unlink()
    assert not denied.refresh()
    assert "192.0.2.2" in denied
    assert "192.0.2.3" not in denied
    deny_file(tmp_path, "192.0.2.3\n")
    assert denied.refresh()
    assert "192.0.2.2" not in denied


def test_file_that_is_replaced_within_the_same_second_is_noticed(tmp_path: Path) -> None:
    path = deny_file(tmp_path, "192.0.2.1\n")
    denied = DenyList((), path)
    before = path.stat()
    other = tmp_path / "other"
    other.write_text("192.0.2.2\n", encoding="utf-8")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert denied.refresh()
    assert "192.0.2.2" in denied


# -- blocklists' zones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "listed", "unlisted"),
    [
        ("zen.example", ["127.0.0.1", "127.0.0.2", "127.1.2.3"], ["127.255.255.254", "192.0.2.1", "10.0.0.1"]),
        ("zen.example=127.0.0.2", ["127.0.0.2"], ["127.0.0.3", "127.0.1.2", "192.0.2.2"]),
        (
            "Zen.Example = 127.0.0.2, 127.0.0.10-11",
            ["127.0.0.2", "127.0.0.10", "127.0.0.11"],
            ["127.0.0.9", "127.0.0.12"],
        ),
        ("zen.example=127.0.0.0-255", ["127.0.0.0", "127.0.0.255"], ["127.0.1.0"]),
    ],
)
def test_zone_lists_by_the_answers_that_count(text: str, listed: list[str], unlisted: list[str]) -> None:
    zone = parse_zone(text)
    assert zone.name == "zen.example"
    assert [zone.lists(answer) for answer in listed] == [True] * len(listed)
    assert not any(zone.lists(answer) for answer in unlisted)
    assert parse_zone(str(zone)) == zone


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=127.0.0.2",
        "zen example",
        "zen.example=",
        "zen.example=127.0.0.2,",
        "zen.example=192.0.2.1",
        "zen.example=127.255.255.254",
        "zen.example=127.0.0.9-2",
        "zen.example=127.0.0.9-256",
        "zen.example=127.0.0.9-",
        "zen.example=2",
        "[192.0.2.1]",
        "192.0.2.1",
        ".".join(["a" * 60] * 4),
        7,
    ],
)
def test_zone_that_is_none_is_refused_in_one_line(text: object) -> None:
    with pytest.raises(ValueError, match="wants a") as caught:
        parse_zone(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("192.0.2.99", "99.2.0.192"),
        ("::ffff:192.0.2.99", "99.2.0.192"),
        (
            "2001:db8:1:2:3:4:567:89ab",
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2",
        ),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_name_that_is_asked_for_is_the_address_backwards(peer: str, name: str) -> None:
    assert reversed_name(peer) == name  # RFC 5782 2.1, 2.4
