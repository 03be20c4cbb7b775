"""Names of what a run leaves in its output folder, and beside its request: written by the program, read by others.

OUTPUT/metrics.jsonl ...                  one line a step
OUTPUT/checkpoints/step-00000250/         one folder a saved step; complete.json is written last
OUTPUT-rolling/step-00000120/             the same, only to resume from
OUTPUT/incidents/0001/decision.json ...   one folder an incident, see recovery/incidents.py
error.json                                beside the request: what the program died of
"""

from __future__ import annotations

METRICS, LAYERS, HELDOUT = "metrics.jsonl", "layers.jsonl", "heldout.jsonl"
ATTEMPTS = "attempts.jsonl"
SEQUENCE_LOSSES = "sequence_losses.f32"
RECORDS = (METRICS, LAYERS, HELDOUT, SEQUENCE_LOSSES)
"""What a run that takes over another's steps takes over with them."""

CHECKPOINTS = "checkpoints"
MARKER = "complete.json"
"""In a checkpoint's folder: written last, and says what the checkpoint is of."""
ROLLING = "rolling"
"""The folder OUTPUT-rolling, beside the output: all that is in the output is published."""


def checkpoint_folder(step: int) -> str:
    """Of one saved step, inside the output; zero-padded so that names sort as steps do."""
    return f"{CHECKPOINTS}/step-{step:08d}"


INCIDENTS = "incidents"
DETECTED, DECISION, REPORT = "detected.json", "decision.json", "report.md"
INCIDENTS_PASSED = "incidents.json"
"""What left the band in the finished record and was let pass."""

ERROR = "error.json"
LOGS = "logs"
WANDB_RECORD = "wandb.json"
"""In the run's folder of boards: id and address (null offline) of its W&B run, with what it was opened with."""
