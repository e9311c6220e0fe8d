"""The house keeps its order: what `docs/architecture.md` says of floors and places, held against the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.server import ROOT

PACKAGE = ROOT / "responder"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))
MAX_LINES = 330

# The two files above the floors: the face that plugin authors and programs import, and `python -m responder`.
FACES = {"__init__.py": {"agents", "mail", "outbound"}, "__main__.py": {"cli"}}

# On one floor nobody imports sideways, but for these: who may import whom, and why.
NEIGHBOURS = {
    ("cli", "app"): "serve runs it",
    ("cli", "start"): "verbs begin with it",
    ("app", "start"): "so does the server",
    ("app", "reception"): "it serves what that puts together",
    ("app", "departure"): "and sends by that",
    ("cli", "reception"): "check examines it",
    ("reception", "start"): "it can't start",
    ("delivery", "worker"): "stages know the lease that they run under",
    ("answering", "sealing"): "what stages compose is signed",
    ("delivery", "sealing"): "notifications as well",
    ("intake", "sealing"): "and what users submit",
}

CLOCKS = {
    "clock.py": "it is the clock",
    "observe.py": "a log line is stamped with the moment it is written; nothing is decided by that",
}
SOCKETS = ("inbound", "outbound", "dns")
HANDED_OVER = {
    "agents/isolation/spawn.py": "a pipe can be handed to a process that runs already on a Unix socket only (unix(7))",
    "agents/isolation/nursery.py": "it takes them there",
}
UNTIMED = {"time", "random", "secrets", "uuid"}
PURE = {"asyncio", "threading", "os", "pathlib", "socket", "ssl", "io", "sqlite3", "logging", "subprocess", "tempfile"}
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE|PRAGMA\s)\b", re.DOTALL
)
NAMELESS = re.compile(r"(.*_)?(manager|helper|util|common|misc|shared|stuff|tool|processor|process|service)s?(_.*)?")


def names(path: Path) -> str:
    return str(path)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def imports(module: ast.AST, neighbours: bool = False) -> Iterator[str]:
    """Dotted names of what is imported anywhere in a file, also within functions and for type checkers."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if neighbours and node.level == 1 and node.module and node.module.startswith("_"):
                continue  # plugins of one folder share files that begin with "_"
            assert node.level == 0, "relative imports hide where something comes from"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(module: ast.AST) -> set[str]:
    """The packages and modules of ours, one level deep, that a file imports."""
    found = set()
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "responder" and len(parts) > 1:
            found.add(parts[1])
    return found


def home(path: Path) -> str:
    """The package or module, one level deep, that a file belongs to."""
    return path.parts[0].removesuffix(".py")


@cache
def floors() -> dict[str, int]:
    """The table of `docs/architecture.md`."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("\n## Floors")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d) \| `([a-z]+)(/|\.py)` \|", section, re.MULTILINE)
    for _, name, kind in rows:
        assert (PACKAGE / name).is_dir() == (kind == "/"), f"docs/architecture.md: {name} is no longer what it was"
    return {name: int(floor) for floor, name, _ in rows}


def test_documentation_names_every_package_and_module() -> None:
    assert set(floors()) == {home(path) for path in MODULES} - {name.removesuffix(".py") for name in FACES}


@pytest.mark.parametrize("path", [path for path in MODULES if str(path) not in FACES], ids=names)
def test_imports_go_down_only_and_never_sideways(path: Path) -> None:
    me = home(path)
    for other in ours(tree(path)) - {me}:
        if floors()[other] == floors()[me]:
            assert (me, other) in NEIGHBOURS, f"{path} imports {other}, which is on its own floor"
        else:
            assert floors()[other] < floors()[me], f"{path} imports {other}, which is above it"


@pytest.mark.parametrize("name", FACES)
def test_faces_show_what_is_behind_them_and_no_more(name: str) -> None:
    assert ours(tree(Path(name))) == FACES[name]


def test_stages_do_not_know_each_other() -> None:
    stages = {"intake", "answering", "delivery"}
    for path in MODULES:
        if home(path) in stages:
            assert not ours(tree(path)) & (stages - {home(path)})


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_time_and_chance_come_from_the_clock(path: Path) -> None:
    if str(path) in CLOCKS:
        return
    assert not {name.partition(".")[0] for name in imports(tree(path))} & UNTIMED
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("utcnow", "today"), f"{path}:{node.lineno} reads the time"
            clocks = ("datetime.now", "date.today", "os.urandom", "loop.time")
            assert ast.unparse(node) not in clocks, f"{path}:{node.lineno} reads the time or rolls dice"
        if (
            isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.sleep"
        ):  # sleep(0) lets others run, no more
            assert ast.unparse(node) == "asyncio.sleep(0)", f"{path}:{node.lineno} sleeps"


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_sockets_are_touched_at_the_edges_only(path: Path) -> None:
    if home(path) in SOCKETS or str(path) in HANDED_OVER:
        return
    assert not {name.partition(".")[0] for name in imports(tree(path))} & {"socket", "ssl", "socketserver", "select"}
    verbs = {
        "create_server",
        "create_unix_server",
        "create_connection",
        "open_connection",
        "start_server",
        "sock_connect",
    }
    for node in ast.walk(tree(path)):
        assert not (isinstance(node, ast.Attribute) and node.attr in verbs), f"{path} opens a connection"


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_sql_is_written_in_the_store_only(path: Path) -> None:
    if home(path) == "store":
        return
    assert not {name.partition(".")[0] for name in imports(tree(path))} & {
        "sqlite3",
        "psycopg",
        "asyncpg",
        "sqlalchemy",
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not SQL.search(node.value), f"{path}:{node.lineno} writes SQL"


@pytest.mark.parametrize("path", [path for path in MODULES if home(path) == "mail"], ids=names)
def test_mail_is_pure(path: Path) -> None:
    """No waiting, no files, no clock: what it says depends on what it is given."""
    assert not {name.partition(".")[0] for name in imports(tree(path))} & PURE
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{path} waits"
        assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "print", "input"))


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_environment_is_read_where_the_program_begins(path: Path) -> None:
    if home(path) in ("config", "cli", "start"):
        return
    assert not re.search(r"\bos\.(environ|getenv)\b", (PACKAGE / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.name)
def test_plugin_imports_what_any_operators_plugin_may(path: Path) -> None:
    for name in imports(ast.parse(path.read_text(encoding="utf-8")), neighbours=True):
        if name.startswith("responder"):
            assert name.split(".")[0] == "responder"
            assert name.count(".") <= 1, f"{path.name} imports {name}: plugins import `responder` only"
            assert not (PACKAGE / f"{name.partition('.')[2]}.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_module_says_what_it_is_for_and_fits_on_a_few_screens(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{path} has no docstring"
    lines = len((PACKAGE / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines: it asks to be split"


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_name_says_what_is_inside(path: Path) -> None:
    for part in path.with_suffix("").parts:
        assert not NAMELESS.fullmatch(part), f"{path}: a name that says nothing"
