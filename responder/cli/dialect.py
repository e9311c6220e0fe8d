"""`responder dialect ...`: the dialects there are, what is in one, whether a file is one, and a new one from a language model."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from responder.cli.options import Verbs
from responder.cli.output import bold, harmless, print_json, print_table
from responder.inbound.dialects import files as dialect_file
from responder.inbound.dialects.dialect import CATALOGUE, Dialect
from responder.inbound.dialects.files import DialectError
from responder.start import StartError


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    dialect = verbs.add_parser(
        "dialect",
        help="the words of replies: list, show, check, schema, generate",
        description="Dialects: the words of SMTP replies, ours or another server's.",
    )
    inner = dialect.add_subparsers(metavar="WHAT", required=True)

    verb = inner.add_parser("list", help="the built-in ones", description="List the dialects that come along.")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=list_all)

    text = "each reply in the words of one"
    verb = inner.add_parser("show", help=text, description=f"Show {text}.")
    verb.add_argument("name", metavar="NAME-or-FILE", help="a built-in dialect, or a file (.toml, .json)")
    verb.add_argument("--json", action="store_true", help="as a dialect file, to begin one of your own with")
    verb.set_defaults(run=show)

    text = "whether a file is a dialect"
    verb = inner.add_parser("check", help=text, description=f"Say {text}; if not, in one line why.")
    verb.add_argument("file", type=Path, metavar="FILE", help="a file (.toml, .json)")
    verb.set_defaults(run=check)

    text = "the JSON schema of dialect files"
    verb = inner.add_parser("schema", help=text, description=f"Print {text}.")
    verb.set_defaults(run=schema)

    verb = inner.add_parser(
        "generate",
        help="have a language model write one",
        description="Ask a language model (an OpenAI-compatible chat endpoint) for the replies of some server software, keep what"
        " is valid, and write a dialect file. Where the model fails, the text of the built-in dialect that is nearest stands;"
        " where it fails altogether that dialect is written, and the exit status is 1.",
    )
    verb.add_argument("--technology", required=True, metavar="NAME", help='what to imitate, such as "Exim 4.96"')
    verb.add_argument(
        "--output", type=Path, metavar="FILE", help="where to (default: NAME.toml here); .json is written as JSON"
    )
    verb.add_argument("--force", action="store_true", help="overwrite the file")
    verb.add_argument("--url", default="https://api.openai.com/v1", help="the endpoint, up to /chat/completions")
    verb.add_argument("--model", default="gpt-4o-mini", metavar="NAME", help="the model (default: gpt-4o-mini)")
    verb.add_argument(
        "--key-env",
        default="OPENAI_API_KEY",
        metavar="VARIABLE",
        help="the environment variable that holds the key, if the endpoint wants one (default: OPENAI_API_KEY)",
    )
    verb.add_argument("--timeout", type=_seconds, default=120.0, metavar="SECONDS", help="for all of it (default: 120)")
    verb.set_defaults(run=generate)


def _seconds(argument: str) -> float:
    seconds = float(argument)
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError("wants a number of seconds above 0")
    return seconds


def list_all(options: argparse.Namespace) -> int:
    found = dialect_file.built_in()
    if options.json:
        print_json({name: {"about": one.about, "capabilities": one.capabilities} for name, one in found.items()})
    else:
        print_table(("dialect", "imitates"), [(name, one.about) for name, one in found.items()])
    return 0


def show(options: argparse.Namespace) -> int:
    dialect = _find(options.name)
    if options.json:
        print_json(dialect_file.table(dialect))
        return 0
    sys.stdout.write(f"{bold(harmless(dialect.name))}  {harmless(dialect.about)}\n")
    sys.stdout.write(f"a decoy offers: {harmless('; '.join(dialect.capabilities)) or 'the least'}\n\n")
    rows: list[tuple[object, ...]] = []
    for name, reply in CATALOGUE.items():
        text = dialect.texts.get(name)
        rows += [(name, reply.code, "-" if text is None else text.replace("\n", " / "))]
    rows += [(key, key[-3:], text) for key, text in dialect.texts.items() if key not in CATALOGUE]
    print_table(("reply", "code", "text ({...} is filled in; -: our own, or that of a broader key)"), rows)
    return 0


def check(options: argparse.Namespace) -> int:
    try:
        found = dialect_file.load(options.file)
    except DialectError as error:
        raise StartError(str(error)) from error
    sys.stdout.write(
        f"{harmless(str(options.file))}: {len(found.texts)} texts, {len(found.capabilities)} capabilities: good\n"
    )
    return 0


def schema(options: argparse.Namespace) -> int:
    print_json(dialect_file.DialectFile.model_json_schema())
    return 0


def generate(options: argparse.Namespace) -> int:
    from responder.cli.persona import Endpoint, ask  # here: the other verbs need no HTTP

    technology = " ".join(options.technology.split())
    if not technology or len(technology) > 100 or not technology.isprintable():
        raise StartError("--technology: wants a name of up to 100 characters")
    output = options.output or Path(f"{re.sub(r'[^a-z0-9.]+', '-', technology.lower()).strip('-.') or 'dialect'}.toml")
    if not options.force and (output.exists() or output.is_symlink()):
        raise StartError(f"{output}: is there already; --force overwrites it")
    base = dialect_file.nearest(technology)
    endpoint = Endpoint(options.url, options.model, os.environ.get(options.key_env, ""), options.timeout)
    found, notes = ask(endpoint, technology, base)
    _write(output, found or base, force=options.force)
    for note in notes:
        sys.stderr.write(f"responder: {harmless(note)}\n")
    sys.stdout.write(f"{harmless(str(output))}: {len((found or base).texts)} texts\n")
    if found is None:
        sys.stderr.write(
            f"responder: {harmless(str(output))} is the built-in {base.name}: the model gave nothing to use\n"
        )
        return 1
    return 0


def _find(name: str) -> Dialect:
    try:
        return dialect_file.find(name)
    except DialectError as error:
        raise StartError(str(error)) from error


def _write(path: Path, dialect: Dialect, *, force: bool) -> None:
    """Write it whole, or not at all. Raises `StartError`."""
    table = dialect_file.table(dialect)
    text = json.dumps(table, indent=2) + "\n" if path.suffix == ".json" else dialect_file.to_toml(table)
    scratch = path.with_name(f".{path.name}.new")
    try:
        with suppress(FileNotFoundError):
            scratch.unlink()
        with scratch.open("x", encoding="ascii") as file:
            file.write(text)
        if force:
            scratch.replace(path)
        else:
            os.link(scratch, path)  # unlike `replace`, refuses where somebody has made one meanwhile
            scratch.unlink()
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise StartError(f"{path}: can't be written: {error.strerror or error}") from error
