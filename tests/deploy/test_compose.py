"""deploy/compose.yaml: a compose tool accepts it, images are pinned, nothing secret is in it, nothing is open to the world."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.process.workplace import DAGSTER_YAML

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if not shutil.which(command[0]):
        pytest.skip("no compose tool here: apt-get install docker-compose")
    return subprocess.run(
        [*command, "-f", "compose.yaml", *arguments],
        cwd=DEPLOY,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )


def test_a_compose_tool_accepts_it_with_the_example_values() -> None:
    done = compose("--env-file", "env.example", "config", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_it_refuses_to_start_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    done = compose("--env-file", str(tmp_path / "empty"), "config", "-q")
    assert done.returncode != 0
    assert "set it in deploy/.env" in done.stderr


def test_every_secret_is_a_variable_of_the_example() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    offered = {
        line.split("=")[0]
        for line in (DEPLOY / "env.example").read_text().splitlines()
        if "=" in line and line[0] != "#"
    }
    assert wanted == offered
    secrets = {
        f"{name}.{key}": value
        for name, service in SERVICES.items()
        for key, value in (service.get("environment") or {}).items()
        if re.search("KEY|SECRET|PASSWORD", key)
    }
    assert len(secrets) > 10
    assert not [key for key, value in secrets.items() if not str(value).startswith("${")]


def test_images_are_pinned_and_ports_are_local() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert tag == "local" or re.match(r"\d+\.\d+", tag), f"{name}: {service['image']} is not pinned"
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is reachable by others at {port}"


def test_services_that_stay_have_a_health_check_and_what_they_keep_a_volume() -> None:
    staying = {name: service for name, service in SERVICES.items() if service.get("restart") == "unless-stopped"}
    assert staying.keys() == {"postgres", "s3", "lakefs", "webserver", "daemon"}
    assert all("healthcheck" in service for service in staying.values())
    for name, folder in {"postgres": "/var/lib/postgresql/data", "s3": "/data", "webserver": "/data"}.items():
        volumes = [volume.split(":") for volume in staying[name]["volumes"]]
        assert [folder] == [to for volume, to, *_ in volumes if volume in COMPOSE["volumes"]]


def test_dagsters_instance_is_ours_with_its_history_in_postgres() -> None:
    deployed = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
    storage = deployed.pop("storage")["postgres"]["postgres_db"]
    assert deployed == yaml.safe_load(DAGSTER_YAML)
    assert storage["hostname"] in SERVICES
    assert storage["password"] == {"env": "DAGSTER_POSTGRES_PASSWORD"}
    assert "DAGSTER_POSTGRES_PASSWORD" in SERVICES["webserver"]["environment"]
    assert f"CREATE DATABASE {storage['db_name']};" in (DEPLOY / "postgres.sql").read_text()


def test_the_web_server_stands_behind_the_guard() -> None:
    words = SERVICES["webserver"]["command"].split()
    assert words[:3] == ["python", "-m", "orchestration.graph.ui.server"]
    assert "dagster-webserver" not in str(SERVICES)
