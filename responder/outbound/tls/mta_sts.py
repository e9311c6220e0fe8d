"""MTA-STS as text (RFC 8461): the record in DNS, the policy file, and which hosts it names. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from responder.mail.headers import clean

MAX_AGE: Final = 31_557_600
"""Seconds that a policy is kept at the most: a year (RFC 8461 3.2)."""

MAX_MX: Final = (
    8192  # characters of all `mx` together: real policies have some hundred, and thousands of policies are kept
)
Mode = Literal["enforce", "testing", "none"]

_VERSION: Final = re.compile(rb"v=STSv1[ \t]*(?:;|$)")
_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}")
_FIELD: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})[ \t]*:[ \t]*(.*?)[ \t]*")
_AGE: Final = re.compile(r"[0-9]{1,10}")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_PATTERN: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """What a domain has published."""

    mode: Mode
    max_age: int  # seconds
    mx: tuple[str, ...]  # host names, or `*.` and the rest of one; lower case

    @property
    def strings(self) -> tuple[str, ...]:
        """The lines that a report shows (RFC 8460 4.4)."""
        return (
            "version: STSv1",
            f"mode: {self.mode}",
            *[f"mx: {pattern}" for pattern in self.mx],
            f"max_age: {self.max_age}",
        )


def policy_id(records: Sequence[bytes]) -> str | None:
    """The id in the TXT records of `_mta-sts.DOMAIN`; None where there is not exactly one of them that counts (RFC 8461 3.1)."""
    ours = [record for record in records if _VERSION.match(record)]
    if len(ours) != 1:
        return None
    for pair in ours[0].decode("ascii", "replace").split(";")[1:]:
        name, _, value = pair.strip(" \t").partition("=")
        if name.rstrip(" \t") == "id":
            value = value.strip(" \t")
            return value if _ID.fullmatch(value) else None
    return None


def parse_policy(body: bytes) -> StsPolicy:
    """The policy in the file `mta-sts.txt` (RFC 8461 3.2). Raises `ValueError` with one line that says what is wrong."""
    try:
        lines = body.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    fields: dict[str, str] = {}
    mx: list[str] = []
    for line in lines:
        if not line.strip(" \t"):
            continue
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ValueError(f"malformed line: {clean(line)[:60]}")
        if match[1] == "mx":
            mx.append(_pattern(match[2]))
        else:
            fields.setdefault(match[1], match[2])  # of two the first counts
    if fields.get("version") != "STSv1":
        raise ValueError("no version: STSv1")
    mode, age = fields.get("mode", ""), fields.get("max_age", "")
    if mode not in ("enforce", "testing", "none"):
        raise ValueError("no mode that is known")
    if not _AGE.fullmatch(age):
        raise ValueError("no max_age in seconds")
    if not mx and mode != "none":
        raise ValueError("no mx")
    if sum([len(pattern) for pattern in mx]) > MAX_MX:
        raise ValueError("too many mx")
    return StsPolicy(cast(Mode, mode), min(int(age), MAX_AGE), tuple(dict.fromkeys(mx)))


def _pattern(text: str) -> str:
    pattern = text.lower().removesuffix(".")
    if len(pattern) > 255 or not _PATTERN.fullmatch(pattern):
        raise ValueError(f"malformed mx: {clean(text)[:60]}")
    return pattern


def names_host(patterns: Sequence[str], host: str) -> bool:
    """Whether one of them is this host; `*` stands for exactly one label, the left-most (RFC 8461 4.1)."""
    host = host.lower().removesuffix(".")
    rest = host.partition(".")[2]
    return any(pattern == host or (pattern[:2] == "*." and rest == pattern[2:]) for pattern in patterns)
