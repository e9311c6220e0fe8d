"""What the verbs of `responder dkim` do: see `cli.dkim` for what they take."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from responder.cli.options import configuration
from responder.cli.output import harmless, print_json, print_table, when
from responder.cli.published import PUBLISHED, ask
from responder.clock import SystemClock
from responder.config import Config, format_duration
from responder.mail.address import AddressError, domain_to_ascii
from responder.outbound.dkim import folder
from responder.outbound.dkim.folder import Entry, KeyFolderError, State
from responder.outbound.dkim.keys import BITS, Algorithm, SigningKey, generate
from responder.start import StartError

FAILED = 1
_KINDS: Mapping[str, tuple[Algorithm, ...]] = {"both": ("rsa", "ed25519"), "rsa": ("rsa",), "ed25519": ("ed25519",)}


def run(verb: str, options: argparse.Namespace) -> int:
    """One of the verbs; its exit status. Raises `StartError`."""
    try:
        return _VERBS[verb](options)
    except KeyFolderError as error:
        raise StartError(str(error)) from error


def new(options: argparse.Namespace) -> int:
    place, _ = _place(options)
    return _make(place, _domain(options.domain), _KINDS[options.algorithm], options.selector, as_json=options.json)


def rotate(options: argparse.Namespace) -> int:
    if options.activate:
        return activate(options)
    place, _ = _place(options)
    domain = _domain(options.domain)
    found = folder.entries(place, domain)
    if waiting := [selector for selector, entry in found.items() if entry.state == "new"]:
        raise StartError(f"{place / domain}: new keys wait already: {', '.join(waiting)}; activate or remove them")
    kinds = {
        folder.read_key(place, domain, selector).algorithm
        for selector, entry in found.items()
        if entry.state == "active"
    }
    ordered: tuple[Algorithm, ...] = tuple([kind for kind in _KINDS["both"] if not kinds or kind in kinds])
    return _make(place, domain, ordered, None, as_json=options.json)


def activate(options: argparse.Namespace) -> int:
    place, config = _place(options)
    domain = _domain(options.domain)
    with folder.changing(place, domain):
        found = folder.entries(place, domain)
        chosen = _chosen(place / domain, found, options.selectors, "new")
        keys = {selector: folder.read_key(place, domain, selector) for selector in chosen}
        if not options.force:
            wrong = [
                f"{selector}: {said}" for selector, said in _ask(config, domain, keys).items() if said != PUBLISHED
            ]
            if wrong:
                return _complain(f"{domain}: nothing was changed: {'; '.join(wrong)}")
        now = SystemClock().now()
        kinds = {key.algorithm for key in keys.values()}
        for selector, entry in found.items():
            if selector in keys:
                found[selector] = Entry("active", now)
            elif entry.state == "active" and folder.read_key(place, domain, selector).algorithm in kinds:
                found[selector] = Entry("retired", now)
        folder.write_entries(place, domain, found)
    active, retired = [[name for name in found if found[name].state == state] for state in ("active", "retired")]
    sys.stdout.write(f"{domain}: signs with {', '.join(active)}; a server that runs follows within seconds\n")
    if retired:
        kept = format_duration(config.delivery.expire)
        sys.stdout.write(f"{domain}: leave the records of {', '.join(retired)} in the DNS for {kept} at least\n")
    return 0


def records(options: argparse.Namespace) -> int:
    place, _ = _place(options)
    domain = _domain(options.domain)
    found = folder.entries(place, domain)
    _show(domain, [folder.read_key(place, domain, selector) for selector in found], as_json=options.json)
    return 0


def check(options: argparse.Namespace) -> int:
    place, config = _place(options)
    chosen = [_domain(options.domain)] if options.domain else folder.domains(place)
    rows: list[dict[str, object]] = []
    failed = False
    for domain in chosen:
        found = folder.entries(place, domain)
        said = _ask(config, domain, {selector: folder.read_key(place, domain, selector) for selector in found})
        for selector, entry in found.items():
            lasts = entry.state == "active" or (entry.state == "retired" and not _is_over(entry, config))
            failed = failed or (lasts and said[selector] != PUBLISHED)
            rows.append({"domain": domain, "selector": selector, "state": entry.state, "dns": said[selector]})
    if options.json:
        print_json(rows)
    else:
        print_table(("domain", "selector", "state", "DNS"), [tuple(row.values()) for row in rows])
    return FAILED if failed else 0


def list_all(options: argparse.Namespace) -> int:
    place, _ = _place(options)
    rows: list[dict[str, object]] = []
    for domain in folder.domains(place):
        for selector, entry in folder.entries(place, domain).items():
            key = folder.read_key(place, domain, selector)
            kind = f"rsa {key.bits}" if key.bits else key.algorithm
            since = when(entry.since)
            rows.append({"domain": domain, "selector": selector, "kind": kind, "state": entry.state, "since": since})
    if options.json:
        print_json(rows)
    else:
        print_table(("domain", "selector", "kind", "state", "since"), [tuple(row.values()) for row in rows])
    return 0


def remove(options: argparse.Namespace) -> int:
    place, config = _place(options)
    domain = _domain(options.domain)
    with folder.changing(place, domain):
        found = folder.entries(place, domain)
        over = [name for name, entry in found.items() if entry.state == "retired" and _is_over(entry, config)]
        chosen = options.selectors or over
        if not chosen:
            raise StartError(f"{place / domain}: no key was retired for longer than delivery.expire")
        for selector in chosen:
            if selector not in found:
                raise StartError(f"{place / domain}: there is no selector {selector}")
            if selector not in over and found[selector].state != "new" and not options.force:
                why = "it signs" if found[selector].state == "active" else "mail that it has signed may be on its way"
                raise StartError(f"{folder.key_file(place, domain, selector)}: {why}; --force removes it")
        folder.write_entries(place, domain, {name: entry for name, entry in found.items() if name not in chosen})
        try:
            for selector in chosen:
                folder.remove_key(place, domain, selector)
        except KeyFolderError as error:
            raise StartError(str(error)) from error
    for selector in chosen:
        sys.stdout.write(f"removed {selector}; take {selector}._domainkey.{domain} out of the DNS\n")
    return 0


def _make(place: Path, domain: str, kinds: tuple[Algorithm, ...], name: str | None, *, as_json: bool) -> int:
    """Make keys, and show what the DNS has to publish."""
    if name is not None and not folder.is_selector(name):
        raise StartError("--selector: wants letters in lower case, digits and -, such as mail-2026")
    with folder.changing(place, domain, create=True):
        found = folder.entries(place, domain)
        keys = [generate(_selector(name, kind, kinds, found), kind, BITS) for kind in kinds]
        now = SystemClock().now()
        try:
            for key in keys:
                folder.add_key(place, domain, key)
        except KeyFolderError as error:
            raise StartError(str(error)) from error
        folder.write_entries(place, domain, {**found, **{key.selector: Entry("new", now) for key in keys}})
    _show(domain, keys, as_json=as_json)
    if not as_json:
        sys.stdout.write(f"; publish these, then: responder dkim activate {domain}\n")
    return 0


def _selector(name: str | None, kind: Algorithm, kinds: tuple[Algorithm, ...], found: Mapping[str, Entry]) -> str:
    """What a new key is called. Each kind has a selector of its own: a verifier that finds two records takes either."""
    if name is not None and len(kinds) == 1:
        return name
    base = name or datetime.fromtimestamp(SystemClock().now(), UTC).strftime("%Y%m%d")
    chosen, number = f"{base}-{kind}", 1
    while name is None and chosen in found:
        number += 1
        chosen = f"{base}-{kind}-{number}"
    return chosen


def _show(domain: str, keys: list[SigningKey], *, as_json: bool) -> None:
    """The records of these keys: a string of a TXT record has 255 octets at the most (RFC 1035 3.3)."""
    if as_json:
        print_json({f"{key.selector}._domainkey.{domain}": key.record for key in keys})
        return
    for key in keys:
        pieces = [key.record[at : at + 255] for at in range(0, len(key.record), 255)]
        strings = "\n    ".join([f'"{piece}"' for piece in pieces])
        text = f"( {strings} )" if len(pieces) > 1 else strings
        sys.stdout.write(f"{key.selector}._domainkey.{domain}. IN TXT {text}\n")


def _ask(config: Config, domain: str, keys: Mapping[str, SigningKey]) -> dict[str, str]:
    """What the DNS has of each selector: `PUBLISHED`, or what is wrong."""
    return asyncio.run(ask(config.delivery.nameservers, domain, keys, SystemClock()))


def _place(options: argparse.Namespace) -> tuple[Path, Config]:
    config, file = configuration(options)
    if config.dkim.keys is None:
        raise StartError(f'{file}: dkim.keys: unset: say where keys are to be, such as keys = "dkim"')
    return config.dkim.keys, config


def _domain(text: str) -> str:
    try:
        domain = domain_to_ascii(text.removesuffix("."))
    except AddressError as error:
        raise StartError(f'DOMAIN: "{harmless(text)}" is none: {error}') from error
    if domain.startswith("[") or "." not in domain:
        raise StartError(f'DOMAIN: "{harmless(text)}" is none that the DNS could have keys of')
    return domain


def _chosen(place: Path, found: Mapping[str, Entry], named: list[str], state: State) -> list[str]:
    chosen = named or [selector for selector, entry in found.items() if entry.state == state]
    if not chosen:
        raise StartError(f"{place}: there is no {state} key: `responder dkim rotate` makes one")
    for selector in chosen:
        if selector not in found:
            raise StartError(f"{place}: there is no selector {harmless(selector)}")
    return chosen


def _complain(reason: str) -> int:
    sys.stderr.write(f"responder: {harmless(reason)}\n")
    return FAILED


def _is_over(entry: Entry, config: Config) -> bool:
    """Whether whatever it has signed has arrived, or been given up."""
    return entry.since + config.delivery.expire < SystemClock().now()


_VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "new": new,
    "rotate": rotate,
    "activate": activate,
    "records": records,
    "check": check,
    "list": list_all,
    "remove": remove,
}
