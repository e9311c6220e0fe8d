"""The operator's verbs on a real store: what they print, and what they change."""

from __future__ import annotations

import re

import pytest

from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.operator import Operator
from tests.support.scene import Scene, files, new_mail, with_store
from tests.support.server import configuration


@pytest.fixture
def operator(operator: Operator) -> Operator:
    operator.write(configuration(store="sqlite:state/responder.db", reply={"per_sender": "30/10m"}))
    return operator


@pytest.fixture
def scene(operator: Operator) -> Scene:
    scene = Scene()
    with_store(operator, scene.build)
    return scene


# -- queue ----------------------------------------------------------------------------------------------------------------


def test_queue_list_when_asked_then_what_waits_and_what_failed_is_there(operator: Operator, scene: Scene) -> None:
    result = operator("queue", "list")
    assert (result.status, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    assert rows[0] == ["id", "direction", "state", "kind", "from", "to", "attempts", "received", "due", "reason"]
    assert [(row[0], row[2]) for row in rows[1:]] == [
        (f"{scene.mails['failed'].id}.0", "FAILED"),
        (scene.answers["deferred"], "DEFERRED"),
        (f"{scene.mails['waiting'].id}.0", "RECEIVED"),
        (f"{scene.mails['waiting'].id}.1", "RECEIVED"),
    ]
    assert "Traceback" not in result.out  # the first line of a reason
    told = operator("queue", "list", "--json").json
    assert [item["id"] for item in told] == [row[0] for row in rows[1:]]
    assert told[1]["reason"] == "451 4.3.0 later (mx.client.example)"


def test_queue_list_when_narrowed_then_only_that_is_there(operator: Operator, scene: Scene) -> None:
    told = operator("queue", "list", "--state", "failed", "--state", "SILENT", "--json").json
    assert [item["state"] for item in told] == ["SILENT", "FAILED"]
    assert len(operator("queue", "list", "--limit", "2", "--json").json) == 2
    assert operator("queue", "list", "--state", "HELD").out == "Nothing is in that state.\n"
    assert operator("queue", "list", "--state", "HELD", "--json").json == []


@pytest.mark.parametrize("limit", ["99999999999999999999", "0", "-1", "many"])
def test_queue_list_when_the_limit_is_no_number_of_items_then_that_is_bad_use(operator: Operator, limit: str) -> None:
    result = operator("queue", "list", f"--limit={limit}")
    assert result.status == 2
    assert "--limit" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("verb", [("explain",), ("queue", "show"), ("queue", "retry")])
def test_id_when_it_is_no_utf_8_then_there_is_no_such_mail(
    operator: Operator, scene: Scene, verb: tuple[str, ...]
) -> None:
    result = operator(*verb, "\udcff\udcfe")  # how Python passes octets of the command line that are no UTF-8
    assert result.status == 1
    assert "no such" in result.err
    assert len(result.err.splitlines()) == 1


def test_queue_show_when_asked_then_state_history_and_message_are_there(operator: Operator, scene: Scene) -> None:
    result = operator("queue", "show", scene.answers["deferred"])
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"DEFERRED  outbound {scene.answers['deferred']}  answer  <bounces+")
    assert "defer        DEFERRED   451 4.3.0 later (mx.client.example)" in result.out
    assert "Subject: Re: Hi" in result.out and "You wrote:" in result.out
    mail = scene.mails["failed"].id
    by_mail, by_item = (operator("queue", "show", key, "--json").json for key in (mail, f"{mail}.0"))
    assert by_mail == by_item
    assert [entry["event"] for entry in by_item["history"]] == ["accept", "claim", "fail"]
    assert by_item["content"].endswith("Hello\r\n")
    result = operator("queue", "show", f"{mail}.7")
    assert (result.status, result.out) == (1, "")
    assert "no such mail" in result.err


def test_queue_when_acted_on_then_states_follow_and_history_tells(operator: Operator, scene: Scene) -> None:
    answer, failed = scene.answers["deferred"], f"{scene.mails['failed'].id}.0"
    assert operator("queue", "hold", answer).out == f"{answer} is now HELD\n"
    assert operator("queue", "list", "--state", "HELD", "--json").json[0]["id"] == answer
    assert operator("queue", "release", answer).out == f"{answer} is now QUEUED\n"
    assert operator("queue", "retry", failed, answer, "--json").json == [
        {"id": failed, "state": "RECEIVED", "error": None},
        {"id": answer, "state": "QUEUED", "error": None},
    ]
    assert operator("queue", "drop", answer).out == f"{answer} is now DROPPED\n"
    [account] = operator("explain", answer, "--json").json
    told = [(entry["event"], entry["reason"]) for entry in account["history"] if entry["item"] == answer][-4:]
    assert told == [(event, "by the operator") for event in ("hold", "release", "retry", "drop")]


def test_queue_when_an_act_is_not_possible_then_it_is_said_and_the_others_are_done(
    operator: Operator, scene: Scene
) -> None:
    delivered, deferred = scene.answers["delivered"], scene.answers["deferred"]
    result = operator("queue", "hold", delivered, "nothing", deferred)
    assert result.status == 1
    assert result.out == f"{deferred} is now HELD\n"
    assert result.err.splitlines() == [
        f"responder: {delivered}: a mail that is DELIVERED can't hold",
        "responder: nothing: no such item",
    ]
    result = operator("queue", "hold", delivered, "--json")
    assert result.status == 1
    assert result.json == [{"id": delivered, "state": None, "error": "a mail that is DELIVERED can't hold"}]


def test_queue_stats_when_asked_then_states_are_counted(operator: Operator, scene: Scene) -> None:
    counts = operator("queue", "stats", "--json").json
    assert counts == {
        "inbound": {"ANSWERED": 2, "SILENT": 1, "FAILED": 1, "RECEIVED": 2},
        "outbound": {"DELIVERED": 1, "DEFERRED": 1},
    }
    assert re.search(r"^inbound +RECEIVED +2$", operator("queue", "stats").out, re.MULTILINE)


def test_queue_when_there_is_no_mail_then_it_says_so(operator: Operator) -> None:
    async def nothing(store: SQLiteStore, clock: ManualClock) -> None:
        pass

    with_store(operator, nothing)
    assert operator("queue", "list").out == "Nothing waits, nothing has failed.\n"
    assert operator("queue", "stats").out == "No mail yet.\n"


@pytest.mark.parametrize("verb", ["queue list", "queue show x", "queue retry x", "queue stats", "explain x"])
def test_queue_when_there_is_no_store_then_it_says_what_makes_one_and_makes_none(operator: Operator, verb: str) -> None:
    result = operator(*verb.split())
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(
        r"responder: .*responder\.toml: store: state/responder\.db: there is no such database yet; "
        r"`responder serve` creates it\n",
        result.err,
    )
    assert files(operator.folder) == ["responder.toml"]


# -- explain --------------------------------------------------------------------------------------------------------------


def test_explain_when_asked_by_any_id_then_it_is_the_same_account(operator: Operator, scene: Scene) -> None:
    mail = scene.mails["delivered"]
    keys = (mail.id, f"{mail.id}.0", scene.answers["delivered"], mail.message_id, mail.message_id.strip("<>"))
    told = {operator("explain", key).out for key in keys}
    assert len(told) == 1
    [text] = told
    assert text.startswith(f"mail {mail.id}  {mail.message_id}\n  from <ann@client.example>, ")
    steps = re.findall(r"^  2027-01-15 08:00:0\d  (\S+) +([A-Z]+)", text, re.MULTILINE)
    assert steps == [
        ("accept", "RECEIVED"),
        ("claim", "ANSWERING"),
        ("answer", "ANSWERED"),
        ("queue", "QUEUED"),
        ("claim", "SENDING"),
        ("deliver", "DELIVERED"),
    ]
    assert "250 2.0.0 taken (mx.client.example)" in text
    assert "from client.example [192.0.2.7] by ESMTP, 53 octets" in text
    [account] = operator("explain", mail.id, "--json").json
    assert account["mail"]["id"] == mail.id
    assert [item["state"] for item in account["items"]] == ["ANSWERED", "DELIVERED"]


def test_explain_when_the_mail_is_silent_or_failed_then_the_reason_is_there(operator: Operator, scene: Scene) -> None:
    assert (
        "silence      SILENT     list-id: List-Id: <x.list.example>"
        in operator("explain", scene.mails["silent"].id).out
    )
    text = operator("explain", scene.mails["failed"].id).out
    assert "fail         FAILED     the agent raised ValueError: boom, attempt 1 of 1\n" in text
    assert "\n      Traceback (most recent call last):\n" in text


def test_explain_when_two_mails_share_a_message_id_then_both_are_told(operator: Operator) -> None:
    async def twins(store: SQLiteStore, clock: ManualClock) -> None:
        for _ in range(2):
            await store.accept(new_mail(clock, message_id="<same@client.example>"))

    with_store(operator, twins)
    assert len(operator("explain", "same@client.example", "--json").json) == 2
    assert operator("explain", "<same@client.example>").out.count("mail ") == 2


@pytest.mark.parametrize("key", ["nothing", "0" * 18, "<no@where>", "", "%", "*", "' OR 1=1 --", "x" * 5000])
def test_explain_when_the_id_is_unknown_then_status_1_and_one_line(operator: Operator, scene: Scene, key: str) -> None:
    result = operator("explain", key)
    assert (result.status, result.out) == (1, "")
    assert result.err.endswith("no such mail (retention may have removed it)\n")
    assert result.err.count("\n") == 1
