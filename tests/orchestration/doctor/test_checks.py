"""Doctor finds what is wrong, says what to do, and neither raises nor changes anything."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestration.doctor import checks as doctor
from orchestration.doctor import machine
from orchestration.doctor.checks import run_checks
from orchestration.doctor.finding import Finding
from orchestration.run.demo_site import DemoSite


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


@pytest.fixture
def place(tmp_path: Path) -> doctor._Place:
    return doctor._Place(tmp_path / "home", tmp_path / "config", True, {})


def test_every_check_answers_quickly_and_every_problem_has_a_remedy(tmp_path: Path) -> None:
    started = time.monotonic()
    found = by_name(run_checks(tmp_path / "home", tmp_path / "no-config", for_demo=True, environ={}))
    assert time.monotonic() - started < 60, "about 2 s on an idle machine"
    assert {"Python", "packages", "torch", "disk", "memory", "cores", "git", "demo port", "clock"} <= set(found)
    assert all(finding.remedy for finding in found.values() if not finding.ok)
    assert found["Python"].ok
    assert found["torch"].ok
    assert found["HEADWATER_HOME"].ok or "ms an fsync" in found["HEADWATER_HOME"].found, "or the disk is busy"
    assert not found["configuration"].ok
    assert "no-config" in found["configuration"].found
    assert list(tmp_path.iterdir()) == [], "a check left something behind"


def test_a_check_that_breaks_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise RuntimeError("boom")

    monkeypatch.setattr(machine, "torch", broken)
    found = by_name(run_checks(tmp_path, tmp_path, for_demo=False, environ={}))
    assert not found["torch"].ok
    assert "boom" in found["torch"].found
    assert found["clock"].ok


def test_what_only_the_demo_needs_is_asked_only_for_it(tmp_path: Path) -> None:
    names = {finding.name for finding in run_checks(tmp_path, tmp_path, for_demo=False, environ={})}
    assert not names & {"demo port", "apt-get", "dpkg-deb"}


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=3 * 2**30, total=64 * 2**20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    found = by_name(machine.disk_and_files(tmp_path, for_demo=True))
    assert (found["disk"].ok, found["disk"].severity) == (False, "error")
    assert found["disk"].found == "3 GiB free, 8 needed"
    assert by_name(machine.disk_and_files(tmp_path, for_demo=False))["disk"].ok
    if "/dev/shm" in found:
        assert found["/dev/shm"].found == "64 MiB"
        assert "--shm-size" in found["/dev/shm"].remedy


def test_a_file_system_without_hard_links_or_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        found = by_name(machine.disk_and_files(tmp_path, for_demo=False))["HEADWATER_HOME"]
        assert (found.ok, found.severity) == (False, "warning")
        assert "no hard links" in found.found
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        found = by_name(machine.disk_and_files(tmp_path, for_demo=False))["HEADWATER_HOME"]
        assert (found.ok, found.severity) == (False, "error")
        assert "local file system" in found.remedy


def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_timed_fsync", lambda path: path.write_bytes(b"new") * 0.08)
    found = by_name(machine.disk_and_files(tmp_path, for_demo=False))["HEADWATER_HOME"]
    assert (found.ok, found.severity) == (False, "warning")
    assert "240 ms an fsync" in found.found


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryDirectory", refuse)
    found = by_name(machine.disk_and_files(tmp_path, for_demo=False))["HEADWATER_HOME"]
    assert (found.ok, found.severity) == (False, "error")
    assert "Permission denied" in found.found


def test_little_memory_and_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"memory.max": 2 * 2**30, "memory.current": 2**30}
    monkeypatch.setattr(machine, "_cgroup_number", lambda *names: numbers[names[0]])
    monkeypatch.setattr(machine, "_cpu_quota", lambda: 0.5)
    found = by_name(machine.memory_and_cores())
    assert (found["memory"].ok, found["memory"].found) == (False, "1.0 GiB available, 4 wanted")
    assert (found["cores"].ok, found["cores"].found) == (False, "0.5")


def test_a_clock_behind_the_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert machine.clock([file, tmp_path / "absent"]).ok
    os.utime(file, (time.time() + 7200, time.time() + 7200))
    found = machine.clock([file])
    assert not found.ok
    assert "2.0 hours before" in found.found


def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = by_name(machine.tools(tmp_path, for_demo=True))
    assert not found["apt-get"].ok
    assert found["apt-get"].severity == "error"
    assert found["git-lfs"].severity == "info", "only needed to look at the store from outside"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/obtained.json").touch()
    assert "apt-get" not in by_name(machine.tools(tmp_path, for_demo=True)), "the sources are there already"


def test_a_busy_port(place: doctor._Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = doctor._Place(place.home, place.config_dir, True, {"HEADWATER_DEMO_PORT": str(port)})
        [found] = doctor._demo_port(busy)
    assert not found.ok
    assert f"Port {port}" in found.found
    assert "HEADWATER_DEMO_PORT" in found.remedy
    served = place.home / "demo/www"
    served.mkdir(parents=True)
    (place.home / "demo/obtained.json").write_text('{"layout": 1}', encoding="utf-8")
    with DemoSite(served, port):
        [found] = doctor._demo_port(busy)
    assert found.ok, "`headwater ui` serves them"


def test_versions_that_differ_from_the_pins() -> None:
    found = doctor._pins("# comment with a==b\npytest==0.0.1\nno-such-distribution==1.0\n")
    assert not found.ok
    assert "(tested: 0.0.1)" in found.found
    assert "no-such-distribution" not in found.found
    assert doctor._pins("no-such-distribution==1.0\n").ok


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    gone = doctor._source("code", {"kind": "files", "root": str(tmp_path / "gone")})
    assert (gone.ok, gone.severity) == (False, "error")
    assert doctor._source("code", {"kind": "files", "root": str(tmp_path)}).ok
    assert doctor._source("site", {"kind": "web", "start_urls": ["http://127.0.0.1:1/"]}).ok, "served while crawled"


def test_a_host_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    urls = ["https://docs.example.org/zh/", "https://docs.example.org/en/", "http://example.org:8080/"]
    found = doctor._source("site", {"kind": "web", "start_urls": urls})
    assert (found.ok, found.severity) == (False, "warning")
    assert asked == [("docs.example.org", 443), ("example.org", 8080)]
    assert "docs.example.org:443: Connection refused" in found.found


def test_dagster_home(place: doctor._Place, tmp_path: Path) -> None:
    def check(value: str) -> Finding:
        return doctor._dagster_home(doctor._Place(place.home, place.config_dir, True, {"DAGSTER_HOME": value}))

    assert check("").ok
    assert "relative" in check("state").found
    assert check(str(tmp_path / "gone")).severity == "error"
    assert check(str(tmp_path)).ok
    (tmp_path / "dagster.yaml").write_text("run_monitoring:\n  enabled: true\n", encoding="utf-8")
    assert (check(str(tmp_path)).ok, check(str(tmp_path)).severity) == (False, "warning")
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    assert check(str(tmp_path)).ok


def test_own_choices_of_network_calls_are_shown(place: doctor._Place) -> None:
    assert doctor._network_calls(place).found == "off"
    online = doctor._Place(place.home, place.config_dir, True, {"WANDB_MODE": "online", "DO_NOT_TRACK": "1"})
    assert doctor._network_calls(online).found == "off, except as you set: WANDB_MODE=online"
