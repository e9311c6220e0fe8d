"""`SMTPChannel`: one client's conversation, with the verbs, texts and attributes that old programs know.

Beneath it is our session (`session.OldSession`), which reads lines and messages, keeps the limits and closes. What stands in the
attributes counts: a program's own channel may set them, add `smtp_VERB` methods, or take lines itself in `found_terminator`.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

from responder.compat.dispatcher import Map, compact_traceback
from responder.compat.verbs import Verbs, debug
from responder.inbound.listening.listener import own_name

# ruff: noqa: N803 - the names are the old module's

__version__ = "Python SMTP proxy version 0.3"
DATA_SIZE_DEFAULT = 33554432  # octets


class SMTPChannel(Verbs):
    """One client. Made by `SMTPServer.handle_accepted`; `conn` is what that was given."""

    COMMAND = 0

    command_size_limit = 512  # octets of a command (RFC 5321 4.5.3.1.4), without what extensions add

    def __init__(
        self,
        server: Any,
        conn: Any,
        addr: Any,
        data_size_limit: int | None = DATA_SIZE_DEFAULT,
        map: Map | None = None,  # noqa: A002 - the old name
        enable_SMTPUTF8: bool = False,
        decode_data: bool = False,
    ) -> None:
        if enable_SMTPUTF8 and decode_data:
            raise ValueError("decode_data and enable_SMTPUTF8 cannot be set to True at the same time")
        if not hasattr(conn, "attach"):
            raise TypeError("conn must be what handle_accepted was given: the connection itself is the server's")
        super().__init__(conn, map)
        self.connected = True
        self.smtp_server = server
        self.conn = conn
        self.addr = addr
        self.data_size_limit = data_size_limit
        self.enable_SMTPUTF8 = enable_SMTPUTF8
        self._decode_data = decode_data
        self._emptystring: Any = "" if decode_data else b""
        self._linesep: Any = "\r\n" if decode_data else b"\r\n"
        self._newline: Any = "\n" if decode_data else b"\n"
        self.command_size_limits: defaultdict[str, int] = defaultdict(lambda: self.command_size_limit)
        self.mail_options: list[str] = []
        self.rcpt_options: list[str] = []
        self._set_rset_state()
        self.seen_greeting = ""
        self.extended_smtp = False
        self.fqdn = own_name()
        self.peer = conn.getpeername()
        conn.attach(self)
        debug("Peer:", repr(self.peer))
        self.push(f"220 {self.fqdn} {__version__}")

    def _set_post_data_state(self) -> None:
        self.smtp_state: Any = self.COMMAND
        self.mailfrom: str | None = None
        self.rcpttos: list[str] = []
        self.require_SMTPUTF8 = False
        self.num_bytes = 0

    def _set_rset_state(self) -> None:
        self._set_post_data_state()
        self.received_data: Any = ""
        self.received_lines: list[Any] = []

    # -- what the session calls ----------------------------------------------------------------------------------------

    def command(self, line: bytes) -> None:
        """Take a line, without its end; an empty one stands for what is no command."""
        if line:
            self.collect_incoming_data(line)
        self.found_terminator()

    def message(self, content: bytes) -> None:
        """Take a message, dots unstuffed; its last line end belongs to the end of the message, and always did."""
        self.num_bytes, self.received_lines = 0, []
        if self._decode_data and not _is_utf8(content):
            self.refuse_message("554 Error: the message is not UTF-8")
            return
        if len(content) > 2:
            self.collect_incoming_data(content[:-2])
        self.found_terminator()

    def refuse_message(self, text: str) -> None:
        """End the transaction with this reply."""
        self._set_post_data_state()
        self.push(text)

    def connection_is_over(self) -> None:
        """The client is gone, or was sent away."""
        if self.connected:
            self.handle_close()

    # -- what a program may call and replace ---------------------------------------------------------------------------

    def push(self, msg: str) -> None:
        """Send a reply of one or more lines; the last line end is added."""
        self.conn.say((msg + "\r\n").encode("utf-8" if self.require_SMTPUTF8 else "ascii", "replace"))

    def close_when_done(self) -> None:
        """Close the connection behind what was pushed."""
        self.conn.finish()

    def handle_error(self) -> None:
        """Say what the exception was, tell the client to try again, and close."""
        self.log_info(f"uncaptured python exception, closing channel {self!r} ({compact_traceback()})", "error")
        self.push("451 Requested action aborted: error in processing")
        self.handle_close()

    def set_terminator(self, term: Any) -> None:
        """Taken and ignored: where a message begins is told by `smtp_state`, where it ends by RFC 5321 4.1.1.4."""

    def collect_incoming_data(self, data: bytes) -> None:
        """Keep a line, or a message, in `received_lines`: text with `decode_data`, else octets."""
        self.num_bytes += len(data)
        self.received_lines.append(data.decode() if self._decode_data else data)

    def found_terminator(self) -> None:
        """Act on what `received_lines` holds: by `smtp_state`, a command or a message."""
        line = self._emptystring.join(self.received_lines)
        debug("Data:", repr(line))
        self.received_lines = []
        size, self.num_bytes = self.num_bytes, 0
        if self.smtp_state == self.COMMAND:
            self._command(line if self._decode_data else line.decode(), size)
        elif self.smtp_state == self.DATA:
            self._message(line)
        else:
            self.push("451 Internal confusion")

    def _command(self, line: str, size: int) -> None:
        if not line:
            self.push("500 Error: bad syntax")
            return
        verb, space, rest = line.partition(" ")
        verb = verb.upper()
        if size > (self.command_size_limits[verb] if self.extended_smtp else self.command_size_limit):
            self.push("500 Error: line too long")
            return
        method = getattr(self, f"smtp_{verb}", None)
        if method is None:
            self.push(f'500 Error: command "{verb}" not recognized')
            return
        method(rest.strip() if space else None)

    def _message(self, text: Any) -> None:
        self.received_data = text.replace(self._linesep, self._newline)
        options = {} if self._decode_data else {"mail_options": self.mail_options, "rcpt_options": self.rcpt_options}
        status = self.smtp_server.process_message(self.peer, self.mailfrom, self.rcpttos, self.received_data, **options)
        self._set_post_data_state()
        self.push(status or "250 OK")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _old_name(old: str, new: str) -> property:
    """`self._SMTPChannel__mailfrom` and its kin, which programs used before the attributes had public names."""

    def warn() -> None:
        text = f"the __{old} attribute of SMTPChannel is deprecated, use {new!r} instead"
        warnings.warn(text, DeprecationWarning, stacklevel=3)

    def get(channel: SMTPChannel) -> Any:
        warn()
        return getattr(channel, new)

    def put(channel: SMTPChannel, value: Any) -> None:
        warn()
        setattr(channel, new, value)

    return property(get, put)


for _old, _new in {
    "server": "smtp_server",
    "line": "received_lines",
    "state": "smtp_state",
    "greeting": "seen_greeting",
    "mailfrom": "mailfrom",
    "rcpttos": "rcpttos",
    "data": "received_data",
    "fqdn": "fqdn",
    "peer": "peer",
    "conn": "conn",
    "addr": "addr",
}.items():
    setattr(SMTPChannel, f"_SMTPChannel__{_old}", _old_name(_old, _new))
