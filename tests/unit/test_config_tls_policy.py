"""What is remarked on `[tls_policy]`: a word that is weaker than what domains ask for, and name servers that can be forged."""

from __future__ import annotations

from typing import Any

import pytest

from responder.config import Config, unsupported
from responder.departure import Departure
from responder.outbound.tls.security import Level
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ({}, []),
        ({"mode": "off"}, ["tls_policy.mode"]),
        ({"mode": "verified"}, []),
        ({"domains": {"Example.NET": "off"}}, ['tls_policy.domains."example.net"']),
        ({"domains": {"example.net": "opportunistic"}}, ['tls_policy.domains."example.net"']),
        ({"domains": {"example.net": "verified"}}, []),
        ({"dane": "on"}, ["tls_policy.dane"]),
    ],
)
def test_word_is_doubtful_then_it_is_remarked(table: dict[str, Any], keys: list[str]) -> None:
    config = Config.model_validate({"tls_policy": table, "delivery": {"nameservers": ["192.0.2.53"]}})
    assert [notice.key for notice in unsupported(config) if notice.key.startswith("tls_policy")] == keys


def test_domain_has_two_words_in_two_spellings_then_it_is_refused() -> None:
    domains = {"bücher.example": "verified", "XN--BCHER-KVA.example": "off"}
    with pytest.raises(ValueError, match="another spelling"):
        Config.model_validate({"tls_policy": {"domains": domains}})


def test_name_server_is_on_this_machine_then_it_may_be_believed() -> None:
    config = Config.model_validate(
        {"tls_policy": {"dane": "on"}, "delivery": {"nameservers": ["127.0.0.1", "[::1]:5353"]}}
    )
    assert not [notice for notice in unsupported(config) if notice.key.startswith("tls_policy")]


async def test_reload_changes_other_tables_then_what_is_known_of_policies_stays(tmp_path: Any) -> None:
    clock = ManualClock()
    departure = Departure(first := Config(), SQLiteStore(tmp_path / "x.db", clock), clock)
    known = departure._sts
    assert known is not None
    assert departure.follow(second := Config.model_validate({"reply": {"interval": "1m"}}), first) is None
    assert departure.follow(third := Config.model_validate({"hostname": "mx.example.org"}), second) is not None
    assert departure._sts is known
    assert departure.follow(Config.model_validate({"tls_policy": {"mta_sts": False}}), third) is not None
    assert departure._sts is None


async def test_smarthost_is_all_destinations_in_one_then_the_word_on_all_holds_for_it(tmp_path: Any) -> None:
    clock = ManualClock()
    config = Config.model_validate(
        {"tls_policy": {"mode": "verified"}, "delivery": {"transport": "smarthost", "smarthost": "Smart.example:25"}}
    )
    departure = Departure(config, SQLiteStore(tmp_path / "x.db", clock), clock)
    policies = departure.transport._policies  # type: ignore[attr-defined]
    for host, level in (("smart.example", Level.VERIFIED), ("127.0.0.1", Level.OPPORTUNISTIC)):
        policy = await policies.find("", [host], secure=False, requiretls=False)
        assert (await policy.of(host)).level is level
