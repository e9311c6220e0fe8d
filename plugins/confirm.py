"""Holds each mail until its sender has confirmed it, and gives it to another agent then."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from responder import Agent, Answer, Confirmation, GiveUp, Mail, Reply, hookimpl

DAY = 86400.0

TEXT = """\
A mail from this address has arrived here. What it asks for is done once you have confirmed that you sent it.
If you did not, do nothing: it will be forgotten.

To confirm, answer this mail and leave its subject as it is.

    [confirm {token}]
"""
TOO_LARGE = (
    "Your mail is too large to be kept until you confirm it: {size} KB, and {most} KB fit. Nothing was done with it.\n"
)
NO_LONGER = "This confirmation can't be used (any more). Please send your request again.\n"
DONE = "You have confirmed this already: it was done then, once.\n"


class Confirm(Agent):
    """Does what another agent does, once the sender has confirmed the mail."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        agent: str = Field(min_length=1)
        """The agent that gets the confirmed mail."""

        settings: dict[str, Any] = {}
        """Its settings."""

        text: str = TEXT
        """What the sender is asked; `{token}` stands for the token."""

        subject: str = "Please confirm your mail"
        """What stands behind `[confirm TOKEN]`."""

        expires: float = Field(3 * DAY, ge=600, le=30 * DAY)
        """Seconds that a mail waits for its sender."""

    _inner: Agent
    _confirmation: Confirmation

    async def start(self) -> None:
        self._confirmation = Confirmation(self.context, purpose="mail", expires=self.settings.expires)
        self._inner = await self.context.agent(self.settings.agent, self.settings.settings)

    async def answer(self, mail: Mail) -> Answer:
        held = await self._confirmation.redeem(mail)
        if isinstance(held, Mail):
            return await self._act(held)
        if await self._confirmation.spent(mail):
            return Reply(text=DONE)
        if self._confirmation.carries(mail):
            return Reply(text=NO_LONGER)
        if len(mail.raw) > Confirmation.MAX_MAIL:
            return Reply(text=TOO_LARGE.format(size=len(mail.raw) >> 10, most=Confirmation.MAX_MAIL >> 10))
        return await self._confirmation.ask(mail, mail, self.settings.text, self.settings.subject)

    async def _act(self, held: Mail) -> Answer:
        """The other agent's answer to the mail that was held. It leaves as the answer to the mail that confirmed."""
        function: Callable[[Mail], Any] = self._inner.answer
        # What is plain may block: it runs in a thread, as the server would have it.
        answer = function(held) if inspect.iscoroutinefunction(function) else await asyncio.to_thread(function, held)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None or isinstance(answer, Reply | str):
            return answer
        raise GiveUp(
            f'the agent "{self.settings.agent}" behind confirm returned a {type(answer).__name__}, which would pass on the mail '
            "that confirmed, not the one that was held: only Reply, text and None can be used here"
        )


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"confirm": Confirm}
