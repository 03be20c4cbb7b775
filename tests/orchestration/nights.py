"""A home with sources of text files, brought up to date by the real driver in this process."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration.cli.runner import run_to_date
from orchestration.identity.catalog import Catalog, read_catalog
from orchestration.identity.status import Status, walk
from orchestration.process.workplace import Workplace, open_workplace
from orchestration.run.driver import Options
from orchestration.stages import STAGES
from tests.end_to_end.harness import CONFIG
from tests.histories.building import write_config
from tests.histories.world import render


@dataclass
class Tick:
    """What one evaluation asked for."""

    requests: list[Any]
    skipped: str | None
    job: str
    workplace: Workplace
    errors: list[str] = field(default_factory=list)
    """Of the runs that failed, after `execute`."""

    @property
    def asked(self) -> list[tuple[str, str | None, list[str]]]:
        """(job, partition, assets in graph order) of each request."""
        found = []
        for request in self.requests:
            names = {key.path[-1] for key in request.asset_selection or ()}
            found.append(
                (request.job_name or self.job, request.partition_key, [s.name for s in STAGES if s.name in names])
            )
        return found

    def execute(self) -> list[bool]:
        """Run what was asked for; whether each run succeeded."""
        from orchestration.graph.definitions import defs

        ended = []
        self.errors = []
        for request in self.requests:
            result = defs.resolve_job_def(request.job_name or self.job).execute_in_process(
                instance=self.workplace.instance,
                partition_key=request.partition_key,
                asset_selection=request.asset_selection,
                tags=request.tags,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                raise_on_error=False,
            )
            ended.append(result.success)
            self.errors += [
                str(e.step_failure_data.error_display_string) for e in result.all_events if e.is_step_failure
            ]
        return ended


@dataclass
class Nights:
    """The sources are folders: one that is taken away is a dead server."""

    folder: Path
    sources: tuple[str, ...]

    @classmethod
    def create(cls, folder: Path, monkeypatch: pytest.MonkeyPatch, *sources: str, pages: int = 6) -> Nights:
        """Sources in the order of sources.toml, each with its own pages."""
        found = cls(folder, sources)
        write_config(folder / "config", folder / "sites", {}, dict.fromkeys(sources, "text"), 1)
        (folder / "config/models").mkdir()
        sources_file = folder / "config/sources.toml"
        scheduled = sources_file.read_text().replace("licence =", 'schedule = "0 3 * * *"\nlicence =')
        sources_file.write_text(scheduled)
        for name in ("recipes/tiny.toml", "models/tiny.toml"):
            shutil.copy(CONFIG / name, folder / "config" / name)
        for number, source in enumerate(sources):
            for page in range(pages):
                found.write(source, page, f"en {10 * number + page}")
        (folder / "state").mkdir()
        found.enter(monkeypatch)
        return found

    def copy(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
        """The same sources, state and configuration in another folder, as the home of this process."""
        for place in ("state", "config", "sites"):
            shutil.copytree(self.folder / place, folder / place, symlinks=True)
        sources = folder / "config/sources.toml"
        sources.write_text(sources.read_text().replace(str(self.folder), str(folder)))
        found = Nights(folder, self.sources)
        found.enter(monkeypatch)
        return found

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it the home of this process."""
        monkeypatch.setattr("assets.plots._png", lambda figure: b"")
        monkeypatch.delenv("HEADWATER_STORE", raising=False)
        monkeypatch.setenv("HEADWATER_HOME", str(self.folder / "state"))
        monkeypatch.setenv("HEADWATER_CONFIG", str(self.folder / "config"))
        monkeypatch.setenv("DAGSTER_HOME", str(self.folder / "state" / "dagster"))

    def write(self, source: str, page: int, content: str) -> None:
        """One page, made of `content` as in tests/histories."""
        site = self.folder / "sites" / source
        site.mkdir(parents=True, exist_ok=True)
        (site / f"{page:02d}.txt").write_bytes(render(content, "text"))

    def kill(self, source: str) -> None:
        """The source does not answer any more."""
        (self.folder / "sites" / source).rename(self.folder / f"dead-{source}")

    def revive(self, source: str) -> None:
        """The source answers again, as it was."""
        (self.folder / f"dead-{source}").rename(self.folder / "sites" / source)

    @property
    def workplace(self) -> Workplace:
        """Opened anew, as each command does."""
        return open_workplace()

    def run(self, *recrawl: str, at: str | None = None, abandon: tuple[str, ...] = ()) -> None:
        """`headwater run --no-train`."""
        options = Options("tiny", recrawl=recrawl, train=False, at=at, abandon=abandon)
        run_to_date(self.workplace, options, as_json=True)

    def tick(self, name: str, at: datetime | None = None) -> Tick:
        """Evaluate a sensor or schedule as Dagster's daemon does, and run what it asks for."""
        from orchestration.graph.definitions import build_jobs, defs
        from orchestration.graph.schedules import build_schedules

        workplace = self.workplace
        repository = defs.get_repository_def()
        if at:
            schedule = next(each for each in build_schedules(build_jobs()) if each.name == name)
            context = dg.build_schedule_context(
                instance=workplace.instance, scheduled_execution_time=at, repository_def=repository
            )
            data, job = schedule.evaluate_tick(context), schedule.job_name
        else:
            sensor = repository.get_sensor_def(name)
            with dg.SensorEvaluationContext(
                workplace.instance.get_ref(), None, None, None, None, repository.name, repository, sensor_name=name
            ) as context:
                data, job = sensor.evaluate_tick(context), ""
        return Tick(list(data.run_requests or []), data.skip_message, job, workplace)

    def catalog(self) -> Catalog:
        """What is published."""
        return read_catalog(self.workplace.store)

    def status(self) -> Status:
        """The state of everything."""
        return walk(self.catalog(), self.workplace.config)

    def documents(self) -> dict[str, int]:
        """Source -> documents of it that are in the corpus."""
        from orchestration.identity.catalog import segment

        manifest = self.catalog().manifests["corpus", None]
        rows = segment(self.workplace.store, "main", manifest).table("documents", ["source"]).to_pylist()
        return {name: sum(row["source"] == name for row in rows) for name in self.sources}
