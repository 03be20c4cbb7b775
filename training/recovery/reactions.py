"""Reacts to loss incidents: stop, find the cause, go back to the last good checkpoint, go on differently.

    watch     at each step: outside the band? A few steps later score the window and its neighbours, write
              detected.json, stop. The launcher starts the same request again.
    resume    at the next start: load the last checkpoint before the window, score again, decide, write decision.json
    begin     train on, with all decisions so far: sequences replaced, learning rate lowered, clipping tightened

Every rank sees the same numbers and comes to the same result; rank 0 writes. Killed anywhere, the program, started
again, does what is not written down yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from training.checkpoints.files import complete_checkpoints, read_marker, remove_checkpoint
from training.contract import outputs
from training.contract.bands import Detector, Deviation, IncidentPolicy, find_incidents
from training.contract.errors import IncidentDetectedError, IncidentUnresolvedError, ResumeMismatchError
from training.data.amended_order import OrderDocuments, plan_replacements
from training.data.amendments import Amendment
from training.data.opening import open_order
from training.recovery.diagnosis import OFF_PLAN, Finding, Window, as_json, diagnose
from training.recovery.incident_report import write_report
from training.recovery.incidents import (
    amendments_of,
    attempts_at,
    muted,
    read_decisions,
    read_json,
    undecided,
    write_json,
)
from training.watching.monitor import read_metrics
from training.watching.sequence_losses import SequenceLosses

if TYPE_CHECKING:
    from pathlib import Path

    from torchtitan.components.lr_scheduler import LRSchedulersContainer
    from torchtitan.config import JobConfig

    from training.checkpoints.saving import ListedCheckpoints
    from training.checkpoints.starting_point import Start
    from training.contract.request import TrainRequest
    from training.data.amended_order import Amending
    from training.watching.monitor import StepMonitor
    from training.watching.scoring import PieceScorer

ACTED_ON = ("loss_spike", "loss_drop", "non_finite")
"""A gradient spike alone was clipped and is only recorded."""


class RunUnderWay(Protocol):
    """What recovery reads and changes of a run: the trainer has it."""

    request: TrainRequest
    step: int
    amending: Amending
    scorer: PieceScorer
    checkpointer: ListedCheckpoints
    metrics_processor: StepMonitor
    lr_schedulers: LRSchedulersContainer
    job_config: JobConfig


class Recovery:
    """The incidents of one attempt of a run. Does nothing without a policy."""

    def __init__(self, run: RunUnderWay) -> None:
        self._run = run
        self._request = run.request
        self._output = run.request.output
        self._policy: IncidentPolicy | None = run.request.incidents
        self._detector: Detector | None = None
        self._deviations: list[Deviation] = []
        self._decisions: list[dict[str, Any]] = []

    def resume(self) -> Start:
        """Decide what is undecided, apply all decisions, drop the checkpoints that they make obsolete, go to the last one."""
        self._amend()
        folder = undecided(self._output)
        if folder is not None and self._policy is not None:
            start = self._decide(folder)
            self._amend()
            self._settle_learning_rate()
            return start
        if dist.get_rank() == 0:
            for checkpoint in complete_checkpoints(self._output):
                marker = read_marker(checkpoint)
                if marker.get("amendments", []) != self._run.amending.now.until(marker["step"]):
                    remove_checkpoint(checkpoint)  # of what is trained again
        dist.barrier()
        self._check_resume_from()
        start = self._run.checkpointer.resume()
        self._settle_learning_rate()
        return start

    def _amend(self) -> None:
        """Take over the decisions that are written down."""
        self._decisions = read_decisions(self._output)
        self._run.amending.now = amendments_of(self._decisions)

    def _check_resume_from(self) -> None:
        folder = self._request.resume_from
        if folder is None or complete_checkpoints(self._output) or not (folder / outputs.MARKER).is_file():
            return
        marker = read_marker(folder)
        if marker.get("amendments", []) != self._run.amending.now.until(marker["step"]):
            raise ResumeMismatchError(
                f"resume_from {folder.name} was trained with {len(marker.get('amendments', []))} amendments of the order or the "
                f"schedule, which {self._output.name} does not have: continue an earlier checkpoint, or in the folder of that run"
            )

    def _settle_learning_rate(self) -> None:
        """The learning rate of the next step by the schedule of now: a checkpoint brings the one it would have had then."""
        if not self._run.amending.now.all:
            return
        for scheduler in self._run.lr_schedulers.schedulers:
            rates = scheduler.get_lr()
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            scheduler._last_lr = rates

    def begin(self) -> None:
        """Learn what is usual from the steps so far."""
        if self._policy is None or not self._policy.react:
            return
        self._detector = Detector(self._policy)
        for row in read_metrics(self._output / outputs.METRICS):
            self._detector.observe(row)

    def set_clipping(self) -> None:
        """The limit of the gradient norm for the step that comes."""
        usual = self._request.optimiser.max_gradient_norm
        step = self._run.step
        self._run.job_config.training.max_norm = self._run.amending.now.max_gradient_norm(step, usual)

    def watch(self) -> None:
        """Judge the step that was trained. Raises IncidentDetectedError when the window of an incident is known."""
        if self._detector is None or self._policy is None:
            return
        begin, step = time.perf_counter(), self._run.step
        found = self._detector.observe(self._run.metrics_processor.last)
        self._run.metrics_processor.carried_s += time.perf_counter() - begin
        self._deviations += [d for d in found if d.kind in ACTED_ON and not muted(self._decisions, step)]
        if not self._deviations:
            return
        broken = self._deviations[-1].kind == "non_finite"
        confirmed = step >= self._deviations[0].step + self._policy.confirm_steps
        if broken or confirmed or step == self._request.schedule.total_steps:
            self._stop(self._deviations, self._policy)

    def _stop(self, deviations: list[Deviation], policy: IncidentPolicy) -> None:
        worst = max(deviations, key=lambda d: (d.kind == "non_finite", abs(d.sigmas), -d.step))
        mine = [d for d in deviations if d.kind == worst.kind]
        finite = [d.expected for d in deviations if math.isfinite(d.expected)]
        expected = worst.expected if math.isfinite(worst.expected) else finite[0] if finite else self._usual_loss()
        window = Window(
            worst.kind,
            deviations[0].step,
            mine[-1].step,
            expected,
            self._request.global_batch_size,
            policy.documents_before_steps,
        )
        then = self._score(window, policy)
        number = len(self._decisions) + 1
        folder = self._output / outputs.INCIDENTS / f"{number:04d}"
        if dist.get_rank() == 0:
            _write_table(folder / "losses-then.parquet", then)
            write_json(
                folder / outputs.DETECTED,
                {
                    "number": number,
                    "window": asdict(window),
                    "worst": asdict(worst),
                    "deviations": [asdict(d) for d in deviations],
                    "metrics": self._metrics_of(window),
                    "trained": self._trained(window.first_step, window.last_step).tolist(),
                    "reference_trained": float(np.nanmean(self._trained(*self._reference_steps(window, policy)))),
                },
            )
        dist.barrier()
        raise IncidentDetectedError(
            f"{worst.kind} at step {worst.step}: {worst.value:.4f}, expected {worst.expected:.4f} ({worst.sigmas:.1f} sigma); "
            f"steps {window.first_step} to {window.last_step} are written down in {folder.name}/{outputs.DETECTED}"
        )

    def _usual_loss(self) -> float:
        rows = read_metrics(self._output / outputs.METRICS)[-16:]
        return float(np.median([row["loss"] for row in rows]))

    def _reference_steps(self, window: Window, policy: IncidentPolicy) -> tuple[int, int]:
        last = max(1, window.first_step - 1 - policy.documents_before_steps)
        return max(1, last - policy.reference_steps + 1), last

    def _scored(self, window: Window, policy: IncidentPolicy) -> np.ndarray:
        """Sequences of the reference, the window, and the steps to come."""
        batch = self._request.global_batch_size
        first, _ = self._reference_steps(window, policy)
        last = min(window.last_step + policy.look_ahead_steps, self._request.schedule.total_steps)
        return np.arange((first - 1) * batch, last * batch)

    def _score(self, window: Window, policy: IncidentPolicy) -> pa.Table:
        numbers = self._scored(window, policy)
        return self._run.scorer.score(numbers, lambda: open_order(self._request), self._run.amending)

    def _trained(self, first: int, last: int) -> np.ndarray:
        return SequenceLosses(self._output, self._request.global_batch_size).read(first, last)

    def _metrics_of(self, window: Window) -> list[dict[str, Any]]:
        """Rows of the window and of some steps around it, with what was planned and expected."""
        rows = read_metrics(self._output / outputs.METRICS)
        last = self._run.metrics_processor.last
        if not rows or rows[-1]["step"] < last["step"]:
            rows.append(last)  # of a broken step, which is not recorded
        usual = float(
            np.median([row["gradient_norm"] for row in rows if row["step"] < window.first_step][-64:] or [1.0])
        )
        amendments, schedule = self._run.amending.now, self._request.schedule
        return [
            row
            | {
                "planned_learning_rate": schedule.learning_rate(row["step"])
                * amendments.learning_rate_factor(row["step"]),
                "expected_gradient_norm": usual,
            }
            for row in rows
            if row["step"] >= window.first_step - 64
        ]

    def _decide(self, folder: Path) -> Start:
        """Go to the last good checkpoint, find the cause of one incident, write the decision. Raises IncidentUnresolvedError when nothing is left to try."""
        policy = self._policy
        assert policy is not None
        detected = read_json(folder / outputs.DETECTED)
        window = Window(**detected["window"])
        attempts = attempts_at(self._decisions, window.first_step)
        self._go_back(window)
        start = self._run.checkpointer.resume()
        rollback = self._run.step
        good = self._score(window, policy) if rollback else None
        rows = [row for row in detected["metrics"] if row["step"] >= window.first_step - 1 - window.before_steps]
        finding = diagnose(
            window,
            policy,
            then=pq.read_table(folder / "losses-then.parquet"),
            good=good,
            trained=np.array(detected["trained"], dtype=np.float32),
            reference_trained=detected["reference_trained"],
            metrics=[row for row in rows if row["step"] <= window.last_step],
        )
        if len(attempts) >= policy.max_attempts:
            self._give_up(detected, finding, len(attempts))
        if dist.get_rank() == 0:
            if good is not None:
                _write_table(folder / "losses-good.parquet", good)
            amendment = self._amendment(detected, window, finding, rollback, attempts, policy)
            write_json(
                folder / outputs.DECISION,
                {
                    "number": detected["number"],
                    "kind": window.kind,
                    "first_step": window.first_step,
                    "last_step": window.last_step,
                    "worst": detected["worst"],
                    "rollback_step": rollback,
                    "retried_until": window.last_step + policy.calm_steps,
                    "attempt": len(attempts) + 1,
                    **as_json(finding),
                    "amendment": asdict(amendment),
                },
            )
        dist.barrier()
        return start

    def _go_back(self, window: Window) -> None:
        """Remove the checkpoints that may have learned from the window: the newest that is left is the last good one."""
        if dist.get_rank() == 0:
            for checkpoint in complete_checkpoints(self._output):
                if read_marker(checkpoint)["sequences_seen"] > window.begin:
                    remove_checkpoint(checkpoint)
        dist.barrier()

    def _amendment(
        self,
        detected: Mapping[str, Any],
        window: Window,
        finding: Finding,
        rollback: int,
        attempts: list[Mapping[str, Any]],
        policy: IncidentPolicy,
    ) -> Amendment:
        number = detected["number"]
        if finding.cause == "data":
            replaced = self._replacements(finding, window, rollback)
            first = min(replaced) // self._request.global_batch_size + 1
            return Amendment(number, "replace_sequences", first, replaced=replaced)
        last = min(window.last_step + policy.calm_steps, self._request.schedule.total_steps)
        if finding.cause == "unexplained":
            return Amendment(number, "go_on", rollback + 1, last)
        begin = window.begin // self._request.global_batch_size + 1
        before = [a["amendment"] for a in attempts if a["amendment"]["action"] == "lower_learning_rate"]
        # A lowered rate puts the spike off by some steps: what caused it lies where the first attempt looked.
        begin = min([begin, *(amendment["first_step"] for amendment in before)])
        lower = Amendment(number, "lower_learning_rate", begin, last, factor=policy.learning_rate_factor)
        off_plan = finding.evidence["learning_rate_over_plan"] or 1.0
        if off_plan > OFF_PLAN and not attempts:
            return replace(lower, factor=1.0, to_plan=True, last_step=None)
        gradient = finding.evidence["gradient_over_expected"] or 1.0
        if gradient >= policy.smallest_gradient_ratio and not attempts:
            usual = detected["metrics"][-1]["expected_gradient_norm"]
            return replace(lower, action="tighten_clipping", factor=1.0, max_gradient_norm=usual)
        return lower

    def _replacements(self, finding: Finding, window: Window, rollback: int) -> dict[int, int]:
        quarantined = {suspect.doc_id for suspect in finding.suspects}
        for decision in self._decisions:
            quarantined.update(suspect["doc_id"] for suspect in decision["suspects"])
        documents = OrderDocuments(open_order(self._request), self._run.amending)
        again = rollback * self._request.global_batch_size
        return plan_replacements(documents, quarantined, again, window.begin, self._request.sequences)

    def _give_up(self, detected: dict[str, Any], finding: Finding, attempts: int) -> None:
        path = self._output / outputs.INCIDENTS / outputs.REPORT
        if dist.get_rank() == 0:
            write_report(path, self._request.run, detected, as_json(finding), self._decisions)
        dist.barrier()
        worst = detected["worst"]
        seen = next(row for row in detected["metrics"] if row["step"] == worst["step"])
        raise IncidentUnresolvedError(
            f"{worst['kind']} at step {worst['step']} (loss {seen['loss']:.4g}, gradient norm "
            f"{seen['gradient_norm']:.4g}) came back after {attempts} attempts (cause: {finding.cause}). The last good "
            f"checkpoint is that of step {self._run.step}; what was tried is in {path}. "
            "Change the recipe, or allow more with max_attempts in [incidents], and run again"
        )

    def end(self) -> None:
        """Write down what left the band in the finished record and was let pass."""
        if self._policy is None or dist.get_rank() > 0:
            return
        found = find_incidents(read_metrics(self._output / outputs.METRICS), self._policy)
        write_json(self._output / outputs.INCIDENTS_PASSED, [asdict(incident) for incident in found])


def _write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
