"""An operator's mistake as one line: the file, the key, the reason. Never pydantic's own text, never a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from responder.config.model import Config, below, fields_of, schema_keys, table_in
from responder.config.units import show

Path = tuple[str | int, ...]
"""Where a value stands: keys, and numbers within a list."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")  # TOML's bare keys
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: where, and what to do about it. `key` is empty where the file as a whole is meant."""

    file: str
    key: str
    reason: str

    def __str__(self) -> str:
        return ": ".join([_one_line(part) for part in (self.file, self.key, self.reason) if part])


class ConfigError(Exception):
    """A configuration that can't be used. `str()` is one line, `FILE: KEY: REASON`; `errors` lists all there are."""

    def __init__(self, file: str, key: str, reason: str, errors: Iterable[Problem] = ()) -> None:
        self.file, self.key, self.reason = file, key, reason
        self.errors = list(errors) or [Problem(file, key, reason)]
        super().__init__(file, key, reason, self.errors)

    @classmethod
    def of(cls, errors: list[Problem]) -> ConfigError:
        """One error for all problems, the first speaking for them."""
        first = errors[0]
        return cls(first.file, first.key, first.reason, errors)

    def __str__(self) -> str:
        more = len(self.errors) - 1
        return f"{Problem(self.file, self.key, self.reason)}{f' (and {more} more)' if more else ''}"


def dotted(path: Path) -> str:
    """A path as TOML would write it: `inboxes."sales-*".agent`, `listen[0].address`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False))
    return text


def explain(error: ValidationError, blame: Callable[[Path], str]) -> list[Problem]:
    """Every error that pydantic found, unknown keys first: a missing key is often a misspelt one. `blame` names the file."""
    found = sorted(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden")
    problems = []
    for details in found:
        path = tuple([part for part in details["loc"] if part != "[key]"]) + tuple(
            details.get("ctx", {}).get("path", ())
        )
        problems.append(Problem(blame(path), dotted(path), _reason(details, path)))
    return problems


def _reason(details: ErrorDetails, path: Path) -> str:
    context: Mapping[str, Any] = details.get("ctx", {})
    found = f"found {show(details['input'])}"
    match details["type"]:
        case "at":
            return str(context["reason"])
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is required"
        case "extra_forbidden":
            return _unknown(path)
        case "literal_error":
            return f"wants {str(context['expected']).replace(chr(39), chr(34))}, {found}"
        case "int_type":
            return f"wants a whole number, {found}"
        case "bool_type":
            return f"wants true or false, {found}"
        case "greater_than_equal":
            return f"wants {context['ge']} or more, {found}"
        case "less_than_equal":
            return f"wants {context['le']} or less, {found}"
        case "tuple_type":
            table = "" if table_in(_type_at(path)) is None else f" of tables: write [[{dotted(path)}]]"
            return f"wants a list{table}, {found}"
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            return f"wants a table, {found}"
        case _:
            return f"is no value for this key, {found}"


def _unknown(path: Path) -> str:
    """Why a key isn't known, with the nearest one that is: in its own table first, then anywhere."""
    key, own = str(path[-1]), list(fields_of(table_in(_type_at(path[:-1])) or Config))
    everywhere = [name for name, _ in schema_keys()]
    near = (
        [
            name for name in everywhere if name.replace(".", "_") == key.lower()
        ]  # one underscore where there should be two
        or get_close_matches(key.lower().replace("-", "_"), own, 1)
        or [name for name in everywhere if name.rpartition(".")[2] == key]
    )
    return f'unknown key; did you mean "{near[0]}"?' if near else f"unknown key; known here: {', '.join(own)}"


def _type_at(path: Path) -> Any:
    return reduce(below, path, Config)


def _one_line(text: str) -> str:
    """Printable, on one line, and not endless."""
    text = "".join([letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text])
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
