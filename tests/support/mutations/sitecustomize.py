"""Changes a server of the tests: takes one safety away, to show that the test of it notices, or makes what is rare frequent.

Python imports this module at its start where this folder is on PYTHONPATH; `TEST_MUTATION` names the change.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from dataclasses import replace
from functools import partial
from typing import Any

from responder.store.records import InboundItem, NewMail, Settlement
from responder.store.sqlite import SQLiteStore, writer

BEHIND = 0.02  # seconds from the reply to the commit: what a write-behind store takes to collect its batch

commit = SQLiteStore.accept
settle = SQLiteStore.settle_inbound
commits: set[asyncio.Task[None]] = set()


async def accept_behind(store: SQLiteStore, mail: NewMail) -> None:
    """The reply first, the commit soon."""

    def begin() -> None:
        task = asyncio.ensure_future(commit(store, mail))
        commits.add(task)
        task.add_done_callback(commits.discard)

    asyncio.get_running_loop().call_later(BEHIND, begin)


async def settle_apart(store: SQLiteStore, item: InboundItem, settlement: Settlement) -> Any:
    """What the agent remembers first, its answer soon."""
    if settlement.memory is not None:
        await store.remember(settlement.memory)
        await asyncio.sleep(BEHIND)
    return await settle(store, item, replace(settlement, memory=None))


class Lowered(sqlite3.Connection):
    """A connection that does not get the durability it asks for."""

    level = ""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        return super().execute(re.sub(r"(synchronous\s*=\s*)\w+", rf"\g<1>{self.level}", sql), *arguments)


match os.environ["TEST_MUTATION"]:
    case "commit-after-250":
        setattr(SQLiteStore, "accept", accept_behind)  # noqa: B010 - not for type checkers
    case "synchronous-normal" | "synchronous-off" as name:
        Lowered.level = name.rpartition("-")[2].upper()
        setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Lowered))  # noqa: B010
    case "memory-apart":
        setattr(SQLiteStore, "settle_inbound", settle_apart)  # noqa: B010
    case "checkpoint-often":
        assert writer.CHECKPOINT > 100
        writer.CHECKPOINT = 100
    case unknown:
        raise SystemExit(f"no such mutation: {unknown}")
