"""Files that change: `serve --watch` reloads when a plugin or the configuration is saved.

It looks at them every now and then rather than asking the system to tell: that needs no library, works on every file system,
and a few dozen files cost less than a millisecond. It waits until they stand still: a save in several steps is one change.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

from responder.clock import Clock

PAUSE = 0.5  # seconds between two looks

Mark = tuple[
    int, int, int
]  # when it was modified, its size, and which file it is (an editor may put another in its place)


class Watcher:
    """Looks at files, and at the Python files in folders, at any depth. What editors write besides is left out.

    `paths` is asked at each look: which files count may change with the configuration.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]], clock: Clock) -> None:
        self._paths = paths
        self._clock = clock
        try:
            self._home = Path.cwd()  # a plugin may change it
        except OSError:
            self._home = Path()

    async def run(self, on_change: Callable[[list[Path]], Awaitable[None]]) -> None:
        """Call `on_change` with what has changed, come or gone, until cancelled."""
        seen = self._look()
        while True:
            await self._clock.sleep(PAUSE)
            now = self._look()
            if now == seen:
                continue
            while True:  # until it stands still
                await self._clock.sleep(PAUSE)
                before, now = now, self._look()
                if now == before:
                    break
            changed = sorted(path for path in {*seen, *now} if seen.get(path) != now.get(path))
            seen = now
            if changed:
                await on_change(changed)

    def _look(self) -> dict[Path, Mark]:
        found = {}
        for path in self._paths():
            for file in _files(path, self._home):
                if (mark := _mark(self._home / file)) is not None:
                    found[file] = mark
        return found


def _files(path: Path, home: Path) -> Iterator[Path]:
    """A file, or the Python files of a folder, as `path` names them."""
    top = home / path
    if not top.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        # `.#name.py` (Emacs), `.name.py.swp` (Vim), `name.py~`: none of them is a plugin.
        yield from (
            path / Path(folder, name).relative_to(top)
            for name in names
            if name.endswith(".py") and not name.startswith(".")
        )


def _mark(path: Path) -> Mark | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
