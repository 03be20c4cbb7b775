"""Repeating a request to a server that fails now and then: with back-off, and never past a definite answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from orchestration.store.contract import StoreUnavailableError
from orchestration.store.lakefs.settings import Patience

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_LONGEST_RETRY_AFTER_S = 120.0


class TransientError(Exception):
    """The request may be repeated. `retry_after_s`: what the server asked for."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header; a date or nonsense counts as not given."""
    try:
        return min(max(float(value or ""), 0.0), _LONGEST_RETRY_AFTER_S)
    except ValueError:
        return None


def persist(attempt: Callable[[int], T], patience: Patience, action: str) -> T:
    """Call `attempt(number)`, from 1, until it raises no TransientError.

    Raises StoreUnavailableError, with the last cause, when the patience is used up.
    """
    backoff = wait_random_exponential(multiplier=patience.first_wait_s, max=patience.longest_wait_s)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, TransientError) else None
        _LOG.warning("%s: attempt %d failed: %s", action, state.attempt_number, error)
        return backoff(state) if asked is None else asked

    attempts = Retrying(
        retry=retry_if_exception_type(TransientError),
        stop=stop_after_attempt(patience.attempts),
        wait=wait,
        reraise=True,
    )
    try:
        for number in attempts:
            with number:
                return attempt(number.retry_state.attempt_number)
    except TransientError as error:
        raise StoreUnavailableError(
            f"could not {action}: the server did not manage it in {patience.attempts} attempts ({error}). "
            "See whether it is up (`headwater doctor`), then run again."
        ) from error
    raise AssertionError("tenacity ends by a result or an error")
