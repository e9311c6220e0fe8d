"""What systemd hands to a service: taken once, out of the environment, and only where it is meant for us (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket

import pytest

from responder.config import Inherited, inherit

PID = 4711
OTHERS = {"PATH": "/bin", "LISTEN_ADDRESS": "x"}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, Inherited()),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2"}, Inherited(("unknown", "unknown"))),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "smtp:lmtp"}, Inherited(("smtp", "lmtp"))),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "smtp"}, Inherited(("smtp", "unknown"))),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp:lmtp"}, Inherited(("smtp",))),
        ({"LISTEN_PID": "4712", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "smtp:lmtp"}, Inherited()),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "smtp:lmtp"}, Inherited()),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "-1"}, Inherited()),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "٢"}, Inherited()),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "99999999999"}, Inherited()),
        ({"LISTEN_PID": "4711"}, Inherited()),
        ({"NOTIFY_SOCKET": "/run/notify"}, Inherited(supervisor="/run/notify")),
        ({"NOTIFY_SOCKET": "@notify", "LISTEN_PID": "1", "LISTEN_FDS": "1"}, Inherited(supervisor="@notify")),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, Inherited()),
    ],
)
def test_environment_when_taken_then_nothing_of_it_is_left_for_others(
    environ: dict[str, str], found: Inherited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "set_inheritable", lambda *_: None)  # the descriptors are those of the test's own process
    environ = {**OTHERS, **environ}
    assert inherit(environ, PID) == found
    assert environ == OTHERS


def test_descriptors_when_taken_then_no_other_program_inherits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.set_inheritable(True)
        monkeypatch.setattr("responder.config.activation.FIRST", sock.fileno())
        inherit({"LISTEN_PID": str(PID), "LISTEN_FDS": "1"}, PID)
        assert not sock.get_inheritable()


@pytest.mark.parametrize(
    ("name", "found"), [("a", [3, 5]), ("b", [4]), ("c", []), ("0", [3]), ("2", [5]), ("3", []), ("", [])]
)
def test_sockets_when_asked_for_by_name_or_number_then_those_are_found(name: str, found: list[int]) -> None:
    assert Inherited(("a", "b", "a")).find(name) == found
