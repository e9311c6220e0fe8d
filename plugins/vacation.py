"""Tells who writes to a person that the person is away (RFC 5230, RFC 6131).

What is common to all such answers is the core's: which mail gets none, that the recipient must be named in it, the null
reverse-path, and the memory of who was answered, which is stored along with the answer. Here is what the operator says.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from responder import Agent, Mail, Reply, hookimpl

DAY = 86400
MAX_DAYS = 365
MAX_TEXT = 250_000  # characters
NO_SUBJECT = "Automated reply"  # where the mail has none to put behind `Auto: `
MAX_HANDLE = 200  # characters: it is part of what the store remembers by


def _moment(value: object) -> object:
    """TOML brings dates and times as such, the environment as text. A number would be taken for seconds since 1970."""
    if isinstance(value, str):
        try:
            return date.fromisoformat(value) if len(value) == len("2026-12-24") else datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("write a date (2026-12-24) or a time (2026-12-24T18:00:00)") from None
    if not isinstance(value, date | None):
        raise ValueError("write a date (2026-12-24) or a time (2026-12-24T18:00:00)")
    return value


def _one_line(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be one line of text")
    return value.strip()


Moment = Annotated[datetime | date | None, BeforeValidator(_moment)]


class Vacation(Agent):
    """Tells who writes to a person that the person is away: once in some days, between two dates."""

    kind = "personal"

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        text: str = Field(max_length=MAX_TEXT)
        """What is said; with `html`, its plain alternative."""
        html: str = Field("", max_length=MAX_TEXT)
        subject: str | None = None
        """In place of `Auto: ` and the subject of the mail (RFC 5230 `:subject`)."""
        days: int = Field(7, ge=1, le=MAX_DAYS)
        """A sender is answered once in so many days (`:days`)."""
        seconds: int | None = Field(None, ge=DAY, le=MAX_DAYS * DAY)
        """The same in seconds (RFC 6131 `:seconds`); a day at least."""
        handle: str | None = Field(None, max_length=MAX_HANDLE)
        """What counts as the same answer (`:handle`); by default whatever says the same."""
        addresses: tuple[str, ...] = ()
        """The person's other addresses (`:addresses`)."""
        from_: str | None = Field(None, alias="from")
        """The mailbox in From (`:from`): the inbox's own, or one of `addresses` at a domain of this server."""
        start: Moment = None
        end: Moment = None
        """The first and the last day, or moment, of the absence."""
        timezone: str = "UTC"
        """Where days begin and end, and which times without a zone are meant."""

        @field_validator("text")
        @classmethod
        def _says_something(cls, text: str) -> str:
            if not text.strip():
                raise ValueError("must say something")
            return text

        @field_validator("subject", "handle", "from_")
        @classmethod
        def _is_one_line(cls, value: str | None) -> str | None:
            return value if value is None else _one_line(value)

        @field_validator("timezone")
        @classmethod
        def _is_known(cls, name: str) -> str:
            try:
                _zone(name)
            except (KeyError, ValueError, OSError):
                raise ValueError(f'there is no time zone "{name}"') from None
            return name

        @model_validator(mode="after")
        def _fits(self) -> Vacation.Settings:
            if self.seconds is not None and "days" in self.model_fields_set:
                raise ValueError("set days or seconds, not both")
            begins, ends = self.span()
            if begins is not None and ends is not None and begins > ends:
                raise ValueError("end is before start")
            return self

        def span(self) -> tuple[datetime | None, datetime | None]:
            """The first and the last instant of the absence; None where there is no such bound. A day lasts to its end."""
            zone = _zone(self.timezone)
            try:
                return _instant(self.start, zone, last=False), _instant(self.end, zone, last=True)
            except OverflowError:
                raise ValueError("start and end must lie between the years 2 and 9998") from None

        def key(self) -> str:
            """What tells this answer from others (RFC 5230 4.2): the handle, or all that the answer would say."""
            if self.handle is not None:
                return f"handle {self.handle}"
            said = hashlib.sha256()
            for part in (self.text, self.html, self.subject or "", self.from_ or ""):
                said.update(f"{len(part)} {part}".encode("utf-8", "replace"))
            return f"text {said.hexdigest()}"

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.addresses = settings.addresses
        self._begins, self._ends = settings.span()
        self._key = settings.key()
        self._interval = settings.days * DAY if settings.seconds is None else settings.seconds

    async def answer(self, mail: Mail) -> Reply | None:
        now = self.context.now()
        if self._begins is not None and now < self._begins:
            self.context.log.info("silent: the absence begins at %s", self._begins.isoformat())
            return None
        if self._ends is not None and now > self._ends:
            self.context.log.info("silent: the absence ended at %s", self._ends.isoformat())
            return None
        # The core remembers sender and handle, before anything of the mail comes into play: whatever its subject says, a
        # sender has one answer.
        return Reply(
            text=self.settings.text,
            html=self.settings.html,
            subject=self.settings.subject or (None if mail.base_subject else NO_SUBJECT),
            from_=self.settings.from_,
            handle=self._key,
            interval=float(self._interval),
        )


def _zone(name: str) -> tzinfo:
    """A time zone by its name; UTC needs no table of time zones, which small systems don't have."""
    return UTC if name == "UTC" else ZoneInfo(name)


def _instant(moment: date | None, zone: tzinfo, *, last: bool) -> datetime | None:
    """The instant in UTC, so that two of them can be compared over a change of the clocks."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        if last:
            following = datetime.combine(moment + timedelta(days=1), time(), zone)
            return following.astimezone(UTC) - timedelta(microseconds=1)
        moment = datetime.combine(moment, time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"vacation": Vacation}
