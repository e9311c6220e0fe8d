"""`responder send`: what it queues, for whom, and what it refuses before anything is queued."""

from __future__ import annotations

import asyncio
import email
import email.policy
import io
import re
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from responder.clock import SystemClock
from responder.mail.lifecycle import State
from responder.store.records import InboundItem, ItemView, OutboundItem
from responder.store.sqlite import SQLiteStore
from tests.support.operator import Operator
from tests.support.server import configuration
from tests.support.stores import claim_out


@pytest.fixture
def operator(operator: Operator) -> Operator:
    write(operator)
    asyncio.run(taken(operator))
    return operator


def write(operator: Operator, **changes: Any) -> None:
    operator.write(configuration(domains=["test.example", "bücher.example"], **changes))


async def taken(operator: Operator) -> tuple[list[OutboundItem], list[InboundItem], list[ItemView]]:
    """What leaves, what has come in, and all that there is."""
    path = operator.folder / "state" / "responder.db"
    store = SQLiteStore(path, SystemClock())
    await store.open()
    try:
        views = await store.items(list(State))
        inbound, _ = await store.claim_inbound("w", 100)
        return await claim_out(store), inbound, views
    finally:
        await store.close()


def read(content: bytes | None) -> EmailMessage:
    assert content is not None and content.count(b"\n") == content.count(b"\r\n")
    return email.message_from_bytes(content, policy=email.policy.default)


def test_send_when_composed_then_it_is_queued_for_each_and_says_its_id(operator: Operator) -> None:
    words = ["--from", "Ann Ä <ann@test.example>", "--to", "b@far.example", "b@FAR.example", "--to", "c@near.example"]
    result = operator("send", *words, "--subject", "Grüße", "--text", "hello\nü\n")
    assert (result.status, result.err) == (0, "")
    found = re.fullmatch(r"Queued as ([0-9a-z]{18})\n", result.out)
    assert found
    items, inbound, _ = asyncio.run(taken(operator))
    assert sorted([item.recipient for item in items]) == ["b@far.example", "c@near.example"] and inbound == []
    assert {(item.kind, item.reverse_path, item.return_to) for item in items} == {
        ("relay", "ann@test.example", "ann@test.example")
    }
    mail = read(items[0].content)
    assert mail["From"] == "Ann Ä <ann@test.example>" and mail["Subject"] == "Grüße"
    assert mail["To"] == "b@far.example, c@near.example"
    assert mail["Message-ID"] == f"<{found[1]}@mx.test.example>" and mail["Date"]
    assert mail.get_content().splitlines() == ["hello", "ü"]
    shown = operator("explain", found[1])
    assert shown.out.count("outbound") == 2 and "relay, by responder send, " in shown.out


def test_send_to_an_inbox_of_ours_then_it_is_there_and_nothing_leaves(operator: Operator) -> None:
    result = operator("send", "--from", "a@test.example", "--to", "echo@test.example", "--text", "x", "--json")
    assert result.status == 0
    items, [item], _ = asyncio.run(taken(operator))
    assert items == [] and item.inbox == "echo" and item.reverse_path == "a@test.example"
    assert result.json == {
        "id": item.mail_id,
        "message_id": f"<{item.mail_id}@mx.test.example>",
        "items": [f"{item.mail_id}.0"],
    }


def test_send_with_attachments_and_text_from_standard_input_then_they_are_in_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (operator.folder / "a.png").write_bytes(b"\x89PNG")
    (operator.folder / "b").write_bytes(bytes(range(256)))
    (operator.folder / "c.tar.gz").write_bytes(b"\x1f\x8b")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    files = [word for name in ("a.png", "b", "c.tar.gz") for word in ("--attach", str(operator.folder / name))]
    assert operator("send", "--from", "a@test.example", "--to", "b@far.example", *files).status == 0
    [item], _, _ = asyncio.run(taken(operator))
    body, *attached = read(item.content).iter_parts()
    assert body.get_content().splitlines() == ["from a pipe"]
    assert [(part.get_filename(), part.get_content_type(), part.get_content()) for part in attached] == [
        ("a.png", "image/png", b"\x89PNG"),
        ("b", "application/octet-stream", bytes(range(256))),
        ("c.tar.gz", "application/octet-stream", b"\x1f\x8b"),
    ]


def test_send_a_whole_message_then_it_leaves_as_it_is_with_what_it_lacks(operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "x.eml"
    path.write_bytes(b"From: x@test.example\nSubject: a\n\n.\nb\n")
    assert operator("send", "--from", "a@test.example", "--to", "b@far.example", "--eml", str(path)).status == 0
    [item], _, _ = asyncio.run(taken(operator))
    assert item.content is not None and item.content.endswith(b"From: x@test.example\r\nSubject: a\r\n\r\n.\r\nb\r\n")
    assert read(item.content).keys() == ["Date", "Message-ID", "From", "Subject"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--from", "a@far.example"], "--from: far.example is none of domains"),
        (["--from", "a"], "--from: a: no domain"),
        (["--to", "nobody@test.example"], "nobody@test.example: no such inbox here"),
        (["--to", "a@b@c"], "--to: a@b@c: malformed local part"),
        (["--to", "a@far.example, b@far.example"], "--to: "),
        (["--attach", "missing"], "missing: No such file or directory"),
        (["--attach", "big"], r"the mail has 14\d\d\d\d octets, limits.message_size is 65536"),
        (["--eml", "missing"], "--eml is the whole message"),
    ],
)
def test_send_when_something_is_wrong_then_it_is_one_line_and_nothing_is_queued(
    operator: Operator, words: list[str], reason: str
) -> None:
    write(operator, limits={"message_size": 65536})
    (operator.folder / "big").write_bytes(bytes(102_400))
    base = {"--from": "a@test.example", "--to": "b@far.example", "--text": "x"}
    base |= dict(zip(words[::2], words[1::2], strict=True))
    result = operator("send", *[word for pair in base.items() for word in pair])
    assert (result.status, result.out) == (2, "")
    assert re.match(f"responder: .*{reason}", result.err) and result.err.count("\n") == 1
    assert asyncio.run(taken(operator)) == ([], [], [])


@pytest.mark.parametrize("author", ["x@far.example", "a@test.example, x@far.example", "", "nobody"])
def test_send_a_message_that_names_another_author_then_it_is_refused(
    operator: Operator, tmp_path: Path, author: str
) -> None:
    path = tmp_path / "x.eml"
    path.write_text(f"From: {author}\n\nx\n")
    result = operator("send", "--from", "a@test.example", "--to", "b@far.example", "--eml", str(path))
    assert result.status == 2 and "its From is not one of our domains" in result.err
    assert asyncio.run(taken(operator)) == ([], [], [])


def test_send_when_the_server_has_never_run_then_it_says_so(operator: Operator) -> None:
    write(operator, store="sqlite:other/responder.db")
    result = operator("send", "--from", "a@test.example", "--to", "b@far.example", "--text", "x")
    assert result.status == 2 and "there is no such database yet" in result.err
