"""What an operator's check works with: a client and its mail come in, an objection goes out, or nothing.

A check is asked while the client waits, at the steps of a session that it has a method for. It may refuse, put off, or (of a
whole message) add header fields; what it raises, or how long it takes, is contained by `responder.agents.guards`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel

from responder.agents.base import Mail, NoSettings
from responder.agents.context import Context
from responder.mail.write import line_text

Step = Literal["connect", "helo", "mail", "rcpt", "data"]
STEPS: Final[tuple[Step, ...]] = ("connect", "helo", "mail", "rcpt", "data")

MAX_TEXT = 200  # characters of a reply: its line has 512 octets (RFC 5321 4.5.3.1.5), an enhanced code included
MAX_FIELDS = 20  # header fields that one check may add to a mail
MAX_NOTE = 200  # characters of what history says

_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}")  # RFC 3463 2
_FIELD = re.compile(r"X-(?!Responder-)[A-Za-z0-9-]{1,60}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Client:
    """Who speaks, and what it has said until now."""

    id: str
    """The connection's own."""

    peer: str = ""
    """Its address; "" behind a Unix socket."""

    helo: str = ""
    """What it said behind EHLO; "" before."""

    tls: str = ""
    """Protocol and cipher, "" where the connection is not encrypted."""

    user: str = ""
    """Who has logged in, "" where nobody has."""

    protocol: str = "SMTP"
    """How the mail comes, as `Received` says it (RFC 3848)."""

    sender: str | None = None
    """The reverse-path; "" is the null one, None before MAIL."""

    recipients: tuple[str, ...] = ()
    """Who was accepted until now, in our spelling."""

    state: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What this check remembers of this connection."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, and not later either. The text is said to the client, so it tells nothing that a stranger may not know.

    Raises `ValueError` for a code that is no 5yz (RFC 5321 4.2.1) or an enhanced one that is no 5.y.z (RFC 3463).
    """

    text: str = "Refused by local policy"
    code: int = 550
    enhanced: str = "5.7.1"

    def __post_init__(self) -> None:
        _reply(self, 5)


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now: the client is to try again later. Raises `ValueError` for codes that are not 4yz and 4.y.z."""

    text: str = "Try again later"
    code: int = 451
    enhanced: str = "4.7.1"

    def __post_init__(self) -> None:
        _reply(self, 4)


@dataclass(frozen=True, slots=True)
class Mark:
    """Header fields on top of the mail. Those of the same names that came in with it are removed: nobody forges them.

    `fields` maps names to values: names begin with `X-`, values are made one line. `note` is for the mail's history. Raises
    `ValueError` for other names, and for more than `MAX_FIELDS`.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.fields, Mapping) or len(self.fields) > MAX_FIELDS:
            raise ValueError(f"a Mark takes a table of up to {MAX_FIELDS} fields")
        for name, value in self.fields.items():
            if not isinstance(value, str):
                raise ValueError(f"the value of {field_name(name)} is a {type(value).__name__}, not a text")
            field_name(name)
        if not isinstance(self.note, str):
            raise ValueError("the note of a Mark is a text")
        object.__setattr__(self, "fields", dict(self.fields))
        object.__setattr__(self, "note", line_text(self.note, MAX_NOTE))


Objection = Refuse | Defer
Finding = Refuse | Defer | Mark | None


def field_name(name: object) -> str:
    """A name that a check may set. What steers mail (From, Received, List-Id, our own loop marks) is not its to change.
    Raises `ValueError`."""
    if not isinstance(name, str) or not _FIELD.fullmatch(name):
        raise ValueError("a check may set header fields named X-..., but for X-Responder-...")
    return name


def _reply(reply: Any, kind: int) -> None:
    """Make a reply one that can be said: its codes fit each other, its text is one short line of ASCII."""
    code, enhanced = reply.code, reply.enhanced
    if not isinstance(code, int) or not kind * 100 <= code < kind * 100 + 60:
        raise ValueError(f"the code of {type(reply).__name__} is between {kind}00 and {kind}59")
    found = _ENHANCED.fullmatch(enhanced) if isinstance(enhanced, str) else None
    if found is None or int(found[1]) != kind:
        raise ValueError(f"the enhanced code of {type(reply).__name__} is like {kind}.7.1 (RFC 3463)")
    if not isinstance(reply.text, str):
        raise ValueError(f"the text of {type(reply).__name__} is a text")
    text = line_text(reply.text, MAX_TEXT).encode("ascii", "replace").decode("ascii")
    object.__setattr__(reply, "text", text or ("Refused" if kind == 5 else "Try again later"))


class Check:
    """Asked about each client and mail. Subclass it, write the steps that it is to be asked at, and name it in
    `responder_checks`. A plain `def` runs in a thread."""

    Settings: ClassVar[type[BaseModel]] = NoSettings
    """The pydantic model of the `settings` table in `[checks.NAME]`."""

    fields: Sequence[str] = ()
    """Header fields that are this check's alone: where a mail comes in with them, they are removed, marked or not. May be set
    in `__init__`."""

    context: Context
    """What the server gives the check: log, clock, HTTP client, state. There from `start` on, not yet in `__init__`."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    async def start(self) -> None:
        """Called once before the first client, when the configuration is taken into use. What it raises refuses it."""

    async def stop(self) -> None:
        """Called once behind the last client, when the check is replaced or the server stops."""

    async def connect(self, client: Client) -> Objection | None:
        """A client has come, and waits for the greeting. An objection ends the connection (554 or 421)."""

    async def helo(self, client: Client, name: str) -> Objection | None:
        """It says who it is."""

    async def mail(self, client: Client, sender: str, parameters: Mapping[str, str | None]) -> Objection | None:
        """It has mail of this reverse-path ("": the null one). Parameters are those of MAIL, names in upper case."""

    async def rcpt(self, client: Client, recipient: str) -> Objection | None:
        """The mail is for this inbox of ours, in our spelling. Not asked where there is none."""

    async def data(self, client: Client, mail: Mail) -> Finding:
        """The whole mail is here, and the client waits for 250. `mail` has the first recipient's inbox."""


CheckFunction = Callable[..., Finding | Awaitable[Finding]]
F = TypeVar("F", bound=Callable[..., Any])

ARGUMENTS: Final[Mapping[Step, int]] = {"connect": 1, "helo": 2, "mail": 3, "rcpt": 2, "data": 2}
"""How many arguments a step is asked with, the client first."""


def check(name: str, step: Step) -> Callable[[F], F]:
    """Make a function the check of that name: it is called as the method `step` of a `Check` is, without `self`."""

    def mark(function: F) -> F:
        function.__responder_check__ = name  # type: ignore[attr-defined]
        function.__responder_step__ = step  # type: ignore[attr-defined]
        return function

    return mark


def as_class(function: Callable[..., Any], step: Step) -> type[Check]:
    """A function as a check like any other. It lives here, where `watchdog` knows that no frame of ours is at work."""
    method = _asynchronous(function) if inspect.iscoroutinefunction(function) else _plain(function)
    return type(function.__name__, (Check,), {"__doc__": function.__doc__, step: method})


def _asynchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    async def method(self: Check, *said: Any) -> Any:
        return await function(*said)

    return method


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Check, *said: Any) -> Any:
        return function(*said)

    return method
