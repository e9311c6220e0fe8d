"""The file of those who may log in: a line each, `NAME:HASH` or `NAME:HASH:SCRAM`, as `responder password NAME` prints it.

Whoever asks for a user gets one, known or not, so that nothing in what follows, neither its words nor its time, tells who exists.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from responder.inbound.followed import FileError, FollowedFiles, open_to_all, read_file
from responder.inbound.login.passwords import (
    ITERATIONS,
    LN,
    SALT,
    Hash,
    P,
    R,
    Scrypt,
    Verifier,
    parse_hash,
    parse_verifier,
    prepare,
)

KEY = "auth.users"
LONGEST_NAME = 255  # octets: RFC 4616 2
LONGEST_PASSWORD = 1024  # octets: what `responder password` takes

_LARGEST = 16 << 20  # octets of the file
_NOBODY = Scrypt(LN, R, P, b"\0" * SALT, b"\0" * 32)


@dataclass(frozen=True, slots=True)
class User:
    """One line, or what stands in for it: a stand-in (`known` false) never gets in, whatever its hashes say."""

    name: str
    hash: Hash
    verifier: Verifier | None
    known: bool = True


class Users(FollowedFiles):
    """Who may log in."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises `FileError`."""
        super().__init__(path)

    def __len__(self) -> int:
        return len(self._users)

    @property
    def know_scram(self) -> bool:
        """Whether anybody can log in by SCRAM: offered to all where nobody can, it would be what clients try first."""
        return self._know_scram

    def find(self, name: str) -> User:
        """The user of a name (prepared), or what stands in: a hash and a verifier as costly as those of some user, always the
        same for a name, with a salt (RFC 5802 9) that stays what it is as the file grows."""
        found = self._users.get(name)
        if found is not None and (found.verifier is not None or not self._know_scram):
            return found
        chance = hmac.digest(self._secret, name.encode("utf-8", "replace"), "sha512")
        hash_ = found.hash if found is not None else self._hashes[int.from_bytes(chance[:8]) % len(self._hashes)]
        verifier = Verifier(self._iterations, chance[8 : 8 + SALT], chance[32:], chance[:32])
        return User(name, hash_, verifier, known=found is not None)

    def remarks(self) -> Iterator[tuple[str, str]]:
        if open_to_all(self._paths[0]):
            yield KEY, "everybody on this machine can read it: chmod 640"

    def _read(self) -> None:
        users: dict[str, User] = {}
        path = self._paths[0]
        for number, line in enumerate(_lines(path), 1):
            if not line or line.startswith("#"):
                continue
            try:
                user = _user(line)
                if user.name in users:
                    raise ValueError("its name was there before")
            except ValueError as error:
                raise FileError(KEY, path, f"line {number}: {error}") from error
            users[user.name] = user
        verifiers = [user.verifier for user in users.values() if user.verifier is not None]
        # What a stand-in's salt is made from: a secret that is there already, and the last one to go as lines come and go.
        self._secret = verifiers[0].stored_key if verifiers else b"nobody"
        self._iterations = verifiers[0].iterations if verifiers else ITERATIONS
        self._hashes = [user.hash for user in users.values()] or [_NOBODY]
        self._know_scram = bool(verifiers)
        self._users = users


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_file(KEY, path, _LARGEST).decode().removeprefix("\ufeff").split("\n")]
    except UnicodeDecodeError as error:
        raise FileError(KEY, path, "is not UTF-8") from error


def _user(line: str) -> User:
    """One line. Raises `ValueError` with a reason that repeats no hash."""
    written, _, rest = line.partition(":")
    if not rest:
        raise ValueError("wants NAME:HASH")
    if len(written.encode()) > LONGEST_NAME:
        raise ValueError(f"its name is longer than {LONGEST_NAME} octets")
    try:
        name = prepare(written)
    except ValueError as error:
        raise ValueError(f"its name {error}") from error
    if name != written:
        raise ValueError("its name is not as it is compared (RFC 4013): `responder password` writes it right")
    kept, _, scram = rest.partition(":")
    return User(name, parse_hash(kept), parse_verifier(scram) if scram else None)
