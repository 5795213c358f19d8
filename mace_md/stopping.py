"""Ending a run early and well: a signal or a time limit becomes a reason that the loop over steps asks for."""

import signal
import time
from types import FrameType, TracebackType


class StopRequest:
    """While open, SIGTERM and SIGINT ask the run to stop at its next look; so does `max_hours` since the opening.

    A second SIGINT interrupts at once. `reason()` is None until something asked.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._max_hours = max_hours
        self._signal: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
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

    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self._signal is not None:
            return f"stopped by {self._signal}"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"stopped after --max-hours {self._max_hours:g}"
        return None
