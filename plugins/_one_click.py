"""Leaving a list by one HTTP POST (RFC 8058): a small listener for behind the operator's reverse proxy, which has the TLS.

Not a plugin of its own: `list.py` uses it. A POST of `List-Unsubscribe=One-Click` to `.../TOKEN` unsubscribes; a GET shows a
button and changes nothing, as mail scanners follow links. Lists with the same `listen` share one socket.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from http import HTTPStatus
from urllib.parse import parse_qsl

import h11

from responder import Context

MAX_HEAD = 8192  # octets of request line and header fields
MAX_BODY = 4096  # octets
MAX_CONNECTIONS = 64  # more are closed at once
MAX_DROPPED = 65536  # octets that are read and thrown away, so that a refused client sees why
TIMEOUT = 10.0  # seconds for a whole exchange
WANTED = ("List-Unsubscribe", "One-Click")

PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title></head>
<body><h1>{title}</h1>{body}</body></html>
"""
FORM = (
    '<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">'
    "<p><button>Unsubscribe</button></p></form>"
)
# One text for who was a member and who is none (any more).
GONE = PAGE.format(title="Unsubscribed", body="<p>This address gets no more mail from this list.</p>")
ASK = PAGE.format(title="Leave this list?", body=FORM)


@dataclass(frozen=True, slots=True)
class Route:
    """One list: whether a token is one of its, and what takes off the list whom it belongs to."""

    knows: Callable[[str], bool]
    redeem: Callable[[str], Awaitable[object]]


class Refused(Exception):  # noqa: N818 - an answer, not a mistake of ours
    """The request gets this status."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class Listener:
    """One socket, and the lists behind it."""

    def __init__(self, context: Context) -> None:
        self.routes: dict[str, Route] = {}
        self._log = context.log
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Raises `OSError` where it can't listen there."""
        # At a reload the new agents start before the old ones stop: for that moment both listen.
        share = True if hasattr(socket, "SO_REUSEPORT") else None
        self._server = await asyncio.start_server(self._accept, host, port, reuse_port=share, limit=MAX_HEAD)

    async def stop(self) -> None:
        """Accept nothing more, and let what is under way come to its end."""
        assert self._server is not None
        self._server.close()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=TIMEOUT / 5)
            for task in late:
                task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT / 5):
                await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._serve(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception:
            self._log.exception("one-click unsubscription failed")
        finally:
            self._tasks.discard(task)
            writer.transport.abort()  # what was answered has been flushed; who did not read is not waited for

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one response, and the connection is closed."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        request: h11.Request | None = None
        try:
            request = await _head(connection, reader)
            status, page = await self._answer(request, await _body(connection, reader, writer))
        except Refused as refused:
            status, page = refused.status, ""
        except h11.RemoteProtocolError as error:
            status, page = HTTPStatus(error.error_status_hint), ""
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        page = page or PAGE.format(title=status.phrase, body="")
        fields = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(page.encode()))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'"),
            ("Referrer-Policy", "no-referrer"),  # the address is a key
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            fields.append(("Allow", "GET, HEAD, POST"))
        response = connection.send(h11.Response(status_code=status, headers=fields, reason=status.phrase)) or b""
        if request is None or request.method != b"HEAD":
            response += connection.send(h11.Data(data=page.encode())) or b""
        writer.write(response)
        with contextlib.suppress(OSError, RuntimeError):
            await writer.drain()
            writer.write_eof()
            dropped = 0  # closed with octets unread, the connection would be reset, and the answer lost
            while dropped < MAX_DROPPED and (data := await reader.read(MAX_HEAD)):
                dropped += len(data)

    async def _answer(self, request: h11.Request, body: bytes) -> tuple[HTTPStatus, str]:
        """Raises `Refused`."""
        token = _token(request.target)
        route = next((route for route in self.routes.values() if token and route.knows(token)), None)
        if route is None:
            raise Refused(HTTPStatus.NOT_FOUND)
        if request.method in (b"GET", b"HEAD"):
            return HTTPStatus.OK, ASK
        if request.method != b"POST":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED)
        if not _is_one_click(request, body):
            raise Refused(HTTPStatus.BAD_REQUEST)
        try:
            await route.redeem(token)
        except Exception:  # the store is not there: whoever asked should ask again
            self._log.exception("one-click unsubscription failed")
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE) from None
        return HTTPStatus.OK, GONE


async def _head(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request:
    """Raises `h11.RemoteProtocolError` for what is no HTTP."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(MAX_HEAD))
    if not isinstance(event, h11.Request):
        raise ConnectionResetError  # the client left
    return event


async def _body(connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The rest of the request. Raises `Refused` where it is too large, and `h11.RemoteProtocolError`."""
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(await reader.read(MAX_HEAD))
        else:
            raise ConnectionResetError
    return body


def _token(target: bytes) -> str:
    """The last step of the path. What stands before it is the reverse proxy's business."""
    path = target.partition(b"?")[0].decode("ascii", "replace")
    return path.rstrip("/").rpartition("/")[2]


def _is_one_click(request: h11.Request, body: bytes) -> bool:
    """Whether the body says `List-Unsubscribe=One-Click`, as a form or as form data (RFC 8058 3.2)."""
    kind = next((value for name, value in request.headers if name == b"content-type"), b"")
    if not kind.lower().startswith(b"multipart/form-data"):
        try:
            return WANTED in parse_qsl(body.decode("utf-8", "replace").strip(), max_num_fields=20)
        except ValueError:
            return False
    form = message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
    parts = form.get_payload() if form.is_multipart() else []
    return any(
        (part.get_param("name", header="content-disposition"), str(part.get_payload()).strip()) == WANTED
        for part in parts
        if isinstance(part, Message)
    )


_LISTENERS: dict[tuple[str, int], Listener] = {}
_TURN = asyncio.Lock()


async def open_route(context: Context, host: str, port: int, route: Route) -> None:
    """Serve a list's links there. Raises `OSError` where that address can't be listened on."""
    async with _TURN:
        listener = _LISTENERS.get((host, port))
        if listener is None:
            listener = Listener(context)
            await listener.start(host, port)
            _LISTENERS[host, port] = listener
        listener.routes[context.inbox] = route


async def close_route(context: Context, host: str, port: int, route: Route) -> None:
    """Serve them no longer; the last list closes the socket."""
    async with _TURN:
        listener = _LISTENERS.get((host, port))
        # A reload may have put a new agent of the same inbox in this one's place.
        if listener is None or listener.routes.get(context.inbox) is not route:
            return
        del listener.routes[context.inbox]
        if not listener.routes:
            del _LISTENERS[host, port]
            await listener.stop()
