"""`[providers.NAME]` beside what is known of the large providers."""

from __future__ import annotations

from responder.config import Config
from responder.delivery.providers import KNOWN, providers


def test_table_of_a_known_provider_then_it_changes_what_it_names_and_no_more() -> None:
    config = Config.model_validate({"providers": {"orange": {"rate": "1/1s"}, "google": {"connections": 3}}})
    found = providers(config)
    assert found["google"].suffixes == KNOWN["google"].suffixes and found["google"].connections == 3
    assert found["orange"].connections == KNOWN["orange"].connections and found["orange"].rate is not None
    assert found["yahoo"] == KNOWN["yahoo"]


def test_table_of_a_new_provider_then_it_is_as_it_says() -> None:
    config = Config.model_validate({"providers": {"own": {"suffixes": ["own.example"]}}})
    assert providers(config)["own"] == config.providers["own"] and len(providers(config)) == len(KNOWN) + 1
