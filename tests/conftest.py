"""What all tests share: real peers that are skipped by name where they are missing, and required in CI."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.operator import Operator

# Run in the background of a script: programs that tests start would ignore it, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRED = os.environ.get("RESPONDER_REQUIRE_PEERS") == "1"
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"])


def find_peer(name: str) -> str | None:
    """Where a peer program is; system daemons are often not on a user's PATH."""
    return shutil.which(name, path=SEARCH)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`@pytest.mark.peer("postfix")`: skipped where there is none, unless peers are required; then it runs and fails."""
    if REQUIRED:
        return
    for item in items:
        for mark in item.iter_markers("peer"):
            missing = [name for name in mark.args if find_peer(name) is None]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"peer not installed: {', '.join(missing)}"))


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """An operator's terminal in the test's own process and folder."""
    from tests.support.operator import make_operator

    return make_operator(tmp_path, monkeypatch, capsys)
