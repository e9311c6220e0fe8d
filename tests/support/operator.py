"""An operator at the terminal: verbs of the command line in the test's own process, in a folder of their own."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from responder import app, observe
from responder.cli import main
from tests.support.server import to_toml


@dataclass(frozen=True, slots=True)
class Result:
    """What a verb left on the terminal."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Operator:
    """Runs verbs in `folder`, on the configuration file there."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.file = folder / "responder.toml"
        self._capsys = capsys

    def write(self, config: Mapping[str, Any]) -> None:
        self.file.write_text(to_toml(config), encoding="utf-8")

    def run(self, *arguments: str) -> Result:
        """One verb, its arguments as they are typed."""
        self._capsys.readouterr()
        with _log_kept():
            try:
                status = main(arguments)
            except SystemExit as end:  # argparse: --help and bad usage
                status = end.code if isinstance(end.code, int) else 1
        captured = self._capsys.readouterr()
        return Result(status, captured.out, captured.err)

    def __call__(self, *arguments: str) -> Result:
        """One verb on the folder's configuration."""
        return self.run(*arguments, "--config", str(self.file))


@contextmanager
def _log_kept() -> Iterator[None]:
    """`serve` sends the whole program's log where it is told; behind it the tests have theirs again."""
    root, log = logging.getLogger(), observe._log
    before = list(root.handlers), root.level, log.stream, log.format, log.level
    try:
        yield
    finally:
        root.handlers[:], root.level, log.stream, log.format, log.level = before


def make_operator(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """An operator in that folder, without any RESPONDER_ variable. `serve` ends where it would begin to serve."""

    async def serves(*_: object) -> None:
        raise AssertionError("it serves")

    monkeypatch.setattr(app.Server, "_serve", serves)
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("RESPONDER_")]:
        monkeypatch.delenv(name)
    return Operator(folder, capsys)


def complains(result: Result, file: str | Path, key: str, reason: str) -> None:
    """Exit status 2, and one line: the file, the key, and words that `reason` matches."""
    assert result.status == 2, result
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith(f"responder: {file}: {key}: " if key else f"responder: {file}: "), lines[0]
    assert re.search(reason, lines[0]), lines[0]
    assert result.err.endswith("\n")


def left(folder: Path) -> list[str]:
    """What stands in the folder, plugins aside."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "own" not in path.parts)
