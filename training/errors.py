"""Errors of the training program. Each says the rule, the value found, the file, and what to do."""

from __future__ import annotations


class TrainingError(Exception):
    """The run cannot start or go on."""


class RequestError(TrainingError):
    """The request file is missing, is not JSON, or breaks a rule."""


class HardwareError(TrainingError):
    """The request asks for what this machine or its libraries do not have."""


class OrderError(TrainingError):
    """The order manifest is incomplete or contradicts the token index."""


class ShardError(TrainingError):
    """A token shard is missing, too short, or holds ids outside the vocabulary."""


class ResumeMismatchError(TrainingError):
    """A checkpoint was made from another order, model or schedule than the request asks for."""


class NonFiniteLossError(TrainingError):
    """The loss or the gradient became NaN or infinite. The last checkpoint is whole."""
