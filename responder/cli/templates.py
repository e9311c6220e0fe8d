"""What `responder new` writes: the files that something new begins with, each running as it is."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

AGENT = Template('''\
"""The agent "$name": greets whoever writes, and repeats what was written."""

from pydantic import BaseModel, ConfigDict
${gap}from responder import Agent, Mail, Reply, hookimpl


class $kind(Agent):
    """Greets whoever writes, and repeats what was written."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")  # a misspelt key is an error, not silence

        greeting: str = "Hello"

    async def answer(self, mail: Mail) -> Reply | None:
        if not mail.reply_text.strip():
            return None  # silence
        return Reply(text=f"{self.settings.greeting}, {mail.from_}!\\n\\nYou wrote:\\n\\n{mail.reply_text}")


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"$name": $kind}
''')

TEST = Template('''\
"""What the agent "$name" answers."""

from responder.testing import MakeInbox


def test_mail_when_it_comes_then_it_is_answered(inbox: MakeInbox) -> None:
    box = inbox("$name", greeting="Good day")
    outcome = box.receive("How are you?", sender="ann@example.com")
    assert outcome.text.startswith("Good day, ann@example.com!")
    assert "How are you?" in outcome.text


def test_mail_when_it_is_empty_then_there_is_silence(inbox: MakeInbox) -> None:
    assert inbox("$name").receive("").silent
''')

INBOX = Template('[inboxes.$name]\nagent = "$name"\n')

CHECK = Template('''\
"""The check "$name": refuses senders of some domains, and marks what the others send."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
${gap}from responder import Check, Client, Mail, Mark, Refuse, hookimpl


class $kind(Check):
    """Refuses senders of some domains, and marks what the others send."""

    fields = ("X-Sender-Domain",)  # nobody else sets it: what comes in with a mail is removed

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")  # a misspelt key is an error, not silence

        refused: list[str] = []

    async def mail(self, client: Client, sender: str, parameters: Mapping[str, str | None]) -> Refuse | None:
        if not client.user and domain(sender) in self.settings.refused:
            return Refuse("We take no mail from your domain")
        return None

    async def data(self, client: Client, mail: Mail) -> Mark:
        return Mark({"X-Sender-Domain": domain(mail.sender) or "none"})


def domain(sender: str) -> str:
    """What stands behind the @ of a reverse-path; "" is the null one."""
    return sender.rpartition("@")[2].lower()


@hookimpl
def responder_checks() -> dict[str, type[Check]]:
    return {"$name": $kind}
''')

CHECK_TEST = Template('''\
"""What the check "$name" says."""

from responder import Mark, Refuse
from responder.testing import MakeDoor


def test_sender_when_the_domain_is_refused_then_only_its_users_pass(door: MakeDoor) -> None:
    settings = {"refused": ["spam.example"]}
    assert door("$name", settings).mail("ann@spam.example") == Refuse("We take no mail from your domain")
    assert door("$name", settings, user="ann").mail("ann@spam.example") is None


def test_mail_when_it_passes_then_it_is_marked(door: MakeDoor) -> None:
    one = door("$name")
    assert one.mail("ann@example.com") is None
    assert one.data("How are you?") == Mark({"X-Sender-Domain": "example.com"})
''')

TABLE = Template("[checks.$name]\n")


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the things that can be new. `table` is what gives it a place in the configuration."""

    word: str
    file: Template
    test: Template
    table: Template


PLUGIN = Kind("agent", AGENT, TEST, INBOX)
CHECKS = Kind("check", CHECK, CHECK_TEST, TABLE)
