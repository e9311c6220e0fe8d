"""Answers questions that come again and again: each answer is chosen by keywords and patterns, out of a file or the settings.

Matching takes bounded time whatever the mail says. Keywords are looked up as whole words. Patterns are regular expressions, for
which Python knows no time limit and during which nothing else runs: so one that could be tried in too many ways is refused when
it is read, and each is looked for in one sentence at a time.
"""

from __future__ import annotations

import importlib
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from responder import Agent, Answer, Forward, GiveUp, Mail, Reply, hookimpl

MAX_FILE = 5_000_000  # octets
MAX_TEXT = 20_000  # characters of a mail's text that keywords are looked for in
MAX_SEARCHED = 5000  # ... and patterns
MAX_SENTENCE = 200  # characters of a sentence that a pattern is looked for in; the rest is a sentence of its own
MAX_WAYS = 50_000  # in which a pattern may match one such sentence: two `.*` are 40,401
MAX_SECONDS = 2.0  # for all patterns of one mail

Words = Annotated[str, Field(min_length=1, max_length=200)]

_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u065f]")  # accents, Hebrew points, Arabic vowel signs
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")


class Entry(BaseModel):
    """One answer, and what it is chosen by."""

    model_config = ConfigDict(extra="forbid")

    keywords: list[Words] = []
    patterns: list[Words] = []
    where: Literal["subject", "text", "both"] = "both"
    subject: str = ""
    text: str = ""
    html: str = ""

    @field_validator("keywords")
    @classmethod
    def _are_words(cls, keywords: list[str]) -> list[str]:
        for keyword in keywords:
            if not _WORD.search(fold(keyword)):
                raise ValueError(f'"{keyword}" has no word in it')
        return keywords

    @field_validator("patterns")
    @classmethod
    def _are_quick(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            check_pattern(pattern)
        return patterns

    @model_validator(mode="after")
    def _says_something(self) -> Entry:
        if not self.keywords and not self.patterns:
            raise ValueError("it needs keywords or patterns")
        if not self.text.strip() and not self.html.strip():
            raise ValueError("it needs a text or an html")
        return self


@dataclass(frozen=True, slots=True)
class _Question:
    """One side of a mail, ready to be searched."""

    words: str  # folded, one blank around each
    folded: str
    sentences: tuple[str, ...]


class FAQ(Agent):
    """Answers frequent questions, by keywords and patterns, from a file."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        file: Path | None = None
        answer: list[Entry] = []
        best: int = Field(default=1, ge=1, le=3)
        fallback: str = "silence"
        _entries: list[Entry] = PrivateAttr(default=[])

        @model_validator(mode="after")
        def _reads_its_file(self) -> FAQ.Settings:
            self._entries = [*(read_file(self.file) if self.file else ()), *self.answer]
            if not self._entries:
                raise ValueError("it needs a file or an answer")
            return self

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._entries = [_Compiled(entry) for entry in settings._entries]

    def answer(self, mail: Mail) -> Answer:  # type: ignore[override]
        # Not `async`: a long text takes a moment, in which others go on.
        found = self._best(mail)
        if found:
            texts, pages = [entry.text.strip() for entry in found], [entry.html.strip() for entry in found]
            return Reply(
                text="\n\n".join(filter(None, texts)) + "\n" if any(texts) else "",
                html="\n".join(pages) if all(pages) else "",  # else the text alone is whole
                subject=found[0].subject or None,
            )
        if self.settings.fallback == "forward":
            return Forward()
        return None if self.settings.fallback == "silence" else Reply(text=self.settings.fallback)

    def _best(self, mail: Mail) -> list[Entry]:
        """The entries with the highest scores, the first of equals first."""
        ends = self.context.clock.monotonic() + MAX_SECONDS

        def hurry() -> None:
            if self.context.clock.monotonic() > ends:
                raise GiveUp(f"the patterns took longer than {MAX_SECONDS:g} s")

        questions = {"subject": _question(mail.base_subject), "text": _question(mail.reply_text)}
        scores: list[tuple[int, int]] = []
        for number, entry in enumerate(self._entries):
            sides = questions.values() if entry.entry.where == "both" else [questions[entry.entry.where]]
            if score := entry.score(list(sides), hurry):
                scores.append((-score, number))
        return [self._entries[number].entry for _, number in sorted(scores)[: self.settings.best]]


class _Compiled:
    """An entry, ready to search with."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        keywords = {fold(keyword) for keyword in entry.keywords}
        self._loose = [keyword.strip() for keyword in keywords if _UNSPACED.search(keyword)]
        self._whole = [_words(keyword) for keyword in keywords if not _UNSPACED.search(keyword)]
        self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in entry.patterns]

    def score(self, questions: Sequence[_Question], hurry: Callable[[], None]) -> int:
        """How many of the keywords and patterns are there. `hurry` is called between two searches."""
        return (
            sum(any(words in question.words for question in questions) for words in self._whole)
            + sum(any(text in question.folded for question in questions) for text in self._loose)
            + sum(_found(pattern, questions, hurry) for pattern in self._patterns)
        )


def _found(pattern: re.Pattern[str], questions: Sequence[_Question], hurry: Callable[[], None]) -> bool:
    for question in questions:
        for sentence in question.sentences:
            hurry()
            if pattern.search(sentence):
                return True
    return False


def fold(text: str) -> str:
    """A text without case and accents: `Zürich`, `ZURICH` and `zurich` are one, and so are `Straße` and `strasse`."""
    bare = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", bare.casefold())


def _words(folded: str) -> str:
    return f" {' '.join(_WORD.findall(folded))} "


def _question(text: str) -> _Question:
    text = text[:MAX_TEXT]
    folded = fold(text)
    return _Question(_words(folded), folded, tuple(_sentences(text[:MAX_SEARCHED])))


def _sentences(text: str) -> Iterator[str]:
    """Its sentences, each on one line however the text was wrapped."""
    for paragraph in _PARAGRAPH.split(unicodedata.normalize("NFC", text)):
        for sentence in _SENTENCE.split(paragraph):
            line = " ".join(sentence.split())
            for begin in range(0, len(line), MAX_SENTENCE):
                yield line[begin : begin + MAX_SENTENCE]


def read_file(path: Path) -> list[Entry]:
    """The answers of a file. Raises `ValueError`: one line with the file, the answer's number and the reason."""
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE + 1)
        if len(octets) > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE} octets")
        table = tomllib.loads(octets.decode("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: it is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    entries = table.get("answer")
    if list(table) != ["answer"] or not isinstance(entries, list):
        raise ValueError(f"{path}: it holds [[answer]] tables and nothing else")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(Entry.model_validate(entry))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = f" {first['loc'][0]}:" if first["loc"] else ""
            reason = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{path}, answer {number}:{key} {reason}") from None
    return found


def check_pattern(pattern: str) -> None:
    """Raises `ValueError` for what is no regular expression, or one that may take too long."""
    try:
        re.compile(pattern, re.IGNORECASE)
        ways = _ways(_sre.parse(pattern, re.IGNORECASE))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f'"{pattern}" is no pattern: {error}') from None
    if ways > MAX_WAYS:
        raise ValueError(f'"{pattern}" may take too long: at most two of its parts may repeat, and none within another')


_sre: Any = importlib.import_module("re._parser")  # what `re.compile` itself reads a pattern with


def _ways(items: Any) -> float:
    """In how many ways at the most a part of a pattern can match from one place on: what a search that fails has to try."""
    ways = 1.0
    for kind, value in items:
        name = str(kind)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            each, most = _ways(inner), min(int(most), MAX_SENTENCE)
            # More than one way each time multiplies: (a|aa)* is 2 ** n
            ways *= (most - min(int(least), most) + 1) if each <= 1 else min(each, MAX_WAYS) ** min(most, 50) + 1
        elif name == "BRANCH":
            ways *= sum(_ways(branch) for branch in value[1])
        elif name == "SUBPATTERN":
            ways *= _ways(value[3])
        elif name == "ATOMIC_GROUP":
            ways *= _ways(value)
        elif name in ("ASSERT", "ASSERT_NOT"):
            ways *= _ways(value[1])
        elif name == "GROUPREF_EXISTS":
            ways *= _ways(value[1]) + (_ways(value[2]) if value[2] else 1)
        if ways > MAX_WAYS:
            break
    return ways


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"faq": FAQ}
