"""Ends an agent's step that blocks the event loop: `while True`, `time.sleep`, a library that waits.

A thread sees whether the loop still turns. Where it does not, the thread sends the main thread a signal, whose handler runs in
the very code that blocks, between two of its instructions. It looks at who that is, and raises `Interrupted` there if it is an
agent's code, has been since some time, and nothing of ours stands between; in our own code or in a library's locks it never does.
A loop that turns pays for a beat every `BEAT` seconds, and nothing per mail. Where plain functions keep Python's lock busy in
their threads, so that the loop is late, they are made to hand it on sooner.

What no signal handler can end: a single call into C code that keeps Python's lock to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from responder.agents.attempts import ATTEMPT, LIMIT, Attempt, Interrupted, call

BEAT = 0.1  # seconds between two looks at a loop that turns
LOOK = 0.05  # seconds between two looks at one that does not
ALARM = 0.1  # seconds after which the looks begin
LOOKS = round(
    (LIMIT - ALARM) / LOOK
)  # looks that find the same agent in the same step, before it is blamed: others may have
# kept the loop before it, each for a little
LAG = 0.05  # seconds after which threads are made to share Python's lock more eagerly
EAGER = 0.0001  # seconds that a thread may keep it then: what the loop does takes it some twenty times a mail
CALM = 50  # beats in time after which they are left alone again
SIGNAL = signal.SIGURG  # does nothing where nobody handles it
GUARDED = (SIGNAL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # whose handlers are nobody else's to change


class Watchdog:
    """Watches the running event loop, where that is the main thread's: no other can be reached by a signal."""

    def __init__(self) -> None:
        self._turned = threading.Event()
        self._end = threading.Event()
        self._step: tuple[FrameType, Attempt] | None = None
        self._looks = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, on the event loop. Does nothing in another thread than the main one."""
        if self._thread is None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(SIGNAL, self._look)
            self._handlers = {number: signal.getsignal(number) for number in GUARDED}
            self._usual = sys.getswitchinterval()
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._watch, args=(loop,), name="responder-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End, in the thread that began."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None
            signal.signal(SIGNAL, self._before)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        main = threading.main_thread().ident
        assert main is not None
        usual, calm = self._usual, 0
        while not self._end.wait(BEAT):
            if calm == CALM:
                sys.setswitchinterval(usual)
            self._step = None
            self._turned.clear()
            try:
                loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # it has ended
                return
            calm += 1
            if not self._turned.wait(LAG):
                sys.setswitchinterval(EAGER)
                calm = 0
            pause = ALARM - LAG
            while not self._turned.wait(pause) and not self._end.is_set():
                pause = LOOK
                with contextlib.suppress(ProcessLookupError):
                    signal.pthread_kill(main, SIGNAL)
        sys.setswitchinterval(usual)

    def _turn(self) -> None:
        """The loop turns. What an agent, or a library of its, has put in place of ours would keep us from seeing that it does
        not, or from being stopped."""
        self._turned.set()
        for number, handler in self._handlers.items():
            if signal.getsignal(number) not in (handler, signal.SIG_DFL):
                signal.signal(number, handler)
        if sys.getswitchinterval() > self._usual:
            sys.setswitchinterval(self._usual)

    def _look(self, number: int, frame: FrameType | None) -> None:
        """The handler. The same frame of ours, found twice without a turn between, has gone on all the time: a task gets one
        step in a turn."""
        attempt = ATTEMPT.get()
        bottom = None if self._turned.is_set() or attempt is None else agents_frame(frame)
        same = bottom is not None and self._step is not None and self._step[0] is bottom and self._step[1] is attempt
        self._looks = self._looks + 1 if same else 1
        self._step = (
            None if bottom is None or attempt is None else (bottom, attempt)
        )  # kept, so that no other takes its place
        if attempt is None or bottom is None or (self._looks < LOOKS and not attempt.bench.blocks):
            return
        attempt.interrupted = attempt.bench.blocks = True
        self._looks = 0
        raise Interrupted


def agents_frame(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of an agent's code that `frame` was called from; None where an exception must not be raised there."""
    if frame is None or frame.f_code.co_filename.startswith(_DELICATE) or frame.f_globals.get("__name__") in _LOCKED:
        return None
    outer: FrameType | None = frame
    inner = None
    while outer is not None:
        name = outer.f_code.co_filename
        if outer.f_code is call.__code__ or outer.f_code is asyncio.Handle._run.__code__ or name == _RUNNERS:
            return inner
        if name.startswith(_OURS) and not name.startswith(_PURE):
            return None
        inner, outer = outer, outer.f_back
    return None


_HERE = Path(__file__).parent
_OURS = f"{_HERE.parent}/"
_PURE = (
    f"{_HERE.parent}/mail/",
    *[f"{_HERE}/{name}.py" for name in ("base", "answers", "checks", "confirm", "registry")],
)
_RUNNERS = asyncio.Runner.run.__code__.co_filename
_DELICATE = ("<frozen importlib", str(Path(asyncio.__file__).parent))
_LOCKED = frozenset({"logging", "weakref", "_weakrefset"})
