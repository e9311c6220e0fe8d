"""A real HTTP server on loopback that answers by script, and badly where that is wanted; it records what it is asked.

    with HTTPServer({"/hook": Said(body=b"hello")}) as server:
        ... server.url + "/hook" ...; server.requests[0].body

A route maps a path (without its query) to a `Said`, to a list of them (one for each time, the last one for ever), or to a
function of the request. A path that has none gets 404.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """One that has come. Header names are in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    target: str  # as it stood in the request line

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Said:
    """One response."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain; charset=utf-8"})
    delay: float = 0.0  # seconds before the first octet
    drop: int | None = None  # hang up when that many octets of the body are sent; -1: without a word
    endless: bool = False  # the body again and again, until the client leaves
    pause: float = 0.0  # seconds between each two octets
    hang: bool = False  # say nothing, until the client or the test leaves


def said_json(value: Any, status: int = 200, **changes: Any) -> Said:
    """A JSON response."""
    return Said(status, json.dumps(value).encode(), {"Content-Type": "application/json"}, **changes)


Route = Said | Sequence[Said] | Callable[[Request], Said]


class HTTPServer:
    """Serves from a thread, for the length of a `with` block; may be left and entered again, on the same port."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        context: ssl.SSLContext | None = None,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.routes = dict(routes)
        self.context = context  # HTTPS
        self.requests: list[Request] = []
        self.sent = 0  # octets of bodies
        self.address = address
        self.port = port
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._over = threading.Event()
        self._sockets: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def respond(self, request: Request) -> Said:
        route = self.routes.get(request.path, Said(404))
        with self._lock:
            self.requests.append(request)
            turn = self._asked[request.path]
            self._asked[request.path] += 1
        if isinstance(route, Said):
            return route
        return route(request) if callable(route) else route[min(turn, len(route) - 1)]

    def __enter__(self) -> HTTPServer:
        outer = self
        self._over.clear()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                if outer.context is not None:
                    self.request = outer.context.wrap_socket(self.request, server_side=True)
                super().setup()
                outer._sockets.add(self.connection)

            def finish(self) -> None:
                outer._sockets.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def do_GET(self) -> None:
                outer._serve(self)

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server((self.address, self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="http", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        for connection in list(self._sockets):  # one that is kept open would be served by nobody
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.command, parts.path, parse_qs(parts.query), headers, body, handler.path)
        said = self.respond(request)
        if said.hang or self._over.wait(said.delay):
            self._over.wait(60)
            handler.close_connection = True
            return
        if said.drop == -1:
            handler.close_connection = True
            return
        handler.send_response(said.status)
        for name, value in said.headers.items():
            handler.send_header(name, value)
        if said.endless:
            handler.close_connection = True
        elif said.status != 204 and "Content-Length" not in said.headers:
            handler.send_header("Content-Length", str(len(said.body)))
        handler.end_headers()
        self._send(handler, said)

    def _send(self, handler: BaseHTTPRequestHandler, said: Said) -> None:
        while said.endless and not self._over.is_set():
            handler.wfile.write(said.body)
            self.sent += len(said.body)
        if said.pause:
            for octet in said.body:
                if self._over.wait(said.pause):
                    return
                handler.wfile.write(bytes([octet]))
                self.sent += 1
        elif not said.endless:
            handler.wfile.write(said.body if said.drop is None else said.body[: said.drop])
            self.sent += len(said.body)
        if said.drop is not None:
            handler.close_connection = True
