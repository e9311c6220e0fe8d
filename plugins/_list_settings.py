"""What an operator may say of a mailing list.

Not a plugin of its own: `list.py` uses it.
"""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import idna
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from ._members import is_address

WELCOME = "You are on the list now. Posts go to {list}.\nTo leave it, write to {unsubscribe}.\n"
GOODBYE = "You are not on the list {list} any more.\nTo come back, write to {subscribe}.\n"


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError("wants an address such as ann@example.org")
    local, _, domain = text.rpartition("@")
    return f"{local}@{idna.encode(domain, uts46=True).decode()}"  # as it stands in a mail that came in


def _https(text: str) -> str:
    parts = urlsplit(text)  # raises ValueError for some
    plain = parts.hostname and parts.username is None and not parts.query and not parts.fragment
    if not plain or not _URL.fullmatch(text) or parts.port == 0:
        raise ValueError("wants an https address (RFC 8058) without user name, ? and #")
    return text.rstrip("/")


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if not match or not 0 < int(match[2]) < 65536:
        raise ValueError('wants "host:port"')
    return text


def _line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("wants one line of text")
    return text


_URL = re.compile(r"https://[!#-;=?-\[\]_a-z~]{1,400}", re.IGNORECASE)  # RFC 3986 2, what may stand between < and >
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})", re.ASCII)
Mailbox = Annotated[str, AfterValidator(_address)]
Line = Annotated[str, Field(max_length=60), AfterValidator(_line)]


class OneClick(BaseModel):
    """Where members leave by one POST (RFC 8058)."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, AfterValidator(_https)]
    """The https address that the reverse proxy passes on to `listen`, what is behind it included."""

    listen: Annotated[str, AfterValidator(_endpoint)] = "127.0.0.1:8026"
    """Where plain HTTP is listened for."""

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class ListSettings(BaseModel):
    """The `settings` of a list."""

    model_config = ConfigDict(extra="forbid")

    name: Line
    """What people call the list."""

    mode: Literal["discussion", "announcement"] = "discussion"
    """In a discussion members post, and answers go to the list; announcements come from `posters`."""

    posting: Literal["members", "anyone"] = "members"
    """Who may post to a discussion."""

    posters: tuple[Mailbox, ...] = ()
    """Who may post announcements, besides the owners."""

    owners: tuple[Mailbox, ...] = ()
    """Who gets mail to `+owner`, and may see and remove members."""

    members: tuple[Mailbox, ...] = ()
    """Put on the list once, without being asked: for a list that moves here."""

    subject_prefix: str | None = Field(None, max_length=100)
    """In front of each subject; by default the name in square brackets."""

    echo_posts: bool = True
    """Whether who posts gets the post, too."""

    welcome: str = WELCOME
    goodbye: str = GOODBYE
    """What new and former members are told. `{list}`, `{subscribe}`, `{unsubscribe}`, `{owner}`, `{help}` are addresses."""

    max_members: int = Field(10_000, ge=1, le=100_000)
    bounce_limit: int = Field(3, ge=1, le=100)
    """On so many days mail must come back for good before a member is removed."""

    bounce_days: float = Field(14, gt=0, le=365)
    """The time in which these days count."""

    confirm_days: float = Field(3, gt=0, le=30)
    """How long a confirmation is waited for."""

    one_click: OneClick | None = None
    secret: SecretStr | None = Field(None, min_length=16)
    """What links are signed with; by default made once and kept in the state."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ListSettings":
        if self.mode == "announcement" and not (self.posters or self.owners):
            raise ValueError("an announcement list needs posters or owners")
        return self
