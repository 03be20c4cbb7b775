"""The places a process works with: home, store, configuration, Dagster's instance."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.config import Config, home_folder, load_config
from orchestration.store import open_store
from orchestration.store.contract import VersionedStore

if TYPE_CHECKING:
    from dagster import DagsterInstance

DAGSTER_YAML = """\
# Written by Headwater. Nothing leaves this machine, and no dialog covers the UI.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  pools:
    granularity: op
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
"""


@dataclass(frozen=True)
class Workplace:
    """Opened lazily: a command that only reads the store never imports Dagster."""

    home: Path

    @cached_property
    def config(self) -> Config:
        """config/, validated."""
        return load_config()

    @cached_property
    def store(self) -> VersionedStore:
        """$HEADWATER_STORE, or the embedded Git store in the home folder."""
        self.home.mkdir(parents=True, exist_ok=True)
        return open_store(os.environ.get("HEADWATER_STORE") or str(self.home / "store.git"))

    @cached_property
    def dagster_home(self) -> Path:
        """$DAGSTER_HOME, or dagster/ in the home folder with a dagster.yaml of ours; exported for children."""
        folder = Path(os.environ.get("DAGSTER_HOME") or self.home / "dagster").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "dagster.yaml").exists():
            (folder / "dagster.yaml").write_text(DAGSTER_YAML, encoding="utf-8")
        os.environ["DAGSTER_HOME"] = str(folder)
        return folder

    @cached_property
    def instance(self) -> DagsterInstance:
        """Dagster's instance of this home."""
        from dagster import DagsterInstance

        return DagsterInstance.from_config(str(self.dagster_home))


def open_workplace() -> Workplace:
    """The workplace of $HEADWATER_HOME."""
    return Workplace(home_folder())
