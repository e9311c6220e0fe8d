"""The published test suite of SPF (tests/data/spf): its cases, and its zones as our test name server has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import dns.name

from tests.support.dns_server import Zone
from tests.support.server import ROOT

KINDS = ("TXT", "A", "AAAA", "MX", "PTR")


@dataclass(frozen=True)
class Case:
    """One case: who says HELO from where with which reverse-path, and the results that are right."""

    name: str
    scenario: int
    peer: str
    helo: str
    sender: str
    results: tuple[str, ...]


@cache
def scenarios() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOT / "tests/data/spf/rfc7208-tests.json").read_text(encoding="utf-8"))
    return found


def cases() -> list[Case]:
    return [
        Case(
            name,
            number,
            test["host"],
            test["helo"],
            test["mailfrom"],
            tuple(test["result"]) if isinstance(test["result"], list) else (test["result"],),
        )
        for number, scenario in enumerate(scenarios())
        for name, test in scenario["tests"].items()
    ]


def zone(scenario: int) -> Zone:
    """The zone data of a scenario. Its rules: `SPF` stands for TXT where the name has no TXT of its own; `NONE` is no record;
    `TIMEOUT` is what all other types of the name come to. A time-out is a SERVFAIL here, so that nobody has to wait for it."""
    made: Zone = {}
    for name, records in scenarios()[scenario]["zonedata"].items():
        key = _key(name)
        if key is not None:
            made[key] = _entry(records)
    return made


def _entry(records: list[Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    others, generated, has_text = False, [], False
    for record in records:
        if record == "TIMEOUT":
            others = True
            continue
        ((kind, value),) = record.items()
        has_text = has_text or kind == "TXT"
        if kind == "SPF":
            generated.append(value or [""])
        elif kind == "CNAME":
            entry["CNAME"] = value
        elif value == "TIMEOUT":
            entry[kind] = "SERVFAIL"
        elif value != "NONE":
            entry.setdefault(kind, []).append(value or [""])
    if generated and not has_text:
        entry["TXT"] = generated
    if others:
        for kind in KINDS:
            entry.setdefault(kind, "SERVFAIL")
    return entry


def _key(name: str) -> str | None:
    """The name as a query for it is written; None where it can't be asked for (labels of more than 63 octets)."""
    try:
        return dns.name.Name([label.encode() for label in [*name.split("."), ""]]).to_text(omit_final_dot=True).lower()
    except dns.exception.DNSException:
        return None
