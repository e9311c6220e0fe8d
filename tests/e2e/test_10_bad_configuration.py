"""Scenario 10: an operator's mistake.

    responder serve | check  ──>  exit status 2, one line: FILE: KEY: REASON

Whatever is wrong with the configuration, the plugins, the store or the sockets: no traceback, and nothing is left behind.
"""

from __future__ import annotations

import re
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.operator import Operator, complains, left
from tests.support.server import configuration

BOTH = ("check", "serve")
SECRET = "hunter2-hunter2"


def with_settings(**settings: Any) -> dict[str, Any]:
    return {"plugins": ["own"], "inboxes": {"x": {"agent": "picky", "settings": settings}}}


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: changes to a good configuration, key, words of the reason
    "unknown key": ({"delivery": {"prot": 25}}, "delivery.prot", 'did you mean "port"'),
    "unknown table": ({"delivry": {"port": 25}}, "delivry", "did you mean \"delivery\""),
    "wrong type": ({"delivery": {"port": "25"}}, "delivery.port", "wants a whole number"),
    "no duration": ({"queue": {"lease": "soon"}}, "queue.lease", "wants a duration"),
    "no rate": ({"limits": {"connection_rate": "many"}}, "limits.connection_rate", "wants a rate"),
    "no address": ({"listen": [{"address": "here"}]}, "listen[0].address", "wants"),
    "no network": ({"limits": {"deny": ["10.0.0.1/8"]}}, "limits.deny[0]", "10.0.0.0/8"),
    "unknown agent": ({"inboxes": {"sales-*": {"agent": "ecko"}}}, 'inboxes."sales-*".agent', "there is no agent"),
    "inbox without agent": ({"inboxes": {"x": {}}}, "inboxes.x.agent", "is required"),
    "reserved inbox": ({"inboxes": {"bounces": {"agent": "echo"}}}, "inboxes.bounces", "is reserved"),
    "unknown setting": (
        {"inboxes": {"x": {"agent": "echo", "settings": {"prefx": "a"}}}},
        "inboxes.x.settings.prefx",
        "unknown key; known here: prefix",
    ),
    "setting of an agent without any": (with_settings(), "plugins", "no such plugin folder"),
    "time zone": (
        {"inboxes": {"x": {"agent": "current-time", "settings": {"timezone": "Mars/Olympus"}}}},
        "inboxes.x.settings.timezone",
        'there is no time zone "Mars/Olympus"$',
    ),
    "plugin folder missing": ({"plugins": ["nowhere"]}, "plugins", "nowhere: no such plugin folder"),
    "plugin folder is a file": ({"plugins": ["responder.toml"]}, "plugins", "responder.toml: Not a directory"),
    "smarthost missing": ({"delivery": {"transport": "smarthost"}}, "delivery.smarthost", 'wants "host:port"'),
    "PostgreSQL": ({"store": "postgresql://u:hunter2-hunter2@db/x"}, "store", "PostgreSQL is not supported yet"),
    "submission": ({"listen": [{"protocol": "submission"}]}, "listen[0].protocol", "is for TLS alone"),
    "login without TLS": ({"listen": [{"auth": "offered"}]}, "listen[0].auth", "is for TLS alone"),
    "smtps": ({"listen": [{"protocol": "smtps"}]}, "listen[0].protocol", "wants a certificate"),
    "LMTP on port 25": ({"listen": [{"address": "127.0.0.1:25", "protocol": "lmtp"}]}, "listen[0].protocol", "RFC 2033"),
    "no proxies": ({"listen": [{"proxy_protocol": True, "proxies": []}]}, "listen[0].proxies", "wants the networks"),
    "bad mode": ({"listen": [{"address": "unix:s", "mode": "rw"}]}, "listen[0].mode", "wants permissions in octal"),
    "socket twice": (
        {"listen": [{"address": "systemd:a"}, {"address": "systemd:a"}]}, "listen[1].address", "listened on twice"
    ),
    "TLS": ({"tls": {"certificate": "c.pem", "key": "k.pem"}}, "tls.certificate", "no such file"),
    "authorities": ({"tls_policy": {"authorities": "ca.pem"}}, "tls_policy.authorities", "no such file"),
    "authorities of nobody": (
        {"tls_policy": {"authorities": "responder.toml"}}, "tls_policy.authorities", "holds no certificate"
    ),
    "store below a file": ({"store": "sqlite:responder.toml/x.db"}, "store", "x.db: there is a file where a folder is wanted"),
    "store is a folder": ({"store": "sqlite:folder"}, "store", "folder: "),
    "socket in a missing folder": ({"listen": [{"address": "unix:no/s"}]}, r"listen", "no"),
}  # fmt: skip


@pytest.mark.parametrize("verb", BOTH)
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_when_run_then_one_line_names_file_key_and_reason(operator: Operator, verb: str, name: str) -> None:
    changes, key, reason = MISTAKES[name]
    (operator.folder / "folder").mkdir()
    operator.write(configuration(**changes))
    before = left(operator.folder)
    result = operator(verb)
    if name == "socket in a missing folder":
        key = {"serve": "listen", "check": "listen[0].address"}[verb]
    complains(result, operator.file, key, reason)
    assert SECRET not in result.err
    if verb == "check" or key not in ("listen", "store"):
        assert left(operator.folder) == before


FILES: dict[str, tuple[bytes | None, str, str]] = {
    "missing": (None, "", "no such file"),
    "not TOML": (b"hostname = \n", "line 1, column 12", "is not TOML"),
    "cut off": (b'hostname = "x', "end of document", "is not TOML"),
    "key twice": (b'hostname = "a"\nhostname = "b"\n', "line 2, column 15", "is not TOML"),
    "not UTF-8": (b'hostname = "a"\ndomains = ["m\xfcnchen.de"]\n', "line 2", "is not UTF-8"),
    "binary": (bytes(range(256)), "line 1|line 2", "is not UTF-8"),
}


@pytest.mark.parametrize("verb", BOTH)
@pytest.mark.parametrize("name", FILES)
def test_file_when_it_is_none_of_ours_then_one_line_says_so(operator: Operator, verb: str, name: str) -> None:
    content, place, reason = FILES[name]
    if content is not None:
        operator.file.write_bytes(content)
    result = operator(verb)
    complains(result, operator.file, "", reason)
    assert re.search(place, result.err)
    assert left(operator.folder) == ([] if content is None else ["responder.toml"])


@pytest.mark.parametrize("verb", BOTH)
def test_file_when_it_is_a_folder_then_one_line_says_so(operator: Operator, verb: str) -> None:
    operator.file.mkdir()
    complains(operator(verb), operator.file, "", "is a folder")


@pytest.mark.parametrize("verb", BOTH)
def test_environment_when_it_holds_a_mistake_then_the_variable_is_named(
    operator: Operator, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.write(configuration())
    monkeypatch.setenv("RESPONDER_DELIVERY__PORT", "many")
    complains(operator(verb), "environment RESPONDER_DELIVERY__PORT", "delivery.port", "wants a whole number")


@pytest.mark.parametrize("verb", BOTH)
def test_local_file_when_it_holds_the_mistake_then_it_is_named(operator: Operator, verb: str) -> None:
    operator.write(configuration())
    local = operator.folder / "responder.local.toml"
    local.write_text("[delivery]\nport = 0\n")
    complains(operator(verb), local, "delivery.port", "wants 1 or more")


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {0x52535044}")
        connection.execute("PRAGMA user_version = 999")
    connection.close()


STORES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another program's": (foreign, "belongs to another program"),
    "newer": (newer, "schema version 999, this program knows"),
    "garbage": (lambda path: path.write_bytes(b"no database at all " * 500), "not a database"),
}


@pytest.mark.parametrize("verb", [*BOTH, "queue list", "explain x"])
@pytest.mark.parametrize("name", STORES)
def test_store_when_it_is_not_ours_then_one_line_says_so_and_not_an_octet_changes(
    operator: Operator, verb: str, name: str
) -> None:
    make, reason = STORES[name]
    path = operator.folder / "mail.db"
    make(path)
    content = path.read_bytes()
    operator.write(configuration(store="sqlite:mail.db"))
    complains(operator(*verb.split()), operator.file, "store", f"mail.db: .*{reason}")
    assert path.read_bytes() == content
    assert left(operator.folder) == ["mail.db", "responder.toml"]


def test_check_when_the_configuration_is_good_then_nothing_is_made(operator: Operator) -> None:
    operator.write(configuration())
    result = operator("check")
    assert (result.status, result.err) == (0, "")
    assert left(operator.folder) == ["responder.toml"]


def test_port_when_in_use_then_serve_names_it(operator: Operator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        operator.write(configuration(listen=[{"address": address}]))
        complains(operator("serve"), operator.file, "listen", f"{address}: .*[Aa]ddress already in use")
        assert operator("check").status == 0  # it runs beside the server


def test_second_of_two_ports_when_in_use_then_the_first_socket_is_gone(operator: Operator) -> None:
    path = operator.folder / "s"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        operator.write(configuration(listen=[{"address": f"unix:{path}"}, {"address": address}]))
        complains(operator("serve"), operator.file, "listen", f"{address}: .*[Aa]ddress already in use")
    assert not path.exists()


def test_address_when_it_is_not_ours_then_serve_names_it(operator: Operator) -> None:
    operator.write(configuration(listen=[{"address": "192.0.2.1:2525"}]))
    complains(operator("serve"), operator.file, "listen", "192.0.2.1:2525: .*[Cc]annot assign requested address")


def test_host_when_it_has_no_address_then_serve_names_it(operator: Operator) -> None:
    operator.write(configuration(listen=[{"address": "no-such-host.invalid:2525"}]))
    complains(operator("serve"), operator.file, "listen", "no-such-host.invalid:2525: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["srve"],
        ["check", "--confg", "x"],
        ["check", "surplus"],
        ["serve", "--config"],
        ["explain"],
        ["try", "echo"],
        ["queue"],
        ["queue", "lst"],
        ["queue", "show"],
        ["queue", "list", "--state", "LOST"],
        ["queue", "list", "--limit", "many"],
    ],
    ids=" ".join,
)
def test_usage_when_bad_then_exit_status_2_and_the_usage_is_shown(operator: Operator, arguments: list[str]) -> None:
    result = operator.run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("usage: responder")
    assert "Traceback" not in result.err
