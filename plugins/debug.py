"""Prints each mail and stays silent, as `DebuggingServer` of the standard library's removed `smtpd` did."""

import sys

from responder import Agent, Mail, hookimpl


class Debug(Agent):
    """Prints each mail to standard output and answers nothing."""

    reads_automatic_mail = True

    def answer(self, mail: Mail) -> None:  # type: ignore[override]
        # Not `async`: in a thread a terminal that nobody reads, or a mail of a million lines, holds up nobody else.
        lines = [
            "---------- MESSAGE FOLLOWS ----------",
            f"X-Peer: {mail.peer}",
            f"X-Envelope: <{mail.sender}> -> <{mail.recipient}>",
            *mail.raw.decode("utf-8", "replace").splitlines(),
            "------------ END MESSAGE ------------",
        ]
        sys.stdout.write("".join([_printable(line) + "\n" for line in lines]))
        sys.stdout.flush()


def _printable(line: str) -> str:
    """What a terminal would obey (escape sequences) is shown, not sent."""
    if line.isprintable():
        return line
    return "".join(
        [char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in line]
    )


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"debug": Debug}
