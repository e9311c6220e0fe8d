"""Plugin files as modules: each folder is a package of its own, read from its source each time.

A file may import another of its folder (`from ._shared import ...`), and two folders may have files of one name. No byte code
is kept: it is found by the file's time and size, so that an edit in the same second could go unseen, and a `check` must leave
nothing behind.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

PREFIX = "responder_plugin_"


@contextmanager
def fresh(folders: Sequence[Path]) -> Iterator[None]:
    """Forget what was imported from these folders; where the block fails, all is as it was before."""
    packages = {package(folder) for folder in folders}
    before = _take(packages)
    try:
        yield
    except BaseException:
        _take(packages)
        sys.modules.update(before)
        raise


@contextmanager
def staying() -> Iterator[Path | None]:
    """Be in the same working folder behind the block, whatever a plugin does: the configuration's paths count from it. The
    folder; None where it has been removed."""
    try:
        home = Path.cwd()
    except OSError:
        home = None
    try:
        yield home
    finally:
        back_to(home)


def back_to(folder: Path | None) -> None:
    """Make that the working folder, where it is still there."""
    if folder is not None:
        with suppress(OSError):
            os.chdir(folder)


def import_file(path: Path) -> ModuleType:
    """A plugin file as the module of its name in the package of its folder."""
    folder = path.parent.resolve()
    name = package(folder)
    if name not in sys.modules:
        parent = ModuleType(name, f"The plugin files in {folder}.")
        parent.__path__ = [str(folder)]
        sys.modules[name] = parent
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    return importlib.import_module(f"{name}.{path.stem}")


def package(folder: Path) -> str:
    """The name of a folder's package."""
    return PREFIX + hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:12]


class Finder(MetaPathFinder):
    """Finds the modules in the packages of plugin folders, and no others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX) or not path:
            return None
        place = Path(path[0], fullname.rpartition(".")[2])
        for file, inner in ((place / "__init__.py", [str(place)]), (place.with_name(place.name + ".py"), None)):
            if file.is_file():
                loader = Source(fullname, str(file))
                return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inner)
        return None


class Source(SourceFileLoader):
    """Reads the source, and nothing else."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _take(packages: set[str]) -> dict[str, ModuleType]:
    """Take the modules of these packages out of what is imported."""
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}
