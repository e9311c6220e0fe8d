"""Every conversation in this folder, each against a listener and a store of its own, on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from tests.support.dialog import play, read

FILES = sorted(Path(__file__).parent.glob("*.txt"))
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_conversation_goes_as_written(path: Path, loop: str, tmp_path: Path) -> None:
    dialog = read(path)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        for cut in range(dialog.cuts + 1):
            folder = tmp_path / str(cut)
            folder.mkdir()
            runner.run(play(dialog, folder, cut))


def test_the_folder_is_not_empty() -> None:
    assert len(FILES) >= 300


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no header\nS: 220 *\n", "first line"),
        ("# RFC 5321 2: a word too many\nX: what\n", "not understood"),
        ("# RFC 5321 2: silent\nC: NOOP\n", "expects nothing"),
    ],
)
def test_file_with_a_mistake_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read(tmp_path / "bad.txt")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# RFC 5321 2: a wrong reply\nS: 220 nobody\n", "expected"),
        ("# RFC 5321 2: a reply too many\nS: 220 *\nC: NOOP\nC: QUIT\nS: 250 *\n@closed\n", "nothing more"),
        ("# RFC 5321 2: a mail that is not there\nS: 220 *\n@mails 1\n", "0 mails"),
    ],
)
def test_conversation_that_goes_otherwise_fails(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(text)
    with pytest.raises(AssertionError, match=found):
        asyncio.run(play(read(tmp_path / "other.txt"), tmp_path))
