"""The keys' folder: `DOMAIN/SELECTOR.pem`, one private key each, and `DOMAIN/selectors.toml`, which says what each is used for.

A key is `new` (made, to be published), `active` (signs) or `retired` (signs no more, stays published for what is still on its
way). The file is written anew beside its place and renamed, so whoever reads it sees the old one or the new one, whole.
"""

from __future__ import annotations

import fcntl
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from responder.mail.address import AddressError, domain_to_ascii
from responder.outbound.dkim.keys import KeyUnusableError, SigningKey, from_pem, to_pem

State = Literal["new", "active", "retired"]
STATES: Final[tuple[State, ...]] = get_args(State)
INDEX: Final = "selectors.toml"

_NO_KEYS: Final = "there are no keys of this domain: `responder dkim new` makes some"
_LARGEST: Final = 1 << 16  # octets of a file; a key of 4096 bits takes 3272
_SELECTOR: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


class KeyFolderError(Exception):
    """A folder or file can't be used: which, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Entry:
    """What a selector is used for, and since when (Unix seconds)."""

    state: State
    since: float


def is_selector(text: str) -> bool:
    """Whether a selector can have that name (RFC 6376 3.1), in lower case."""
    return len(text) <= 63 * 3 and _SELECTOR.fullmatch(text) is not None


def key_file(folder: Path, domain: str, selector: str) -> Path:
    """Where a selector's key stands."""
    return folder / domain / f"{selector}.pem"


def domains(folder: Path) -> list[str]:
    """The domains that have keys there, sorted. Raises `KeyFolderError`."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise KeyFolderError(folder, _reason(error, "no such folder")) from error
    for name in names:
        try:
            spelling = domain_to_ascii(name)
        except AddressError as error:
            raise KeyFolderError(folder / name, f"is no domain ({error})") from error
        if spelling != name or name.startswith("["):
            raise KeyFolderError(folder / name, f'is no domain as the DNS has it: call it "{spelling}"')
    return names


def entries(folder: Path, domain: str) -> dict[str, Entry]:
    """What a domain's selectors are used for, in the file's order; a key that the file does not name is `new`.

    Raises `KeyFolderError`.
    """
    place = folder / domain
    try:  # before the index is read: where nobody may look in, nothing seems to be there
        names = sorted(name for name in os.listdir(place) if name.endswith(".pem") and not name.startswith("."))
        stamps = {name.removesuffix(".pem"): os.stat(place / name).st_mtime for name in names}
    except OSError as error:
        raise KeyFolderError(place, _reason(error, _NO_KEYS)) from error
    found = _read_index(place / INDEX)
    for selector in found:
        if selector not in stamps:
            raise KeyFolderError(place / INDEX, f'names the selector "{selector}", and there is no {selector}.pem')
    for selector, stamp in stamps.items():
        if not is_selector(selector):
            raise KeyFolderError(place / f"{selector}.pem", "its name is no selector: letters in lower case, digits, -")
        found.setdefault(selector, Entry("new", stamp))
    return found


def read_key(folder: Path, domain: str, selector: str) -> SigningKey:
    """A selector's key. Raises `KeyFolderError`."""
    path = key_file(folder, domain, selector)
    try:
        return from_pem(selector, _read(path))
    except KeyUnusableError as error:
        raise KeyFolderError(path, str(error)) from error


@contextmanager
def changing(folder: Path, domain: str, *, create: bool = False) -> Iterator[None]:
    """Keep other commands from changing a domain's keys meanwhile. `create`: make its folder where there is none (0700).

    Raises `KeyFolderError`.
    """
    place = folder / domain
    try:
        if create:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if create and not place.is_dir():
            place.mkdir(mode=0o700)
            _give(place, folder)
        lock = os.open(place / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KeyFolderError(place, _reason(error, _NO_KEYS)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def add_key(folder: Path, domain: str, key: SigningKey) -> None:
    """Write a new key's file, for nobody else to read. Raises `KeyFolderError`, also where there is one of that name."""
    path = key_file(folder, domain, key.selector)
    if path.exists():
        raise KeyFolderError(path, "is there already")
    _write(path, to_pem(key), 0o600)


def write_entries(folder: Path, domain: str, found: Mapping[str, Entry]) -> None:
    """Say anew what a domain's selectors are used for. Whoever may read the folder may read it. Raises `KeyFolderError`."""
    lines = [f"# Which keys of {domain} sign. `responder dkim` writes this file; see docs/signing.md.\n"]
    for selector, entry in found.items():
        since = datetime.fromtimestamp(int(entry.since), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(f'\n["{selector}"]\nstate = "{entry.state}"\nsince = {since}\n')
    _write(folder / domain / INDEX, "".join(lines).encode("ascii"), 0o644)


def remove_key(folder: Path, domain: str, selector: str) -> None:
    """Remove a key's file. Raises `KeyFolderError`."""
    path = key_file(folder, domain, selector)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise KeyFolderError(path, f"can't be removed: {_reason(error, 'no such file')}") from error


def _read_index(path: Path) -> dict[str, Entry]:
    try:
        table = tomllib.loads(_read(path).decode("utf-8"))
    except KeyFolderError:
        if not os.path.lexists(path):
            return {}
        raise
    except (ValueError, RecursionError) as error:
        raise KeyFolderError(path, f"is not TOML: {error}") from error
    return {selector: _entry(path, selector, value) for selector, value in table.items()}


def _entry(path: Path, selector: str, value: Any) -> Entry:
    if not is_selector(selector) or not isinstance(value, dict):
        raise KeyFolderError(path, f'wants a table for each selector, found "{selector[:80]}"')
    state, since = value.get("state"), value.get("since")
    if state not in STATES:
        raise KeyFolderError(path, f'{selector}.state: wants "new", "active" or "retired"')
    if not isinstance(since, datetime) or since.tzinfo is None or value.keys() != {"state", "since"}:
        raise KeyFolderError(path, f"{selector}.since: wants a date with a time and a zone, and nothing else beside it")
    return Entry(cast(State, state), since.timestamp())


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is not waited for
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(_LARGEST + 1) or b""
    except OSError as error:
        raise KeyFolderError(path, _reason(error, "no such file")) from error
    if len(content) > _LARGEST:
        raise KeyFolderError(path, f"is larger than {_LARGEST} octets")
    return content


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole and on the disk, or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _give(scratch, path.parent)
        scratch.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the name, too
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyFolderError(path, f"can't be written: {_reason(error, 'no such folder')}") from error


def _give(path: Path, folder: Path) -> None:
    """To whom the folder belongs: root makes keys for a server that runs as somebody else."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _reason(error: OSError, missing: str) -> str:
    return missing if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__
