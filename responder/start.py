"""What each verb begins with: the configuration's plugins, agents and store. No network library is loaded for it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from responder.agents.load import PluginError, Plugins, load_plugins, stand_ins
from responder.answering.setup import Setup, set_up
from responder.clock import Clock
from responder.config import Config, unsupported
from responder.store.base import StoreUnusableError
from responder.store.sqlite import SQLiteStore
from responder.store.sqlite.look import look


class StartError(Exception):
    """It can't start as it is configured: one line, `FILE: KEY: REASON`."""


def prepare(config: Config, file: Path) -> Setup:
    """A configuration with its plugins loaded and its agents built. Raises `StartError`."""
    for notice in unsupported(config):
        if notice.fatal:
            raise StartError(f"{file}: {notice}")
    plugins = find_plugins(config, file)
    try:
        agents = stand_ins(plugins, [inbox.agent for inbox in config.inboxes.values()])
        return replace(set_up(config, agents), plugins=plugins)
    except PluginError as error:
        raise StartError(f"{file}: {error}") from error


def find_plugins(config: Config, file: Path) -> Plugins:
    """Everything that the plugins of a configuration bring. Raises `StartError`."""
    try:
        return load_plugins(config.plugins, skip_broken=config.broken_plugins == "skip")
    except PluginError as error:
        raise StartError(f"{file}: plugins: {error}") from error


def make_store(config: Config, file: Path, clock: Clock) -> SQLiteStore:
    """The store that a configuration names, not opened yet. Raises `StartError`."""
    for notice in unsupported(config):
        if notice.fatal and notice.key == "store":
            raise StartError(f"{file}: {notice}")
    assert config.sqlite_path is not None, "refused by `unsupported`"
    return SQLiteStore(config.sqlite_path, clock)


def look_around(config: Config, file: Path) -> None:
    """Whether what the server would open can be opened, as far as that shows without opening or making anything.

    Raises `StartError`.
    """
    assert config.sqlite_path is not None, "refused by `unsupported`"
    try:
        look(config.sqlite_path)
    except StoreUnusableError as error:
        raise StartError(f"{file}: store: {error}") from error
    for number, listen in enumerate(config.listen):
        if listen.path is not None and not (folder := listen.path.absolute().parent).is_dir():
            raise StartError(f"{file}: listen[{number}].address: there is no folder {folder}")
        if listen.path is not None and not os.access(listen.path.absolute().parent, os.W_OK | os.X_OK):
            raise StartError(f"{file}: listen[{number}].address: no permission to write in {listen.path.parent}")
