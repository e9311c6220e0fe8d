"""The classes of the removed `smtpd` module: a program that subclassed them runs with this import in place of the old one.

    from responder.compat import smtpd

    class Server(smtpd.SMTPServer):
        def process_message(self, peer, mailfrom, rcpttos, data, **kwargs):
            ...

    Server(("localhost", 8025), None)
    smtpd.serve_forever()

How to move, and what differs: docs/compat.md. Also a program, as the old module was: python -m responder.compat.smtpd --help
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import smtplib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Any, ClassVar

from responder.clock import SystemClock
from responder.compat import asyncore
from responder.compat.channel import DATA_SIZE_DEFAULT, SMTPChannel
from responder.compat.channel import __version__ as __version__
from responder.compat.dispatcher import Dispatcher, Map
from responder.compat.network import running
from responder.compat.verbs import debug
from responder.inbound.listening.listener import bind
from responder.observe import event

# ruff: noqa: N803 - the names are the old module's

__all__ = [
    "DebuggingServer",
    "MailmanProxy",
    "PureProxy",
    "SMTPChannel",
    "SMTPServer",
    "serve_forever",
]

NEWLINE = "\n"
COMMASPACE = ", "
TIMEOUT = 60.0  # seconds that a proxy waits for each step of the host behind it


class Devnull:
    """A stream that keeps nothing."""

    def write(self, msg: str) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing to do."""


DEBUGSTREAM: Any = Devnull()
"""Where servers and channels tell what they do; a program may set it."""


def serve_forever(map: Map | None = None) -> None:  # noqa: A002 - the old name
    """Serve all servers until they are closed: what `asyncore.loop()` was. Ctrl-C raises `KeyboardInterrupt` here."""
    asyncore.loop(map=map)


class SMTPServer(Dispatcher):
    """A server. Subclass it, and write `process_message`.

    `localaddr` is (host, port), bound and listened on at once; `remoteaddr` is for a subclass that passes mail on.
    `data_size_limit`: octets of a message (None, 0: no limit). `map`: the map it is served with. `enable_SMTPUTF8` offers
    RFC 6531. `decode_data`: messages as text (UTF-8) in place of octets, and neither 8BITMIME nor options.
    Raises `OSError` where the address cannot be had, `ValueError` for `enable_SMTPUTF8` with `decode_data`.
    """

    channel_class: ClassVar[Any] = SMTPChannel
    """What is made for each client."""

    def __init__(
        self,
        localaddr: tuple[str, int],
        remoteaddr: tuple[str, int] | None,
        data_size_limit: int | None = DATA_SIZE_DEFAULT,
        map: Map | None = None,  # noqa: A002 - the old name
        enable_SMTPUTF8: bool = False,
        decode_data: bool = False,
    ) -> None:
        self._localaddr = localaddr
        self._remoteaddr = remoteaddr
        self.data_size_limit = data_size_limit
        self.enable_SMTPUTF8 = enable_SMTPUTF8
        self._decode_data = decode_data
        if enable_SMTPUTF8 and decode_data:
            raise ValueError("decode_data and enable_SMTPUTF8 cannot be set to True at the same time")
        super().__init__(map=map)
        self.addr = localaddr
        self.set_socket(bind(localaddr))
        try:
            self.listen(5)
        except BaseException:
            self.close()
            raise
        started = _now()
        debug(f"{type(self).__name__} started at {started}\n\tLocal addr: {localaddr}\n\tRemote addr:{remoteaddr}")
        network = running(self._map)
        if network is not None:
            network.adopt(self)

    @property
    def is_stock(self) -> bool:
        """Whether no code of the program stands between a client and its message."""
        return self.channel_class is SMTPChannel and type(self).handle_accepted is SMTPServer.handle_accepted

    def listen(self, num: int) -> None:
        """Have the system take connections; they are served from `serve_forever` on."""
        self.accepting = True
        self.socket.listen(num)

    def close(self) -> None:
        """Take no more connections; those that are open go on. The address is free when this returns."""
        network = running(self._map)
        if network is not None:
            network.release(self)
        super().close()

    def serve_forever(self) -> None:
        """Serve this server and all others of its map until they are closed."""
        serve_forever(self._map)

    def handle_accepted(self, conn: Any, addr: Any) -> None:
        """Make the channel of a new client."""
        debug(f"Incoming connection from {addr!r}")
        self.channel_class(self, conn, addr, self.data_size_limit, self._map, self.enable_SMTPUTF8, self._decode_data)

    def process_message(self, peer: Any, mailfrom: Any, rcpttos: Any, data: Any, **kwargs: Any) -> str | None:
        """Take a message. To be overridden.

        `peer` is the client's (host, port). `mailfrom` and `rcpttos` (a list) are as the client wrote them; `"<>"` is the null
        reverse-path. `data` is the message without stuffed dots and without its last line end, with "\\n" between lines: octets,
        or text with `decode_data`. Without that, `mail_options` and `rcpt_options` are the parameters of MAIL and of the last
        RCPT, in upper case: `["BODY=8BITMIME", "SMTPUTF8"]`.

        None is "250 OK"; a text is the reply, such as "550 No such user". What it raises: 451, and the connection is closed.
        """
        raise NotImplementedError


class DebuggingServer(SMTPServer):
    """Prints each message."""

    def process_message(self, peer: Any, mailfrom: Any, rcpttos: Any, data: Any, **kwargs: Any) -> str | None:
        print("---------- MESSAGE FOLLOWS ----------")
        if kwargs.get("mail_options"):
            print(f"mail options: {kwargs['mail_options']}")
        if kwargs.get("rcpt_options"):
            print(f"rcpt options: {kwargs['rcpt_options']}\n")
        in_headers = True
        for line in data.splitlines():
            if in_headers and not line:
                header = f"X-Peer: {peer[0]}"
                print(header if isinstance(data, str) else header.encode())
                in_headers = False
            print(line)
        print("------------ END MESSAGE ------------")
        return None


class PureProxy(SMTPServer):
    """Passes each message on to `remoteaddr`, with an X-Peer field. An open relay for all who reach it: listen on loopback.

    Where the remote host takes it for nobody, the client hears so and keeps the message; the original said 250. As ever, one
    that is taken for some is lost for the others, and logged.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("enable_SMTPUTF8"):
            raise ValueError(f"{type(self).__name__} does not support SMTPUTF8.")
        super().__init__(*args, **kwargs)

    def process_message(self, peer: Any, mailfrom: Any, rcpttos: Any, data: Any, **kwargs: Any) -> str | None:
        newline = "\n" if isinstance(data, str) else b"\n"
        header = f"X-Peer: {peer[0]}"
        lines = data.split(newline)
        at = lines.index(lines[0][:0]) if lines[0][:0] in lines else len(lines)
        lines.insert(at, header if isinstance(data, str) else header.encode())
        refused = self._deliver(mailfrom, rcpttos, newline.join(lines))
        debug("we got some refusals:", refused)
        return _word_of(list(refused.values())) if len(refused) == len(set(rcpttos)) else None

    def _deliver(self, mailfrom: Any, rcpttos: Any, data: Any) -> dict[str, tuple[int, Any]]:
        """Send a message to `remoteaddr`: (code, text) of each recipient that was refused."""
        assert self._remoteaddr is not None
        octets = data.encode() if isinstance(data, str) else data
        content = re.sub(rb"\r\n|\n|\r", b"\r\n", octets)
        refused: dict[str, tuple[int, Any]] = {}
        try:
            client = smtplib.SMTP(timeout=TIMEOUT)
            client.connect(self._remoteaddr[0], self._remoteaddr[1])
            try:
                refused = client.sendmail(mailfrom, rcpttos, content)
            finally:
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    client.quit()
        except smtplib.SMTPRecipientsRefused as error:
            debug("got SMTPRecipientsRefused")
            refused = error.recipients
        except (OSError, smtplib.SMTPException) as error:
            debug("got", type(error))
            code, text = getattr(error, "smtp_code", -1), getattr(error, "smtp_error", "ignore")
            refused = dict.fromkeys(rcpttos, (code, text))
        if refused:
            host, port, *_ = self._remoteaddr
            event(
                "lost", level=logging.WARNING, upstream=f"{host}:{port}", recipients=len(refused), refused=repr(refused)
            )
        return refused


def _word_of(refusals: Sequence[tuple[int, Any]]) -> str:
    """What a client hears whose message nobody got: to try again, where one of the refusals may pass."""
    code, text = next((refusal for refusal in refusals if not 500 <= refusal[0] <= 599), refusals[0])
    if not 400 <= code <= 599:
        return "451 4.4.1 The host behind does not take it now"
    words = " ".join((text if isinstance(text, bytes) else str(text).encode()).decode("ascii", "replace").split())
    return f"{code} {''.join([letter if letter.isprintable() else '?' for letter in words])[:400]}"


class MailmanProxy(PureProxy):
    """Hands mail for lists to Mailman 2, and passes the rest on as `PureProxy` does, without X-Peer.

    Mailman 2 never ran under Python 3. Raises `ImportError` where there is no package `Mailman` of its shape.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            self._utils, self._message, self._lists = (
                importlib.import_module(f"Mailman.{name}") for name in ("Utils", "Message", "MailList")
            )
        except ImportError as error:
            raise ImportError(
                "MailmanProxy needs the package Mailman (version 2), which is not there; Responder's own lists are the agent "
                "`list`, see docs/compat.md"
            ) from error
        super().__init__(*args, **kwargs)

    def process_message(self, peer: Any, mailfrom: Any, rcpttos: Any, data: Any, **kwargs: Any) -> str | None:
        found = [(address, *self._list_of(address)) for address in rcpttos]
        others = [address for address, name, _ in found if not name]
        debug("forwarding recips:", " ".join(others))
        if others:
            debug("we got refusals:", self._deliver(mailfrom, others, data))
        message = self._message.Message(
            StringIO(data if isinstance(data, str) else data.decode("utf-8", "surrogateescape"))
        )
        if not message.get("from"):
            message["From"] = mailfrom
        if not message.get("date"):
            message["Date"] = _now()
        lists: dict[str, Any] = {}
        for address, name, command in found:
            if not name:
                continue
            debug("sending message to", address)
            if name not in lists:
                lists[name] = self._lists.MailList(name, lock=0)
            if command in SUBJECTS:
                message["Subject"] = SUBJECTS[command]
            message.Enqueue(lists[name], **{MAILMAN[command]: 1})
        return None

    def _list_of(self, address: str) -> tuple[str, str]:
        """(list, command) of `list@...` and `list-command@...`; two empty texts where it is none."""
        name, _, command = address.lower().partition("@")[0].partition("-")
        return (name, command) if command in MAILMAN and self._utils.list_exists(name) else ("", "")


MAILMAN = {
    "": "tolist",
    "admin": "toadmin",
    "owner": "toowner",
    "request": "torequest",
    "join": "torequest",
    "leave": "torequest",
}
SUBJECTS = {"join": "subscribe", "leave": "unsubscribe"}


def _now() -> str:
    return datetime.fromtimestamp(SystemClock().now(), UTC).astimezone().ctime()


if __name__ == "__main__":
    from responder.compat.arguments import main

    sys.exit(main(sys.argv[1:]))
