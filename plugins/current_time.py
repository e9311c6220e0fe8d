"""Tells what time it is."""

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, field_validator

from responder import Agent, Mail, Reply, hookimpl


def zone(name: str) -> tzinfo:
    """A time zone by its name; UTC needs no table of time zones, which small systems don't have."""
    return UTC if name == "UTC" else ZoneInfo(name)


class CurrentTime(Agent):
    """Tells what time it is, in a time zone of the operator's choice."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        timezone: str = "UTC"

        @field_validator("timezone")
        @classmethod
        def _known(cls, name: str) -> str:
            try:
                zone(name)
            except (KeyError, ValueError, OSError):
                raise ValueError(f'there is no time zone "{name}"') from None
            return name

    async def answer(self, mail: Mail) -> Reply:
        now = datetime.now(UTC).astimezone(zone(self.settings.timezone))
        return Reply(text=f"It is {now:%A, %d %B %Y, %H:%M:%S} ({self.settings.timezone}, UTC{now:%z}).\n")


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"current-time": CurrentTime}
