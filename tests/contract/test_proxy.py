"""The agents that pass mail on whole, without a server: what they ask for, when a mail goes round, and what their pages say."""

from __future__ import annotations

import re

import pytest

from plugins.forward import ForwardAgent
from plugins.proxy import MAX_PASSES, Proxy, passes
from responder import Agent, Forward, GiveUp, HandOver, Mail
from responder.agents.base import NoSettings
from responder.mail.address import parse
from responder.mail.trace import received
from tests.support.memory import equipped
from tests.support.operator import Operator
from tests.support.server import ROOT

PAGES = {name: (ROOT / "docs" / "agents" / f"{name}.md").read_text(encoding="utf-8") for name in ("proxy", "forward")}


def trace(recipient: str = "ann@example.org", hostname: str = "mx.example.org", helo: str = "client") -> bytes:
    """One trace field as this server writes it."""
    return received(
        helo=helo,
        peer="192.0.2.1",
        hostname=hostname,
        protocol="ESMTP",
        mail_id="0123456789abcdefgh",
        recipient=recipient,
        date=1700000000.0,
    )


def mail(*fields: bytes, recipient: str = "ann@example.org") -> Mail:
    raw = b"".join(fields) + b"Subject: x\r\n\r\nx\r\n"
    return Mail(raw, id="x.0", inbox="ann", recipient=parse(recipient), sender="bob@example.net")


OTHER = b"Received: from us by upstream.example id 1; now\r\n"


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ([], 0),
        ([OTHER], 0),
        ([OTHER, trace()], 0),  # the first one is always ours
        ([trace("")], 0),  # several recipients: none is named
        ([trace()], 1),
        ([trace(), OTHER, trace()], 2),
        ([trace(), OTHER, trace(), OTHER, trace()], 3),
        ([trace(), trace("bob@example.org"), trace(hostname="mx.example.com")], 1),
        ([trace("Ann@example.org"), trace(hostname="MX.example.org")], 2),
        ([trace(helo="by mx.example.org with x id y for <ann@example.org>"), trace()], 2),
        ([trace(), b"Received: " + b"by mx.example.org with " * 20_000 + b"\r\n"], 1),
    ],
)
def test_rounds_are_counted_by_our_own_trace_and_recipient(fields: list[bytes], count: int) -> None:
    assert passes(mail(*fields)) == count


async def test_mail_is_handed_over_until_it_goes_round() -> None:
    agent = equipped(Proxy)
    assert await agent.answer(mail(*[trace()] * MAX_PASSES)) == HandOver()
    with pytest.raises(GiveUp, match="goes round"):
        await agent.answer(mail(*[trace()] * (MAX_PASSES + 1)))


async def test_forward_leaves_targets_to_the_operator() -> None:
    assert await equipped(ForwardAgent).answer(mail()) == Forward()
    assert await equipped(ForwardAgent, subject_prefix="").answer(mail()) == Forward(subject_prefix="")


@pytest.mark.parametrize("agent", [Proxy, ForwardAgent])
def test_automatic_mail_is_passed_on_too(agent: type[Agent]) -> None:
    assert agent.reads_automatic_mail


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_page_shows_a_configuration_that_would_run(name: str, operator: Operator) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```$", PAGES[name], re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        operator.file.write_text(f'plugins = ["{ROOT / "plugins"}"]\n{block}', encoding="utf-8")
        result = operator("check")
        assert result.status == 0, result.err
        assert name in result.out


def test_pages_name_each_setting() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGES["forward"], re.MULTILINE)
    assert rows == list(ForwardAgent.Settings.model_fields)
    assert Proxy.Settings is NoSettings
    assert "It has no settings" in PAGES["proxy"]
