"""What each verb begins with: the configuration's plugins, agents and store. No network library is loaded for it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from responder.agents.load import PluginError, Plugins, load_plugins, stand_in_checks, stand_ins
from responder.answering.setup import Setup, set_up
from responder.clock import Clock
from responder.config import Config, Inherited, inherit, unsupported
from responder.store.base import StoreUnusableError
from responder.store.sqlite import SQLiteStore
from responder.store.sqlite.look import look


class StartError(Exception):
    """It can't start as it is configured: one line, `FILE: KEY: REASON`."""


def inherited() -> Inherited:
    """What systemd hands over. It leaves the environment: no program that is started from here may take it for its own."""
    return inherit(os.environ, os.getpid())


def prepare(config: Config, file: Path) -> Setup:
    """A configuration with its plugins loaded and its agents built. Raises `StartError`."""
    for notice in unsupported(config):
        if notice.fatal:
            raise StartError(f"{file}: {notice}")
    plugins = find_plugins(config, file)
    try:
        agents = stand_ins(plugins, [inbox.agent for inbox in config.inboxes.values()])
        checks = stand_in_checks(plugins, [table.check or name for name, table in config.checks.items()])
        return replace(set_up(config, agents, checks), plugins=plugins)
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
        try:
            reason = _unusable(listen.path) if listen.path is not None else ""
        except OSError as error:  # a folder that nobody may look into
            reason = f"{listen.path}: {error.strerror}"
        if reason:
            raise StartError(f"{file}: listen[{number}].address: {reason}")


def _unusable(path: Path) -> str:
    """Why there can be no socket; "" where there can. A server that runs beside has its own there, so nobody is asked."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write in {path.parent}"
    if os.path.lexists(path) and not path.is_socket():
        return f"something that is no socket is at {path}"
    return ""
