"""Dialect files: TOML or JSON -> `Dialect`, or one line that says what is wrong. The built-in ones lie beside this file.

A key may go to several replies. Those that can't have its text (`{id}` where nothing is queued) keep their own.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from responder.config import Config
from responder.inbound.dialects.dialect import (
    CATALOGUE,
    COMMANDS,
    ENHANCED,
    EVERYWHERE,
    MAX_LINE,
    OWN,
    PLACEHOLDER,
    Dialect,
    QueueId,
    fits,
)
from responder.inbound.followed import open_regular

FOLDER = Path(__file__).parent
MAX_FILE = 1 << 20
MAX_TEXT_LINES = 30  # a reply of several lines: HELP has a dozen
MAX_CAPABILITIES = 40

_CODES = sorted({reply.code for reply in CATALOGUE.values()})
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:[ =][!-~]+)*")  # RFC 5321 4.1.1.1
_SETTINGS = ("about", "enhanced", "queue_id", "capabilities", "replies")
_WORDS = sorted(EVERYWHERE.union(*OWN.values()))


class DialectError(Exception):
    """A dialect that can't be used: one line, `FILE: KEY: REASON`."""

    def __init__(self, file: str, key: str, reason: str) -> None:
        self.file, self.key, self.reason = file, key, reason
        super().__init__(": ".join([part for part in (file, key, reason) if part]))


class DialectFile(BaseModel):
    """What stands in a dialect file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, title="A dialect: the texts of SMTP replies")

    about: str = Field(default="", max_length=100, description="what it imitates")
    enhanced: bool = Field(default=True, description="whether a decoy's replies have enhanced codes (RFC 3463)")
    queue_id: QueueId = Field(default="ours", description="what a decoy's queue ids look like")
    capabilities: list[str] = Field(
        default=[],
        max_length=MAX_CAPABILITIES,
        description="what a decoy shows after EHLO, in order; {limit}: octets of a message. STARTTLS and AUTH only as configured",
    )
    replies: dict[str, str] = Field(
        default={},
        description="reply's name, command and code ('RCPT 550'), command (its positive reply) or code -> text without code. A"
        " line end begins a further line of the reply. A text may begin with an enhanced code, which decoys show",
        json_schema_extra={
            "propertyNames": {
                "anyOf": [
                    {"enum": list[JsonValue](sorted(CATALOGUE))},
                    {"enum": list[JsonValue](sorted(COMMANDS))},
                    {"enum": list[JsonValue]([str(code) for code in _CODES if code != 334])},
                    {"pattern": f"^({'|'.join(sorted(COMMANDS))}) [245][0-9]{{2}}$"},
                ]
            },
            "additionalProperties": {"type": "string", "pattern": r"^[ -~\n]+$"},
        },
    )

    @field_validator("about")
    @classmethod
    def _about(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("wants printable characters on one line")
        return text

    @field_validator("capabilities")
    @classmethod
    def _capabilities(cls, found: list[str]) -> list[str]:
        for one in found:
            plain = one.replace("{limit}", "1")
            if not _KEYWORD.fullmatch(plain) or PLACEHOLDER.search(plain) or len(one) > 200:
                raise ValueError(f"{_shown(one)} is no EHLO keyword with its parameters (RFC 5321 4.1.1.1)")
        return found

    @field_validator("replies")
    @classmethod
    def _replies(cls, found: dict[str, str]) -> dict[str, str]:
        texts = {}
        for key, text in found.items():
            try:
                name = key_of(key)
                if name in texts:
                    raise ValueError("stands there twice, in two spellings")
                texts[name] = text_of(name, text)
            except ValueError as error:
                raise ValueError(f"{_shown(key)}: {error}") from None
        return texts


def key_of(key: str) -> str:
    """A key in the spelling that dialects use. Raises `ValueError`."""
    words = key.split()
    name = key.strip().lower().replace("_", "-")
    if name in CATALOGUE and not (name.upper() in COMMANDS and key.isupper()):
        return name
    if len(words) == 1 and words[0].upper() in COMMANDS:
        return words[0].upper()
    code = words[-1] if words else ""
    if re.fullmatch(r"[0-9]{3}", code, re.ASCII) and (
        len(words) == 1 or (len(words) == 2 and words[0].upper() in COMMANDS)
    ):
        if code == "334":
            raise ValueError("334 is followed by what a client has to decode, no text")
        if int(code) not in _CODES:
            near = min(_CODES, key=lambda known: abs(known - int(code)))
            raise ValueError(f"no reply has the code {code}; did you mean {near}?")
        return " ".join([*[word.upper() for word in words[:-1]], code])
    known = [*CATALOGUE, *COMMANDS]
    near_names = get_close_matches(name, known, 1) or get_close_matches(key.upper(), known, 1)
    hint = (
        f'; did you mean "{near_names[0]}"?' if near_names else "; a key is a reply's name, a command, a code, or both"
    )
    raise ValueError(f"unknown key{hint}")


def text_of(key: str, text: str) -> str:
    """A text as it may stand at a key: without its own code, where it begins with it. Raises `ValueError`."""
    if not text:
        raise ValueError("wants a text")
    parts = text.split("\n")
    if len(parts) > MAX_TEXT_LINES:
        raise ValueError(f"wants {MAX_TEXT_LINES} lines at the most")
    codes = _codes_at(key)
    if len(parts) > 1 and key in ("hello", "HELO", "EHLO", "LHLO", "250"):
        raise ValueError("wants one line: more of them would be taken for what EHLO offers")
    found = []
    for part in parts:
        if not all(" " <= char <= "~" for char in part):
            raise ValueError("wants printable ASCII, and \\n alone between lines")
        begins = re.match(r"([0-9]{3})(?:[ -]|$)", part)
        if begins is not None:
            if codes != {int(begins[1])}:
                raise ValueError(f"begins with the code {begins[1]}: a dialect has the words, codes stay as they are")
            part = part[4:]
        enhanced = ENHANCED.match(part)
        if enhanced is not None and {int(enhanced[1])} != {code // 100 for code in codes}:
            raise ValueError(
                f"begins with {enhanced[0].strip()}: that is of another class than the reply's code (RFC 3463 3.1)"
            )
        found.append(part)
    text = "\n".join(found)
    _check_places(key, text)
    if max(map(len, PLACEHOLDER.sub("", text).split("\n"))) > MAX_LINE - 20:
        raise ValueError(f"is longer than a reply's line of {MAX_LINE} octets (RFC 5321 4.5.3.1.5)")
    return text


def _check_places(key: str, text: str) -> None:
    if "{" in PLACEHOLDER.sub("", text) or "}" in PLACEHOLDER.sub("", text):
        raise ValueError("has a brace without its other half")
    for place in PLACEHOLDER.findall(text):
        if place not in _WORDS:
            near = get_close_matches(place.lower(), _WORDS, 1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"known: {', '.join(_WORDS)}"
            raise ValueError(f"unknown placeholder {_shown(place)}; {hint}")
        if key in CATALOGUE and place not in EVERYWHERE | OWN.get(key, frozenset()):
            raise ValueError(f"{{{place}}} means nothing in this reply")
    if key in CATALOGUE and not fits(text, key):
        wants = (
            'wants "{id}": it is what mail is found by'
            if key == "queued"
            else 'wants "{hostname}" first (RFC 5321 4.2)'
        )
        raise ValueError(wants)


def _codes_at(key: str) -> set[int]:
    """The codes of the replies that a key may go to."""
    if key in CATALOGUE:
        return {CATALOGUE[key].code}
    if key[-1].isdigit():
        return {int(key[-3:])}
    return {code for code in _CODES if code < 400 and code != 334}


def built_in() -> dict[str, Dialect]:
    """The dialects that come along, by name."""
    return {path.stem: load(path) for path in sorted(FOLDER.glob("*.toml"))}


def find(name: str) -> Dialect:
    """The dialect that a configuration names: a built-in one, or a file. Raises `DialectError`."""
    if "/" in name or name.endswith((".toml", ".json")):
        return load(Path(name))
    known = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known)}, or name a file (.toml, .json)"
        raise DialectError("", "", f"no dialect {_shown(name)}; {hint}")
    return load(FOLDER / f"{name}.toml")


def chosen(config: Config) -> dict[str, Dialect]:
    """The dialects that the listeners of a configuration name, by that name; at "" the server's own. Raises `DialectError`."""
    found: dict[str, Dialect] = {}
    names = [("dialect", "", config.dialect)]
    names += [(f"listen[{n}].dialect", listen.dialect, listen.dialect) for n, listen in enumerate(config.listen)]
    for key, name, dialect in names:
        if name in found:
            continue
        try:
            found[name] = find(dialect)
        except DialectError as error:
            raise DialectError("", key, str(error)) from None
    return found


def load(path: Path) -> Dialect:
    """The dialect in a file. Raises `DialectError`."""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise DialectError(str(path), "", f"can't be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_FILE:
        raise DialectError(str(path), "", f"is larger than {MAX_FILE} octets")
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        text = content.decode("utf-8-sig")
        table = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except UnicodeDecodeError:
        raise DialectError(str(path), "", "is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DialectError(str(path), "", f"is not {kind}: {error or 'nested too deeply'}") from None
    return parse(table, path.stem, str(path))


def parse(table: Any, name: str, file: str) -> Dialect:
    """The dialect in a table. Raises `DialectError`, which names `file`."""
    if not isinstance(table, dict):
        raise DialectError(file, "", "wants a table of settings and replies")
    try:
        found = DialectFile.model_validate(unfolded(table))
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden")
        key = ".".join([str(part) for part in first["loc"]])
        reason = str(first.get("ctx", {}).get("error", "")) or _reason(first["type"], first["msg"], key)
        raise DialectError(file, key, " ".join(reason.split())[:300]) from None
    return Dialect(name, found.replies, tuple(found.capabilities), found.enhanced, found.queue_id, found.about)


def unfolded(table: Mapping[str, Any]) -> dict[str, Any]:
    """Files of the older kind have their texts beside the settings: the same with `replies`."""
    plain = {key: value for key, value in table.items() if key not in _SETTINGS and isinstance(value, str)}
    if not plain or not isinstance(table.get("replies", {}), dict):
        return dict(table)
    kept = {key: value for key, value in table.items() if key not in plain}
    return {**kept, "replies": {**plain, **table.get("replies", {})}}


def nearest(technology: str) -> Dialect:
    """The built-in dialect whose name is nearest to that of some server software; ours where none is near."""
    found = built_in()
    name = technology.lower()
    for known in found:
        if known in name or get_close_matches(known, name.split(), 1, 0.75):
            return found[known]
    return found["generic"]


def table(dialect: Dialect) -> dict[str, Any]:
    """A dialect as its file has it."""
    return {
        "about": dialect.about,
        "enhanced": dialect.enhanced,
        "queue_id": dialect.queue_id,
        "capabilities": list(dialect.capabilities),
        "replies": dict(dialect.texts),
    }


def to_toml(found: Mapping[str, Any]) -> str:
    """A table of `table` as TOML: a JSON string in ASCII is a TOML string, too."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in found.items() if key != "replies"]
    texts = [f"{json.dumps(key)} = {json.dumps(text)}" for key, text in found["replies"].items()]
    return "\n".join([*lines, "", "[replies]", *texts]) + "\n"


def _reason(kind: str, message: str, key: str) -> str:
    if kind == "extra_forbidden":
        near = get_close_matches(key, _SETTINGS, 1)
        return f'unknown key; did you mean "{near[0]}"?' if near else f"unknown key; known here: {', '.join(_SETTINGS)}"
    return message[:1].lower() + message[1:]


def _shown(text: str) -> str:
    return json.dumps(text[:60])
