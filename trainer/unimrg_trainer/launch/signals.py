"""Stop requests: SIGTERM, SIGINT and SIGHUP set a flag, which the program checks where it can stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """A flag that signals set. The first signal requests a stop; a later SIGINT an immediate exit (`twice`).

    `on_second` is called from the handler of that SIGINT; a rank exits there, the launcher kills its ranks.
    """

    def __init__(self, on_second: Callable[[], None] | None = None) -> None:
        self.requested = False
        self.twice = False
        self.cause = ""
        self._on_second = on_second
        self._raising = False

    def request(self, cause: str) -> None:
        """Request a stop, from any thread; `cause` is a few words for the log."""
        self.requested = True
        self.cause = self.cause or cause

    def install(self) -> None:
        """Handle SIGTERM, SIGINT and SIGHUP for the rest of the process; main thread only.

        SIGHUP stays ignored under nohup.
        """
        for number in _SIGNALS:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    @contextmanager
    def installed(self) -> Iterator[StopRequest]:
        """Like `install`, until the end of the block. Outside the main thread: no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        try:
            yield self
        finally:
            for number, handler in before.items():
                if handler is not None:  # None: it was not installed from Python and cannot be put back
                    signal.signal(number, handler)

    @contextmanager
    def interruptible(self, *, even_if_requested: bool = False) -> Iterator[None]:
        """Within this block a signal raises KeyboardInterrupt in the main thread.

        For code in the launcher that does not poll the flag and can be interrupted anywhere. If a stop was requested
        before, KeyboardInterrupt is raised at once, unless `even_if_requested`.
        """
        self._raising = True  # before the flag is read: a signal in between must not be lost
        try:
            if self.requested and not even_if_requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._raising = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested:
            if number == signal.SIGINT:
                self.twice = True
                if self._on_second is not None:
                    self._on_second()
        else:
            self.request(name)
        if self._raising:
            raise KeyboardInterrupt
