"""The verbs that plugins add (the hook `responder_commands`). The server's own verbs never load a plugin for them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from responder.agents.hookspecs import VERBS, Command
from responder.agents.load import Plugins
from responder.cli.options import Verbs
from responder.cli.output import harmless
from responder.config import DEFAULT_FILES, Config, ConfigError, find, load
from responder.start import StartError, find_plugins


def add(top: argparse.ArgumentParser, verbs: Verbs, common: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Add the plugins' verbs to the command line where `words` ask for one that is not the server's own, or for help.

    What is wrong with configuration or plugins must not keep anybody from the help.
    """
    verb = next((word for word in words if not word.startswith("-")), None)
    asks_help = verb is None and any(word in ("-h", "--help") for word in words)
    if verb in VERBS or not (verb or asks_help):
        return
    try:
        config, found = _look(words, asks_help)
    except (ConfigError, StartError, OSError) as error:
        if verb is not None:
            top.error(f'there is no verb "{harmless(verb)}", and plugins can\'t be asked for one: {_plain(error)}')
        if not _is_new(error):
            top.epilog = f"{top.epilog} Verbs of plugins can't be shown: {_percent(_plain(error))}."
        return
    for command in found.commands.values():
        help_text = _percent(harmless(command.help))
        place = verbs.add_parser(command.name, parents=[common], help=help_text, description=help_text)
        place.set_defaults(run=partial(_run, command, config, found.origins[command.name]))
        if command.name == verb:
            _add_arguments(place, command, found.origins[verb])


def _look(words: Sequence[str], leniently: bool) -> tuple[Config, Plugins]:
    """The configuration that the words name, and its plugins. Raises `ConfigError`, `StartError`."""
    only = argparse.ArgumentParser(add_help=False)
    only.add_argument("--config", type=Path)
    path: Path | None = only.parse_known_args(list(words))[0].config
    config = load(path, os.environ)
    file = find(path, os.environ)
    if leniently:
        config = config.model_copy(update={"broken_plugins": "skip"})
    return config, find_plugins(config, file)


def _add_arguments(place: argparse.ArgumentParser, command: Command, origin: str) -> None:
    try:
        command.add_arguments(place)
    except Exception as error:
        raise StartError(f"{origin}: the verb {command.name}: {type(error).__name__}: {_plain(error)}") from error


def _run(command: Command, config: Config, origin: str, options: argparse.Namespace) -> int:
    """Run a plugin's verb. What it raises is shown whole: it is its author who can make something of it."""
    status = command.run(options, config)
    if status is None:
        return 0
    if not isinstance(status, int) or isinstance(status, bool):
        raise StartError(f"{origin}: the verb {command.name} returned a {type(status).__name__}, no exit status")
    return status


def _is_new(error: Exception) -> bool:
    """Whether there is no configuration at all yet: that is no mistake where somebody asks for help."""
    return isinstance(error, ConfigError) and str(error).startswith(f"{DEFAULT_FILES[0]}: no such file")


def _plain(error: Exception) -> str:
    return harmless(" ".join(str(error).split()))


def _percent(text: str) -> str:
    return text.replace("%", "%%")
