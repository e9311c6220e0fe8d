"""The examples load, and `docs/configuration.md` and `config/example-full.toml` name every key, its type and its default."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from responder.config import Config, Rate, load, schema_keys, unsupported

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("[!.]*.toml"))
ROW = re.compile(r"^\| `([a-zA-Z_.]+)` \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
KEYS = dict(schema_keys())

# What the docs call the types that carry a validator of their own.
NAMED = {
    "hostname": "host name",
    "domains": "list of domains",
    "store": "store",
    "listen.address": 'endpoint, `"unix:PATH"` or `"systemd:NAME"`',
    "listen.mode": "permissions",
    "listen.proxies": "list of networks",
    "limits.deny": "list of networks",
    "inboxes.NAME.addresses": "list of addresses",
    "inboxes.NAME.targets": "list of addresses",
    "inboxes.NAME.upstream": "endpoint",
    "reply.trusted_spam_headers": "list of header names",
    "authentication.trusted_networks": "list of networks",
    "authentication.trusted_arc": "list of domains",
    "dkim.headers": "list of header names",
    "relay.networks": "list of networks",
    "relay.senders": "list of domains",
    "delivery.smarthost": "endpoint",
    "providers.NAME.suffixes": "list of domains",
    "delivery.nameservers": "list of endpoints",
    "delivery.source_address": "IP address",
    "sources.NAME.addresses": "list of IP addresses",
    "sources.NAME.hostname": "host name",
}
NEEDED: dict[str, dict[str, Any]] = {
    "checks": {"x": {}},
    "providers": {"x": {}},
    "sources": {"x.example": {}},
    "tls": {"certificate": "c", "key": "k"},
}
"""What stands in a table before its other keys can."""

MAPS = {"inboxes": "x", "checks": "x", "sources": "x.example", "providers": "x"}
"""Tables whose keys the operator chooses, and a key that each takes."""

PLAIN = {bool: "boolean", int: "integer", float: "duration", str: "string", Path: "path", Rate: "rate"}


def documented() -> dict[str, tuple[str, str]]:
    rows = ROW.findall((ROOT / "docs" / "configuration.md").read_text())
    assert len({key for key, *_ in rows}) == len(rows)
    return {key: (kind, default) for key, kind, default, _ in rows}


def kind_of(annotation: Any) -> str:
    """A field's type as the docs call it."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Literal:
        words = [f'`"{part}"`' for part in parts]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if get_origin(annotation) is tuple:
        return f"list of {kind_of(parts[0])}s"
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return kind_of(parts[0])
    return "table" if get_origin(annotation) is dict else PLAIN[annotation]


def flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of a file as `schema_keys` spells them."""
    for key, value in table.items():
        if key in MAPS:
            for one in value.values():
                yield from flatten(one, f"{key}.NAME.")
        elif isinstance(value, dict) and f"{prefix}{key}" not in KEYS:
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one in value:
                yield from flatten(one, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_key(key: str, value: Any) -> Config:
    """The defaults, with one inbox and one key said."""
    table: dict[str, Any] = {"inboxes": {"x": {"agent": "x"}}}
    if key.startswith("inboxes.NAME."):
        table["inboxes"]["x"][key.removeprefix("inboxes.NAME.")] = value
    elif ".NAME." in key:
        top, _, rest = key.partition(".NAME.")
        table[top] = {MAPS[top]: {**NEEDED.get(top, {}).get(MAPS[top], {}), rest: value}}
    elif key.startswith("listen."):
        table["listen"] = [{key.removeprefix("listen."): value}]
    else:
        top, _, rest = key.partition(".")
        table[top] = {**NEEDED.get(top, {}), rest: value} if rest else value
    return Config.model_validate(table)


def test_docs_when_compared_with_the_models_then_every_key_is_there_and_no_other() -> None:
    assert list(documented()) == list(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_docs_when_compared_with_the_models_then_types_and_defaults_agree(key: str) -> None:
    kind, default = documented()[key]
    assert kind == (NAMED.get(key) or kind_of(KEYS[key].annotation))
    if default == "required":
        assert KEYS[key].is_required()
    elif default == "unset":
        assert not KEYS[key].is_required()
        assert KEYS[key].default is None
    else:
        value = tomllib.loads(f"value = {default.strip('`')}")["value"]
        top = key.partition(".")[0]
        bare = {"inboxes": {"x": {"agent": "x"}}} | ({top: NEEDED[top]} if top in NEEDED else {})
        assert with_key(key, value) == Config.model_validate(bare)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_when_loaded_then_it_is_valid_and_could_run(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name  # away from a .local.toml that a developer may have
    copy.write_bytes(path.read_bytes())
    config = load(copy, {})
    assert config.inboxes
    assert not [notice for notice in unsupported(config) if notice.fatal]


def test_examples_when_counted_then_the_documented_ones_are_there() -> None:
    names = {path.name for path in EXAMPLES if not path.name.endswith(".local.toml")}
    assert names == {"responder.toml", "example-mx.toml", "example-smarthost.toml", "example-full.toml"}
    assert all(f"config/{name}" in (ROOT / "docs" / "configuration.md").read_text() for name in names)


def test_default_file_when_served_then_nothing_leaves_the_machine_and_nothing_is_remarked() -> None:
    config = Config.model_validate(tomllib.loads((ROOT / "config" / "responder.toml").read_text()))
    assert config.delivery.transport == "print"
    assert {listen.host for listen in config.listen} == {"127.0.0.1"}
    assert "localhost" in config.domains
    assert set(config.inboxes) == {"echo", "current-time", "debug"}
    assert unsupported(config) == []


def test_full_example_when_read_then_it_names_every_key_with_its_default() -> None:
    text = (ROOT / "config" / "example-full.toml").read_text()
    said = Config.model_validate(tomllib.loads(text))
    assert said == with_key("inboxes.NAME.agent", "x").model_copy(update={"inboxes": said.inboxes})
    assert list(said.inboxes) == ["echo"]
    inbox = said.inboxes["echo"]
    assert inbox == type(inbox)(agent="echo")
    whole = tomllib.loads(re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE))
    assert Config.model_validate(whole).tls
    assert [key for key, _ in flatten(whole)] == list(KEYS)


def test_import_when_done_alone_then_pydantic_is_the_only_weight() -> None:
    code = f"""
        import sys, types
        package = types.ModuleType("responder")  # what the package itself imports for plugin authors is not our matter
        package.__path__ = [{str(ROOT / "responder")!r}]
        sys.modules["responder"] = package
        import responder.config
        print([name for name in ("asyncio", "aiosmtpd", "aiosmtplib", "dns", "pluggy", "ssl", "sqlite3") if name in sys.modules])
    """
    command = [sys.executable, "-c", dedent(code)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
