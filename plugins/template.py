"""Answers with a text of the operator's, filled in with what the mail says (Jinja2, in a sandbox).

The mail is data and never a template. The template is the operator's, and yet it is held to bounds (`_sandbox`), as it works on
what strangers write; what those can't bound, the worker process it runs in does (`isolated`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from responder import Agent, GiveUp, Mail, Reply, hookimpl

from ._sandbox import MAX_SOURCE, Bounded, Budget, TemplateError

MAX_INPUT = 100_000  # characters of a mail's text that a template sees

FIELDS: dict[str, Callable[[Mail], object]] = {
    "sender": lambda mail: mail.sender,
    "from": lambda mail: mail.from_,
    "recipient": lambda mail: mail.recipient,
    "inbox": lambda mail: mail.inbox,
    "tag": lambda mail: mail.tag,
    "subject": lambda mail: mail.subject[:1000],
    "base_subject": lambda mail: mail.base_subject[:1000],
    "text": lambda mail: mail.text[:MAX_INPUT],
    "reply_text": lambda mail: mail.reply_text[:MAX_INPUT],
    "date": lambda mail: mail.date,
    "attachments": lambda mail: [
        {"name": file.name, "type": file.content_type, "size": file.size} for file in mail.attachments
    ],
}
"""What `mail.NAME` is in a template. None of it is more than text, numbers, dates and lists of them."""


class TemplateAgent(Agent):
    """Answers with a text of the operator's, filled in with what the mail says (Jinja2, sandboxed)."""

    isolated = True  # what a single operation takes, only another process can end

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        text: str = ""
        text_file: Path | None = None
        html: str = ""
        html_file: Path | None = None
        subject: str = ""
        variables: dict[str, Any] = {}
        timezone: str = "UTC"
        seconds: float = Field(default=5.0, gt=0, le=3600)
        characters: int = Field(default=100_000, ge=1, le=1_000_000)
        _sources: dict[str, tuple[str, str]] = PrivateAttr(default={})

        @model_validator(mode="after")
        def _compiles(self) -> TemplateAgent.Settings:
            for name in self.variables:
                if not name.isidentifier() or name.startswith("_") or name in ("mail", "now"):
                    raise ValueError(f'variables: "{name}" can\'t be the name of a variable')
            try:
                _zone(self.timezone)
            except (KeyError, ValueError, OSError):
                raise ValueError(f'timezone: there is no time zone "{self.timezone}"') from None
            self._sources = {
                "text": _source("text", self.text, self.text_file),
                "html": _source("html", self.html, self.html_file),
                "subject": ("subject", self.subject),
            }
            if not self._sources["text"][1] and not self._sources["html"][1]:
                raise ValueError("it needs a text or an html, or a file of one")
            _compiled(self._sources, self.variables)
            return self

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._templates = _compiled(settings._sources, settings.variables)
        self._zone = _zone(settings.timezone)

    def answer(self, mail: Mail) -> Reply | None:  # type: ignore[override]
        used = frozenset[str]().union(*(template.fields for template in self._templates.values()))
        values = {
            **self.settings.variables,
            "mail": {name: read(mail) for name, read in FIELDS.items() if name in used},
            "now": self.context.now().astimezone(self._zone),
        }
        budget = Budget(self.context.clock.monotonic, self.settings.seconds, self.settings.characters)
        try:
            parts = {name: template.render(values, budget) for name, template in self._templates.items()}
        except TemplateError as error:  # another attempt would end the same way; one that took too long may not
            raise GiveUp(str(error)) from error
        if not parts["text"].strip() and not parts["html"].strip():
            return None
        subject = " ".join(parts["subject"].split())[:500]
        return Reply(text=parts["text"], html=parts["html"], subject=subject or None)


def _compiled(sources: Mapping[str, tuple[str, str]], variables: Mapping[str, Any]) -> dict[str, Bounded]:
    names = [*variables, "now"]
    return {
        name: Bounded(source, label, names, FIELDS, html=name == "html") for name, (label, source) in sources.items()
    }


def _source(name: str, text: str, file: Path | None) -> tuple[str, str]:
    """What messages call a template, and its text."""
    if file is None:
        return name, text
    if text:
        raise ValueError(f"{name} and {name}_file exclude each other")
    try:
        with file.open(encoding="utf-8") as opened:
            return str(file), opened.read(MAX_SOURCE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None


def _zone(name: str) -> tzinfo:
    """A time zone by its name; UTC needs no table of time zones, which small systems don't have."""
    return UTC if name == "UTC" else ZoneInfo(name)


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"template": TemplateAgent}
