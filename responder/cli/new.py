"""`responder new plugin NAME` and `new check NAME`: an agent's or a check's file and its test, both running as they are."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import os
import re
import sys
from pathlib import Path

from responder.agents.load import PluginError, load_plugins
from responder.cli.options import Verbs, configuration
from responder.cli.output import bold, harmless
from responder.cli.templates import CHECKS, INBOX, PLUGIN, Kind
from responder.config import Config, ConfigError, load, local_file
from responder.start import StartError

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "new",
        help="write a new plugin, with its test",
        description="Write the files that something new begins with. Nothing is ever overwritten.",
    )
    things = verb.add_subparsers(metavar="WHAT", title="what to write", required=True)
    plugin = things.add_parser(
        "plugin",
        parents=[common],
        help="an agent: its file, and its test",
        description="Write NAME.py and test_NAME.py into the first folder that `plugins` names. Both run as they are.",
    )
    plugin.add_argument("name", metavar="NAME", help="the agent's name: lower-case letters, digits, hyphens")
    plugin.add_argument("--folder", type=Path, metavar="DIR", help="another folder, which need not be there yet")
    plugin.add_argument(
        "--add-inbox",
        action="store_true",
        help="also give it the inbox NAME, in the .local.toml beside the configuration",
    )
    plugin.set_defaults(run=run, kind=PLUGIN)
    check = things.add_parser(
        "check",
        parents=[common],
        help="a check of clients and mails as they come in: its file, and its test",
        description="Write NAME.py and test_NAME.py into the first folder that `plugins` names. Both run as they are.",
    )
    check.add_argument("name", metavar="NAME", help="the check's name: lower-case letters, digits, hyphens")
    check.add_argument("--folder", type=Path, metavar="DIR", help="another folder, which need not be there yet")
    check.set_defaults(run=run, kind=CHECKS, add_inbox=False)


def run(options: argparse.Namespace) -> int:
    name: str = options.name
    kind: Kind = options.kind
    module = _module(name)
    config, file = _configuration(options)
    folder = _folder(options.folder, config, file)
    _look_around(config, kind, name, module)
    # Where our own package is beside it, as in a clone, linters want its imports apart.
    gap = "\n" if Path("responder", "__init__.py").is_file() else ""
    words = {
        "name": name,
        "kind": "".join(part.capitalize() for part in module.split("_")) + kind.word.capitalize(),
        "gap": gap,
    }
    agent, test = folder / f"{module}.py", folder / f"test_{module}.py"
    is_new = not folder.exists()
    _write(kind, agent, test, words)
    added = None
    if options.add_inbox and file is not None:
        try:
            added = _add_inbox(file, options.config, words)
        except BaseException:
            agent.unlink()
            test.unlink()
            if is_new:
                folder.rmdir()
            raise
    _tell(kind, agent, test, words, config, file, added)
    return 0


def _module(name: str) -> str:
    """The module of an agent's name. Raises `StartError`."""
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise StartError(f"{name}: a name is of up to 40 lower-case letters, digits and hyphens, a letter first")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module) or module == "conftest" or module.startswith("test_"):
        raise StartError(f"{name}: this name means something to Python or pytest: take another one")
    # A test runner puts the folder in front of everything else: the file would stand in that module's place.
    if module in sys.builtin_module_names or importlib.util.find_spec(module) is not None:
        raise StartError(
            f'{name}: there is a Python module "{module}", in whose place the file would stand: take another name'
        )
    return module


def _configuration(options: argparse.Namespace) -> tuple[Config | None, Path | None]:
    """The configuration and its file; with `--folder` there need not be one. Raises `ConfigError`."""
    try:
        return configuration(options)
    except ConfigError:
        if options.folder is None or options.config is not None or options.add_inbox:
            raise
        return None, None


def _folder(wanted: Path | None, config: Config | None, file: Path | None) -> Path:
    if wanted is None:
        if config is None or not config.plugins:
            raise StartError(f"{file}: plugins: names no folder: name one with --folder DIR")
        wanted = config.plugins[0]
    return wanted


def _look_around(config: Config | None, kind: Kind, name: str, module: str) -> None:
    """Whether the name is free among the plugins that can be read. Raises `StartError`."""
    if config is None:
        return
    try:
        found = load_plugins([folder for folder in config.plugins if folder.is_dir()], skip_broken=True)
    except PluginError as error:
        raise StartError(f"plugins: {error}") from error
    there = found.checks.get(name) if kind is CHECKS else found.agents.get(name)
    # A file takes the place of an installed module of its name: that is how a stock agent is replaced.
    if there is not None and not (isinstance(there.source, str) and there.source.rpartition(".")[2] == module):
        raise StartError(f'{name}: the {kind.word} "{name}" is already there, from {there.origin}')


def _write(kind: Kind, agent: Path, test: Path, words: dict[str, str]) -> None:
    """Write both files, or none. Raises `StartError`."""
    written: list[Path] = []
    try:
        agent.parent.mkdir(parents=True, exist_ok=True)
        for path, template in ((agent, kind.file), (test, kind.test)):
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(template.substitute(words))
    except OSError as error:
        for path in written:
            path.unlink()
        reason = "is already there: nothing was written" if isinstance(error, FileExistsError) else error.strerror
        raise StartError(f"{error.filename}: {reason}") from error


def _add_inbox(file: Path, given: Path | None, words: dict[str, str]) -> Path:
    """Add the inbox to the configuration's local file, unless that makes it a bad one. Raises `ConfigError`, `StartError`."""
    local = local_file(file) or file
    if words["name"] in load(given, os.environ).inboxes:
        raise StartError(f"{file}: inboxes.{words['name']}: is already there")
    before = local.read_bytes() if local.exists() else None
    try:
        with local.open("ab") as end:
            end.write((b"\n" if before else b"") + INBOX.substitute(words).encode())
    except OSError as error:
        raise StartError(f"{local}: {error.strerror}") from error
    try:
        load(given, os.environ)
    except ConfigError:
        if before is None:
            local.unlink()
        else:
            local.write_bytes(before)
        raise
    return local


def _tell(
    kind: Kind,
    agent: Path,
    test: Path,
    words: dict[str, str],
    config: Config | None,
    file: Path | None,
    added: Path | None,
) -> None:
    """What was written, and what comes next."""
    name = words["name"]
    option = f" --config {file}" if file is not None and str(file) not in ("config/responder.toml",) else ""
    steps = "the check: make its steps yours" if kind is CHECKS else "the agent: make `answer` yours"
    rows = [(str(agent), steps), (str(test), "its test")]
    lines = [f"{path:<{max(len(path) for path, _ in rows)}}  {what}" for path, what in rows]
    if added is not None:
        lines.append(f"{added}: the inbox {name} was added")
    lines += ["", bold("What comes next"), ""]
    if config is not None and agent.parent.resolve() not in [folder.resolve() for folder in config.plugins]:
        folders = ", ".join(f'"{folder}"' for folder in [*config.plugins, agent.parent])
        lines += ["Let the server know the folder:", "", f"    plugins = [{folders}]", ""]
    if added is None:
        where = (local_file(file) or file) if file is not None else Path("responder.toml")
        lines += [f"{'Have it asked' if kind is CHECKS else 'Give it an inbox'}, in {where}:", ""]
        lines += [f"    {line}" for line in kind.table.substitute(words).splitlines()] + [""]
    if kind is PLUGIN:
        lines += [
            "See what it would answer:",
            "",
            f"    printf 'From: you@example.com\\nSubject: Hi\\n\\nHello!\\n' | responder try {name} -{option}",
            "",
        ]
    lines += [
        "Run its test (pip install pytest):",
        "",
        f"    python -m pytest {test}",
        "",
        "A server that runs takes it at SIGHUP; `responder serve --watch` takes each change at once.",
    ]
    sys.stdout.write("\n".join([line if line.isprintable() else harmless(line) for line in lines]) + "\n")
