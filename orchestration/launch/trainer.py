"""Starts the training program where the profile says, watches it, and starts it again when a worker was lost.

`PipesTrainer` shows a run live in Dagster; `LocalTrainer` is the same without it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

from assets.build import BuildError, Progress
from orchestration.config import home_folder
from orchestration.launch.board_facts import wandb_record
from orchestration.launch.local import started
from orchestration.launch.training_failure import StopWithoutProgress, WorkerLostError, failure
from orchestration.launch.watch import MetricsTail, Watchdog, time_left
from orchestration.training_place import TrainingPlace
from training.contract import outputs
from training.contract.errors import RequestError
from training.contract.request import TrainRequest, load_request

if TYPE_CHECKING:
    import dagster as dg

log = logging.getLogger(__name__)

POLL_S = 0.25


NO_RESTARTS = TrainingPlace.model_validate({"restarts": 0})


class LocalTrainer:
    """TrainerLauncher for the command line and tests."""

    def __init__(self, place: TrainingPlace = NO_RESTARTS) -> None:
        self._place = place

    def run(self, request_path: Path, workdir: Path, progress: Progress) -> None:
        """Train and wait. Raises BuildError with the program's own last error."""
        launch(request_path, workdir, progress, self._place)


class PipesTrainer:
    """TrainerLauncher inside a Dagster asset: metrics appear as observations while the run goes on."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        *,
        observe_every_steps: int = 20,
        place: TrainingPlace = NO_RESTARTS,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        self._context = context
        self._facts = dict(facts or {})
        """Environment that tells the boards what the request does not say (board_facts.py)."""
        self._place = place
        self._observe_every_steps = observe_every_steps
        self._seen = 0
        self._observed_step = 0

    def run(self, request_path: Path, workdir: Path, progress: Progress) -> None:
        """Train and wait. Raises BuildError with the program's own last error."""
        import dagster as dg

        if self._place.launcher != "local":  # another machine: its metrics come by the file that all see
            total = read_request(request_path).schedule.total_steps
            launch(
                request_path,
                workdir,
                progress,
                self._place,
                self._facts,
                on_step=lambda line: self._show([line | {"total_steps": total}]),
            )
            return
        with dg.open_pipes_session(
            context=self._context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            environment = self._facts | dict(session.get_bootstrap_env_vars())
            launch(request_path, workdir, progress, self._place, environment, lambda: self._observe(session))
        self._observe(session)  # what came between the last look and the end

    def _observe(self, session: dg.PipesSession) -> None:
        """Messages do not reach the event log by themselves."""
        messages = session.get_custom_messages()
        self._show(messages[self._seen :])
        self._seen = len(messages)

    def _show(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """An observation costs 9 ms, so not every step becomes one."""
        import dagster as dg

        for message in messages:
            step, last = message["step"], message["step"] == message["total_steps"]
            every = self._observe_every_steps
            if step > 1 and not last and step // every == self._observed_step // every:
                continue
            self._observed_step = step
            channels = {f"loss/{name}": value for name, value in message["channel_loss"].items()}
            shown = {name: value for name, value in message.items() if name != "channel_loss"}
            partition = self._context.partition_key if self._context.has_partition_key else None
            watched = wandb_record(home_folder(), partition).get("url") if partition else None
            where = {"W&B run": dg.MetadataValue.url(watched)} if watched else {}
            self._context.log_event(
                dg.AssetObservation(self._context.asset_key, partition=partition, metadata=shown | channels | where)
            )


def launch(
    request_path: Path,
    workdir: Path,
    progress: Progress,
    place: TrainingPlace,
    environment: Mapping[str, str] | None = None,
    on_poll: Callable[[], None] = lambda: None,
    on_step: Callable[[dict[str, Any]], None] = lambda line: None,
) -> None:
    """Run the training program on one request until it ends; on any exception here, end it first.

    A run that lost a worker is started again and resumes from its last whole checkpoint. Not by torchrun's own
    `--max-restarts`: that would as well repeat a refused request or a NaN, and could not know whether the run makes progress.
    """
    request = read_request(request_path)
    why: dict[str, str] = {}

    def remember(state: RetryCallState) -> None:
        lost = str(state.outcome.exception()).partition("\n")[0] if state.outcome else ""
        log.warning("training is started again from its last checkpoint: %s", lost)
        why["HEADWATER_RESTARTED_AFTER"] = lost

    for attempt in Retrying(
        retry=retry_if_exception_type(WorkerLostError),
        stop=StopWithoutProgress(request.output, place.restarts),
        wait=wait_fixed(place.restart_wait_s),
        before_sleep=remember,
        reraise=True,
    ):
        with attempt:
            environment_now = why | board_settings(place) | dict(environment or {})
            # Its own policy bounds how often a run asks to be started again.
            while not _attempt(request_path, request, workdir, progress, place, environment_now, on_poll, on_step):
                pass


def _attempt(
    request_path: Path,
    request: TrainRequest,
    workdir: Path,
    progress: Progress,
    place: TrainingPlace,
    environment: Mapping[str, str],
    on_poll: Callable[[], None],
    on_step: Callable[[dict[str, Any]], None],
) -> bool:
    """Whether the run ended well; False: it asks to be started again, as after a loss incident. Raises BuildError otherwise."""
    error_path = request_path.parent / outputs.ERROR
    error_path.unlink(missing_ok=True)
    metrics = MetricsTail(request.output / outputs.METRICS)
    watchdog = Watchdog(request.step_timeout_s)
    with _job(place)(request_path, request, workdir, environment) as job:
        while job.poll() is None:
            time.sleep(POLL_S)
            for line in metrics.read():
                watchdog.saw(line["step"])
                note = f"loss {line['loss']:.3f}, {line['tokens_per_s']:,.0f} tokens/s, {time_left(line['eta_s'])} left"
                progress.update(line["step"], request.schedule.total_steps, note)
                on_step(line)
            if job.waiting:
                watchdog.begin_again()
            watchdog.check()
            on_poll()
        if job.returncode == 0:
            return True
        if error_path.is_file() and json.loads(error_path.read_text("utf-8"))["run_again"]:
            return False
        raise failure(job.returncode, error_path, job.log_path)


def read_request(path: Path) -> TrainRequest:
    """The request as the training program will read it. Raises BuildError for one that it would refuse."""
    try:
        return load_request(path)
    except RequestError as error:
        raise BuildError(f"training cannot start: {error}") from None


def board_settings(place: TrainingPlace) -> dict[str, str]:
    """Environment by which the training program mirrors its metrics; the folder outlives the run's scratch."""
    if not place.boards:
        return {}
    return {"HEADWATER_BOARDS": ",".join(place.boards), "HEADWATER_BOARDS_FOLDER": str(home_folder() / "boards")}


class Job(Protocol):
    """A run under way, wherever it is."""

    log_path: Path
    returncode: int
    waiting: bool
    """In a queue: nothing runs that could hang."""

    def poll(self) -> int | None: ...


def _job(place: TrainingPlace) -> Callable[..., contextlib.AbstractContextManager[Job]]:
    """`(request_path, request, workdir, environment)` starts the program; the end of the block ends it."""
    if place.launcher == "slurm":
        from orchestration.launch.slurm import slurm_job

        assert place.slurm is not None  # the model has checked it
        return functools.partial(slurm_job, place.slurm)
    if place.launcher == "kubernetes":
        from orchestration.launch.kubernetes import kubernetes_job

        assert place.kubernetes is not None
        return functools.partial(kubernetes_job, place.kubernetes)
    return started
