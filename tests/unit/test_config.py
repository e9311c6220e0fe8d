"""Keys, values, and the one line that says what is wrong with them."""

from __future__ import annotations

import ipaddress
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.config import Config, Inbox, Rate, unsupported
from responder.config.errors import ConfigError, Problem, explain
from responder.config.units import show

TEXT = st.text('aZ09 .:/@*"\n\x00é\u2028\ud800', max_size=12)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.times() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*Config.model_fields, "listne", ""])


def problems(table: dict[str, Any]) -> list[str]:
    """What is wrong with the tables of a file called `f`."""
    try:
        Config.model_validate(table)
    except ValidationError as error:
        return [str(problem) for problem in explain(error, lambda key: "f")]
    return []


def problem(toml: str) -> str:
    """The only thing that is wrong with a file called `f`."""
    (found,) = problems(tomllib.loads(toml))
    return found


def test_defaults_when_nothing_is_set_then_the_contract_holds() -> None:
    config = Config()
    assert (config.hostname, config.domains, config.processes) == ("localhost", ("localhost",), 1)
    assert [listen.address for listen in config.listen] == ["127.0.0.1:8025"]
    assert config.limits.message_size == 26214400
    assert config.limits.connection_rate == Rate(100, 60.0)
    assert config.limits.same_subject is None
    assert config.reply.per_sender == Rate(30, 600.0)
    assert config.delivery.retry == (60.0, 300.0, 900.0, 3600.0, 14400.0)
    assert config.delivery.expire == 5 * 86400
    assert config.answering.retry == (10.0, 60.0, 300.0, 1800.0)
    assert config.queue.lease == 30.0
    assert ipaddress.ip_address("127.9.9.9") in config.authentication.trusted_networks[0]
    assert not config.inboxes
    assert config.tls is None


def test_config_when_changed_then_it_refuses() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        setattr(config, "hostname", "other")  # noqa: B010 - the type checker refuses it too, as it should
    with pytest.raises(ValidationError):
        setattr(config.limits, "recipients", 5)  # noqa: B010


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ('hostnme = "a"', 'hostnme: unknown key; did you mean "hostname"?'),
        ("[limits]\nmessage-size = 1", 'limits.message-size: unknown key; did you mean "message_size"?'),
        ("port = 25", 'port: unknown key; did you mean "delivery.port"?'),
        ("delivery_port = 25", 'delivery_port: unknown key; did you mean "delivery.port"?'),
        ('[limits]\ndomains = ["a"]', 'limits.domains: unknown key; did you mean "domains"?'),
        ('[inbox.echo]\nagent = "echo"', 'inbox: unknown key; did you mean "inboxes"?'),
        ('[inboxes.a]\nagent = "b"\nprefix = 1', "inboxes.a.prefix: unknown key; known here: agent, kind, interval, "),
        ('[inboxes."a b"]\nagent = "b"', 'inboxes."a b": is no inbox name: malformed local part'),
        ("[delivery]\nport = '25'", 'delivery.port: wants a whole number, found the string "25"'),
        ("[delivery]\nport = true", "delivery.port: wants a whole number, found true"),
        ("[delivery]\nport = 25.5", "delivery.port: wants a whole number, found 25.5"),
        ("[delivery]\nport = 0", "delivery.port: wants 1 or more, found 0"),
        ("[delivery]\nport = 65536", "delivery.port: wants 65535 or less, found 65536"),
        (f"[delivery]\nport = 0x{'f' * 5000}", "delivery.port: wants 65535 or less, found a huge number"),
        ("[delivery]\nallow_private_addresses = 1", "delivery.allow_private_addresses: wants true or false, found 1"),
        ("hostname = 5", "hostname: wants a string, found 5"),
        ('hostname = "192.0.2.1"', 'hostname: wants a domain, found the string "192.0.2.1"'),
        ('hostname = "a_b"', 'hostname: wants a host name, found the string "a_b"'),
        ('domains = "example.org"', 'domains: wants a list, found the string "example.org"'),
        ("domains = []", "domains: wants at least one entry, found an empty list"),
        ('domains = ["ok.example", "-"]', 'domains[1]: wants a domain, found the string "-": malformed domain'),
        ('[listen]\naddress = "a:1"', "listen: wants a list of tables: write [[listen]], found a table"),
        ("delivery = 2024-01-01", "delivery: wants a table, found a date or time"),
        ("inboxes = 1", "inboxes: wants a table, found 1"),
        ('[inboxes]\necho = "echo"', 'inboxes.echo: wants a table, found the string "echo"'),
        ("[inboxes.echo]", "inboxes.echo.agent: is required"),
        ('[inboxes.echo]\nagent = ""', "inboxes.echo.agent: wants a string that isn't empty"),
        ('[inboxes.a]\nagent = "a"\nkind = "person"', 'inboxes.a.kind: wants "service", "personal" or "group", found the'),
        ('[inboxes.a]\nagent = "a"\ntargets = ["*.org"]', 'inboxes.a.targets[0]: wants an address, "*@domain" or "*"'),
        ('[inboxes.a]\nagent = "a"\ntargets = ["*@*.org"]', 'inboxes.a.targets[0]: wants an address, "*@domain" or "*"'),
        ('[inboxes.a]\nagent = "a"\nupstream = "host"', 'inboxes.a.upstream: wants "host:port"'),
        ('[inboxes.a]\nagent = "a"\ntargets = ["bob"]', "inboxes.a.targets[0]: wants an address such as someone@"),
        ('[inboxes.a]\nagent = "a"\ndisplay_name = "A\\r\\nBcc: b"', "inboxes.a.display_name: wants a string of one line"),
        ('[inboxes."a@other.example"]\nagent = "a"', 'inboxes."a@other.example": "other.example" is not among domains'),
        ('[limits]\nidle = "0s"', 'limits.idle: wants a duration above zero, found the string "0s"'),
        ('[limits]\ndeny = ["10.1.2.3/8"]', "limits.deny[0]: wants an address or a network such as "),
        ('[delivery]\nretry = []', "delivery.retry: wants at least one entry, found an empty list"),
        ('[delivery]\ntransport = "smarthost"', 'delivery.smarthost: wants "host:port", because transport = "smarthost"'),
        ('[delivery]\nsmarthost = "relay.example"', 'delivery.smarthost: wants "host:port" or "[v6]:port", found the'),
        ('[delivery]\nnameservers = ["dns.example:53"]', "delivery.nameservers[0]: wants an IP address and port such as"),
        ('[delivery]\nsource_address = "eth0"', 'delivery.source_address: wants an IP address, found the string "eth0"'),
        ('[[listen]]\n[[listen]]', 'listen[1].address: "127.0.0.1:8025" is listened on twice'),
        ('[tls]\nkey = "key.pem"', "tls.certificate: is required"),
        ('[reply]\ntrusted_spam_headers = ["X-Spam: yes"]', "reply.trusted_spam_headers[0]: wants a header name such as "),
        ('store = "sqlite::memory:"', 'store: wants "sqlite:PATH" with a file: mail kept in memory would be lost'),
        ('store = "sqlite:///state/a.db"', 'store: wants "sqlite:PATH" with a plain path: '),
        ('store = "sqlite:"', 'store: wants "sqlite:PATH", found no file name'),
        ('plugins = ["a\\u0000b"]', "plugins[0]: wants a string of one line, without control characters"),
    ],
)  # fmt: skip
def test_key_when_wrong_then_one_line_names_it(toml: str, line: str) -> None:
    assert problem(toml).startswith(f"f: {line}")


@pytest.mark.parametrize(
    "toml",
    [
        'store = "mysql://me:hunter2@host/db"',
        'store = "postgres://me:hunter2@host/db"',
        '[delivery]\nport = "postgresql://me:hunter2@host/db"',
        '[delivery]\nsmarthost = "me:hunter2@relay.example"',
        'hunter = "hunter2"',
        '[inboxes.a]\nagent = "a"\nsettings = "hunter2@"',
    ],
)
def test_secret_when_its_key_is_wrong_then_it_is_not_repeated(toml: str) -> None:
    assert "hunter2" not in problem(toml)


def test_secret_when_config_is_printed_then_it_is_not_repeated() -> None:
    settings = {"key": "hunter2"}
    config = Config.model_validate(
        {"store": "postgresql://me:hunter2@host/db", "inboxes": {"a": {"agent": "b", "settings": settings}}}
    )
    assert "hunter2" not in repr(config)
    assert config.inboxes["a"].settings == settings


@settings(max_examples=150)
@given(st.dictionaries(KEYS, ANY, max_size=3))
def test_table_when_anything_then_valid_or_lines(table: dict[str, Any]) -> None:
    for line in problems(table):
        assert line.isprintable()
        assert line.startswith("f: ")
        assert len(line) < 700


def test_error_when_file_or_key_hold_line_breaks_then_it_stays_one_line() -> None:
    error = ConfigError("a\nb", "k\x1b[2J\u2028", "no\r\ngood\ud800")
    assert str(error) == r"a\nb: k\x1b[2J\u2028: no\r\ngood\ud800"
    assert error.errors == [Problem("a\nb", "k\x1b[2J\u2028", "no\r\ngood\ud800")]


def test_unknown_key_when_it_is_a_required_one_misspelt_then_it_comes_first() -> None:
    assert problems({"inboxes": {"echo": {"agnet": "echo"}}}) == [
        'f: inboxes.echo.agnet: unknown key; did you mean "agent"?',
        "f: inboxes.echo.agent: is required",
    ]


def test_inboxes_when_one_name_has_two_spellings_then_refused() -> None:
    table = {"domains": ["bücher.example"], "inboxes": {}}
    table["inboxes"] = {"a@bücher.example": {"agent": "x"}, "A@XN--BCHER-KVA.example": {"agent": "x"}}
    assert problems(table) == [
        'f: inboxes."A@XN--BCHER-KVA.example": is the inbox "a@bücher.example" in another spelling'
    ]


def test_inbox_when_given_whole_then_all_of_it_is_there() -> None:
    config = Config.model_validate(
        tomllib.loads("""
            domains = ["Example.org", "EXAMPLE.ORG"]
            [inboxes."Away@example.ORG"]
            agent = "vacation"
            kind = "personal"
            interval = "7d"
            answer_to = "from"
            display_name = "Zoë"
            targets = ["Bob@Example.org"]
            timeout = 5
            settings = { text = "gone", days = [1, 2] }
        """)
    )
    assert config.domains == ("example.org",)
    assert config.inboxes["away@example.org"] == Inbox(
        agent="vacation",
        kind="personal",
        interval=604800.0,
        answer_to="from",
        display_name="Zoë",
        targets=("Bob@example.org",),
        timeout=5.0,
        settings={"text": "gone", "days": [1, 2]},
    )


@pytest.mark.parametrize(
    ("toml", "key", "fatal"),
    [
        ('store = "postgresql://host/db"', "store", True),
        ('[[listen]]\nproxy_protocol = true\nproxies = ["0.0.0.0/0"]', "listen[0].proxies", False),
        ("processes = 2", "processes", False),
        ("[inboxes]", "inboxes", False),
        ('hostname = "localhost"', "hostname", False),
        ("[delivery]\nallow_private_addresses = true", "delivery.allow_private_addresses", False),
        ('[delivery]\nexpire = "10s"', "delivery.expire", False),
        ('[reply]\nper_sender = "off"\nper_conversation = "off"', "reply", False),
        ('[authentication]\ntrusted_networks = ["0.0.0.0/0"]', "authentication.trusted_networks", False),
        ('[inboxes.a]\nagent = "a"\nkind = "personal"\nanswer_to = "from"', "inboxes.a.answer_to", False),
        ("[limits]\nmessage_size = 1000", "limits.message_size", False),
        ('[auth]\nusers = "users"', "auth.users", False),
        ('[[listen]]\ndecoy = true\nauth = "offered"', "listen[0].auth", False),
        ('[delivery]\ntransport = "mx"', "dkim.keys", False),
        ('[dkim]\nexpire = "1d"', "dkim.expire", False),
        ('[[listen]]\nmode = "0600"', "listen[0].mode", False),
        ('[[listen]]\nproxies = ["192.0.2.1"]', "listen[0].proxies", False),
    ],
)
def test_unsupported_when_asked_for_then_noticed(toml: str, key: str, fatal: bool) -> None:
    notices = unsupported(Config.model_validate(tomllib.loads(toml)))
    assert [notice.fatal for notice in notices if notice.key == key] == [fatal]
    assert all(str(notice).isprintable() and len(str(notice)) < 160 for notice in notices)


def test_unsupported_when_all_is_done_then_silent() -> None:
    toml = 'hostname = "mx.example.org"\nauthentication.mode = "off"\ninboxes.echo.agent = "echo"\ndkim.keys = "dkim"'
    assert unsupported(Config.model_validate(tomllib.loads(toml))) == []


@settings(max_examples=80)
@given(ANY)
def test_show_when_anything_then_short_and_printable(value: object) -> None:
    assert show(value).isprintable()
    assert len(show(value)) < 60
