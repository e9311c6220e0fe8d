"""Files, their overrides, the environment, and who is named when something is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.config import Config, ConfigError, find, load, local_file

MINIMAL = '[inboxes.echo]\nagent = "echo"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small configuration."""
    path = tmp_path / "responder.toml"
    path.write_text(
        'hostname = "mx.example.org"\ndomains = ["example.org"]\n[delivery]\nport = 25\nexpire = "1d"\n' + MINIMAL
    )
    return path


def failure(path: Path | None, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    assert str(caught.value).isprintable()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def outcome(path: Path, environ: dict[str, str]) -> str:
    """What is wrong, or nothing."""
    try:
        load(path, environ)
    except ConfigError as error:
        return str(error)
    return ""


def look_up(found: Any, path: list[str]) -> object:
    """What stands at a path of attributes, names and numbers."""
    for part in path:
        if isinstance(found, Mapping):
            found = found[part]
        elif isinstance(found, tuple):
            found = found[int(part)]
        else:
            found = getattr(found, part)
    return found


def test_file_when_empty_then_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.toml").touch()
    assert load(tmp_path / "a.toml", {"HOME": "/", "PATH": "x"}) == Config()


def test_file_when_written_on_windows_then_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'\xef\xbb\xbfhostname = "a.example"\r\n[delivery]\r\nport = 26\r\n')
    config = load(tmp_path / "a.toml", {})
    assert (config.hostname, config.delivery.port) == ("a.example", 26)


def test_local_file_when_there_then_tables_merge_and_lists_replace(file: Path) -> None:
    file.with_name("responder.local.toml").write_text(
        'domains = ["b.example"]\n[delivery]\nport = 2525\n[inboxes.echo.settings]\nprefix = "P"\n[inboxes.b]\nagent = "b"\n'
    )
    config = load(file, {})
    assert config.domains == ("b.example",)
    assert (config.hostname, config.delivery.port, config.delivery.expire) == ("mx.example.org", 2525, 86400.0)
    assert config.inboxes["echo"].agent == "echo"
    assert config.inboxes["echo"].settings == {"prefix": "P"}
    assert list(config.inboxes) == ["echo", "b"]


def test_local_file_when_it_is_the_one_named_then_nothing_overrides_it(tmp_path: Path) -> None:
    assert local_file(tmp_path / "responder.local.toml") is None
    assert local_file(tmp_path / "a.b.toml") == tmp_path / "a.b.local.toml"


def test_environment_when_set_then_it_overrides_both_files(file: Path) -> None:
    file.with_name("responder.local.toml").write_text("[delivery]\nport = 2525\n")
    assert load(file, {"RESPONDER_DELIVERY__PORT": "2526"}).delivery.port == 2526


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("HOSTNAME", "12345.example", "hostname", "12345.example"),
        ("HOSTNAME", '"quoted.example"', "hostname", "quoted.example"),
        ("DOMAINS", "example.org,b.example", "domains", ("example.org", "b.example")),
        ("DOMAINS", '["example.org", "b.example"]', "domains", ("example.org", "b.example")),
        ("DELIVERY__ALLOW_PRIVATE_ADDRESSES", "1", "delivery.allow_private_addresses", True),
        ("DELIVERY__ALLOW_PRIVATE_ADDRESSES", "False", "delivery.allow_private_addresses", False),
        ("DELIVERY__RETRY", "10s, 5,1m", "delivery.retry", (10.0, 5.0, 60.0)),
        ("DELIVERY__RETRY", '[1, "2m"]', "delivery.retry", (1.0, 120.0)),
        ("DELIVERY__NAMESERVERS", "[::1]:5353", "delivery.nameservers", ("[::1]:5353",)),
        ("DELIVERY__NAMESERVERS", "", "delivery.nameservers", ()),
        ("DELIVERY__SMARTHOST", "", "delivery.smarthost", ""),
        ("DELIVERY", "{port = 27}", "delivery.port", 27),
        ("DELIVERY", '{"port": 27}', "delivery.expire", 86400.0),
        ("LIMITS__IDLE", "90", "limits.idle", 90.0),
        ("LIMITS__IDLE", "90s", "limits.idle", 90.0),
        ("REPLY__PER_SENDER", "off", "reply.per_sender", None),
        ("LISTEN__0__ADDRESS", "127.0.0.1:2525", "listen.0.address", "127.0.0.1:2525"),
        ("LISTEN", '[{address = "127.0.0.1:1"}, {address = "127.0.0.1:2"}]', "listen.1.address", "127.0.0.1:2"),
        ("INBOXES__ECHO__INTERVAL", "60", "inboxes.echo.interval", 60.0),
        ("INBOXES__ECHO__DISPLAY_NAME", "42", "inboxes.echo.display_name", "42"),
        ("INBOXES__NEW__AGENT", "echo", "inboxes.new.agent", "echo"),
        ("INBOXES__ECHO__SETTINGS__PREFIX", "You said:", "inboxes.echo.settings.prefix", "You said:"),
        ("INBOXES__ECHO__SETTINGS__LINES", "3", "inboxes.echo.settings.lines", 3),
        ("INBOXES__ECHO__SETTINGS__DAY", "2024-01-01", "inboxes.echo.settings.day", "2024-01-01"),
        ("INBOXES__ECHO__SETTINGS__A__B", "true", "inboxes.echo.settings.a.b", True),
        ("INBOXES__ECHO__SETTINGS__TEXT", "1\nb = 2", "inboxes.echo.settings.text", "1\nb = 2"),
    ],
)
def test_environment_when_set_then_typed_by_its_key(
    file: Path, name: str, value: str, attribute: str, expected: object
) -> None:
    found = look_up(load(file, {f"RESPONDER_{name}": value}), attribute.split("."))
    assert found == expected
    assert type(found) is type(expected)


def test_environment_when_a_key_has_other_characters_then_underscores_mean_it(file: Path) -> None:
    file.write_text(
        '[inboxes.current-time]\nagent = "a"\n[inboxes."Sales-*"]\nagent = "b"\n[inboxes.c.settings]\nmaxItems = 1\n'
    )
    environ = {
        "RESPONDER_INBOXES__CURRENT_TIME__AGENT": "x",
        "RESPONDER_INBOXES": '{"Sales-*" = {interval = "1m"}}',  # its own name would end in two underscores
        "RESPONDER_INBOXES__C__AGENT": "z",
        "RESPONDER_INBOXES__C__SETTINGS__MAXITEMS": "2",
    }
    inboxes = load(file, environ).inboxes
    assert {name: inbox.agent for name, inbox in inboxes.items()} == {"current-time": "x", "sales-*": "b", "c": "z"}
    assert inboxes["sales-*"].interval == 60.0
    assert inboxes["c"].settings == {"maxItems": 2}


def test_environment_when_other_variables_are_ours_then_they_are_no_keys(file: Path) -> None:
    assert load(file, {"RESPONDER_REQUIRE_PEERS": "1", "RESPONDER_CONFIG": "elsewhere", "responder_x": ""}) == load(
        file, {}
    )


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("FROB", "1", "frob: unknown key; known here: hostname, "),
        ("DELIVERY_PORT", "1", 'delivery_port: unknown key; did you mean "delivery.port"?'),
        ("DELIVERY__PROT", "1", 'delivery.prot: unknown key; did you mean "port"?'),
        ("DELIVERY__PORT", "x", 'delivery.port: wants a whole number, found the string "x"'),
        ("DELIVERY__PORT", "", 'delivery.port: wants a whole number, found the string ""'),
        ("DELIVERY", "5", "delivery: wants a table, found 5"),
        ("DELIVERY__RETRY", "10s,x", "delivery.retry[1]: wants a duration"),
        ("DOMAINS", '["a"', "domains[0]: wants a domain"),
        ("HOSTNAME__X", "1", "hostname is no table"),
        ("LISTEN__2__ADDRESS", "a:1", "listen is a list: wants a number from 0 to 0 there"),
        ("LISTEN__X__ADDRESS", "a:1", "listen is a list: wants a number"),
        ("LISTEN__0__PORT", "1", "listen[0].port: unknown key; did you mean"),
        ("INBOXES__FOO__INTERVAL", "5s", "inboxes.foo.agent: is required"),
        ("INBOXES__BOUNCES__AGENT", "echo", "inboxes.bounces: is reserved"),
        ("HOSTNAME", "a\udcff", "hostname: wants a string in UTF-8"),
        ("DELIVERY__RETRY", "[" * 100_000, "delivery.retry[0]: wants a duration"),
        ("", "1", '"": unknown key'),
        ("__", "1", '"": unknown key'),
    ],
)
def test_environment_when_wrong_then_the_variable_is_named(file: Path, name: str, value: str, line: str) -> None:
    assert str(failure(file, {f"RESPONDER_{name}": value})).startswith(f"environment RESPONDER_{name}: {line}")


def test_environment_when_two_keys_are_meant_then_it_says_so(file: Path) -> None:
    file.write_text('[inboxes.a-b]\nagent = "x"\n[inboxes."a.b"]\nagent = "x"\n')
    error = failure(file, {"RESPONDER_INBOXES__A_B__AGENT": "y"})
    assert error.reason == 'may mean inboxes.a-b or inboxes."a.b": set it in a file'


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(["LISTEN", "INBOXES", "DELIVERY", "0", "1", "A", "SETTINGS", "RETRY", "", "é"]), max_size=5
    ),
    st.sampled_from(["", "1", "off", "[", "[[1]]", "{a = 1}", '{"a": null}', "1979-05-27", "'", "a,b", "nan", "1e999"]),
)
def test_environment_when_anything_then_config_or_one_line(segments: list[str], value: str) -> None:
    line = outcome(Path(os.devnull), {"RESPONDER_" + "__".join(segments): value})
    assert line == "" or line.startswith("environment RESPONDER_")
    assert line == "" or line.isprintable()


def test_errors_when_there_are_several_then_all_are_listed_and_the_first_is_shown(file: Path) -> None:
    file.write_text('[delivery]\nport = "x"\n[limits]\nhops = 0\nhopps = 1\n')
    error = failure(file)
    assert str(error) == f'{file}: limits.hopps: unknown key; did you mean "hops"? (and 2 more)'
    assert (error.file, error.key) == (str(file), "limits.hopps")
    assert [problem.key for problem in error.errors] == ["limits.hopps", "limits.hops", "delivery.port"]


def test_error_when_the_local_file_has_it_then_the_local_file_is_named(file: Path) -> None:
    local = file.with_name("responder.local.toml")
    local.write_text("[delivery]\nport = 0\n")
    assert str(failure(file)) == f"{local}: delivery.port: wants 1 or more, found 0"
    local.write_text("[inboxes.ECHO]\nagent = 'x'\n")
    assert str(failure(file)) == f'{local}: inboxes.ECHO: is the inbox "echo" in another spelling'
    local.write_text("[inboxes.other]\n")
    assert str(failure(file)) == f"{local}: inboxes.other.agent: is required"
    local.write_text("x =\n")
    assert str(failure(file)) == f"{local}: line 1, column 4: is not TOML: Invalid value"


def test_error_when_a_later_source_mends_it_then_there_is_none(file: Path) -> None:
    file.write_text("[delivery]\nport = 0\n")
    assert load(file, {"RESPONDER_DELIVERY__PORT": "1"}).delivery.port == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a = 1\nb = \n", "line 2, column 5: is not TOML: Invalid value"),
        (b"a = 1\na = 2\n", "line 2, column 6: is not TOML: Cannot overwrite a value"),
        (b"a = [1", "end of document: is not TOML: Unclosed array"),
        (b"a = 1\nb = '\xff'\n", "line 2: is not UTF-8"),
        (b"a = " + b"[" * 100_000, "lists or tables are nested too deeply"),
        (b".".join([b"a"] * 5000) + b" = 1", ""),
        (b"processes = " + b"9" * 5000, ""),
    ],
)
def test_file_when_it_is_no_toml_then_one_line_says_where(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    assert str(failure(path)).startswith(f"{path}: {line}")


def test_file_when_it_can_not_be_read_then_one_line_says_why(tmp_path: Path) -> None:
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    assert str(failure(tmp_path / "none.toml")) == f"{tmp_path}/none.toml: no such file"
    assert str(failure(tmp_path / "none" / "a.toml")) == f"{tmp_path}/none/a.toml: no such file"
    assert str(failure(tmp_path)) == f"{tmp_path}: is a folder, wants a file"
    assert str(failure(loop)).startswith(f"{loop}: can't be read: ")
    assert str(failure(Path("a\0b"))).startswith(r"a\x00b: can't be read: ")
    (tmp_path / "a.toml").touch()
    (tmp_path / "a.local.toml").mkdir()
    assert str(failure(tmp_path / "a.toml")) == f"{tmp_path}/a.local.toml: is a folder, wants a file"


def test_search_when_nothing_is_named_then_the_variable_then_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("responder.config.files.DEFAULT_FILES", (Path("config/responder.toml"), tmp_path / "etc.toml"))
    assert str(failure(None)) == (
        f"config/responder.toml: no such file, nor {tmp_path}/etc.toml; name one with --config FILE"
    )
    (tmp_path / "etc.toml").write_text("processes = 2")
    assert load(None, {}).processes == 2
    assert find(None, {}) == tmp_path / "etc.toml"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "responder.toml").write_text("processes = 3")
    assert load(None, {"RESPONDER_CONFIG": ""}).processes == 3
    (tmp_path / "config" / "responder.local.toml").write_text("processes = 4")
    assert load(None, {}).processes == 4
    assert load(None, {"RESPONDER_CONFIG": "etc.toml"}).processes == 2
    assert load(Path("config/responder.toml"), {"RESPONDER_CONFIG": "etc.toml"}).processes == 4
    assert str(failure(None, {"RESPONDER_CONFIG": "gone.toml"})) == "gone.toml: no such file"
    assert find(None, {"RESPONDER_CONFIG": "gone.toml"}) == Path("gone.toml")
