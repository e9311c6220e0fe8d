"""An operator who moves the database away while the server uses it: nothing is accepted into a file without a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from responder.clock import SystemClock
from responder.store.base import StoreUnavailableError
from responder.store.records import NewMail
from responder.store.sqlite import SQLiteStore


def mail(identifier: str) -> NewMail:
    return NewMail(
        id=identifier,
        received_at=1.0,
        reverse_path="ann@remote.example",
        peer="192.0.2.1",
        helo="remote.example",
        message_id="",
        content=b"Subject: x\r\n\r\nx\r\n",
        recipients=(("echo@test.example", "echo"),),
        note="from remote.example",
    )


async def mails(path: Path) -> set[str]:
    """What a server that starts now finds."""
    store = SQLiteStore(path, SystemClock())
    await store.open(create=False)
    try:
        return {item.id for item in await store.items()}
    finally:
        await store.close()


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_file_is_removed_then_no_mail_is_accepted_and_none_that_was_is_lost(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / "responder.db"
    store = SQLiteStore(path, SystemClock())
    await store.open()
    try:
        await store.accept(mail("m1"))
        aside = tmp_path / "aside"
        (tmp_path / f"responder.db{suffix}").rename(aside)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="removed or replaced"):
                await store.accept(mail("m2"))
        aside.rename(tmp_path / f"responder.db{suffix}")
        await store.accept(mail("m3"))
    finally:
        await store.close()
    assert await mails(path) == {"m1.0", "m3.0"}


async def test_another_database_takes_its_place_then_no_mail_is_accepted(tmp_path: Path) -> None:
    path, other = tmp_path / "responder.db", tmp_path / "other.db"
    fresh = SQLiteStore(other, SystemClock())
    await fresh.open()
    await fresh.close()
    store = SQLiteStore(path, SystemClock())
    await store.open()
    try:
        await store.accept(mail("m1"))
        other.replace(path)
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            await store.accept(mail("m2"))
    finally:
        await store.close()


async def test_the_log_is_removed_then_a_clean_stop_still_saves_what_was_accepted(tmp_path: Path) -> None:
    path = tmp_path / "responder.db"
    store = SQLiteStore(path, SystemClock())
    await store.open()
    try:
        await store.accept(mail("m1"))
        (tmp_path / "responder.db-wal").unlink()
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            await store.accept(mail("m2"))
    finally:
        await store.close()
    assert await mails(path) == {"m1.0"}
