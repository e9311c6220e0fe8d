"""`responder.testing.Door`: one check, asked as a server asks it, and what it does comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from responder import Check, Client, Defer, Mail, Mark, Refuse, check
from responder.agents.load import PluginError
from responder.testing import Door


class Counting(Check):
    """Counts."""

    async def helo(self, client: Client, name: str) -> None:
        client.state["hellos"] = client.state.get("hellos", 0) + 1

    async def mail(self, client: Client, sender: str, parameters: Any) -> Defer | None:
        count = await self.context.state.increment("mails", expires=60)
        return (
            Defer(f"{client.state['hellos']} {count} {sorted(parameters.items())}")
            if sender == "who@x.example"
            else None
        )

    def rcpt(self, client: Client, recipient: str) -> Refuse | None:  # type: ignore[override]
        if recipient == "none@example.org":
            return Refuse(f"{client.recipients}")
        if recipient == "bad@example.org":
            raise LookupError("mine")
        return None

    async def data(self, client: Client, mail: Mail) -> Mark:
        return Mark(
            {"X-About": f"{mail.subject} {mail.inbox} {client.sender} {len(client.recipients)} {mail.text.strip()}"}
        )


def test_door_when_it_is_gone_through_then_each_step_knows_of_those_before() -> None:
    with Door(Counting, peer="192.0.2.9", user="ann", tls="TLSv1.3 X") as door:
        assert door.connect() is None and door.helo("c.example") is None
        assert door.mail("who@x.example", SIZE="5") == Defer("1 1 [('SIZE', '5')]")
        assert door.mail("ann@x.example") is None
        assert door.rcpt("echo@example.org") is None
        assert door.rcpt("none@example.org") == Refuse("('echo@example.org',)")
        assert door.data("How?", subject="Re: x") == Mark({"X-About": "Re: x echo ann@x.example 1 How?"})
        assert (door.client.helo, door.client.peer, door.client.user) == ("c.example", "192.0.2.9", "ann")


def test_door_when_the_client_comes_again_then_its_connection_is_forgotten_and_the_state_is_not() -> None:
    with Door(Counting) as door:
        door.helo()
        door.mail()
        first = door.client.id
        door.hang_up()
        assert door.client.id != first and door.client.sender is None
        door.helo()
        assert door.mail("who@x.example") == Defer("1 2 []")
        assert door.state.get("mails") == 2
        door.advance("2m")
        assert door.state.get("mails") is None


def test_door_when_the_check_raises_then_that_comes_out() -> None:
    with Door(Counting) as door, pytest.raises(LookupError, match="mine"):
        door.rcpt("bad@example.org")


def test_door_when_the_check_says_what_it_may_not_then_that_is_told() -> None:
    @check("odd", "connect")
    async def odd(client: Client) -> Any:
        return "no"

    with Door(odd) as door, pytest.raises(Exception, match="returned a str"):
        door.connect()


def test_door_when_the_check_does_not_start_then_it_is_one_line() -> None:
    class Broken(Counting):
        async def start(self) -> None:
            raise OSError("no")

    with pytest.raises(
        PluginError, match=r'checks\.broken: the check "broken" does not start: the check raised OSError: no'
    ):
        Door(Broken)


def test_door_when_the_check_is_named_then_it_is_looked_for_in_the_folders(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match='there is no check "nosuch"'):
        Door("nosuch", plugins=[tmp_path])
    (tmp_path / "mine.py").write_text(
        "from responder import Refuse, check\n\n@check('mine', 'connect')\ndef mine(client):\n    return Refuse(client.peer)\n"
    )
    with Door("mine", plugins=[tmp_path]) as one:
        assert one.connect() == Refuse("192.0.2.1")
