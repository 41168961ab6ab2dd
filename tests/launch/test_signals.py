"""Requests to stop, with real signals to this process."""

from __future__ import annotations

import os
import signal

import pytest

from unimrg_trainer.launch.signals import StopRequest


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_sets_the_flag_and_nothing_else_happens(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup a hang-up would stay ignored
    try:
        with StopRequest().installed() as stop:
            assert not stop.requested
            send(number)
            assert (stop.requested, stop.twice, stop.cause) == (True, False, number.name)
        assert signal.getsignal(number) is signal.SIG_DFL, "the handler of before has not come back"
    finally:
        signal.signal(number, before)


def test_only_an_interrupt_after_a_request_insists() -> None:
    called: list[str] = []
    with StopRequest(on_second=lambda: called.append("now")).installed() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.requested and not stop.twice
        send(signal.SIGINT)
        assert stop.twice
    assert called == ["now"]


def test_work_that_looks_at_no_flag_is_interrupted() -> None:
    with StopRequest().installed() as stop:
        with pytest.raises(KeyboardInterrupt), stop.interruptible():
            send(signal.SIGTERM)
            signal.pause()
        with pytest.raises(KeyboardInterrupt), stop.interruptible():
            pytest.fail("work began although a stop was asked for")
