"""Errors of the training program. Each says the rule, the value found, the file, and what to do."""

from __future__ import annotations


class TrainingError(Exception):
    """The run cannot start or go on."""

    worth_a_restart = False
    """Whether the same request may succeed from the last checkpoint, with nothing changed by a person."""
    run_again = False
    """Whether the launcher should start the same request again at once."""


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


class CheckpointSaveError(TrainingError):
    """A checkpoint could not be written. The ones before it are whole."""


class CheckpointDamagedError(TrainingError):
    """The checkpoint that a run was told to start from is not what was saved."""


class OutputInUseError(TrainingError):
    """Another run writes into the same output folder."""


class StepTimeoutError(TrainingError):
    """A rank waited too long for another one."""

    worth_a_restart = True


class HfImportError(TrainingError):
    """A Hugging Face model cannot be the start of this run."""


class IncidentDetectedError(TrainingError):
    """The loss left its band: what was seen is written down, and the program, started again, finds the cause and goes on."""

    worth_a_restart = True
    run_again = True


class IncidentUnresolvedError(TrainingError):
    """The same trouble came back after every remedy that the policy allows."""
