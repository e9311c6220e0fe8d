"""The words of replies: a dialect gives each reply its text. It never changes a code."""

from __future__ import annotations

from responder.inbound.replies import Reply


class Dialect:
    """The texts of one persona."""

    name = "generic"

    def line(self, reply: Reply) -> bytes:
        """A reply as it is written, with its line end."""
        return reply.line


GENERIC = Dialect()
"""Our own words."""
