"""What agents remember: one inbox's state, and what one run of its agent has read and written of it.

A run is a transaction. What it writes waits in its `Turn` and is stored by the commit that ends it; what it has read must still
be so by then, or the run is done again. Two mails that add to one number both count, and no answer leaves whose memory is lost.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from types import TracebackType

from responder.agents.context import JSON
from responder.clock import Clock
from responder.store.base import Store
from responder.store.records import Memory, Value

MAX_KEY = 512  # characters
MAX_VALUE = 1 << 20  # characters of JSON
MAX_WRITES = 10_000  # keys of one run: all of them go into one transaction
MAX_WRITTEN = 16 << 20  # characters of one run, keys and values: until then they are in the server's memory
MAX_READ = 100_000  # keys of one run, whose versions are compared at its end


class Turn:
    """One run's reading and writing. Tasks and threads that the run began share it while it lasts."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        self.seen: dict[str, str] = {}
        self.written: dict[str, Value] = {}
        self.size = 0  # characters in `written`
        self.open = False

    def __enter__(self) -> Turn:
        self.open = True
        self._token = TURN.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open = False
        TURN.reset(self._token)

    def see(self, key: str, version: str) -> None:
        """Note what was read. What was read first counts: if it has changed within the run, the run is out of date already.
        Raises `ValueError` for too much."""
        if len(self.seen) >= MAX_READ and key not in self.seen:
            raise ValueError(f"a run may read {MAX_READ} keys")
        self.seen.setdefault(key, version)

    def write(self, value: Value) -> None:
        """Note what is to be stored. Raises `ValueError` for too much."""
        before = self.written.get(value.key)
        if before is None and len(self.written) >= MAX_WRITES:
            raise ValueError(f"a run may write {MAX_WRITES} keys")
        size = self.size + _size(value) - (_size(before) if before else 0)
        if size > MAX_WRITTEN:
            raise ValueError(f"a run may write {MAX_WRITTEN} characters, keys and JSON together")
        self.written[value.key], self.size = value, size

    @property
    def memory(self) -> Memory | None:
        """What goes into the settlement. A run that wrote nothing may have read what it liked."""
        return Memory(self.inbox, self.seen, tuple(self.written.values())) if self.written else None


TURN: ContextVar[Turn | None] = ContextVar("responder_turn", default=None)


class InboxState:
    """`responder.agents.context.State` on the store. What an agent does outside of `answer` is durable at once."""

    def __init__(self, inbox: str, store: Store, clock: Clock) -> None:
        self._inbox = inbox
        self._store = store
        self._clock = clock

    async def get(self, key: str, default: JSON = None) -> JSON:
        found, _ = await self._read(self._turn(), _key(key))
        return default if found.json is None else json.loads(found.json)

    async def set(self, key: str, value: JSON, *, expires: float | None = None) -> None:
        await self._write(self._turn(), Value(_key(key), _encoded(value), self._until(expires)))

    async def add(self, key: str, value: JSON, *, expires: float | None = None) -> bool:
        new = Value(_key(key), _encoded(value), self._until(expires))
        turn = self._turn()
        while True:
            found, version = await self._read(turn, key)
            if found.json is not None:
                return False
            if await self._write(turn, new, version):
                return True

    async def increment(self, key: str, by: int = 1, *, expires: float | None = None) -> int:
        if not isinstance(by, int):
            raise ValueError("increment wants a whole number to add")
        turn = self._turn()
        while True:
            found, version = await self._read(turn, _key(key))
            number = 0 if found.json is None else json.loads(found.json)
            if not isinstance(number, int):
                raise ValueError("increment wants a key that holds a whole number")
            until = self._until(expires) if found.json is None else found.expires_at
            if await self._write(turn, Value(key, str(number + by), until), version):
                return number + by

    async def delete(self, key: str) -> None:
        await self._write(self._turn(), Value(_key(key), None))

    async def items(self, prefix: str = "") -> dict[str, JSON]:
        turn = self._turn()
        found = await self._store.values_below(self._inbox, _key(prefix))
        for value in turn.written.values() if turn else ():
            if value.key.startswith(prefix):
                found.pop(value.key, None)
                if value.json is not None:
                    found[value.key] = value.json
        return {key: json.loads(text) for key, text in sorted(found.items())}

    def _turn(self) -> Turn | None:
        turn = TURN.get()
        return turn if turn is not None and turn.open and turn.inbox == self._inbox else None

    def _until(self, expires: float | None) -> float:
        if expires is None:
            return 0.0
        if not isinstance(expires, int | float) or not expires > 0:  # NaN, too
            raise ValueError("expires wants a number of seconds above 0")
        return self._clock.now() + expires

    async def _read(self, turn: Turn | None, key: str) -> tuple[Value, str]:
        """What a key holds, and its version ("" where it holds nothing)."""
        if turn is not None and key in turn.written:
            return turn.written[key], ""
        text, version, until = (await self._store.values(self._inbox, [key])).get(key, (None, "", 0.0))
        if turn is not None:
            turn.see(key, version)
        return Value(key, text, until), version

    async def _write(self, turn: Turn | None, value: Value, version: str | None = None) -> bool:
        """Write, with `version` only if the key is still at that one. Whether it was written."""
        if turn is not None:
            turn.write(value)
            return True
        seen = {} if version is None else {value.key: version}
        return await self._store.remember(Memory(self._inbox, seen, (value,)))


def _size(value: Value) -> int:
    return len(value.key) + len(value.json or "")


def _key(key: str) -> str:
    if not isinstance(key, str) or len(key) > MAX_KEY or "\0" in key:
        raise ValueError(f"a key must be a text of at most {MAX_KEY} characters, without NUL")
    key.encode()  # a lone surrogate is no text: UnicodeEncodeError is a ValueError
    return key


def _encoded(value: JSON) -> str:
    """JSON text. Raises `ValueError` for what is none, or too much."""
    try:
        text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"a value must be JSON: {error}") from None
    if len(text) > MAX_VALUE:
        raise ValueError(f"a value may have {MAX_VALUE} characters as JSON, this one has {len(text)}")
    return text
