"""What a reader of a format raises when its library cannot read a payload."""

from __future__ import annotations


class UnreadableError(Exception):
    """A payload that its format's library cannot read; `reason` is the drop reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
