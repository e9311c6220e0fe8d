"""Passes each mail on to the inbox's configured targets."""

from pydantic import BaseModel, ConfigDict

from responder import Agent, Forward, Mail, hookimpl


class ForwardAgent(Agent):
    """Passes each mail on to the inbox's `targets`, HTML and attachments included."""

    reads_automatic_mail = True  # a newsletter or a bounce is forwarded too: passing on is not answering
    needs = ("targets",)

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        subject_prefix: str | None = None
        """What goes before the subject; by default `[inbox@] `."""

    async def answer(self, mail: Mail) -> Forward:
        return Forward(subject_prefix=self.settings.subject_prefix)


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"forward": ForwardAgent}
