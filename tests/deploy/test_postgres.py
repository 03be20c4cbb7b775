"""Dagster's instance of deploy/dagster.yaml on a real PostgreSQL: runs and their events are kept there."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


@pytest.fixture
def port() -> Iterator[int]:
    """A PostgreSQL of our own with the user and the databases of deploy/compose.yaml."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not programs:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path may have 107 characters
    if os.geteuid() == 0:
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_as_postgres(), programs[-1].parent / program, *arguments], cwd="/", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "headwater", "--auth=trust", "-N")
    options = f"-p {number} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    subprocess.run(
        [*_as_postgres(), programs[-1], "-w", "-D", data, "-o", options, "-l", str(folder / "log"), "start"],
        cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        run("psql", "-h", str(folder), "-p", str(number), "-U", "headwater", "-d", "postgres", "-c",
            (DEPLOY / "postgres.sql").read_text())  # fmt: skip
        yield number
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_the_history_of_runs_is_kept_in_postgres(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
    config["storage"]["postgres"]["postgres_db"] |= {"hostname": "127.0.0.1", "port": port}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "not asked for here")

    @dg.asset
    def corpus() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion("v1"))

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert dg.materialize([corpus], instance=instance).success
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert "Postgres" in type(instance.event_log_storage).__name__
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]
        event = instance.get_latest_materialization_event(dg.AssetKey("corpus"))
        assert event and event.asset_materialization
        assert event.asset_materialization.tags is not None
        assert event.asset_materialization.tags["dagster/data_version"] == "v1"
