"""What the tables of the configuration are made of: the types that read what an operator writes, and their common model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, Strict
from pydantic_core import PydanticCustomError

from responder.config import names
from responder.config.names import Network
from responder.config.units import Rate, parse_duration, parse_rate, parse_span
from responder.config.zones import parse_zone
from responder.mail.address import Address


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("wants at least one entry, found an empty list")
    return values


def one_spelling(value: object) -> object:
    """Refuses two keys that are one inbox; a name that is no inbox name is left for its own validator."""
    seen: dict[str, str] = {}
    for spelling in value if isinstance(value, dict) else ():
        try:
            name = names.parse_inbox(spelling)
        except ValueError:
            continue
        if name in seen:
            raise at((spelling,), f'is the inbox "{seen[name]}" in another spelling')
        seen[name] = spelling
    return value


def at(path: tuple[str | int, ...], reason: str) -> PydanticCustomError:
    """An error at a key further down than the validator that finds it."""
    return PydanticCustomError("at", "{reason}", {"path": path, "reason": reason})


Bool = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
Port = Annotated[int, Strict(), Field(ge=1, le=65535)]
Text = Annotated[str, PlainValidator(names.text)]
Word = Annotated[str, PlainValidator(names.parse_word)]
Duration = Annotated[float, PlainValidator(parse_duration)]
Span = Annotated[float, PlainValidator(parse_span)]  # a duration above zero
Spans = Annotated[tuple[Span, ...], AfterValidator(some)]
MaybeRate = Annotated[Rate | None, PlainValidator(parse_rate)]
FilePath = Annotated[Path, PlainValidator(names.parse_path)]
Hostname = Annotated[str, PlainValidator(names.parse_hostname)]
Domain = Annotated[str, PlainValidator(names.parse_domain)]
IPAddress = Annotated[str, PlainValidator(names.parse_ip)]
IPNetwork = Annotated[Network, PlainValidator(names.parse_network)]
Mailbox = Annotated[Address, PlainValidator(names.parse_mailbox)]
Target = Annotated[str, PlainValidator(names.parse_target)]
SenderDomain = Annotated[str, PlainValidator(names.parse_sender_domain)]
FieldName = Annotated[str, PlainValidator(names.parse_field_name)]
StoreAddress = Annotated[str, PlainValidator(names.parse_store)]
ListenAddress = Annotated[str, PlainValidator(lambda value: str(names.parse_listen(value)))]
Permissions = Annotated[str, PlainValidator(names.parse_permissions)]
Nameserver = Annotated[str, PlainValidator(lambda value: str(names.parse_nameserver(value)))]
Zone = Annotated[str, PlainValidator(lambda value: str(parse_zone(value)))]
Upstream = Annotated[str, PlainValidator(lambda value: str(names.parse_endpoint(value)) if value != "" else "")]
Smarthost = Annotated[str, PlainValidator(lambda value: str(names.parse_endpoint(value)) if value != "" else "")]
SourceAddress = Annotated[str, PlainValidator(lambda value: names.parse_ip(value) if value != "" else "")]
InboxName = Annotated[str, AfterValidator(names.parse_inbox)]


class Table(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
