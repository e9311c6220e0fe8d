"""Jinja2 within bounds, for the agent `template`.

A template sees texts, numbers, dates, and lists and tables of them; no Python object behind them. Each render has so many steps,
characters and seconds: every loop, call and output counts, and whatever makes a text, a list or a number larger is checked
before it is done. What one single operation takes (comparing two deep structures, say) is not bounded here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date, time, timedelta, tzinfo
from functools import wraps
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, nodes, pass_context, pass_eval_context
from jinja2.filters import FILTERS, do_indent, do_join, do_replace, do_sum, do_wordwrap
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import BlockReference, LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 100_000  # characters of a template
MAX_VALUE = 250_000  # characters of a text, entries of a list, that a template makes on its way
MAX_NUMBER = 10_000  # the largest width, count or index that a filter is given
MAX_BITS = 4096  # of a whole number
MAX_STEPS = 1_000_000  # turns of loops, calls and outputs of one render: about a second

_FILTERS = (
    "abs", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "filesizeformat",
    "first", "float", "forceescape", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max",
    "min", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string",
    "striptags", "title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
)  # fmt: skip
_STR = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "lstrip", "partition",
    "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines",
    "startswith", "strip", "swapcase", "title", "upper",
})  # fmt: skip
_METHODS: tuple[tuple[type | tuple[type, ...], frozenset[str] | None], ...] = (
    (str, _STR),
    (Mapping, frozenset({"get", "items", "keys", "values"})),
    ((list, tuple), frozenset({"count", "index"})),
    ((date, time, timedelta, tzinfo), None),
    ((LoopContext, Macro, Cycler, Joiner, Namespace, TemplateReference, BlockReference), None),
)
_ATOMS = (str, int, float, date, time, timedelta)


class LimitError(Exception):
    """A template does more than it may."""


class TemplateError(Exception):
    """A template can't be rendered; the text names its line."""


class OutOfTimeError(Exception):
    """A template took too long: on a machine less busy it may not."""


class Budget:
    """What one render may use up."""

    def __init__(self, monotonic: Callable[[], float], seconds: float, characters: int) -> None:
        self._monotonic = monotonic
        self._seconds = seconds
        self._ends = monotonic() + seconds
        self.characters = self._left = characters
        self._steps = 0

    def spend(self, characters: int = 0) -> None:
        """One step, and so many characters. Raises `LimitError` and `OutOfTimeError`."""
        self._steps += 1
        self._left -= characters
        if self._left < 0:
            raise LimitError(f"it writes more than {self.characters} characters")
        if self._steps > MAX_STEPS:
            raise LimitError(f"it takes more than {MAX_STEPS} steps")
        if self._monotonic() > self._ends:
            raise OutOfTimeError(f"the template took longer than {self._seconds:g} s")


_BUDGET: ContextVar[Budget] = ContextVar("template_budget")


class Bounded:
    """A template, ready to be rendered. `fields` are those of the mail's fields that it reads."""

    def __init__(self, source: str, label: str, names: Iterable[str], fields: Collection[str], *, html: bool) -> None:
        """`names` are the variables there are besides `mail`. Raises `ValueError`: one line with the line number."""
        if len(source) > MAX_SOURCE:
            raise ValueError(f"{label}: a template has at most {MAX_SOURCE} characters")
        sandbox = _Sandbox(html=html)
        try:
            tree = sandbox.parse(source)
            self.fields = _fields(tree, fields)
            _check_names(tree, {*names, "mail"})
            sandbox.size = _weight(tree)
            _Bounds().visit(tree)
            tree.set_environment(sandbox)
            code = sandbox.compile(tree, filename=label)
        except TemplateSyntaxError as error:
            raise ValueError(f"{label}, line {error.lineno}: {error.message}") from None
        except (SyntaxError, RecursionError, MemoryError) as error:  # too many levels, for Jinja2 or for Python
            raise ValueError(f"{label}: it can't be read: {type(error).__name__}") from None
        self._template = Template.from_code(sandbox, code, sandbox.make_globals(None))
        self._label = label

    def render(self, values: Mapping[str, Any], budget: Budget) -> str:
        """What it writes. Raises `TemplateError` (with the line) and `OutOfTimeError`."""
        pieces: list[str] = []
        size = 0
        token = _BUDGET.set(budget)
        try:
            for piece in self._template.generate(values):
                size += len(piece)
                if size > budget.characters:
                    raise LimitError(f"it writes more than {budget.characters} characters")
                pieces.append(piece)
        except OutOfTimeError:
            raise
        except Exception as error:
            frames = traceback.walk_tb(error.__traceback__)
            lines = [number for frame, number in frames if frame.f_code.co_filename == self._label]
            place = f"{self._label}, line {lines[-1]}" if lines else self._label
            raise TemplateError(f"{place}: {type(error).__name__}: {error}") from error
        finally:
            _BUDGET.reset(token)
        return "".join(pieces)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 without what reaches out, grows without bound, or goes on for ever."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, html: bool) -> None:
        super().__init__(
            autoescape=html,
            undefined=StrictUndefined,
            finalize=_printed,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.filters = {name: _checked(FILTERS[name]) for name in _FILTERS} | {
            "indent": _indent,
            "join": _join,
            "replace": _replace,
            "sum": _sum,
            "wordwrap": _wordwrap,
            "_counted": _counted,
        }
        self.globals = {"range": _range, "dict": dict, "cycler": Cycler, "joiner": Joiner, "namespace": Namespace}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        allowed = next((names for kind, names in _METHODS if isinstance(obj, kind)), frozenset[str]())
        return allowed is None or attr in allowed

    def wrap_str_format(self, value: Any) -> None:
        """Jinja2 has a safe `format` of its own, whose widths have no bound: then no `format` at all."""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as Jinja2 has it
        size = __self.size if isinstance(__obj, Macro | LoopContext | BlockReference) else 0
        _BUDGET.get().spend(size)
        return super().call(__context, __obj, *args, **kwargs)

    size = 0  # characters of the template's own text: what a macro may write at each call

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise LimitError("formatting with % is not available: use ~ and filters")
        if operator == "*" and isinstance(left, int) and not isinstance(right, int | float):
            left, right = right, left
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * abs(right)
            if bits > MAX_BITS:
                raise LimitError(f"a number of more than {MAX_BITS} bits")
        elif isinstance(left, str | list | tuple):
            growth = len(left) * right if isinstance(right, int) else len(left) + _length(right)
            _fits(growth)
        return self.binop_table[operator](left, right)


class _Bounds(NodeTransformer):
    """Makes every loop count its turns, and every `~` check what it makes."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - as Jinja2 names it
        self.generic_visit(node)
        counted = nodes.Filter(node.iter, "_counted", [nodes.Const(_weight(node))], [], None, None)
        node.iter = counted.set_lineno(node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return nodes.Filter(nodes.Tuple(node.nodes, "load"), "join", [], [], None, None).set_lineno(node.lineno)


def _weight(node: nodes.Node) -> int:
    """Characters that stand in a part of a template as they are written."""
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


def _fields(tree: nodes.Template, known: Collection[str]) -> frozenset[str]:
    """The fields of `mail` that a template reads; all of them where it hands `mail` itself to something."""
    read: set[str] = set()
    whole = sum(name.name == "mail" for name in tree.find_all(nodes.Name))
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        if isinstance(node.node, nodes.Name) and node.node.name == "mail":  # type: ignore[attr-defined]
            key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)  # type: ignore[attr-defined]
            if isinstance(key, str):
                if key not in known:
                    raise TemplateSyntaxError(f'mail has no "{key}"; there are {", ".join(known)}', node.lineno)
                read.add(key)
                whole -= 1
    return frozenset(known) if whole else frozenset(read)


def _check_names(tree: nodes.Template, known: set[str]) -> None:
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise TemplateSyntaxError("a template can't bring in another one", node.lineno)
    unknown = find_undeclared_variables(tree) - known
    for name in tree.find_all(nodes.Name):
        if name.name in unknown:
            reason = f'there is no "{name.name}"; there are {", ".join(sorted(known))}'
            raise TemplateSyntaxError(reason, name.lineno)


@pass_context
def _printed(context: object, value: Any) -> Any:
    """What stands between `{{` and `}}`, on its way out."""
    _BUDGET.get().spend(len(_text(value)))
    return "" if value is None else value


@pass_context
def _counted(context: object, values: Iterable[Any], weight: int) -> Iterator[Any]:
    budget = _BUDGET.get()
    for value in values:
        budget.spend(weight)
        yield value


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > MAX_NUMBER:
        raise LimitError(f"a range has at most {MAX_NUMBER} numbers")
    return found


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes no large number and makes no large text."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        for value in (*args[1:], *kwargs.values()):
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise LimitError(f"a filter takes numbers up to {MAX_NUMBER}")
        if function is FILTERS["string"]:
            _text(args[0])
        result = function(*args, **kwargs)
        if isinstance(result, str):
            _fits(len(result))
        return result

    return run


@pass_eval_context
def _join(context: Any, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    found = list(values) if attribute is None else [context.environment.getitem(value, attribute) for value in values]
    _fits(sum(len(_text(value)) + len(d) for value in found))
    joined: str = do_join(context, found, d)  # Markup where it was made of such
    return joined


@pass_eval_context
def _replace(context: Any, text: Any, old: Any, new: Any, count: int | None = None) -> str:
    found = _text(text).count(_text(old))
    _fits(len(_text(text)) + found * len(_text(new)) * (5 if context.autoescape else 1))
    return do_replace(context, str(text), str(old), str(new), count)


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _fits(len(_text(text)) + (_text(text).count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return do_indent(text, width, first, blank)


@pass_context
def _sum(context: Any, values: Iterable[Any], attribute: str | int | None = None) -> Any:
    return do_sum(context.environment, values, attribute, 0)


@pass_context
def _wordwrap(context: Any, text: Any, width: int = 79, break_long_words: bool = True) -> str:
    return do_wordwrap(context.environment, _text(text), max(1, min(width, MAX_NUMBER)), break_long_words)


def _text(value: Any) -> str:
    """A value as it is printed. Raises `LimitError` for what is no single value: a list may print without an end."""
    if isinstance(value, Undefined):
        return str(value)  # "" behind an `if` without `else`; else it raises what it has to say
    if value is not None and not isinstance(value, _ATOMS):
        raise LimitError(f"a {type(value).__name__} can't be printed: name a field, or use join")
    return "" if value is None else str(value)


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _fits(size: int) -> None:
    if size > MAX_VALUE:
        raise LimitError(f"a text or a list of more than {MAX_VALUE} entries")
