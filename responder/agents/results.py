"""What comes out of an agent, judged: an answer that may be used, silence, or a described failure.

Python checks no types, so what an agent put into its answer may be anything; every part is looked at before it goes on.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from types import FrameType

from responder.agents.answers import Answer, Distribute, Forward, HandOver, Reply, TryLater

TRACEBACK = 4000  # characters of an agent's traceback that `explain` keeps, from its end
MAX_ANSWER = 10 * 1024 * 1024  # characters and octets of one answer, all parts together
MAX_FILES = 1000  # attachments of one answer: each is a part that is composed, on the event loop
MAX_FIELDS = 100  # extra headers; all but a dozen names are refused anyway
MAX_TAG = 40  # characters: with the inbox's name in front it must fit into a local part (RFC 5321 4.5.3.1.1)
MAX_INTERVAL = 366 * 86400.0  # seconds


class AgentError(Exception):
    """An agent failed. `reason` is one line for history, `detail` its traceback."""

    def __init__(self, reason: str, detail: str = "", *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.final = final  # no further attempt will help


def check(answer: object) -> Answer:
    """An agent's result, as it may be used: text becomes a `Reply`, empty text silence. Raises `AgentError`."""
    try:
        return _check(answer)
    except AgentError:
        raise
    except Exception as mistake:  # a `Reply` that holds what no `Reply` may hold
        reason = f"the agent's answer can't be read: {type(mistake).__name__}: {told(mistake)}"
        raise AgentError(reason, trace(mistake)) from None


def _check(answer: object) -> Answer:
    if isinstance(answer, str):
        answer = Reply(text=answer)
    if answer is None or isinstance(answer, HandOver):
        return answer
    if isinstance(answer, Distribute):
        return _check_distribute(answer)
    if isinstance(answer, Forward):
        if not _is_list_of_texts(answer.to):
            raise AgentError("the agent's Forward holds something else than a list of addresses in to")
        if answer.subject_prefix is not None and not isinstance(answer.subject_prefix, str):
            raise AgentError("the agent's Forward holds something else than text in subject_prefix")
        _check_size(sum(map(len, answer.to)) + len(answer.subject_prefix or ""))
        return answer
    if not isinstance(answer, Reply):
        raise AgentError(
            f"the agent returned a {type(answer).__name__}; allowed are Reply, Forward, HandOver, Distribute, str and None"
        )
    _check_fields(answer)
    if not answer.text.strip() and not answer.html.strip() and not answer.attachments:
        return None
    return answer


def _check_fields(answer: Reply) -> None:
    """Sizes and counts go first: what is too much to look at is not looked at. Raises `AgentError`."""
    if not isinstance(answer.text, str) or not isinstance(answer.html, str):
        raise AgentError("the agent's Reply holds something else than text in text or html")
    for name in ("subject", "from_"):
        if getattr(answer, name) is not None and not isinstance(getattr(answer, name), str):
            raise AgentError(f"the agent's Reply holds something else than text in {name}")
    if not isinstance(answer.handle, str) or not isinstance(answer.tag, str) or not _TAG.fullmatch(answer.tag):
        raise AgentError(f"the agent's Reply needs a tag of up to {MAX_TAG} letters, digits, dots and hyphens")
    if answer.interval is not None and not (
        isinstance(answer.interval, int | float) and 0 <= answer.interval <= MAX_INTERVAL
    ):
        raise AgentError("the agent's Reply holds something else than seconds in interval")
    if not isinstance(answer.to_sender, bool):
        raise AgentError("the agent's Reply holds something else than true or false in to_sender")
    if isinstance(answer.headers, Mapping) and len(answer.headers) > MAX_FIELDS:
        raise AgentError(f"the agent's Reply has {len(answer.headers)} headers, {MAX_FIELDS} are allowed")
    if not isinstance(answer.headers, Mapping) or not all(
        isinstance(part, str) for field in answer.headers.items() for part in field
    ):
        raise AgentError("the agent's Reply holds something else than a table of texts in headers")
    if isinstance(answer.attachments, list | tuple) and len(answer.attachments) > MAX_FILES:
        raise AgentError(f"the agent's Reply has {len(answer.attachments)} attachments, {MAX_FILES} are allowed")
    if not isinstance(answer.attachments, list | tuple) or not all(_is_file(file) for file in answer.attachments):
        raise AgentError(
            "the agent's Reply holds something else than a list of Attachments (text, text, bytes) in attachments"
        )
    texts = (answer.text, answer.html, answer.subject or "", answer.from_ or "", answer.handle)
    names = [text for file in answer.attachments for text in (file.name, file.content_type)]
    fields = [text for field in answer.headers.items() for text in field]
    _check_size(sum(map(len, [*texts, *names, *fields])) + sum(len(file.data) for file in answer.attachments))


def _check_distribute(answer: Distribute) -> Distribute:
    if not _is_list_of_texts(answer.to):
        raise AgentError("the agent's Distribute holds something else than a list of addresses in to")
    if not isinstance(answer.name, str) or not isinstance(answer.subject_prefix, str | None):
        raise AgentError("the agent's Distribute holds something else than text in name or subject_prefix")
    size = sum(map(len, answer.to)) + len(answer.name) + len(answer.subject_prefix or "")
    for name in ("one_click", "tokens"):
        table = getattr(answer, name)
        if not isinstance(table, Mapping) or not all(isinstance(part, str) for pair in table.items() for part in pair):
            raise AgentError(f"the agent's Distribute holds something else than a table of texts in {name}")
        size += sum(len(part) for pair in table.items() for part in pair)
    _check_size(size)
    return answer


def _check_size(size: int) -> None:
    if size > MAX_ANSWER:
        raise AgentError(f"the agent's answer is too large: {size} octets, {MAX_ANSWER} are allowed")


def _is_list_of_texts(value: object) -> bool:
    return not isinstance(value, str) and isinstance(value, Collection) and all(isinstance(one, str) for one in value)


def _is_file(file: object) -> bool:
    """Whether it can be sent as a file; one that came with a mail can, too."""
    return (
        isinstance(getattr(file, "name", None), str)
        and isinstance(getattr(file, "content_type", None), str)
        and isinstance(getattr(file, "data", None), bytes | bytearray)
    )


def wish(later: TryLater) -> TryLater:
    """The agent's wish as one of our own: a subclass may hold anything in `seconds`. Raises `AgentError`."""
    try:
        return TryLater(later.seconds)
    except Exception as error:
        raise AgentError(f"the agent's TryLater names no time: {type(error).__name__}", trace(error)) from None


def told(error: BaseException) -> str:
    """What an exception says of itself, whatever it is, as one line."""
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return "(it does not say what)"


def trace(error: BaseException) -> str:
    """The traceback from where the agent begins: how we came to call it is nothing to its author."""
    begin = error.__traceback__
    while begin is not None and begin.tb_frame.f_code.co_filename.startswith(_HERE):
        begin = begin.tb_next
    try:
        found = traceback.TracebackException(type(error), error, begin or error.__traceback__)
        found.stack[:] = [entry for entry in found.stack if entry.filename != _WATCHDOG]
        lines = found.format()
    except Exception:  # it would have to say what it says
        return "".join(traceback.format_tb(begin or error.__traceback__))[-TRACEBACK:] + type(error).__name__
    return "".join(lines)[-TRACEBACK:]


def where(frame: FrameType | None) -> str:
    """Where something is, as a traceback from where the agent begins."""
    stack = traceback.extract_stack(frame)
    calls = [number for number, entry in enumerate(stack) if entry.filename in _CALLERS]
    begin = calls[-1] if calls else 0
    while begin < len(stack) - 1 and stack[begin].filename.startswith(_HERE):
        begin += 1
    return "".join(["Traceback (most recent call last):\n", *traceback.format_list(stack[begin:])])[-TRACEBACK:]


_TAG = re.compile(rf"[A-Za-z0-9.-]{{0,{MAX_TAG}}}")
_HERE = str(Path(__file__).parent)
_CALLERS = (f"{_HERE}/attempts.py", f"{_HERE}/threads.py")
_WATCHDOG = f"{_HERE}/watchdog.py"
