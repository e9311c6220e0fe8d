"""From files and environment to one validated `Config`. The only code that reads a configuration file.

Order: the file, then `NAME.local.toml` beside `NAME.toml` laid over it (tables merge, everything else replaces), then the
environment (see `environment`). Each error names the file or variable that its value came from.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from responder.config import environment
from responder.config.errors import ConfigError, explain
from responder.config.errors import Path as KeyPath
from responder.config.model import Config

DEFAULT_FILES = (Path("config/responder.toml"), Path("/etc/responder/responder.toml"))
"""Where the configuration is looked for, in this order, when nobody names one."""

_POSITION = re.compile(r" \(at (line [0-9]+, column [0-9]+|end of document)\)$")


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration from `path` (else from the variable RESPONDER_CONFIG, else from the first of `DEFAULT_FILES`), its
    `.local.toml` and the environment.

    Raises `ConfigError`, which lists everything that is wrong in what could be read.
    """
    path = find(path, environ)
    if (table := _read(path)) is None:
        raise ConfigError(str(path), "", "no such file")
    tables = {str(path): table}
    local = local_file(path)
    if local is not None and (table_over := _read(local)) is not None:
        tables[str(local)] = table_over
    try:
        merged: dict[str, Any] = {}
        for one in tables.values():
            environment.merge(merged, copy.deepcopy(one))
        places, problems = environment.apply(environ, merged)
    except RecursionError:
        raise ConfigError(str(path), "", "tables are nested too deeply") from None
    if problems:
        raise ConfigError.of(problems)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError.of(explain(error, lambda key: _blame(key, tables, places))) from None


def find(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The file that `load` reads. Raises `ConfigError` where none is named and none of `DEFAULT_FILES` is there."""
    if path is None and environ.get("RESPONDER_CONFIG"):
        path = Path(environ["RESPONDER_CONFIG"])
    if path is not None:
        return path
    for candidate in DEFAULT_FILES:
        if _is_there(candidate):
            return candidate
    first, *others = map(str, DEFAULT_FILES)
    raise ConfigError(first, "", f"no such file, nor {' nor '.join(others)}; name one with --config FILE")


def local_file(path: Path) -> Path | None:
    """The file that overrides `path`: `responder.toml` -> `responder.local.toml`; None for one that is such a file itself."""
    return None if path.name.endswith(".local.toml") else path.with_suffix(".local.toml")


def _is_there(path: Path) -> bool:
    """Whether something has that name; what can't be looked at counts, for reading it tells why."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """The tables of one file, None where there is none. Raises `ConfigError`."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise ConfigError(str(path), "", "is a folder, wants a file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(str(path), "", f"can't be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return tomllib.loads(content.decode("utf-8-sig"))  # editors on Windows write a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), f"line {line}", "is not UTF-8") from None
    except RecursionError:
        raise ConfigError(str(path), "", "lists or tables are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and an integer of more digits than Python reads
        reason, position = str(error), _POSITION.search(str(error))
        if position:
            reason = reason[: position.start()]
        raise ConfigError(str(path), position[1] if position else "", f"is not TOML: {reason}") from None


def _blame(key: KeyPath, tables: Mapping[str, dict[str, Any]], places: Mapping[str, KeyPath]) -> str:
    """Which file or variable an error at `key` comes from: the one that says most of that path.

    Of two that name the key itself the later counts, of two that only name a table above it the earlier.
    """
    depths = [(name, _depth(key, table)) for name, table in tables.items()]
    for name, place in places.items():
        shared = _shared(key, place)
        depths.append((environment.source(name), len(key) if shared == len(place) else shared))
    deepest = max(depth for _, depth in depths)
    names = [name for name, depth in depths if depth == deepest]
    return names[-1] if deepest == len(key) else names[0]


def _depth(key: KeyPath, node: Any) -> int:
    for depth, part in enumerate(key):
        if isinstance(node, dict):
            part = next((name for name in node if name == part or name.casefold() == str(part).casefold()), part)
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(key)


def _shared(key: KeyPath, place: KeyPath) -> int:
    pairs = enumerate(zip(key, place, strict=False))
    return next((depth for depth, (left, right) in pairs if left != right), min(len(key), len(place)))
