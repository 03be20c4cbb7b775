"""An interrupt that lands in a finaliser reaches the program all the same."""

from __future__ import annotations

import signal
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

from orchestration.process.interrupts import interrupts_are_never_lost


@pytest.fixture(autouse=True)
def usual_handler() -> Iterator[None]:
    """Python's own, whatever an earlier test of this process left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Thing:
    """Something with a weak reference to it."""


def interrupted_in_a_callback() -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    assert reference() is None


def test_an_interrupt_in_a_callback_is_heard() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_are_never_lost():
        interrupted_in_a_callback()
        time.sleep(10)


def test_other_lost_errors_are_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: reported.append(lost.exc_type))

    def fails(_: object) -> None:
        raise ValueError("in a callback")

    with interrupts_are_never_lost():
        thing = Thing()
        reference = weakref.ref(thing, fails)
        del thing
    assert reference() is None
    assert reported == [ValueError]
