"""Values as an operator writes them: durations, rates, endpoints, networks, stores, inbox names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.config import Config, format_duration, is_pattern, parse_duration
from responder.config.names import parse_inbox, parse_listen
from responder.config.units import MAX_DURATION, Rate, parse_rate


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0s", 0),
        ("90s", 90),
        ("1m", 60),
        ("4h", 14400),
        ("7d", 604800),
        ("2w", 1209600),
        ("250ms", 0.25),
        ("1.5h", 5400),
        (" 5 m ", 300),
        (90, 90),
        (0.5, 0.5),
        (0, 0),
    ],
)
def test_duration_when_well_formed_then_seconds(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "90",
        "s",
        "-1s",
        "1 hour",
        "1h30m",
        "٣s",
        "1e3s",
        -1,
        True,
        float("nan"),
        float("inf"),
        10**400,
        [],
        None,
        "1s\n1",
        "999999999999w",
    ],
)
def test_duration_when_malformed_then_one_line_says_so(value: object) -> None:
    with pytest.raises(ValueError, match=r"^wants .*found .*$"):
        parse_duration(value)


@settings(max_examples=60)
@given(st.integers(0, int(MAX_DURATION)) | st.integers(0, 10_000).map(lambda n: n / 4))
def test_duration_when_formatted_then_it_reads_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@settings(max_examples=60)
@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_rate_when_formatted_then_it_reads_back(count: int, seconds: int) -> None:
    assert parse_rate(str(Rate(count, seconds))) == Rate(count, seconds)


@pytest.mark.parametrize(
    "value", ["", "100", "0/1m", "5/0s", "100/", "/1m", "1.5/1m", "-1/1m", "OFF", False, 100, "1/1m/1m"]
)
def test_rate_when_malformed_then_one_line_says_so(value: object) -> None:
    with pytest.raises(ValueError, match=r"^wants .*off.*found .*$"):
        parse_rate(value)


@pytest.mark.parametrize(
    ("address", "host", "port", "path"),
    [
        ("127.0.0.1:8025", "127.0.0.1", 8025, None),
        ("MX.Example.ORG:25", "mx.example.org", 25, None),
        ("bücher.example:25", "xn--bcher-kva.example", 25, None),
        ("[::1]:0", "::1", 0, None),
        ("unix:state/smtp.sock", "", 0, Path("state/smtp.sock")),
        ("unix:/run/a:1", "", 0, Path("/run/a:1")),
        ("[fe80::1%eth0]:25", "fe80::1%eth0", 25, None),
        ("systemd:smtp", "", 0, None),
        ("systemd:0", "", 0, None),
    ],
)
def test_listen_when_well_formed_then_host_and_port_or_path(
    address: str, host: str, port: int, path: Path | None
) -> None:
    (listen,) = Config.model_validate({"listen": [{"address": address}]}).listen
    assert (listen.host, listen.port, listen.path) == (host, port, path)
    assert str(parse_listen(listen.address)) == listen.address


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":25",
        "25",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "::1:25",
        "[::1]",
        "[::1:25",
        "[1.2.3.4]:25",
        "256.1.1.1:25",
        "1.2.3:25",
        "ho st:25",
        "a_b:25",
        "unix:",
        "unix:/",
        f"unix:/{'x' * 107}",
        "systemd:",
        "systemd:a:b",
        "systemd:a b",
        f"systemd:{'x' * 256}",
        "host:25\n",
        "host:２5",
    ],
)
def test_listen_when_malformed_then_one_line_says_so(address: str) -> None:
    with pytest.raises(ValueError, match=r"^wants [^\n]*$"):
        parse_listen(address)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Echo", "echo"),
        ("Sales-*", "sales-*"),
        ("*", "*"),
        ("*@Example.ORG", "*@example.org"),
        ("team-[A-C]?", "team-[a-c]?"),
        ('"Some One"@example.org', "some one@example.org"),
        ("info@Bücher.example", "info@xn--bcher-kva.example"),
        ("bounces-team", "bounces-team"),
        ("b*", "b*"),
    ],
)
def test_inbox_name_when_well_formed_then_as_it_is_compared(written: str, name: str) -> None:
    assert parse_inbox(written) == name
    assert is_pattern(name) == any(letter in written for letter in "*?[")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "@",
        "a@",
        "@example.org",
        "a b",
        "a..b",
        "a[b",
        "a]*",
        "[]*",
        "a @b",
        "* *",
        "a@*.org",
        "a\n",
        "a\x00*",
        "é" * 33,
        "Bounces",
        "bounces@example.org",
        "bounces+x",
        "bounces*",
        "bounces?",
        "bounces[a]",
        '"bounces"',
    ],
)
def test_inbox_name_when_malformed_or_reserved_then_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|wants) "):
        parse_inbox(name)


def test_networks_when_ipv4_is_written_in_ipv6_then_it_is_ipv4() -> None:
    config = Config.model_validate({"limits": {"deny": ["::ffff:192.0.2.1", "::ffff:10.0.0.0/104", "2001:db8::/32"]}})
    assert [str(network) for network in config.limits.deny] == ["192.0.2.1/32", "10.0.0.0/8", "2001:db8::/32"]


def test_nameserver_when_without_port_then_53() -> None:
    config = Config.model_validate({"delivery": {"nameservers": ["192.0.2.1", "::1", "[::1]:5353", "127.0.0.1:5353"]}})
    assert config.delivery.nameservers == ("192.0.2.1:53", "[::1]:53", "[::1]:5353", "127.0.0.1:5353")


@pytest.mark.parametrize(
    ("store", "path", "folder"),
    [("sqlite:a/b.db", "a/b.db", "a"), ("sqlite:b.db", "b.db", "."), ("postgresql://h/d", None, "state")],
)
def test_store_when_sqlite_then_its_folder_holds_the_state(store: str, path: str | None, folder: str) -> None:
    config = Config.model_validate({"store": store})
    assert config.sqlite_path == (Path(path) if path else None)
    assert config.state_folder == Path(folder)
