"""Ending a run early and well: a signal or a time limit becomes a reason that the loop over steps asks for."""

import signal
import time
from types import FrameType, TracebackType

from mace_md.console import leave_closed_terminal

_HANGUP = getattr(signal, "SIGHUP", None)  # which Windows does not have
_SIGNALS = [number for number in (signal.SIGTERM, signal.SIGINT, _HANGUP) if number is not None]


class StopRequest:
    """While open, SIGTERM, SIGINT and SIGHUP (the terminal was closed) ask the run to stop at its next look; so does
    `max_hours` since the opening.

    A process that was told to ignore SIGHUP, as by `nohup`, goes on ignoring it. A second SIGINT interrupts at once.
    `reason()` is None until something asked.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._max_hours = max_hours
        self._signal: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in _SIGNALS:
            if number == _HANGUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the caller handles its signals
                break
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
        if number == _HANGUP:
            leave_closed_terminal()

    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self._signal is not None:
            return f"stopped by {self._signal}"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"stopped after --max-hours {self._max_hours:g}"
        return None
