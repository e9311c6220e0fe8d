"""Sends the text back."""

from pydantic import BaseModel, ConfigDict

from responder import Agent, Mail, Reply, hookimpl


class Echo(Agent):
    """Sends the text back."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        prefix: str = "You wrote:"

    async def answer(self, mail: Mail) -> Reply:
        # The new text only: two people who write through an echo must not see their whole correspondence grow each time.
        return Reply(text=f"{self.settings.prefix}\n\n{mail.reply_text or mail.text}")


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"echo": Echo}
