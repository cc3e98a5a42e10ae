"""Signals as requests to a solver."""

import os
import signal

import pytest

from caffe_bridge import signals
from caffe_bridge.errors import CaffeError


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_each_signal_asks_once_for_its_effect():
    with signals.requests() as request:
        assert request() is None
        send(signal.SIGINT, signal.SIGINT)
        assert (request(), request()) == ("stop", None)
        send(signal.SIGINT, signal.SIGHUP)
        assert (request(), request(), request()) == ("snapshot", "stop", None)


def test_effects_can_be_chosen():
    with signals.requests(sigint="none", sighup="stop") as request:
        send(signal.SIGINT)
        assert request() is None
        send(signal.SIGHUP)
        assert request() == "stop"


def test_handlers_are_restored_whatever_happens():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)
    with pytest.raises(ZeroDivisionError), signals.requests():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)) == before


def test_unknown_effects_are_refused_before_anything_is_caught():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(CaffeError, match="the effect of SIGHUP is snapshot, stop or none, not 'Stop'"):
        with signals.requests(sighup="Stop"):
            pass
    assert signal.getsignal(signal.SIGINT) == before
