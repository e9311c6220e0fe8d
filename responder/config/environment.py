"""Keys from the environment: `RESPONDER_DELIVERY__PORT=2525` is `port` in `[delivery]`. Two underscores step inwards.

- Names are matched without case, any other character of a key (`current-time`, `sales@example.org`) being an underscore:
  `RESPONDER_INBOXES__CURRENT_TIME__INTERVAL=1h` is that of the inbox `current-time` where the files name it. A key that the
  files don't name is taken in lower case.
- A value is typed by its key: text stands as it is, numbers and booleans are read as such, a list is a TOML or JSON list or
  words between commas, a table a TOML or JSON one. What an agent's settings hold is TOML or JSON where it reads so, else text.
- A list's tables are numbered from 0: `RESPONDER_LISTEN__0__ADDRESS=127.0.0.1:2525`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import reduce
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from responder.config.errors import Path, Problem, dotted
from responder.config.model import Config, below, is_list, table_in

PREFIX = "RESPONDER_"

OTHERS = frozenset({"RESPONDER_CONFIG", "RESPONDER_REQUIRE_PEERS"})
"""Variables with our prefix that are no configuration keys: the file to read, and the tests' switch."""

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_OTHER = re.compile(r"[^a-z0-9]")


def apply(environ: Mapping[str, str], root: dict[str, Any]) -> tuple[dict[str, Path], list[Problem]]:
    """Sets in `root` (the files' tables, changed in place) what the environment says.

    Returns where each variable went, and what is wrong with those that went nowhere.
    """
    places: dict[str, Path] = {}
    problems: list[Problem] = []
    names = [name for name in environ if name.startswith(PREFIX) and name not in OTHERS]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):  # a whole table before its keys
        try:
            places[name] = _set(root, name.removeprefix(PREFIX).split("__"), environ[name])
        except ValueError as error:
            problems.append(Problem(source(name), "", str(error)))
    return places, problems


def source(name: str) -> str:
    """How an error names a variable."""
    return f"environment {name}"


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lays `over` onto `base`, in place: tables merge key by key, everything else replaces."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def _set(root: dict[str, Any], segments: list[str], text: str) -> Path:
    node: Any = root
    path: tuple[str | int, ...] = ()
    for segment in segments[:-1]:
        key = _key(node, segment, path)
        path = (*path, key)
        if isinstance(node, list):
            node[key:] = node[key:] or [{}]
            node = node[key]
        else:
            node = node.setdefault(key, [] if is_list(_type_at(path)) else {})
    key = _key(node, segments[-1], path)
    path = (*path, key)
    value = _value(_type_at(path), text)
    if isinstance(node, list):
        node[key : int(key) + 1] = [value]
    else:
        merge(node, {str(key): value})
    return path


def _key(node: Any, segment: str, path: Path) -> Any:
    """The key of `node` that a part of a variable's name means: the one that is there, or a new one."""
    if isinstance(node, list):
        if not (segment.isascii() and segment.isdigit() and len(segment) < 6 and int(segment) <= len(node)):
            raise ValueError(f"{dotted(path)} is a list: wants a number from 0 to {len(node)} there")
        return int(segment)
    if not isinstance(node, dict):
        raise ValueError(f"{dotted(path)} is no table")
    name = segment.lower()
    same = [key for key in node if key.lower() == name] or [key for key in node if _OTHER.sub("_", key.lower()) == name]
    if len(same) > 1:
        raise ValueError(f"may mean {' or '.join(map(dotted, [(*path, key) for key in same]))}: set it in a file")
    return same[0] if same else name


def _value(annotation: Any, text: str) -> Any:
    """What a variable's text means for a key of that type; what isn't of that type is left for the model to refuse."""
    if annotation is bool:
        return _WORDS.get(text.strip().lower(), text)
    parsed = _parsed(text)
    if isinstance(parsed, str):  # in quotes
        return parsed
    if is_list(annotation):
        if isinstance(parsed, list):
            return parsed
        if table_in(annotation) is None:
            return [_value(below(annotation, 0), word.strip()) for word in text.split(",")] if text.strip() else []
    return text if parsed is None or _is_text(annotation) else parsed


def _parsed(text: str) -> Any:
    """The one TOML value (or JSON list or table) that the text is, else None; dates stay text."""
    try:
        table = tomllib.loads(f"value = {text}")
        value = table["value"] if len(table) == 1 else None
    except (ValueError, RecursionError):
        try:
            value = json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, bool | int | float | str | list | dict) else None


def _is_text(annotation: Any) -> bool:
    if annotation is Any or get_origin(annotation) in (dict, tuple) or table_in(annotation):
        return False
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return all(_is_text(part) for part in get_args(annotation))
    return annotation not in (int, float)


def _type_at(path: Path) -> Any:
    return reduce(below, path, Config)
