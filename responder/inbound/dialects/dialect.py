"""The words of replies: a dialect gives each reply its text. It never changes a code.

A `Dialect` is what a file says (`dialect_file` reads it). Bound to a listener it becomes `Words`: every reply whose text is the
same each time is rendered then, and found by its identity while sessions run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Literal, Protocol

from responder.inbound import replies
from responder.inbound.replies import Reply

if TYPE_CHECKING:
    from aiosmtpd.smtp import Session as SessionRecord

MAX_LINE = 512
"""Octets of a reply line with its CRLF (RFC 5321 4.5.3.1.5)."""

MAX_VALUE = 256
"""Characters of one value in a text: clients choose some of them."""

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
EVERYWHERE = frozenset({"hostname", "date", "limit", "peer", "helo", "address", "command"})
"""What may stand in any text: our name, the time (RFC 5322 3.3), the octets of a message that are taken, and what the client
has said: its address, its name, the address and the whole of its last command."""

ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3} (?=\S)")  # RFC 3463 2
_MADE = (
    replies.queued("", 0),
    replies.unauthentic(""),
    replies.greeting("", ""),
    replies.hello(""),
    replies.commands(""),
    replies.syntax(""),
)
CATALOGUE: dict[str, Reply] = {
    name.lower().replace("_", "-"): reply for name, reply in vars(replies).items() if isinstance(reply, Reply)
} | {reply.name: reply for reply in _MADE}
"""Every reply by the name that dialects know it by: `SENDER_OK` is `sender-ok`."""

OWN: dict[str, frozenset[str]] = {reply.name: frozenset(reply.values or ()) for reply in _MADE}
OWN["queued"] |= {"number", "rate"}  # made of the other two
"""What may stand in the text of one reply only."""

_NAMES = {
    id(reply): name for name, reply in CATALOGUE.items()
}  # constants live for ever, so no other object gets their id
COMMANDS = frozenset(
    "HELO EHLO LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP QUIT STARTTLS AUTH".split()  # noqa: SIM905
)
QueueId = Literal["ours", "hex", "sendmail", "guid"]


class Speaker(Protocol):
    """What a text may name of the session that it is said in."""

    peer: str
    said: bytes
    session: SessionRecord


class Words(Protocol):
    """A dialect on one listener."""

    def line(self, reply: Reply, session: Speaker) -> bytes:
        """A reply as it is written, with its line ends."""
        ...

    def hello(self, session: Speaker) -> str:
        """The first line of the reply to EHLO, behind its code."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """The texts of one persona. `texts` are by name ("sender-ok"), command and code ("RCPT 550"), command or code.

    `capabilities`, `enhanced` and `queue_id` are what a decoy shows; a real listener offers what it has.
    """

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    enhanced: bool = True
    queue_id: QueueId = "ours"
    about: str = ""

    def bind(self, hostname: str, limit: int, now: Callable[[], float], *, decoy: bool = False) -> Words:
        """The words of a listener with that name, which takes messages of `limit` octets."""
        if self.texts or (decoy and not self.enhanced):
            return Chosen(self, hostname, limit, now, decoy=decoy)
        return Own(hostname)


class Own:
    """Our own words."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname

    def line(self, reply: Reply, session: Speaker) -> bytes:
        """A reply as it is written, with its line ends."""
        return reply.line

    def hello(self, session: Speaker) -> str:
        """The first line of the reply to EHLO, behind its code."""
        return self._hostname


class Chosen:
    """The words of a dialect."""

    def __init__(
        self, dialect: Dialect, hostname: str, limit: int, now: Callable[[], float], *, decoy: bool = False
    ) -> None:
        self._texts = dialect.texts
        self._hostname = hostname
        self._limit = limit
        self._now = now
        self._decoy = decoy
        self._enhanced = dialect.enhanced or not decoy  # RFC 2034 4: whoever offers them gives them
        # A text that depends on the command is not among these: the same reply may be said to several.
        verbs = {key.partition(" ")[0] for key in dialect.texts} & COMMANDS
        self._fixed: dict[int, bytes] = {}
        for name, reply in CATALOGUE.items():
            found = {self._text(name, reply.code, verb) for verb in (*verbs, "")}
            text = found.pop()
            if not found and reply.name == "" and not (text and PLACEHOLDER.search(text)):
                self._fixed[id(reply)] = self._written(reply, text)

    def line(self, reply: Reply, session: Speaker) -> bytes:
        """A reply as it is written, with its line ends."""
        found = self._fixed.get(id(reply))
        return self._composed(reply, session) if found is None else found

    def hello(self, session: Speaker) -> str:
        """The first line of the reply to EHLO, behind its code."""
        text = self._text("hello", 250, "EHLO")
        return self._hostname if text is None else self._filled(text, replies.hello(""), session)[: MAX_LINE - 6]

    def _composed(self, reply: Reply, session: Speaker) -> bytes:
        name = reply.name or _NAMES.get(id(reply), "")
        verb = session.said.partition(b" ")[0].upper().decode("ascii", "replace")
        text = self._text(name, reply.code, verb)
        return self._written(reply, None if text is None else self._filled(text, reply, session))

    def _text(self, name: str, code: int, verb: str) -> str | None:
        """The text of the most specific key that fits. Who chose words at run time (no name: a plugin) keeps them, and what
        a client has to decode (334) is no text."""
        if not name or code == 334:
            return None
        keys = [name, f"{verb} {code}", *([verb] if code < 400 else []), str(code)]
        return next((self._texts[key] for key in keys if key in self._texts and fits(self._texts[key], name)), None)

    def _filled(self, text: str, reply: Reply, session: Speaker) -> str:
        return PLACEHOLDER.sub(lambda match: clean(self._value(match[1], reply, session)), text)

    def _value(self, word: str, reply: Reply, session: Speaker) -> str:
        values = reply.values or {}
        match word:
            case "hostname":
                return self._hostname
            case "date":
                return formatdate(self._now(), localtime=True)
            case "limit":
                return str(self._limit)
            case "peer":
                return session.peer
            case "helo":
                return session.session.host_name or ""
            case "address":
                return address_in(session.said)
            case "command":
                return session.said.decode("ascii", "replace")
            case "number":  # of a queue that counts on
                return str(int.from_bytes(values["id"].encode()[-5:]) % 10**13)
            case "rate":
                return f"{int(values['size']) / 1024 / 0.125:.3f}"  # KB a second, as if it had taken an eighth of one
            case _:
                return values.get(word, "")

    def _written(self, reply: Reply, text: str | None) -> bytes:
        enhanced = reply.enhanced
        if text is None:
            if self._enhanced or not enhanced:
                return reply.line
            text = reply.text
        elif enhanced and (own := ENHANCED.match(text)):
            text = text[own.end() :]
            if self._decoy:
                enhanced = own[0].strip()
        head = f"{enhanced} " if enhanced and self._enhanced else ""
        return lines(reply.code, [head + part for part in text.split("\n")])


def lines(code: int, texts: list[str]) -> bytes:
    """A reply of these lines (RFC 5321 4.2.1), each as long as one may be."""
    last = len(texts) - 1
    written = [f"{code}{' ' if n == last else '-'}{text}"[: MAX_LINE - 2] for n, text in enumerate(texts)]
    return "".join([f"{line}\r\n" for line in written]).encode()


def fits(text: str, name: str) -> bool:
    """Whether a text can be that of a reply: it says what others rely on, and nothing that the reply does not know."""
    if name in ("greeting", "hello") and not text.startswith(
        "{hostname}"
    ):  # RFC 5321 4.2, 4.1.1.1: the domain comes first
        return False
    places = set(PLACEHOLDER.findall(text))
    if name == "queued" and "id" not in places:  # what operators look for in other servers' logs
        return False
    return places <= EVERYWHERE | OWN.get(name, frozenset())


def clean(value: str) -> str:
    """A value as it may stand in a reply, whoever chose it."""
    return "".join([char if " " <= char <= "~" else "?" for char in value[:MAX_VALUE]])


def address_in(command: bytes) -> str:
    """The address in `MAIL FROM:<address>`, `RCPT TO:<address>` or `VRFY address`; what stands there, where it is none."""
    text = command.decode("ascii", "replace").partition(" ")[2].strip()
    if text[:5].upper() == "FROM:" or text[:3].upper() == "TO:":
        text = text.partition(":")[2].strip()
    if text.startswith("<") and ">" in text:
        return text[1 : text.rindex(">")]
    return text.partition(" ")[0]


GENERIC = Dialect("generic", about="Responder's own words")
