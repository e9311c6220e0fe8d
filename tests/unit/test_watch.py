"""Files that change: one call per save, whatever an editor does on the way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from responder.watch import PAUSE, Watcher
from tests.support.clock import ManualClock


class Scene:
    """A watcher on a folder of plugins and a configuration; `look` lets it look that many times."""

    def __init__(self, folder: Path) -> None:
        self.plugins = folder / "plugins"
        self.plugins.mkdir()
        self.config = folder / "responder.toml"
        self.config.write_text("a")
        (self.plugins / "a.py").write_text("1")
        self.paths = [self.config, self.plugins, folder / "responder.local.toml", folder / "missing"]
        self.clock = ManualClock()
        self.changes: list[list[str]] = []
        self.on_change: Callable[[list[Path]], Awaitable[None]] = self.note

    async def note(self, files: list[Path]) -> None:
        self.changes.append([file.name for file in files])

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            async with asyncio.timeout(10):
                while not self.clock.sleeping:
                    await asyncio.sleep(0)
            self.clock.advance(PAUSE)
        async with asyncio.timeout(10):
            while not self.clock.sleeping:
                await asyncio.sleep(0)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    task = asyncio.create_task(Watcher(lambda: scene.paths, scene.clock).run(lambda files: scene.on_change(files)))
    await scene.look()
    yield scene
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_files_when_nothing_is_saved_then_nothing_is_said(scene: Scene) -> None:
    await scene.look(5)
    assert scene.changes == []


async def test_file_when_saved_come_or_gone_then_it_is_said_once(scene: Scene) -> None:
    (scene.plugins / "a.py").write_text("22")
    await scene.look(4)
    (scene.plugins / "b.py").write_text("1")
    await scene.look(4)
    (scene.plugins / "b.py").unlink()
    await scene.look(4)
    scene.config.write_text("bb")
    scene.config.with_suffix(".local.toml").write_text("c")
    await scene.look(4)
    assert scene.changes == [["a.py"], ["b.py"], ["b.py"], ["responder.local.toml", "responder.toml"]]


async def test_file_when_written_in_several_steps_then_it_is_one_change(scene: Scene) -> None:
    for step in range(4):
        (scene.plugins / "a.py").write_text("x" * (step + 2))
        (scene.plugins / f"b{step}.py").write_text("x")
        await scene.look()
        assert scene.changes == []
    await scene.look(3)
    assert scene.changes == [["a.py", "b0.py", "b1.py", "b2.py", "b3.py"]]


async def test_file_when_another_takes_its_place_with_the_same_time_and_size_then_it_is_seen(scene: Scene) -> None:
    old = (scene.plugins / "a.py").stat()
    new = scene.plugins / ".a.py.tmp"
    new.write_text("2")
    os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
    new.rename(scene.plugins / "a.py")
    await scene.look(4)
    assert scene.changes == [["a.py"]]


@pytest.mark.parametrize(
    "name", [".a.py.swp", ".#a.py", "a.py~", "#a.py#", "4913", "a.pyc", "notes.txt", "__pycache__/a.py", ".git/a.py"]
)
async def test_file_when_it_is_an_editor_s_or_no_plugin_then_it_is_left_out(scene: Scene, name: str) -> None:
    (scene.plugins / name).parent.mkdir(exist_ok=True)
    (scene.plugins / name).write_text("x")
    await scene.look(4)
    assert scene.changes == []


async def test_helper_in_a_sub_folder_when_saved_then_it_is_seen(scene: Scene) -> None:
    (scene.plugins / "parts").mkdir()
    (scene.plugins / "parts" / "x.py").write_text("x")
    await scene.look(4)
    assert scene.changes == [["x.py"]]


async def test_file_when_saved_while_the_change_is_taken_then_it_is_another_change(scene: Scene) -> None:
    async def save(files: list[Path]) -> None:
        await scene.note(files)
        if len(scene.changes) == 1:
            (scene.plugins / "a.py").write_text("33")

    scene.on_change = save
    (scene.plugins / "a.py").write_text("22 ")
    await scene.look(8)
    assert scene.changes == [["a.py"], ["a.py"]]


async def test_folders_when_the_configuration_names_others_then_they_are_watched(scene: Scene, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    scene.paths = [other]
    await scene.look(4)
    (other / "b.py").write_text("x")
    await scene.look(4)
    assert scene.changes == [["a.py", "responder.toml"], ["b.py"]]


async def test_working_folder_when_a_plugin_changes_it_then_relative_paths_stay_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins").mkdir()
    file = tmp_path / "plugins" / "a.py"
    file.write_text("1")
    monkeypatch.chdir(tmp_path)
    watcher = Watcher(lambda: [Path("plugins"), Path("responder.toml")], ManualClock())
    found = watcher._look()
    assert list(found) == [Path("plugins/a.py")]
    monkeypatch.chdir("/")
    assert watcher._look() == found
