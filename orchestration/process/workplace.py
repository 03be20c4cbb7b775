"""The places a process works with: home, store, configuration, Dagster's instance."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.config import Config, ConfigError, home_folder, load_config
from orchestration.store import open_store
from orchestration.store.contract import PRIVATE, VersionedStore

if TYPE_CHECKING:
    from dagster import DagsterInstance

DAGSTER_YAML = """\
# Written by Headwater. Nothing leaves this machine, and no dialog covers the UI.
telemetry:
  enabled: false
nux:
  enabled: false
# Runs of schedules, sensors and the UI; `headwater run` is one run and never waits in this queue.
concurrency:
  runs:
    max_concurrent_runs: 4
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
# A run whose process died is started again; one that failed with an error of its own is asked for again, after a
# wait, by the sensor build_what_is_stale.
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
"""
RETENTION_YAML = """\
# How many days the UI remembers that a schedule or a sensor looked; a sensor that finds nothing looks every minute.
retention:
  schedule:
    purge_after_days: {skipped: 7, success: 30, failure: 30, started: 30}
  sensor:
    purge_after_days: {skipped: 1, success: 30, failure: 30, started: 30}
"""
DAGSTER_YAML += RETENTION_YAML
_OURS = DAGSTER_YAML.splitlines()[0]
EARLIER_DAGSTER_YAML = frozenset(
    {
        "a262e91fa0a8f8df2965c35d319b00bbd8b84c25757cf6f621480564de65f1d3",
        "e281e6b679c687eabca22bc412da892835c4f934e4c09a1a2256043e1a069af6",
    }
)
"""SHA-256 of what earlier versions wrote: a file that nobody has changed since is brought up to date."""


@dataclass(frozen=True)
class Workplace:
    """Opened lazily: a command that only reads the store never imports Dagster."""

    home: Path

    @cached_property
    def config(self) -> Config:
        """config/, validated."""
        return load_config()

    @property
    def store_place(self) -> str:
        """$HEADWATER_STORE (a folder or lakefs://REPOSITORY), or store.git in the home folder."""
        return os.environ.get("HEADWATER_STORE") or str(self.home / "store.git")

    @cached_property
    def store(self) -> VersionedStore:
        """What is at `store_place`."""
        self.make(self.home)
        return open_store(self.store_place)

    @property
    def _dagster_folder(self) -> Path:
        return Path(os.environ.get("DAGSTER_HOME") or self.home / "dagster").resolve()

    @property
    def has_dagster(self) -> bool:
        """Whether Dagster was ever set up here; asking does not do it."""
        return (self._dagster_folder / "dagster.yaml").exists()

    @cached_property
    def dagster_home(self) -> Path:
        """$DAGSTER_HOME, or dagster/ in the home folder with a dagster.yaml of ours; exported for children."""
        folder = self._dagster_folder
        self.make(folder)
        settings = folder / "dagster.yaml"
        present = settings.read_text(encoding="utf-8") if settings.exists() else ""
        wanted = present or DAGSTER_YAML
        if hashlib.sha256(present.encode()).hexdigest() in EARLIER_DAGSTER_YAML:
            wanted = DAGSTER_YAML
        elif present.startswith(_OURS) and "retention:" not in present:
            wanted += RETENTION_YAML
        if wanted != present:
            # In one step: half a file, from a full disk, would switch telemetry on.
            whole = settings.with_suffix(f".{os.getpid()}")
            whole.write_text(wanted, encoding="utf-8")
            os.replace(whole, settings)
        os.environ["DAGSTER_HOME"] = str(folder)
        return folder

    @cached_property
    def instance(self) -> DagsterInstance:
        """Dagster's instance of this home, for `headwater run`: stages write straight to its terminal.

        Dagster's own way there, two processes per stage that follow a file, answers Ctrl+C with tracebacks.
        """
        from dagster import DagsterInstance
        from dagster._core.instance.ref import InstanceRef

        direct = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
        return DagsterInstance.from_ref(
            InstanceRef.from_dir(str(self.dagster_home), overrides={"compute_logs": direct})
        )

    def make(self, folder: Path) -> None:
        """Create a folder of the home, for its owner only. Raises ConfigError where HEADWATER_HOME cannot hold one."""
        try:
            for each in (self.home, folder) if self.home in folder.parents else (folder,):
                each.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                f"{folder} cannot be created: {error.filename} is or lies in a file, not a folder. "
                "Set HEADWATER_HOME to a folder (it is created when it does not exist)."
            ) from None
        except FileNotFoundError as error:  # its parents are made: the file system itself takes no new name
            raise ConfigError(
                f"{folder} cannot be created: {error.filename} lies where no folder can be made. "
                "Set HEADWATER_HOME to a folder on a disk."
            ) from None


def open_workplace() -> Workplace:
    """The workplace of $HEADWATER_HOME."""
    return Workplace(home_folder())
