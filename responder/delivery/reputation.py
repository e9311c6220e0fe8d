"""Who finds fault with us rather than with a recipient: told to the operator, once an hour for each provider."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from responder.clock import Clock
from responder.mail.status import Outcome
from responder.mail.suffix import organisational
from responder.observe import event
from responder.outbound.base import RecipientResult

SILENCE = 3600.0  # seconds between two warnings about one provider
PROVIDERS = 1000  # that are remembered: who sends to many domains of somebody's must not fill our memory


class Reputation:
    """What one process has told of whom."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}  # until when nothing more is said, by provider

    def heard(self, results: Iterable[RecipientResult]) -> None:
        """What hosts said in an attempt."""
        for result in results:
            if result.outcome is Outcome.SUCCESS or not result.failure.blames_us:
                continue
            provider = (
                organisational(result.host.rstrip(".").lower()) if result.host != result.address else result.address
            )
            now = self._clock.monotonic()
            if self._told.get(provider, 0.0) > now:
                continue
            if len(self._told) >= PROVIDERS:
                self._told = {name: until for name, until in self._told.items() if until > now}
            if len(self._told) >= PROVIDERS:
                continue
            self._told[provider] = now + SILENCE
            event(
                "reputation",
                level=logging.WARNING,
                provider=provider,
                host=result.host,
                reason=f"[{result.reason}] {result.code} {result.text}",
            )
