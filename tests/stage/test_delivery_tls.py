"""What a message asks of TLS reaches the way out, and the notification that tells of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from responder.store.records import NewOutbound
from tests.support.stages import DELIVERED, NEVER, ScriptedTransport, configured, post

MAIL = b"From: a@far.example\r\nSubject: hello\r\n%s\r\nbody\r\n"
ITEM = NewOutbound(
    id="o1",
    kind="forward",
    cause="m1.0",
    inbox="echo",
    content_id="c1",
    reverse_path="",
    recipient="you@far.example",
    domain="far.example",
    return_to="me@near.example",
    created_at=1_800_000_000.0,
    expires_at=1_800_003_600.0,
)


@pytest.mark.parametrize(
    ("item", "fields", "requiretls", "optional"),
    [
        (ITEM, b"", False, False),
        (replace(ITEM, requiretls=True), b"", True, False),
        (ITEM, b"TLS-Required: No\r\n", False, True),
        (ITEM, b"tls-required:\tno \r\n", False, True),
        (ITEM, b"TLS-Required: Nothing\r\n", False, False),
        (ITEM, b"X-TLS-Required: No\r\n", False, False),
        (ITEM, b"\r\nTLS-Required: No\r\n", False, False),  # in the body
        (replace(ITEM, requiretls=True), b"TLS-Required: No\r\n", True, False),
        (replace(ITEM, kind="relay"), b"TLS-Required: No\r\n", False, True),
        (replace(ITEM, kind="answer"), b"TLS-Required: No\r\n", False, False),
        (replace(ITEM, kind="report"), b"", False, True),
    ],
)
async def test_message_asks_for_tls_or_not_then_the_way_out_is_told(
    tmp_path: Path, item: NewOutbound, fields: bytes, requiretls: bool, optional: bool
) -> None:
    async with post(tmp_path, configured({"echo": "reply"}), lambda envelope: DELIVERED) as office:
        await office.store.enqueue([item], [("c1", MAIL % fields)])
        await office.turn()
        (envelope,) = office.transport.sent
    assert (envelope.requiretls, envelope.tls_optional) == (requiretls, optional)


async def test_message_required_tls_then_so_does_its_notification_which_has_its_header_alone(tmp_path: Path) -> None:
    async with post(tmp_path, configured({"echo": "reply"}), lambda envelope: NEVER) as office:
        item = replace(ITEM, requiretls=True, ret="FULL")
        await office.store.enqueue([item], [("c1", MAIL % b"")])
        await office.turn()
        office.transport.script = lambda envelope: DELIVERED
        await office.turn()
        _, notification = office.transport.sent
    assert isinstance(office.transport, ScriptedTransport)
    assert (notification.recipients, notification.requiretls) == (("me@near.example",), True)
    assert b"Subject: hello" in notification.content
    assert b"body" not in notification.content.partition(b"text/rfc822-headers")[2]
    assert b"message/rfc822" not in notification.content
