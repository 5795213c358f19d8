"""Signals that end a run well, and a terminal that goes away while it runs."""

import os
import pty
import signal

import pytest

from mace_md.console import Patient, is_gone, stop_talking
from mace_md.stopping import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_is_a_reason_to_stop_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.reason() is None
        os.kill(os.getpid(), number)
        assert stop.reason() == f"stopped by {number.name}"
    assert signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_written_to_no_more():
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w")
    Patient(stream).write("before\n")
    stream.flush()
    os.close(master)
    with pytest.raises(OSError) as failure:
        os.write(stream.fileno(), b"x")
    assert is_gone(failure.value)
    patient = Patient(stream)
    patient.write("after\n")
    patient.flush()
    os.write(stream.fileno(), b"x")  # nowhere, and no error any more
    stop_talking(stream)
    stream.close()
